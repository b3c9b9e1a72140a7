"""The runner as a child process of the supervisor, on this machine: one for each lane, one job at a time on each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from tune_mcp.files import write_atomic
from tune_mcp.supervise.job import ENDED, RUNNER_END_FILE, AttemptResult, Job, is_sealed, read_result, write_job
from tune_mcp.supervise.waiting import Wakeup

_END_S = 90
"""Longer than a runner takes to stop in the middle of a job: the end of a session, then the stop ladder."""
Drain = Callable[[Collection[int]], object]
"""Ends every process below us but the given ones and what is below those."""


class LocalExecutor:
    """A runner stays on each lane and takes job after job, so that no launch waits for an interpreter to start.

    A runner that died or was cancelled is replaced at the next job. Output of one wakes ``wakeup``. ``held`` are open
    locks that runners keep too: a machine is busy until the last of our pytest is gone, even when the supervisor was
    killed. ``drain`` ends what a runner left that could not do so itself, and spares the living runners of other lanes.
    """

    outlives = False

    def __init__(self, wakeup: Wakeup, drain: Drain, held: tuple[int, ...] = ()) -> None:
        self._wakeup = wakeup
        self._drain = drain
        self._held = held
        self._lanes: dict[str, _Resident] = {}

    def submit(self, job: Job) -> None:
        """Hand the job to its lane's runner; its own messages go to ``runner.log`` in the attempt's folder."""
        self._lanes.setdefault(job.lane, _Resident(self._wakeup, self._drain_of, self._held)).submit(job)

    def runs(self, job: Job) -> bool:
        """Whether the lane's runner lives and has not reported the job's end."""
        lane = self._of(job)
        return lane is not None and lane.runs()

    def cancel(self, job: Job) -> None:
        """SIGTERM to the runner, which walks the stop ladder on its own tree and ends."""
        if lane := self._of(job):
            lane.cancel()

    def collect(self, job: Job) -> AttemptResult | None:
        """Read the sealed result; what a dead runner left behind is ended first."""
        if lane := self._of(job):
            lane.reap()
        return read_result(job)

    def close(self) -> None:
        """Let all runners end, then end whatever is left of them."""
        for lane in self._lanes.values():
            lane.let_go()
        for lane in self._lanes.values():
            lane.end()

    def _of(self, job: Job) -> _Resident | None:
        lane = self._lanes.get(job.lane)
        return lane if lane and lane.key == job.key else None

    def _drain_of(self) -> None:
        self._drain([pid for lane in self._lanes.values() if (pid := lane.living()) is not None])


class _Resident:
    """The runner of one lane with its job. Its standard input is a pipe from here, which closes when we die."""

    def __init__(self, wakeup: Wakeup, drain: Callable[[], object], held: tuple[int, ...]) -> None:
        self._wakeup = wakeup
        self._drain = drain
        self._held = held
        self._runner: subprocess.Popen[bytes] | None = None
        self._leaves = False
        self.key = ""
        self._ended = True
        self._output = b""
        self._folder: Path | None = None

    def submit(self, job: Job) -> None:
        """Start the job unless it runs or is sealed already."""
        if job.key == self.key or is_sealed(job):
            return
        if not self._ended:
            raise RuntimeError(f"{job.key} was submitted while {self.key} runs")
        path = write_job(job)
        self.reap()
        runner = self._runner = self._runner or self._start()
        self.key, self._ended, self._output, self._folder = job.key, False, b"", job.folder
        assert runner.stdin
        with suppress(BrokenPipeError):  # it died this moment, and poll says so
            runner.stdin.write(os.fsencode(path) + b"\0")

    def runs(self) -> bool:
        """Whether the lane's last job has not ended."""
        if self._runner is not None:
            self._listen(self._runner)
        return not self._ended

    def cancel(self) -> None:
        """Ask the runner to end, if its job runs."""
        if self._runner is not None and self.runs():
            self._runner.terminate()
            self._leaves = True

    def living(self) -> int | None:
        """The runner's pid as long as it lives."""
        return self._runner.pid if self._runner is not None and self._runner.poll() is None else None

    def reap(self) -> None:
        """Reap a runner that is dead, or is ending because it was asked to."""
        if self._leaves or (self._runner is not None and self._runner.poll() is not None):
            self.end()

    def let_go(self) -> None:
        """Close the runner's standard input, at whose end it exits."""
        if self._runner is not None and self._runner.stdin:
            self._runner.stdin.close()

    def end(self) -> None:
        """Wait until the runner has gone by itself, then end what is left of it."""
        runner = self._runner
        if runner is None:
            return
        self.let_go()
        with suppress(subprocess.TimeoutExpired):  # the drain ends it
            runner.wait(_END_S)
        self._runner = None  # from here on nothing spares it
        self._stop_listening(runner)
        self._drain()
        runner.poll()
        if not self._leaves and runner.returncode and self._folder is not None and self._folder.is_dir():
            code = str(runner.returncode).encode()  # for the verdict on an attempt that it did not seal
            write_atomic(self._folder / RUNNER_END_FILE, code, durable=False)
        self._leaves = False

    def _start(self) -> subprocess.Popen[bytes]:
        runner = subprocess.Popen(
            [sys.executable, "-P", "-m", "tune_mcp.supervise.runner"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=self._held,
        )
        assert runner.stdout
        os.set_blocking(runner.stdout.fileno(), False)
        self._wakeup.watch(runner.stdout.fileno())
        return runner

    def _listen(self, runner: subprocess.Popen[bytes]) -> None:
        """Read the runner's output since the last look: a word for each step, ``ended`` after a job."""
        dead = runner.poll() is not None  # looked at first: what it wrote before its end is still read
        if runner.stdout and not runner.stdout.closed:
            while data := runner.stdout.read(4096):
                self._output += data
            if data == b"":
                self._stop_listening(runner)
        self._ended = self._ended or dead or ENDED in self._output.splitlines()

    def _stop_listening(self, runner: subprocess.Popen[bytes]) -> None:
        """Watch its output no more: at its end it would wake us for ever."""
        if runner.stdout and not runner.stdout.closed:
            self._wakeup.forget(runner.stdout.fileno())
            runner.stdout.close()
