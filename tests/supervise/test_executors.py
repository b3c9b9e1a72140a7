"""Whoever runs the runners, the supervisor's loop is the same: the local executor, and one with an engine between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import one_job
import psutil
import pytest
import toy

from tune_mcp.files import dump_json, write_atomic
from tune_mcp.run_dir import utc_now
from tune_mcp.session import events
from tune_mcp.supervise import loop
from tune_mcp.supervise.executor.local import LocalExecutor
from tune_mcp.supervise.job import JOB_FILE, AttemptResult, Job, cancel, read_result, runner_end, write_job
from tune_mcp.supervise.waiting import Wakeup
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

ENGINE = """
import subprocess, sys, time
from pathlib import Path

spool, copies = Path(sys.argv[1]), int(sys.argv[2])
while not (spool / "over").exists():
    for order in sorted(spool.glob("*.order")):
        command = [sys.executable, sys.argv[3], order.read_text()]
        order.unlink()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        runners = [subprocess.Popen(command, stdin=subprocess.PIPE, **quiet) for _ in range(copies)]
        codes = sorted(runner.wait() for runner in runners)
        order.with_suffix(".part").write_text(" ".join(map(str, codes)))
        order.with_suffix(".part").rename(order.with_suffix(".ended"))
    time.sleep(0.01)
"""


@dataclass
class SpoolExecutor:
    """Jobs as files in a folder that an engine, a process of nobody's, works off. It can be asked for no stop."""

    spool: Path
    outlives = False

    def submit(self, job: Job) -> None:
        if not any(self.spool.glob(f"{job.key}.*")):
            (self.spool / f"{job.key}.new").write_text(str(write_job(job)))
            (self.spool / f"{job.key}.new").rename(self.spool / f"{job.key}.order")

    def runs(self, job: Job) -> bool:
        return not (self.spool / f"{job.key}.ended").exists()

    def cancel(self, job: Job) -> None:
        """The tombstones do it."""

    def collect(self, job: Job) -> AttemptResult | None:
        return read_result(job)

    def close(self) -> None:
        """Nothing is kept between jobs."""

    def codes(self) -> list[str]:
        return [path.read_text() for path in sorted(self.spool.glob("*.ended"))]


@dataclass
class Waits:
    """A clock whose every sleep may do something first."""

    then: Callable[[], object] = lambda: None
    now = staticmethod(utc_now)
    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        self.then()
        time.sleep(0.01)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[[int], SpoolExecutor]]:
    spool = tmp_path / "spool"
    spool.mkdir()
    processes: list[subprocess.Popen[bytes]] = []

    def start(copies: int) -> SpoolExecutor:
        command = [sys.executable, "-c", ENGINE, str(spool), str(copies), one_job.__file__]
        env = {**os.environ, "PYTHONPATH": str(Path(toy.__file__).parents[1])}
        processes.append(subprocess.Popen(command, env=env))
        return SpoolExecutor(spool)

    yield start
    (spool / "over").touch()
    assert [process.wait(timeout=60) for process in processes] == [0] * len(processes)


def test_a_whole_run_goes_through_another_executor_unchanged(
    project: Project, engine: Callable[[int], SpoolExecutor]
) -> None:
    executor = engine(1)
    with toy.supervised_by(executor, Waits()):
        run = toy.start(project, 1)

    assert status(project, run.run_id).state == "finished", toy.told(run)
    assert strict_audit(project, run.run_id).ready
    assert executor.codes() == ["0"]


@pytest.mark.rule("MET-01")
def test_an_engine_that_starts_every_job_twice_at_the_same_time_measures_once(
    project: Project, engine: Callable[[int], SpoolExecutor]
) -> None:
    executor = engine(2)
    with toy.supervised_by(executor, Waits()):
        run = toy.start(project, 1)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    assert len(toy.launches(project, 1)) == 1
    assert executor.codes() in (["0 75"], ["0 0"])


@pytest.mark.rule("SUP-13")
def test_a_stop_reaches_a_runner_that_no_engine_can_be_asked_to_end(
    project: Project, engine: Callable[[int], SpoolExecutor]
) -> None:
    executor = engine(1)
    toy.hold(project, 2)

    def stop() -> None:
        if toy.launches(project, 2):
            (run,) = list_runs(project).runs
            write_atomic(project.run(run.run_id).stop_request, dump_json({"reason": "lunch"}))

    with toy.supervised_by(executor, Waits(stop)):
        run = toy.start(project, 3)

    now = status(project, run.run_id)
    assert (now.state, now.reason, executor.codes()) == ("stopped", "lunch", ["0", "1"]), toy.told(run)
    assert not any(psutil.pid_exists(pid) for pid in toy.launches(project, 2))
    assert "toy_speed: ✓——" in strict_audit(project, run.run_id).text()


def test_a_cancelled_job_that_an_engine_brings_back_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    jobs: list[Job] = []
    run = toy.finished_run(project, 1, lambda job: jobs.append(job) or cancel(job) or toy.real_pytest(job))

    assert toy.launches(project, 1) == ()
    assert {read_result(job) for job in jobs} == {None}
    assert "refused" in (jobs[0].folder / "runner.log").read_text()
    assert "✓" not in strict_audit(project, run.run_id).text()


@pytest.mark.rule("RES-04", "MET-01")
def test_what_an_engine_still_holds_of_a_dead_supervisor_never_runs_beside_the_resumed_one(
    project: Project, engine: Callable[[int], SpoolExecutor], tmp_path: Path
) -> None:
    late = tmp_path / "late"
    late.mkdir()

    def die() -> None:
        raise KeyboardInterrupt

    with toy.supervised_by(SpoolExecutor(late), Waits(die)), pytest.raises(KeyboardInterrupt):
        toy.start(project, 1)
    (order,) = late.iterdir()
    executor = engine(1)
    (run,) = (project.run(entry.run_id) for entry in list_runs(project).runs)
    assert status(project, run.run_id).state == "lost"

    def wake_up() -> None:
        if order.exists():
            order.rename(executor.spool / order.name)

    with toy.supervised_by(executor, Waits(wake_up)):
        resume_run(project, run.run_id)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    toy.wait_for(lambda: len(executor.codes()) == 2, what="the end of both jobs")
    assert (executor.codes(), len(toy.launches(project, 1))) == (["75", "0"], 1)


# ---- the local one ----------------------------------------------------------------------------------------------


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    old = signal.getsignal(signal.SIGCHLD)
    yield Wakeup()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, old)


@dataclass
class Local:
    """A local executor with every runner that it ever had, and how often it drained."""

    executor: LocalExecutor
    wakeup: Wakeup
    drained: list[int]

    def runners(self) -> list[int]:
        return [child.pid for child in psutil.Process().children() if "tune_mcp.supervise.runner" in child.cmdline()]

    def finish(self, job: Job) -> AttemptResult | None:
        end = time.monotonic() + 60
        while self.executor.runs(job) and time.monotonic() < end:
            self.wakeup.wait(60)
        assert not self.executor.runs(job)
        return self.executor.collect(job)


@pytest.fixture
def local(wakeup: Wakeup, monkeypatch: pytest.MonkeyPatch, warm: None) -> Iterator[Local]:
    monkeypatch.setenv("PYTHONPATH", str(Path(toy.__file__).parents[1]))
    drained: list[int] = []
    made = Local(LocalExecutor(wakeup, lambda _spared: drained.append(1)), wakeup, drained)
    yield made
    made.executor.close()
    assert made.runners() == []


@pytest.fixture
def jobs(project: Project) -> tuple[Job, ...]:
    """Three jobs that nobody has done; a run made them up."""
    made: list[Job] = []
    toy.finished_run(project, 3, lambda job: made.append(job) or toy.measured(job))
    return tuple(job.model_copy(update={"attempt": 2}) for job in made)


def test_one_runner_does_one_job_after_the_other_and_ends_with_the_run(local: Local, jobs: tuple[Job, ...]) -> None:
    seen: set[int] = set()
    for job in jobs[:2]:
        local.executor.submit(job)
        local.executor.submit(job)
        toy.wait_for(local.runners, what="the runner's own command line")
        seen.update(local.runners())
        result = local.finish(job)
        assert result is not None and (result.key, result.pytest_rc) == (job.key, 0)
        assert "launch: " in (job.folder / "runner.log").read_text()
    assert len(seen) == 1 and local.drained == []

    local.executor.close()
    local.executor.close()
    assert local.runners() == [] and len(local.drained) == 1


@pytest.mark.rule("RTY-03")
@pytest.mark.parametrize("when", ["idle", "at work"])
def test_a_killed_runner_is_replaced_for_the_next_job(
    local: Local, project: Project, jobs: tuple[Job, ...], when: str
) -> None:
    first, second, third = jobs
    local.executor.submit(first)
    assert local.finish(first)
    (old,) = local.runners()
    if when == "at work":
        toy.hold(project, 2)
        local.executor.submit(second)
        toy.wait_for(lambda: toy.launches(project, 2), what="pytest")
    os.kill(old, signal.SIGKILL)
    if when == "at work":
        assert local.finish(second) is None
        assert len(local.drained) == 1, "what it left behind is ended before anything else starts"
        toy.let_go(project, 2)
    else:
        toy.wait_for(lambda: psutil.Process(old).status() == psutil.STATUS_ZOMBIE, what="its end")

    local.executor.submit(third)
    toy.wait_for(local.runners, what="a new runner")
    (new,) = local.runners()
    assert new != old and local.finish(third) is not None


@pytest.mark.rule("SUP-13", "GPU-20")
def test_a_cancelled_runner_stops_its_pytest_and_is_replaced(
    local: Local, project: Project, jobs: tuple[Job, ...]
) -> None:
    toy.hold(project, 1)
    local.executor.submit(jobs[0])
    toy.wait_for(lambda: toy.launches(project, 1), what="pytest")

    local.executor.cancel(jobs[0])

    assert local.finish(jobs[0]) is None
    assert not psutil.pid_exists(toy.launches(project, 1)[0])
    local.executor.submit(jobs[1])
    assert local.finish(jobs[1]) is not None


def test_a_runner_that_breaks_leaves_its_traceback_in_the_attempt(local: Local, jobs: tuple[Job, ...]) -> None:
    job = jobs[0]
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "guard").touch()  # in the way of the folder that the guard is copied to
    local.executor.submit(job)

    assert local.finish(job) is None
    assert runner_end(job) == 1
    assert "Traceback" in (job.folder / "runner.log").read_text()


def test_a_second_job_beside_a_running_one_is_a_bug(local: Local, project: Project, jobs: tuple[Job, ...]) -> None:
    toy.hold(project, 1)
    local.executor.submit(jobs[0])

    with pytest.raises(RuntimeError, match="while"):
        local.executor.submit(jobs[1])
    toy.let_go(project, 1)
    assert local.finish(jobs[0]) is not None


@pytest.mark.usefixtures("warm")
def test_a_real_run_keeps_its_runner_from_repeat_to_repeat(project: Project) -> None:
    run = toy.start_and_hold(project, 2)
    first = psutil.Process(toy.launches(project, 1)[0]).ppid()
    toy.hold(project, 2)
    toy.let_go(project, 1)
    toy.wait_for(lambda: toy.launches(project, 2), what="the second pytest")
    second = psutil.Process(toy.launches(project, 2)[0]).ppid()
    toy.let_go(project, 2)

    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert first == second and not psutil.pid_exists(first)
    assert [event.kind for event in events.read(run.events)][-1] == "finished"
    assert not (run.attempt(toy.TEST_KEY, 1, 1) / JOB_FILE).with_name("cancelled").exists()
    stop_run(project, run.run_id, "over")
