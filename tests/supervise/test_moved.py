"""A repeat whose tree moved is quarantined and the run halts: it leaves no run{k}.json that could count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.strict_audit import strict_audit

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")


def during(code: str) -> str:
    """The toy's test with a statement that runs in its second test."""
    return toy.toy_source().replace("def test_speed(results):\n", f"def test_speed(results):\n    {code}\n")


def git_calls(repo: Path, *calls: tuple[str, ...]) -> str:
    return "import subprocess; " + "; ".join(
        f"subprocess.run({[*GIT, *words]!r}, cwd={str(repo)!r}, check=True)" for words in calls
    )


def halted(project: Project, run: RunDir) -> str:
    """The run halted with COMMIT_MOVED and nothing of the repeat is in the live set; what moved."""
    record = state.conclude(run).record
    halt = record and record.halt
    assert halt is not None and halt.code == "COMMIT_MOVED", toy.told(run)
    assert not list(run.path.glob("toy_*/run*.json")), "no observation is left that could count"
    assert not run.log("test_toy_ci", 1).exists() and not run.basetemp("test_toy_ci", 1).exists()
    (folder,) = run.purged.iterdir()
    assert json.loads((folder / "purge.json").read_text())["reason"] == f"COMMIT_MOVED: {halt.message}"
    assert (folder / "run1_a1/result.json").is_file(), "nothing is deleted"
    assert "✓" not in strict_audit(project, run.run_id).text()
    return halt.message


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize(
    ("calls", "told"),
    [
        ((("commit", "-q", "--allow-empty", "-m", "x"),), "HEAD is "),
        (
            (("commit", "-q", "--allow-empty", "-m", "x"), ("reset", "-q", "--hard", "HEAD~")),
            "HEAD moved and came back",
        ),
    ],
)
def test_a_commit_that_moved_while_pytest_ran_also_one_that_came_back(
    tmp_path: Path, calls: tuple[tuple[str, ...], ...], told: str
) -> None:
    repo = tmp_path / "repo"
    project = toy.make_toy(repo, test_source=during(git_calls(repo, *calls)))

    run = toy.finished_run(project, 2, toy.real_pytest)

    assert told in halted(project, run)


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("code.py", "code.py was changed"),
        (".tune/models/toy/config.yaml", "config.yaml is not the file that was planned"),
    ],
)
def test_a_file_that_changed_while_pytest_ran_is_named(tmp_path: Path, name: str, told: str) -> None:
    repo = tmp_path / "repo"
    source = during(f"open({str(repo / name)!r}, 'a').write('# later')")
    project = toy.make_toy(repo, test_source=source, files={"code.py": "A = 1\n"})

    run = toy.finished_run(project, 2, toy.real_pytest)

    assert told in halted(project, run)


@pytest.mark.rule("SES-11", "RES-04")
def test_a_run_goes_on_when_the_tree_was_put_back(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", files={"code.py": "A = 1\n"})
    run = toy.finished_run(project, 2, lambda job: _edited(project, job))
    assert "code.py was changed" in halted(project, run)
    toy.git(project.repo_root, "checkout", "-q", "--", "code.py")

    with toy.supervised_here(toy.real_pytest):
        resume_run(project, run.run_id)

    assert strict_audit(project, run.run_id).ready


def _edited(project: Project, job: toy.Job) -> toy.AttemptResult | None:
    (project.repo_root / "code.py").write_text("A = 2\n")
    return toy.real_pytest(job)


def test_a_tests_own_output_in_the_tree_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    source = during("open('results.json', 'w').write(str(time.time()))")
    project = toy.make_toy(tmp_path / "repo", test_source=source)

    run = toy.finished_run(project, 2, toy.real_pytest)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    told = [event.text for event in events.read(run.events) if event.kind == "appeared"]
    assert told == ["1 new file in the tree, taken for the tests' output: results.json"]
