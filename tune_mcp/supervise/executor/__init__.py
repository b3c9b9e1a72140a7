"""Who runs the runners: this machine (``local``) or a cluster (``slurm``). Nothing above knows which.

What an executor may rely on: the job's key is the identity; a runner refuses an attempt that is sealed, cancelled or
already claimed by another runner (``job.claim``), so a job that an engine starts twice or too late counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from tune_mcp.supervise.job import AttemptResult, Job

JobState = Literal["running", "ended", "unknown"]


class Executor(Protocol):
    """The verbs that the supervisor needs. A key is the job's own, never the executor's.

    ``outlives``: a submitted job goes on when the supervisor dies, and the next one submits the same job again to take
    it over.
    """

    outlives: bool

    def submit(self, job: Job) -> None:
        """Start the job unless it runs or is sealed already (idempotent)."""
        ...

    def poll(self, keys: Sequence[str]) -> dict[str, JobState]:
        """What is known of each key."""
        ...

    def cancel(self, keys: Sequence[str]) -> None:
        """Ask the runners to stop, their tombstones are written; returns at once, ``poll`` tells when they ended."""
        ...

    def collect(self, job: Job) -> AttemptResult | None:
        """The sealed result, from files alone."""
        ...

    def close(self) -> None:
        """Let go of what is kept between jobs: called before the run's end state is written, perhaps twice."""
        ...
