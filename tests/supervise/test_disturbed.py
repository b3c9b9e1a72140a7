"""A lane that others use: launches wait for it, and what they disturbed is kept, reported, and measured again.

Whole runs with real processes; what others use is recorded (``recorded_cpus``), so a busy machine changes nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from others import Others

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.state import read_record
from tune_mcp.supervise.job import AttemptResult, Job, parse_result
from tune_mcp.supervise.retry import MAX_DISTURBED
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

LIMIT = {"foreign_cores": 0.3, "window_s": 2}


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: None) -> Others:
    return Others.recorded(tmp_path, monkeypatch)


def on_a_lane(folder: Path, quiet: dict[str, float] | None) -> Project:
    """The toy, steered for each launch apart, on a host with one lane, a CPU that this process may use."""
    lane = {"name": "one", "gpus": [], "cpus": str(max(os.sched_getaffinity(0)))}
    profile = {"name": "lab", "hostname": "lab", "repo_root": str(folder), "lanes": [lane]}
    profile |= {} if quiet is None else {"quiet": quiet}
    steered = "f\"run{k}_launch{len((STATE / f'launched{k}').read_text().split())}.json\""
    source = toy.toy_source().replace('f"run{k}.json"', steered)
    toy.make_toy(folder, test_source=source, files={".tune/hosts/lab.yaml": json.dumps(profile)})
    return Project.resolve(Options(repo=folder, host="lab"))


def results(run: RunDir, repeat: int = 1) -> list[AttemptResult]:
    return [
        parse_result((folder / "result.json").read_bytes()) for _, folder in sorted(run.attempts(toy.TEST_KEY, repeat))
    ]


def history(run: RunDir, repeat: int = 1) -> list[dict[str, Any]]:
    return json.loads(run.observation("toy_speed", repeat).read_text())["history"]


def text_of(run: RunDir, kind: str) -> list[str]:
    return [event.text for event in events.read(run.events) if event.kind == kind]


def test_a_repeat_that_others_disturbed_is_kept_reported_and_measured_again_without_charge(
    tmp_path: Path, others: Others
) -> None:
    project = on_a_lane(tmp_path / "repo", LIMIT)
    moved = {"summary": {"accuracy": 0.5625}, "speed": {"throughput_qps": 8.0}}
    (toy.state_folder(project) / "run1_launch1.json").write_text(json.dumps(moved))
    run = toy.start_and_hold(project, repeats=2)
    others.use(0.9)
    toy.wait_for(lambda: text_of(run, "alert"), what="the alert")
    others.use(0.0)
    toy.let_go(project, 1)

    assert toy.wait_until_rest(project, run.run_id).state == "finished", toy.told(run)
    first, second = results(run)
    assert [one["verdict"] for one in history(run)] == ["disturbed", "kept"]
    assert first.disturbed.startswith("0.") and "(limit 0.3 for 2 s)" in first.disturbed and not second.disturbed
    assert first.quiet and first.quiet.window_cores and first.quiet.window_cores > 0.3
    assert second.quiet and second.quiet.foreign_cores is not None and second.quiet.foreign_cores < 0.3
    assert strict_audit(project, run.run_id).ready
    report(project, run.run_id)
    written = (run.path / "report.md").read_text()
    assert "1 of them because others used its CPUs" in written
    (row,) = [line for line in written.splitlines() if "| disturbed by others |" in line]
    assert "throughput_qps 8 (worse than 10.25)" in row
    assert "accuracy 0.5625 (worse than 0.625; suspected defect: those that count are 0.75, 0.625)" in row


def test_a_launch_waits_until_others_leave_its_lane_and_no_try_is_charged(tmp_path: Path, others: Others) -> None:
    project = on_a_lane(tmp_path / "repo", LIMIT)
    others.use(0.8)
    run = toy.start(project, repeats=1)
    toy.wait_for(lambda: (record := read_record(run)) and record.state == "waiting_for_quiet", what="the wait")
    record = read_record(run)
    assert record and record.current and text_of(run, "waiting_for_quiet")
    assert re.match(r"waiting_for_quiet: 0\.[78]\d cores of other processes on CPUs ", record.current.phase)
    assert toy.launches(project, 1) == ()
    others.use(0.0)

    assert toy.wait_until_rest(project, run.run_id).state == "finished", toy.told(run)
    assert [one["verdict"] for one in history(run)] == ["kept"] and len(toy.launches(project, 1)) == 1
    (one,) = results(run)
    assert one.quiet and one.quiet.foreign_cores is not None and one.quiet.foreign_cores < 0.3, "the wait is no part"


def test_a_stop_ends_the_wait(tmp_path: Path, others: Others) -> None:
    project = on_a_lane(tmp_path / "repo", LIMIT)
    others.use(0.8)
    run = toy.start(project, repeats=1)
    toy.wait_for(lambda: text_of(run, "waiting_for_quiet"), what="the wait")

    stop_run(project, run.run_id, "enough")

    assert toy.wait_until_rest(project, run.run_id).state == "stopped"
    assert toy.launches(project, 1) == ()


def test_without_limits_everything_is_recorded_and_nothing_waits_or_is_thrown_away(
    tmp_path: Path, others: Others
) -> None:
    project = on_a_lane(tmp_path / "repo", None)
    others.use(0.8)
    run = toy.start(project, repeats=1)

    assert toy.wait_until_rest(project, run.run_id).state == "finished", toy.told(run)
    (one,) = results(run)
    assert one.disturbed == "" and one.quiet and one.quiet.cpus == (max(os.sched_getaffinity(0)),)
    assert one.quiet.foreign_cores is not None and one.quiet.foreign_at_most is not None
    assert 0 <= one.quiet.foreign_cores <= one.quiet.foreign_at_most, "what our own tree used is off the record's 0.8"
    assert history(run)[0]["foreign_cores"] == one.quiet.foreign_cores and not text_of(run, "waiting_for_quiet")


# ---- what the loop makes of it, in this process -----------------------------------------------------------------


def disturbing(times: int, change: Callable[[Job, AttemptResult], AttemptResult] = lambda _, one: one) -> Any:
    """Every repeat is disturbed so many times, and then measured in peace."""

    def attempt(job: Job) -> AttemptResult:
        result = change(job, toy.measured(job))
        return result.model_copy(update={"disturbed": "0.90 cores of others"}) if job.attempt <= times else result

    return attempt


def test_a_machine_that_is_never_quiet_halts_after_a_few_launches_with_what_to_do(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2, disturbing(99))

    record = read_record(run)
    assert record and record.state == "halted" and record.halt
    assert (record.halt.code, record.halt.rule) == ("NOT_QUIET", "GPU-14") and "foreign_cores" in record.halt.next
    assert f"{MAX_DISTURBED} launches of one repeat were disturbed" in record.halt.message
    assert len(run.attempts(toy.TEST_KEY, 1)) == MAX_DISTURBED and run.attempts(toy.TEST_KEY, 2) == []
    assert not strict_audit(project, run.run_id).ready


def test_a_disturbed_attempt_uses_up_no_try_and_decides_nothing_whatever_it_did(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")

    def crashes(job: Job, result: AttemptResult) -> AttemptResult:
        crashed = job.attempt <= MAX_DISTURBED - 1 + 3
        return result.model_copy(update={"pytest_rc": -9, "stages": {}}) if crashed else result

    run = toy.finished_run(project, 1, disturbing(MAX_DISTURBED - 1, crashes))

    verdicts = [one["verdict"] for one in history(run)]
    assert verdicts == ["disturbed"] * (MAX_DISTURBED - 1) + ["retried"] * 3 + ["kept"]
    assert strict_audit(project, run.run_id).ready


def test_a_disturbed_attempt_is_not_read_again_into_the_set_that_counts(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 1, disturbing(1))
    run.observation("toy_speed", 1).unlink()
    with toy.supervised_here():
        from tune_mcp.verbs.resume_run import resume_run

        resume_run(project, run.run_id)

    assert [one["verdict"] for one in history(run)] == ["disturbed", "kept"]
