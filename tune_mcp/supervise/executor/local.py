"""The runner as a child process of the supervisor, on this machine: one job at a time, because speed is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tune_mcp.files import write_atomic
from tune_mcp.supervise.executor import JobState
from tune_mcp.supervise.job import ENDED, RUNNER_END_FILE, AttemptResult, Job, is_sealed, read_result, write_job
from tune_mcp.supervise.waiting import Wakeup

_END_S = 90
"""Longer than a runner takes to stop in the middle of a job: the end of a session, then the stop ladder."""


class LocalExecutor:
    """One runner that stays and takes job after job, so that no launch waits for an interpreter to start.

    The runner's standard input is a pipe from here: it closes when we die. A runner that died or was cancelled is
    replaced at the next job. What it says wakes ``wakeup``. ``held`` are open locks that it keeps too: a machine is
    busy until the last of our pytest is gone, even when the supervisor was killed. ``drain`` ends every process
    below us: what a runner left that could not do so itself.
    """

    outlives = False

    def __init__(self, wakeup: Wakeup, drain: Callable[[], object], held: tuple[int, ...] = ()) -> None:
        self._wakeup = wakeup
        self._drain = drain
        self._held = held
        self._runner: subprocess.Popen[bytes] | None = None
        self._leaves = False
        self._key = ""
        self._ended = True
        self._said = b""
        self._folder: Path | None = None

    def submit(self, job: Job) -> str:
        """Hand the job to the runner; its own messages go to ``runner.log`` in the attempt's folder."""
        if job.key == self._key or is_sealed(job):
            return job.key
        if not self._ended:
            raise RuntimeError(f"{job.key} was submitted while {self._key} runs")
        path = write_job(job)
        self._reap()
        runner = self._runner = self._runner or self._start()
        self._key, self._ended, self._said, self._folder = job.key, False, b"", job.folder
        assert runner.stdin
        with suppress(BrokenPipeError):  # it died this moment, and poll says so
            runner.stdin.write(os.fsencode(path) + b"\0")
        return job.key

    def poll(self, keys: Sequence[str]) -> dict[str, JobState]:
        """``running`` until the runner says that the job ended, or is dead; ``unknown`` for any other key."""
        if self._runner is not None:
            self._listen(self._runner)
        now: JobState = "ended" if self._ended else "running"
        return {key: now if key == self._key else "unknown" for key in keys}

    def cancel(self, keys: Sequence[str]) -> None:
        """SIGTERM to the runner, which walks the stop ladder on its own tree and ends."""
        if self._runner is not None and self._key in keys and self.poll(keys)[self._key] == "running":
            self._runner.terminate()
            self._leaves = True

    def collect(self, job: Job) -> AttemptResult | None:
        """Read the sealed result; what a dead runner left behind is ended first."""
        self._reap()
        return read_result(job)

    def close(self) -> None:
        """Let the runner end and end whatever is left of it."""
        if self._runner is not None:
            self._end_runner(self._runner)

    def _start(self) -> subprocess.Popen[bytes]:
        runner = subprocess.Popen(
            [sys.executable, "-P", "-m", "tune_mcp.supervise.runner", "-"],
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
        """Take what the runner said since the last look: a word for each step, ``ended`` after a job."""
        dead = runner.poll() is not None  # looked at first: what it said before its end is still read
        if runner.stdout and not runner.stdout.closed:
            while data := runner.stdout.read(4096):
                self._said += data
            if data == b"":
                self._stop_listening(runner)
        self._ended = self._ended or dead or ENDED in self._said.splitlines()

    def _stop_listening(self, runner: subprocess.Popen[bytes]) -> None:
        """Watch its output no more: at its end it would wake us for ever."""
        if runner.stdout and not runner.stdout.closed:
            self._wakeup.forget(runner.stdout.fileno())
            runner.stdout.close()

    def _reap(self) -> None:
        """Reap a runner that is dead, or is ending because it was asked to."""
        if self._runner is not None and (self._leaves or self._runner.poll() is not None):
            self._end_runner(self._runner)

    def _end_runner(self, runner: subprocess.Popen[bytes]) -> None:
        """Wait until the runner has gone by itself, then end what is left of it."""
        assert runner.stdin
        runner.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # the drain ends it
            runner.wait(_END_S)
        self._stop_listening(runner)
        self._drain()
        if not self._leaves and runner.returncode:
            self._note_end(runner.returncode)
        self._runner, self._leaves = None, False

    def _note_end(self, returncode: int) -> None:
        """How the runner ended, for the verdict on an attempt that it did not seal."""
        if self._folder is not None and self._folder.is_dir():
            write_atomic(self._folder / RUNNER_END_FILE, str(returncode).encode(), durable=False)
