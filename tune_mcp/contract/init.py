"""What ``init`` answers: the config that was proposed, and what config still lacks."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.contract.reply import Reply
from tune_mcp.words import number_of


class InitReply(Reply):
    """``config`` is the text of config.yaml; ``missing`` are lines about metrics without a place, ``notes`` about tests
    and numbers that were left out; ``run_id`` is the run that showed where the values are.
    """

    model: str
    path: str
    written: bool
    config: str
    thresholds: tuple[str, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    run_id: str | None = None

    def lines(self) -> Iterable[str]:
        """The thresholds, the file, and what a person must still say."""
        state = "written" if self.written else "not written"
        yield f"model {self.model}: {number_of(len(self.thresholds), 'threshold')}; {self.path} {state}"
        yield from (f"  {line}" for line in self.thresholds)
        yield from (f"missing: {line}" for line in self.missing)
        yield from (f"note: {line}" for line in self.notes)
        yield from ("", self.config.rstrip())
