"""A lane that others use does not hold a repeat for which another lane is there, and halts nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import laned
import nvml
import pytest
import toy

from tune_mcp.files import write_atomic
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.supervise.busy_lanes import LEAVE_AFTER_S, LEFT_ALONE_S
from tune_mcp.supervise.gpu import gate
from tune_mcp.supervise.job import PHASE_FILE, AttemptResult, Blocked, Job, is_cancelled
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status


@dataclass
class Hours:
    """A clock whose sleeps take no time, and ten seconds of it at least; ``then`` happens after each."""

    seconds: float = 0.0
    then: Callable[[float], object] = lambda _: None

    def now(self) -> datetime:
        return datetime(2026, 4, 23, 5, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += max(seconds, 10.0)
        self.then(self.seconds)
        assert self.seconds < 24 * 3600, "the run does not end"


@dataclass
class InUse(toy.InProcess):
    """Launches on the lanes in ``busy`` wait until they are cancelled, on others they take ``length_s``."""

    clock: Hours = field(default_factory=Hours)
    busy: set[str] = field(default_factory=set)
    length_s: float = 300.0
    gives_up_after_s: float = 600.0
    began: dict[str, tuple[Job, float]] = field(default_factory=dict)

    def submit(self, job: Job) -> None:
        self.began[job.key] = (job, self.clock.monotonic())
        job.folder.mkdir(parents=True, exist_ok=True)
        if job.lane in self.busy:
            write_atomic(job.folder / PHASE_FILE, b"waiting_for_gpu: GPU 0: 9000 MiB of pid 7")

    def runs(self, job: Job) -> bool:
        return not self._over(*self.began[job.key])

    def _over(self, job: Job, began: float) -> bool:
        if is_cancelled(job) or job in self.jobs:
            return True
        took = self.clock.monotonic() - began
        if job.lane in self.busy:
            if took < self.gives_up_after_s:
                return False
            answer = self.attempt
            self.attempt = lambda one: toy.measured(one).model_copy(update={"blocked": BLOCKED})
            super().submit(job)
            self.attempt = answer
            return True
        if took < self.length_s:
            return False
        write_atomic(job.folder / PHASE_FILE, b"pytest")
        super().submit(job)
        return True

    def cancel(self, job: Job) -> None:
        """The tombstones do it."""


BLOCKED = Blocked(code="GPU_NOT_CLEAR", rule="GPU-02", reason="GPU 0: 9000 MiB of pid 7", next="free the GPUs")


@pytest.fixture
def machine() -> Iterator[InUse]:
    machine = InUse()
    with toy.supervised_by(machine, machine.clock):
        yield machine


def launched(run: RunDir) -> list[tuple[Any, Any, Any]]:
    found = [event.facts for event in events.read(run.events, "launched")]
    return [(one["test"], one["repeat"], one["lane"]) for one in found]


def counted(run: RunDir) -> list[tuple[Any, Any]]:
    return sorted((one.facts["test"], one.facts["repeat"]) for one in events.read(run.events, "observed"))


def history(run: RunDir, stage: str, repeat: int) -> list[tuple[str, str]]:
    found = json.loads(run.observation(stage, repeat).read_text())["history"]
    return [(one["lane"], one["verdict"]) for one in found]


@pytest.mark.rule("GPU-02", "GPU-14")
def test_a_repeat_leaves_a_lane_that_others_use_and_no_try_is_charged(tmp_path: Path, machine: InUse) -> None:
    project = laned.make(tmp_path / "repo", ["a"])
    machine.busy = {"left"}

    run = toy.start(project, 2, lanes=2)

    assert status(project, run.run_id).strict_complete, toy.told(run)
    assert [lane for _, _, lane in launched(run)][:2] == ["left", "right"]
    assert counted(run) == [("test_a_ci", 1), ("test_a_ci", 2)]
    assert history(run, "a_speed", 1) == [("right", "kept")]
    (told,) = [event.text for event in events.read(run.events) if event.kind == "retry"][:1]
    assert "leaves lane left (GPU 0: 9000 MiB of pid 7), where nothing starts for 10 min; no try is used up" in told
    assert LEAVE_AFTER_S < 60 < LEFT_ALONE_S


@pytest.mark.rule("GPU-14")
def test_hours_of_a_foreign_load_on_one_lane_halt_nothing_as_long_as_another_one_measures(
    tmp_path: Path, machine: InUse
) -> None:
    project = laned.make(tmp_path / "repo", ["a", "b"])
    machine.busy, machine.length_s = {"left"}, 1800.0

    run = toy.start(project, 3, lanes=2)

    assert status(project, run.run_id).strict_complete, toy.told(run)
    assert len(counted(run)) == 6
    assert 6 * 1800 <= machine.clock.seconds < 6 * 1800 * 1.05, "the lane that works never waits for the other one"


def test_a_lane_is_used_again_when_others_have_left_it(tmp_path: Path, machine: InUse) -> None:
    project = laned.make(tmp_path / "repo", ["a", "b"])
    machine.busy, machine.length_s = {"left"}, 1800.0
    machine.clock.then = lambda seconds: machine.busy.clear() if seconds > 300 else None

    run = toy.start(project, 4, lanes=2)

    assert status(project, run.run_id).strict_complete, toy.told(run)
    lanes = [lane for _, _, lane in launched(run)]
    assert lanes.count("left") >= 3, "it is tried again while the other one is in the middle of a launch"
    assert machine.clock.seconds < 8 * 1800 * 0.7


def test_where_others_use_every_lane_the_run_halts_as_it_does_on_one(tmp_path: Path, machine: InUse) -> None:
    project = laned.make(tmp_path / "repo", ["a"])
    machine.busy = {"left", "right"}

    run = toy.start(project, 2, lanes=2)

    now = status(project, run.run_id)
    assert now.state == "halted" and "9000 MiB of pid 7" in now.reason, toy.told(run)
    assert machine.clock.seconds < 2 * 3600


def test_attempts_that_were_made_before_the_repeat_left_its_lane_stay_in_its_history(
    tmp_path: Path, machine: InUse
) -> None:
    project = laned.make(tmp_path / "repo", ["a"])

    def attempt(job: Job) -> AttemptResult:
        if (job.repeat, job.attempt) == (1, 1):
            machine.busy.add("left")
            return toy.measured(job).model_copy(update={"disturbed": "0.90 cores of others"})
        return toy.measured(job)

    machine.attempt = attempt
    run = toy.start(project, 1, lanes=2)

    assert status(project, run.run_id).strict_complete, toy.told(run)
    assert history(run, "a_speed", 1) == [("left", "disturbed"), ("right", "kept")]


@pytest.mark.rule("GPU-02")
@pytest.mark.usefixtures("warm")
def test_with_real_processes_a_gpu_that_a_foreigner_holds_keeps_no_other_lane_from_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HOLD_S", 0.3)
    lanes = [{"name": f"gpu-{n}", "gpus": [n]} for n in range(2)]
    with nvml.recorded(tmp_path / "nvml.json") as machine:
        machine.machine({}, {})
        project: Project = laned.make(tmp_path / "repo", ["a"], lanes, gpus=1)
        laned.hold(project, "a", 1)
        run = toy.start(project, 2, lanes=2)
        laned.wait_for(project, run, ("a", 1))
        machine.change(1, used=9 * nvml.GIB)
        laned.let_go(project, "a", 1)

        assert toy.wait_until_rest(project, run.run_id, 120).strict_complete, toy.told(run)

    assert [fact["gpus"] for fact in laned.seen(project)] == ["0", "0"]
    assert counted(run) == [("test_a_ci", 1), ("test_a_ci", 2)]
