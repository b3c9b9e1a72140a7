"""Partitions of one plan become one run that every verb accepts; anything else is refused with its reason."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.errors import Code, Refusal
from tune_mcp.files import dump_json, sha256_bytes
from tune_mcp.run_dir import RunDir, list_runs, utc_now
from tune_mcp.session import events
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs import merged_run
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.merge import merge
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.verbs.tail_pytest import tail_pytest

pytestmark = pytest.mark.usefixtures("warm")

ACCURACY, SPEED = toy.STAGES


def measured(project: Project, *stages: str, repeats: int = 2, by: Callable[[Job], Any] = toy.measured) -> RunDir:
    """A finished run of these stages alone."""
    with toy.supervised_here(by):
        return toy.start(project, repeats, stages, "_".join(stages))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and link below a folder, with its time."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


def refusal(project: Project, *runs: str) -> Refusal:
    """Why they are not merged; nothing is left of the attempt."""
    before = {run.run_id for run in list_runs(project.repo_root)}
    with pytest.raises(Refusal) as refused:
        merge(project, runs)
    assert {run.run_id for run in list_runs(project.repo_root)} == before
    assert not list((project.repo_root / ".tune-runs").glob(".merging/*"))
    return refused.value


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def halves(project: Project) -> tuple[RunDir, RunDir]:
    return measured(project, ACCURACY), measured(project, SPEED)


def test_partitions_become_one_run_that_every_verb_accepts(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    before = [contents(run.path) for run in halves]

    reply = merge(project, [run.run_id for run in halves])

    merged = project.run(reply.run_id)
    assert [contents(run.path) for run in halves] == before
    for run, was in zip(halves, before, strict=True):
        copied = contents(merged.source(run.run_id).path)
        assert copied.items() <= was.items()
        assert was.keys() - copied.keys() <= {"supervisor.lock", "supervisor.reserve"}
    audited = strict_audit(project, reply.run_id)
    assert audited.ready and [one.stage_key for one in audited.stages] == list(toy.STAGES)
    now = status(project, reply.run_id)
    assert (now.state, now.strict_ready, now.strict_complete) == ("finished", "2/2", True)
    assert tail_pytest(project, reply.run_id).log_lines is not None
    told = report(project, reply.run_id)
    page = Path(told.report_md).read_text()
    for run in halves:
        assert run.run_id in page
    assert "Merged run" in page and "Merged run" in Path(told.report_html).read_text()
    plan = apply_plan(project, reply.run_id)
    assert {row.metric_key: row.worst_raw for row in plan.rows} == toy.WORST
    assert apply(project, reply.run_id, plan.plan_id, "full", otherwise="apply").applied
    assert json.loads(merged.report_json.read_text())["applied"]


def test_the_artifacts_lie_where_any_run_has_them(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    merged = project.run(merge(project, [run.run_id for run in halves]).run_id)

    for run, stage in zip(halves, toy.STAGES, strict=True):
        for repeat in (1, 2):
            assert merged.observation(stage, repeat).read_bytes() == run.observation(stage, repeat).read_bytes()
    assert merged.log(toy.TEST_KEY, 1).read_bytes() == halves[0].log(toy.TEST_KEY, 1).read_bytes()
    assert all(path.resolve().is_relative_to(merged.path) for path in merged.path.rglob("*"))


def test_a_merged_run_is_merged_again(tmp_path: Path) -> None:
    source = toy.toy_source()
    other = source.replace("TOY_ACC_MIN", "OTHER_ACC_MIN").replace("_TOY_P95", "_OTHER_P95")
    config = json.loads(json.dumps(toy.CONFIG))
    config["metric_sources"]["test_other_ci.py"] = config["metric_sources"]["test_toy_ci.py"]
    config["gpus_per_test"]["test_other_ci.py"] = 0
    project = toy.make_toy(tmp_path / "repo", config=config, files={"tests/test_other_ci.py": other})
    three = [measured(project, ACCURACY), measured(project, SPEED), measured(project, "other_accuracy", "other_speed")]
    first = merge(project, [run.run_id for run in three[:2]])

    again = merge(project, [first.run_id, three[2].run_id], label="all")

    assert [one.run_id for one in again.sources] == [run.run_id for run in three]
    assert strict_audit(project, again.run_id).strict_ready == "4/4"
    assert (project.run(again.run_id).source(first.run_id).path / "plan.json").is_file()
    shutil.rmtree(project.run(first.run_id).path)
    for run in three:
        shutil.rmtree(run.path)
    assert report(project, again.run_id).metrics == 6


def test_the_same_run_twice_is_refused(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    told = refusal(project, halves[0].run_id, halves[0].run_id)
    assert told.code is Code.NOT_MERGEABLE and "named twice" in told.message
    by_path = refusal(project, halves[0].run_id, str(halves[0].path))
    assert by_path.code is Code.NOT_MERGEABLE and "named twice" in by_path.message


def test_one_run_alone_is_refused(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    assert refusal(project, halves[0].run_id).code is Code.NOT_MERGEABLE


def test_a_stage_that_two_runs_measured_is_refused_by_name(project: Project) -> None:
    whole, part = toy.finished_run(project), measured(project, SPEED)
    told = refusal(project, whole.run_id, part.run_id)
    assert told.code is Code.NOT_MERGEABLE
    assert f"{SPEED} was measured by {whole.run_id} and by {part.run_id}" in told.message


def test_an_incomplete_partition_is_refused_with_its_first_gap(project: Project) -> None:
    done = measured(project, ACCURACY)

    def lost(job: Job) -> AttemptResult | None:
        return toy.measured(job, speed={"throughput_qps": None})

    told = refusal(project, done.run_id, measured(project, SPEED, by=lost).run_id)
    assert told.code is Code.NOT_MERGEABLE and f"{SPEED} run 1" in told.message and "resume_run" in told.next


@pytest.mark.parametrize("edit", ["value", "blank", "plan", "result", "evidence", "log", "environment", "ledger"])
def test_an_edited_partition_is_refused(project: Project, halves: tuple[RunDir, RunDir], edit: str) -> None:
    run = halves[1]
    path = {
        "value": run.observation(SPEED, 1),
        "blank": run.observation(SPEED, 2),
        "plan": run.plan,
        "result": run.attempt(toy.TEST_KEY, 1, 1) / "result.json",
        "evidence": run.basetemp(toy.TEST_KEY, 2) / "toy0/result.json",
        "log": run.log(toy.TEST_KEY, 1),
        "environment": run.environment,
        "ledger": run.events,
    }[edit]
    text = path.read_text()
    if edit == "ledger":
        text = "".join(line for line in text.splitlines(keepends=True) if '"recorded"' not in line)
    elif edit == "blank":
        text += " "
    else:
        text = text.replace("1", "2") if edit != "log" else f"{text}!"
    path.write_text(text)

    told = refusal(project, halves[0].run_id, run.run_id)
    assert told.code is Code.NOT_MERGEABLE and told.next


def test_another_commit_is_refused(project: Project) -> None:
    first = measured(project, ACCURACY)
    toy.commit(project)
    told = refusal(project, first.run_id, measured(project, SPEED).run_id)
    assert told.code is Code.NOT_MERGEABLE and "commit" in told.message


def test_another_number_of_repeats_is_refused(project: Project) -> None:
    told = refusal(project, measured(project, ACCURACY).run_id, measured(project, SPEED, repeats=3).run_id)
    assert told.code is Code.NOT_MERGEABLE and "repeats 3, not the 2" in told.message


def test_another_configuration_is_refused_until_the_run_takes_it_over(project: Project) -> None:
    first = measured(project, ACCURACY)
    path = project.repo_root / ".tune/models/toy/config.yaml"
    path.write_text(json.dumps(toy.CONFIG, indent=1))
    project = toy.open_project(project.repo_root)
    second = measured(project, SPEED)
    told = refusal(project, first.run_id, second.run_id)
    assert told.code is Code.NOT_MERGEABLE and ".tune/models/toy/config.yaml" in told.message
    assert f"tune-mcp resume {first.run_id}" in told.next
    with toy.supervised_here(toy.measured):
        resume_run(project, first.run_id)
    assert merge(project, [first.run_id, second.run_id]).strict_ready == "2/2"


def as_on(run: RunDir, **facts: object) -> None:
    """The partition as another host would have left it: its machine, and everything that names it."""
    old = sha256_bytes(run.environment.read_bytes())
    data = dump_json({**json.loads(run.environment.read_text()), **facts})
    run.environment.write_bytes(data)
    new, renamed = sha256_bytes(data), {}
    for path in run.path.rglob("run*.json"):
        if path.parent.name in toy.STAGES or path.parent.name == "recorded":
            before = path.read_bytes()
            path.write_bytes(before.replace(old.encode(), new.encode()))
            renamed[sha256_bytes(before)] = sha256_bytes(path.read_bytes())
    text = run.events.read_text().replace(old, new)
    for was, now in renamed.items():
        text = text.replace(was, now)
    run.events.write_text(text)


def test_another_host_of_the_same_class_is_one_measurement(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    as_on(halves[1], hostname="node7", kernel="6.9.9", cpu_count=512, memory_mib=1)
    reply = merge(project, [run.run_id for run in halves])
    assert [one.host for one in reply.sources][1] == "node7"
    page = Path(report(project, reply.run_id).report_md).read_text()
    assert "node7" in page and "not comparable" not in page


@pytest.mark.parametrize(
    "facts", [{"gpu_driver": "1.2"}, {"image_digest": "sha256:ab"}, {"venv_freeze_sha256": "ab"}, {"cpu_set": [0] * 99}]
)
def test_another_fingerprint_is_refused_and_named(
    project: Project, halves: tuple[RunDir, RunDir], facts: dict[str, object]
) -> None:
    as_on(halves[1], **facts)
    told = refusal(project, *(run.run_id for run in halves))
    assert told.code is Code.NOT_MERGEABLE and "another fingerprint" in told.message


@pytest.mark.usefixtures("warm")
def test_a_run_that_still_works_is_refused(project: Project) -> None:
    first = toy.start(project, 2, (ACCURACY,))
    assert toy.wait_until_rest(project, first.run_id).strict_complete
    toy.hold(project, 2)
    second = toy.start(project, 2, (SPEED,))
    toy.wait_for(lambda: len(toy.launches(project, 2)) == 2, what="pytest")
    told = refusal(project, first.run_id, second.run_id)
    assert told.code is Code.NOT_MERGEABLE and "running" in told.message
    toy.let_go(project, 2)
    assert toy.wait_until_rest(project, second.run_id).strict_complete
    assert merge(project, [first.run_id, second.run_id]).strict_ready == "2/2"


def test_a_late_result_goes_along_and_is_not_counted(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    run = halves[1]
    late = run.attempt(toy.TEST_KEY, 1, 2)
    shutil.copytree(run.attempt(toy.TEST_KEY, 1, 1), late)
    (late / "result.json").write_bytes((late / "result.json").read_bytes().replace(b"12.5", b"0.125"))

    reply = merge(project, [one.run_id for one in halves])
    worst = {row.metric_key: row.worst_raw for row in apply_plan(project, reply.run_id).rows}
    assert worst == toy.WORST
    # The seal of a still later one changes the partition, not the merged run.
    (late / "late").write_text("x")
    events.append(run, "sealed", utc_now(), "late", key="x", sha256="0" * 64)
    assert strict_audit(project, reply.run_id).ready


def test_links_stay_inside_and_one_that_leads_out_is_refused(
    project: Project, halves: tuple[RunDir, RunDir], tmp_path: Path
) -> None:
    run = halves[1]
    base = run.basetemp(toy.TEST_KEY, 1)
    (base / "toycurrent").symlink_to(base / "toy0")
    (base / "weights").symlink_to("/usr")
    (run.test_folder(toy.TEST_KEY) / "run1.log.link").symlink_to("run1.log")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(base)
        listening.bind("left.sock")
        os.chdir(here)
    os.mkfifo(base / "left.pipe")
    merged = project.run(merge(project, [one.run_id for one in halves]).run_id)
    copy = merged.source(run.run_id).basetemp(toy.TEST_KEY, 1)
    assert (copy / "toycurrent").resolve() == (copy / "toy0").resolve()
    assert (copy / "weights").readlink() == Path("/usr")
    assert not (copy / "left.sock").exists() and not (copy / "left.pipe").exists()

    outside = shutil.copy(run.observation(SPEED, 1), tmp_path / "run1.json")
    run.observation(SPEED, 1).unlink()
    run.observation(SPEED, 1).symlink_to(outside)
    told = refusal(project, *(one.run_id for one in halves))
    assert told.code is Code.NOT_MERGEABLE and "link out of its run" in told.message


@pytest.mark.parametrize("step", ["_link", "_audited", "_publish"])
def test_a_crash_in_the_middle_leaves_no_run(
    project: Project, halves: tuple[RunDir, RunDir], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(merged_run, step, killed)
    monkeypatch.setattr(merged_run.shutil, "rmtree", lambda *_, **__: None)  # whoever is killed tidies nothing up
    before = {path.name for path in (project.repo_root / ".tune-runs").iterdir()}
    with pytest.raises(Killed):
        merge(project, [run.run_id for run in halves])
    assert {run.run_id for run in list_runs(project.repo_root)} == {run.run_id for run in halves}
    assert {path.name for path in (project.repo_root / ".tune-runs").iterdir()} <= {
        *before,
        ".merging",
        ".merging.lock",
    }
    monkeypatch.undo()

    reply = merge(project, [run.run_id for run in halves])
    assert strict_audit(project, reply.run_id).ready
    assert not (project.repo_root / ".tune-runs/.merging").exists()


@pytest.mark.parametrize("what", ["ledger", "observation", "link"])
def test_a_merged_run_that_is_edited_is_no_evidence(project: Project, halves: tuple[RunDir, RunDir], what: str) -> None:
    merged = project.run(merge(project, [run.run_id for run in halves]).run_id)
    if what == "ledger":
        part = merged.source(halves[0].run_id)
        part.events.write_text(part.events.read_text() + "\n")
    elif what == "observation":
        toy.rewrite_observation(merged, SPEED, 1, lambda value: value["metrics"].update(throughput_qps=99.0))
    else:
        (merged.path / SPEED).unlink()
        shutil.copytree(halves[1].path / SPEED, merged.path / SPEED)
        path = merged.path / SPEED / "run1.json"
        path.write_bytes(path.read_bytes() + b" ")

    assert not strict_audit(project, merged.run_id).ready
    with pytest.raises(Refusal) as refused:
        report(project, merged.run_id)
    assert refused.value.code is Code.FOREIGN_ARTIFACT and "tune-mcp merge" in refused.value.next


def test_a_merged_run_measures_nothing_itself(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    reply = merge(project, [run.run_id for run in halves])
    with pytest.raises(Refusal) as refused:
        resume_run(project, reply.run_id)
    assert "measures nothing itself" in refused.value.message
    assert stop_run(project, reply.run_id, "no need").state == "finished"


def test_an_applied_partition_is_refused(project: Project, halves: tuple[RunDir, RunDir]) -> None:
    run = halves[0]
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)
    apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")
    told = refusal(project, *(one.run_id for one in halves))
    assert told.code is Code.NOT_MERGEABLE and "--undo" in told.next


def test_what_failed_beside_a_threshold_is_told_of_every_partition(tmp_path: Path) -> None:
    source = toy.toy_source() + "\n\ndef test_other(results):\n    raise ConnectionResetError('peer')\n"
    project = toy.make_toy(tmp_path / "repo", test_source=source)
    halves = [measured(project, one, by=toy.real_pytest) for one in toy.STAGES]
    reply = merge(project, [run.run_id for run in halves])
    assert any("test_other" in one.nodeid for one in report(project, reply.run_id).failed_tests)
