"""Whether any node can take a job that waits. A busy one is waited for; while all are out of service, not for ever."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tune_mcp.config.host import SlurmSettings
from tune_mcp.slurm import NotAccepted, Slurm, SlurmNode

LIMIT_S = 600.0
"""How long a job is left in the queue while no node can take it: one may be rebooted."""
REMEDY = "bring one of these nodes back into service (sinfo -R has the reasons), or correct slurm in the host profile"


def nodes_of(slurm: Slurm, settings: SlurmSettings) -> list[SlurmNode]:
    """The nodes of the partition; none where Slurm does not say. Raises ``Unreachable``."""
    try:
        return slurm.nodes(settings.partition)
    except NotAccepted:
        return []


@dataclass
class NoNode:
    """``why`` no node can take the job, empty while one can."""

    why: str = ""
    _since: float = 0.0

    def look(self, why: str) -> None:
        """Take over what is seen now."""
        if not self.why:
            self._since = time.monotonic()
        self.why = why

    @property
    def given_up(self) -> str:
        """Why the job is given up; empty while it may wait."""
        if not self.why or time.monotonic() - self._since < LIMIT_S:
            return ""
        return f"for {LIMIT_S / 60:.0f} min no node could take the job: {self.why}"
