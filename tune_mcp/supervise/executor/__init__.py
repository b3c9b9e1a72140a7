"""Who runs the runners: this machine (``local``) or a cluster (``slurm``). Nothing above knows which.

What an executor may rely on: the job's key is the identity; a runner refuses an attempt that is sealed, cancelled or
already claimed by another runner (``job.claim``), so a job that an engine starts twice or too late counts once.
"""

from __future__ import annotations

from typing import Protocol

from tune_mcp.supervise.job import AttemptResult, Job


class Executor(Protocol):
    """The verbs that the supervisor needs.

    ``outlives``: a submitted job goes on when the supervisor dies, and the next one submits the same job again to take
    it over.
    """

    outlives: bool

    def submit(self, job: Job) -> None:
        """Start the job unless it runs or is sealed already (idempotent)."""
        ...

    def runs(self, job: Job) -> bool:
        """Whether the job that was submitted has not ended, as far as anybody knows."""
        ...

    def cancel(self, job: Job) -> None:
        """Ask the job's runner to stop, its tombstone is written; returns at once, ``runs`` reports when it ended."""
        ...

    def collect(self, job: Job) -> AttemptResult | None:
        """The sealed result, from files alone."""
        ...

    def close(self) -> None:
        """Let go of what is kept between jobs: called before the run's end state is written, perhaps twice."""
        ...
