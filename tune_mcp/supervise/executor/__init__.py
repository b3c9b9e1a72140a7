"""Who runs the runners: this machine (``local``), later a cluster. Nothing above knows which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from tune_mcp.supervise.job import AttemptResult, Job

JobState = Literal["running", "ended", "unknown"]


class Executor(Protocol):
    """The four verbs that the supervisor needs. A key is the job's own, never the executor's."""

    def submit(self, job: Job) -> str:
        """Start the job unless it runs or is sealed already; returns its key (idempotent)."""
        ...

    def poll(self, keys: Sequence[str]) -> dict[str, JobState]:
        """What is known of each key."""
        ...

    def cancel(self, keys: Sequence[str]) -> None:
        """Ask the runners to stop; returns at once, ``poll`` tells when they have ended."""
        ...

    def collect(self, job: Job) -> AttemptResult | None:
        """The sealed result, from files alone."""
        ...
