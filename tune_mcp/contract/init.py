"""What ``init`` answers: the config that was proposed, and what is still to be said."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.contract.reply import Reply


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
        number = len(self.thresholds)
        yield f"model {self.model}: {number} threshold{'' if number == 1 else 's'}; {self.path} {self._state}"
        yield from (f"  {line}" for line in self.thresholds)
        yield from (f"missing: {line}" for line in self.missing)
        yield from (f"note: {line}" for line in self.notes)
        yield from ("", self.config.rstrip())

    @property
    def _state(self) -> str:
        return "written" if self.written else "not written"
