"""What ``discover`` and ``catalog`` tell of the numbers that a repository's tests assert."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.words import number_of


class CoverageCounts(Frozen):
    """How many numbers are asserted in the whole repository, and how many of them each keeper has.

    ``first`` are some that nobody keeps up to date; ``table`` is the file with every number.
    """

    asserted: int
    calibrated: int
    derived: int
    protected: int
    nobody: int
    first: tuple[str, ...] = Field(default=())
    table: str = ""

    def lines(self) -> Iterable[str]:
        """The counts, then what nobody keeps."""
        parts = f"{self.calibrated} calibrated, {self.derived} derived, {self.protected} protected"
        parts += f", {self.nobody} by nobody" + (f"; every one: {self.table}" if self.table else "")
        yield f"coverage: {number_of(self.asserted, 'number is', 'numbers are')} asserted in this repository: {parts}"
        yield from (f"  by nobody: {line}" for line in self.first)
        if len(self.first) < self.nobody and self.first:
            yield f"  by nobody: {self.nobody - len(self.first)} more"
