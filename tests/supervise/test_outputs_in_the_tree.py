"""What tests, clients and our own output leave in the tree never halts a run; what moves a measurement does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from toy import TEST_KEY

from tune_mcp import run_dir
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import drift, events, provenance, state
from tune_mcp.session.state import Halt
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.strict_audit import strict_audit

CONFIG = ".tune/models/toy/config.yaml"


def during(*lines: str) -> str:
    head = "def test_speed(results):\n"
    return toy.toy_source().replace(head, head + "".join(f"    {line}\n" for line in lines))


def halt(run: RunDir) -> Halt:
    record = state.conclude(run).record
    assert record is not None and record.halt is not None, toy.told(run)
    return record.halt


def appeared(run: RunDir) -> list[str]:
    return [event.text for event in events.read(run.events) if event.kind == "appeared"]


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize("present", [False, True], ids=["new", "there-before"])
def test_untracked_outputs_of_tests_halt_nothing(tmp_path: Path, present: bool) -> None:
    names = (
        ".coverage",
        ".hypothesis/examples/ab12",
        "test.db",
        "out/core.4711",
        "junit",
        "outputs/.hydra/config.yaml",
    )
    source = during(
        "stamp = str(time.time_ns())",
        f"for name in {names!r}: Path(name).parent.mkdir(parents=True, exist_ok=True); Path(name).write_text(stamp)",
    )
    project = toy.make_toy(tmp_path / "repo", test_source=source)
    for name in names if present else ():
        path = project.repo_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of an earlier day")

    run = toy.finished_run(project, 2, toy.real_pytest)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    (told,) = appeared(run)
    assert ".coverage" in told
    assert len(toy.launches(project, 1)) == 1


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize(("ignored", "repeats"), [(True, 3), (False, 2)], ids=["ignored", "untracked"])
def test_a_file_that_one_repeat_wrote_and_the_next_only_read_is_named(
    tmp_path: Path, ignored: bool, repeats: int
) -> None:
    source = during(
        "cache = Path('tests/cache.json')",
        "cache.read_text() if cache.exists() else cache.write_text('{}')",
        "Path('tests/state.json').write_text(str(time.time_ns()))",
    )
    project = toy.make_toy(
        tmp_path / "repo", test_source=source, files={"tests/.gitignore": "*.json\n"} if ignored else {}
    )

    run = toy.finished_run(project, repeats, toy.real_pytest)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    told = [text for text in appeared(run) if "earlier repeat" in text]
    assert [text.partition(";")[0] for text in told] == [
        f"{TEST_KEY} run 2 read 1 file that an earlier repeat of this run wrote: tests/cache.json"
    ]


@pytest.mark.rule("SES-11", "RES-02")
def test_an_output_that_was_seen_may_change_or_go_between_stop_and_resume(tmp_path: Path) -> None:
    source = during("Path('test.db').write_text(str(time.time_ns()))", "assert repeat() != 2 or os.getenv('OK'), 'x'")
    project = toy.make_toy(tmp_path / "repo", test_source=source.replace("assert repeat", "pass  # repeat"))
    (project.repo_root / "test.db").write_text("before")
    (project.repo_root / "data.json").write_text("1")
    stopping = iter([toy.real_pytest, lambda job: None])
    run = toy.finished_run(project, 2, lambda job: next(stopping, lambda job: None)(job))
    (project.repo_root / "test.db").unlink()

    with toy.supervised_here(toy.real_pytest):
        resume_run(project, run.run_id)
    assert strict_audit(project, run.run_id).ready, toy.told(run)

    (project.repo_root / "data.json").write_text("2")
    with pytest.raises(Refusal, match=r"^COMMIT_MOVED .*data.json was changed"):
        resume_run(project, run.run_id)


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize("rewrite", ["Path(name).write_text(str(time.time_ns()))", "Path(name).write_text('{}')"])
def test_a_test_that_rewrites_a_tracked_file_is_named_and_the_way_out_works_at_the_first_try(
    tmp_path: Path, rewrite: str
) -> None:
    name = "tests/data/baseline.json"
    project = toy.make_toy(tmp_path / "repo", test_source=during(f"name = {name!r}; {rewrite}"), files={name: "{}"})

    run = toy.finished_run(project, 1, toy.real_pytest)

    found = halt(run)
    assert (found.code, f"while {TEST_KEY} run 1 attempt 1 ran: {name} was " in found.message) == ("COMMIT_MOVED", True)
    assert f'add test_outputs: ["{name}"] to the model\'s config.yaml' in found.next
    if "time" in rewrite:
        with pytest.raises(Refusal, match="test_outputs"):
            resume_run(project, run.run_id)

    path = project.repo_root / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_outputs": [name]}))
    with toy.supervised_here(toy.real_pytest):
        resume_run(toy.open_project(project.repo_root), run.run_id)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    assert any(f"left out when it is compared: {name}" in told for told in appeared(run))
    assert len(toy.launches(project, 1)) == 2


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize(
    ("name", "made"),
    [("tests/it's generated.py", True), ("code.py", False)],
)
def test_what_python_or_pytest_loads_is_never_an_output(tmp_path: Path, name: str, made: bool) -> None:
    project = toy.make_toy(
        tmp_path / "repo",
        test_source=during(f"Path({name!r}).write_text('A = 2\\n')"),
        config={**toy.CONFIG, "test_outputs": ["**"]},
        files={} if made else {name: "A = 1\n"},
    )

    run = toy.finished_run(project, 1, toy.real_pytest)

    found = halt(run)
    assert (found.code, name in found.message) == ("COMMIT_MOVED", True)
    assert ("info/exclude" in found.next) == made
    if made:
        command = found.next[found.next.index("printf") :].partition("; if somebody else")[0]
        subprocess.run(["bash", "-c", command], cwd=project.repo_root, check=True)
        with toy.supervised_here(toy.real_pytest):
            resume_run(project, run.run_id)
        assert strict_audit(project, run.run_id).ready, toy.told(run)


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize("name", [".claude/settings.local.json", ".cursor/rules/a.mdc", ".mcp.json"])
@pytest.mark.parametrize("tracked", [False, True])
def test_a_clients_own_files_move_no_tree(tmp_path: Path, name: str, tracked: bool) -> None:
    project = toy.make_toy(tmp_path / "repo", files={name: "{}"} if tracked else {"data.json": "1"})
    path = project.repo_root / name

    def meanwhile(job: toy.Job) -> toy.AttemptResult | None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"attempt": {job.repeat}}}')
        return toy.measured(job)

    run = toy.finished_run(project, 2, meanwhile)
    now, plan = provenance.read(project.repo_root), project.plan(run)
    assert drift.moved(project.repo_root, now, plan.planned_tree) == ()
    assert drift.touched(provenance.read(project.repo_root), now, plan.planned_tree) == ()


OWN = {
    "nohup": "exec {run} > nohup.out 2>&1",
    "tee": "{run} 2>&1 | cat | tee tracked.txt >/dev/null",
}


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize("how", list(OWN))
def test_our_own_output_in_the_repository_halts_nothing(tmp_path: Path, how: str) -> None:
    project = toy.make_toy(tmp_path / "repo", files={"tracked.txt": "of an earlier day"})
    words = f"{sys.executable} -c 'from tune_mcp.cli.main import main; main()' run toy --repeats 2 --repo ."

    subprocess.run(
        ["bash", "-c", OWN[how].format(run=words)],
        cwd=project.repo_root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=120,
        check=False,
    )

    (run,) = run_dir.list_runs(project.repo_root)
    now = toy.wait_until_rest(project, run.run_id)
    assert now.strict_complete, toy.told(run)
    assert project.plan(run).dirty is (how == "tee")  # only the commit's own file was changed by it


@pytest.mark.rule("SES-11")
def test_a_project_in_a_folder_of_a_larger_repository_sees_later_edits(tmp_path: Path) -> None:
    names = ("../data.json", "../lib/shared.py", "code.py")
    whole = tmp_path / "whole"
    toy.make_toy(whole / "part", files={"code.py": "A = 1\n", "../lib/shared.py": "B = 1\n", "../data.json": "1\n"})
    (whole / "part/.git").rename(whole / ".git")
    (whole / ".gitignore").write_text((whole / "part/.gitignore").read_text())
    toy.git(whole, "add", "-A")
    toy.git(whole, "commit", "-q", "-m", "moved")
    project = Project.resolve(Options(repo=whole / "part"))
    for name in names:
        (project.repo_root / name).write_text("C = 2\n")

    git = provenance.read(project.repo_root)
    assert set(git.changed) == {*names}
    assert "gone" not in git.changed.values()

    run = toy.finished_run(project, 1, toy.real_pytest)
    assert strict_audit(project, run.run_id).ready, toy.told(run)
    for name in names:
        (project.repo_root / name).write_text("C = 3\n")
    found = drift.moved(project.repo_root, provenance.read(project.repo_root), project.plan(run).planned_tree)
    assert found == tuple(f"{name} was changed" for name in names)
