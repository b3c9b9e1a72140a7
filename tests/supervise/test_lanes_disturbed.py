"""Others on the CPUs of one lane: that lane waits or measures again, and the other goes on as if it were alone.

Whole runs with real processes on two lanes; what others use of each CPU is recorded (``recorded_cpus``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import laned
import pytest
import toy
from others import Others

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.state import read_record

LEFT = laned.CPUS[0]
HOST = {"quiet": {"foreign_cores": 0.3, "window_s": 2}}
SPOILT = """
    if (Path(__file__).stem, k) == ("test_a_ci", 1):
        if (STATE / "run1.json").exists():
            (STATE / "run1.json").unlink()
        else:
            (STATE / "run1.json").write_text('{"speed": {"throughput_qps": 0.5, "latency_mean_s": 8.0}}')
"""
"""The first launch of one repeat is slower than every other."""


pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Others:
    return Others.recorded(tmp_path, monkeypatch)


def history(run: RunDir, stage: str, repeat: int) -> list[tuple[str, str]]:
    """Lane and verdict of each attempt at a repeat."""
    found: list[dict[str, Any]] = json.loads(run.observation(stage, repeat).read_text())["history"]
    return [(one["lane"], one["verdict"]) for one in found]


def kinds(run: RunDir, kind: str, test: str) -> list[str]:
    return [event.text for event in events.read(run.events) if event.kind == kind and event.facts.get("test") == test]


@pytest.mark.rule("GPU-14", "STR-17")
def test_what_others_disturb_on_one_lane_is_measured_again_and_costs_the_other_lane_nothing(
    tmp_path: Path, others: Others
) -> None:
    project = laned.make(tmp_path / "repo", host=HOST, body=SPOILT)
    laned.hold(project, "a", 1)
    laned.hold(project, "b", 2)

    run = toy.start(project, 2, lanes=2)
    laned.wait_for(project, run, ("a", 1), ("b", 2))  # b's first repeat is strict: its second is at work
    before = run.observation("b_speed", 1).read_bytes()
    others.use(0.9, cpu=LEFT)
    toy.wait_for(lambda: kinds(run, "alert", "test_a_ci"), 30, "the alert")
    laned.let_go(project, "a", 1)
    toy.wait_for(lambda: kinds(run, "disturbed", "test_a_ci"), 30, "the verdict on a")
    others.use(0.0, cpu=LEFT)
    laned.let_go(project, "b", 2)

    assert toy.wait_until_rest(project, run.run_id, 90).strict_complete, toy.told(run)
    assert history(run, "a_speed", 1) == [("left", "disturbed"), ("left", "kept")]
    assert history(run, "b_speed", 1) == history(run, "b_speed", 2) == [("right", "kept")]
    assert run.observation("b_speed", 1).read_bytes() == before
    assert not kinds(run, "alert", "test_b_ci") and not kinds(run, "retry", "test_a_ci"), "no try is charged"
    kept = [(event.facts["test"], event.facts["repeat"]) for event in events.read(run.events, "observed")]
    assert sorted(kept) == [("test_a_ci", 1), ("test_a_ci", 2), ("test_b_ci", 1), ("test_b_ci", 2)]
    assert laned.worst(project, run) == laned.WORST
    assert "| disturbed by others |" in (run.path / "report.md").read_text()


def test_a_lane_that_is_not_quiet_waits_while_the_other_measures(tmp_path: Path, others: Others) -> None:
    project = laned.make(tmp_path / "repo", host=HOST)
    laned.hold(project, "b", 1)
    others.use(0.9, cpu=LEFT)
    run = toy.start(project, 1, lanes=2)
    laned.wait_for(project, run, ("b", 1))
    toy.wait_for(lambda: kinds_of_waits(run), 60, "the wait")
    record = read_record(run)

    assert record and record.state == "running", "as long as one lane measures the run is at work"
    assert laned.began(project) == [("b", 1)]
    laned.let_go(project, "b", 1)
    toy.wait_for(lambda: run.observation("b_speed", 1).exists(), 60, "b's observation")
    toy.wait_for(lambda: (now := read_record(run)) and now.state == "waiting_for_quiet", 60, "the wait of the run")
    others.use(0.0, cpu=LEFT)

    assert toy.wait_until_rest(project, run.run_id, 90).strict_complete, toy.told(run)
    assert history(run, "a_speed", 1) == [("left", "kept")] and history(run, "b_speed", 1) == [("right", "kept")]


def kinds_of_waits(run: RunDir) -> list[str]:
    return [event.text for event in events.read(run.events) if event.kind == "waiting_for_quiet"]
