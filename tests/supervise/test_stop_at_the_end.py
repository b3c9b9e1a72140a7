"""A stop or a kill while a repeat tears down: what is complete counts, what is not is shown with its values."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import toy

from tune_mcp.files import write_json
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.supervise import host_lock
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

SLOW_TEARDOWN = """
import time
from pathlib import Path
import psutil
import pytest

STATE = Path(__file__).parents[2] / "repo-state"


@pytest.fixture(autouse=True, scope="session")
def server():
    yield
    (STATE / "tearing_down").touch()
    end = time.monotonic() + 60
    while (STATE / "busy").exists() and time.monotonic() < end:
        time.sleep(0.01)
    (STATE / "torn_down").touch()
"""
pytestmark = pytest.mark.usefixtures("warm")
BAD = {"speed": {"throughput_qps": 0.1, "latency_mean_s": 99.0}}
"""Worse than every other value: what somebody would like to see gone."""


def tearing_down(tmp_path: Path) -> tuple[Project, RunDir]:
    """A run of two repeats whose first has measured its bad values and stands in the teardown of its server."""
    project = toy.make_toy(tmp_path / "repo", files={"tests/conftest.py": SLOW_TEARDOWN})
    toy.steer(project, 1, **BAD)
    folder = toy.state_folder(project)
    (folder / "busy").touch()
    run = toy.start(project, 2)
    toy.wait_for(lambda: (folder / "tearing_down").exists(), what="the teardown")
    return project, run


def go_on(project: Project) -> None:
    (toy.state_folder(project) / "busy").unlink()


def stop(run: RunDir) -> None:
    write_json(run.stop_request, {"reason": "it looks bad"})
    toy.wait_for(lambda: any(one.kind == "stop_requested" for one in events.read(run.events)), what="the stop")


def signalled(number: signal.Signals) -> Callable[[RunDir], None]:
    def send(run: RunDir) -> None:
        record = state.read_record(run)
        assert record and record.owner
        os.kill(record.owner.pid, number)

    return send


@pytest.mark.rule("GAP-10", "RES-04", "RES-07", "STR-22")
@pytest.mark.parametrize(
    "end",
    [stop, signalled(signal.SIGTERM), signalled(signal.SIGKILL)],
    ids=["stop_run", "SIGTERM to the supervisor", "SIGKILL to the supervisor"],
)
def test_a_repeat_that_ends_its_teardown_although_a_stop_came_counts(
    tmp_path: Path, end: Callable[[RunDir], None]
) -> None:
    project, run = tearing_down(tmp_path)

    end(run)
    go_on(project)
    toy.wait_for(lambda: state.conclude(run).state.at_rest and host_lock.current() is None, what="the end")

    assert (toy.state_folder(project) / "torn_down").exists()
    assert state.conclude(run).state in (state.RunState.STOPPED, state.RunState.LOST)
    resume_run(project, run.run_id)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert [len(toy.launches(project, repeat)) for repeat in (1, 2)] == [1, 1], "nothing is measured twice"
    assert json.loads(run.observation("toy_speed", 1).read_text())["metrics"]["latency_mean_s"] == 99.0
    sealed = [event.facts["key"] for event in events.read(run.events) if event.kind == "sealed"]
    assert len(sealed) == len(set(sealed)) == 2


@pytest.mark.rule("GAP-10", "STR-22")
def test_the_last_repeat_that_ends_well_under_a_stop_finishes_the_run(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", files={"tests/conftest.py": SLOW_TEARDOWN})
    (toy.state_folder(project) / "busy").touch()
    run = toy.start(project, 1)
    toy.wait_for(lambda: (toy.state_folder(project) / "tearing_down").exists(), what="the teardown")

    stop(run)
    go_on(project)

    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True), toy.told(run)


@pytest.mark.rule("GAP-10", "STR-22")
@pytest.mark.parametrize("target", ["runner", "pytest"])
def test_what_was_killed_in_its_teardown_is_shown_with_its_values_and_the_reason(tmp_path: Path, target: str) -> None:
    project, run = tearing_down(tmp_path)
    toy.steer(project, 1)

    record = state.read_record(run)
    assert record and record.owner
    (launched,) = toy.launches(project, 1)
    os.kill(launched if target == "pytest" else psutil.Process(launched).ppid(), signal.SIGKILL)
    go_on(project)

    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    report(project, run.run_id)
    (left,) = json.loads(run.report_json.read_text())["uncounted"]
    assert {one["metric"]: one["value"] for one in left["values"]}["latency_mean_s"] == 99.0
    assert (left["repeat"], left["attempt"], "killed" in left["reason"]) == (1, 1, True)
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("GAP-10", "GPU-20")
def test_a_stop_does_not_wait_for_a_test_that_is_still_at_work_and_its_values_are_shown(tmp_path: Path) -> None:
    hold = "    (STATE / 'written').touch()\n    import time\n    time.sleep(60)\n"
    source = toy.toy_source().replace("def test_speed(results):\n", f"def test_speed(results):\n{hold}")
    project = toy.make_toy(tmp_path / "repo", test_source=source)
    toy.steer(project, 1, **BAD)
    run = toy.start(project, 1)
    toy.wait_for(lambda: (toy.state_folder(project) / "written").exists(), what="the result file")

    reply = stop_run(project, run.run_id, "it looks bad")

    assert reply.state == "stopped", toy.told(run)
    log = run.log("test_toy_ci", 1).read_text()
    assert "KeyboardInterrupt" in log
    assert not any(event.kind == "recorded" for event in events.read(run.events))
