"""Runners as child processes of the supervisor, on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from tune_mcp.supervise.executor import JobState
from tune_mcp.supervise.job import RESULT_FILE, AttemptResult, Job, read_result, write_job


class LocalExecutor:
    """One runner process for each job. A runner's standard input is a pipe from here: it closes when we die.

    ``held`` are open locks that a runner keeps too: a machine is busy until the last of our pytest is gone, even when
    the supervisor was killed.
    """

    def __init__(self, held: tuple[int, ...] = ()) -> None:
        self._held = held
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, job: Job) -> str:
        """Start the runner; its own messages go to ``runner.log`` in the attempt's folder."""
        if job.key in self._running or (job.folder / RESULT_FILE).exists():
            return job.key
        path = write_job(job)
        with (job.folder / "runner.log").open("ab") as log:
            self._running[job.key] = subprocess.Popen(
                [sys.executable, "-P", "-m", "tune_mcp.supervise.runner", str(path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=self._held,
            )
        return job.key

    def poll(self, keys: Sequence[str]) -> dict[str, JobState]:
        """``running`` while the process lives, ``ended`` after, ``unknown`` for a key that was not started here."""
        states: dict[str, JobState] = {}
        for key in keys:
            process = self._running.get(key)
            states[key] = "unknown" if process is None else "running" if process.poll() is None else "ended"
        return states

    def cancel(self, keys: Sequence[str]) -> None:
        """SIGTERM to the runner, which walks the stop ladder on its own tree."""
        for key in keys:
            process = self._running.get(key)
            if process is not None and process.poll() is None:
                process.terminate()

    def collect(self, job: Job) -> AttemptResult | None:
        """Read the sealed result; the pipe is closed and the process forgotten once it has ended."""
        process = self._running.get(job.key)
        if process is not None and process.poll() is not None:
            if process.stdin:
                process.stdin.close()
            del self._running[job.key]
        return read_result(job)
