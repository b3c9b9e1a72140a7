"""What ``stop_run`` answers."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.contract.reply import Reply


class StopReply(Reply):
    """Where the run stands after the request, and what is kept."""

    run_id: str
    state: str
    strict_ready: str
    kept_cells: int
    reason: str

    def lines(self) -> Iterable[str]:
        """One line."""
        yield f"STRICT {self.strict_ready} stages · {self.run_id} is {self.state} ({self.reason})"
        yield f"kept: {self.kept_cells} strict stage × repeat cells; no process of the run is left behind"
