"""What a threshold was before, by the commits that touched its file: a bound that only ever sinks is suspect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tune_mcp.apply.plan import Row
from tune_mcp.config.stages import Number
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.discover.constants import ModuleConstants, parse_module
from tune_mcp.errors import Refusal
from tune_mcp.observe.worst import direction
from tune_mcp.report.facts import PastFacts
from tune_mcp.session import provenance
from tune_mcp.session.provenance import Commit

MOST_COMMITS = 10
"""A file's last commits that are read; each costs one git call and one parse."""


@dataclass
class HistoryReader:
    """Reads the past of one repository's threshold files up to one commit, each version once."""

    repo_root: Path
    until: str
    _versions: dict[str, list[tuple[Commit, ModuleConstants | None]]] = field(
        default_factory=dict[str, "list[tuple[Commit, ModuleConstants | None]]"]
    )

    def past(self, row: Row) -> tuple[PastFacts, ...]:
        """The values that the row's literal had, oldest first, each named by the commit that brought it."""
        found: list[PastFacts] = []
        for commit, module in self._file(row.file):
            value = _value(module, row)
            if value is not None and (not found or found[-1].value != value):
                found.append(PastFacts(value=value, sha=commit.sha, day=commit.day))
        return tuple(found)

    def _file(self, name: str) -> list[tuple[Commit, ModuleConstants | None]]:
        if name not in self._versions:
            commits = provenance.touching(self.repo_root, name, self.until, MOST_COMMITS)
            self._versions[name] = [(commit, self._module(commit, name)) for commit in reversed(commits)]
        return self._versions[name]

    def _module(self, commit: Commit, name: str) -> ModuleConstants | None:
        data = provenance.content(self.repo_root, commit.sha, name)
        try:
            return None if data is None else parse_module(data, name)
        except Refusal:
            return None


def loosened_in_a_row(row: Row, past: Sequence[PastFacts]) -> int:
    """How many changes in a row loosen, counted back from the proposed one; 0 when that does not loosen."""
    present = () if row.current_raw is None else (row.current_raw,)
    values: list[Number] = [*(one.value for one in past), *present, row.write_value]
    count = 0
    for before, after in reversed(list(pairwise(values))):
        found = direction(row.worst_op, before, after)
        if found is Direction.LOOSENS:
            count += 1
        elif found is not Direction.EQUAL or not count:
            break
    return count


def _value(module: ModuleConstants | None, row: Row) -> Number | None:
    try:
        return None if module is None else module.find(row.source, row.concurrency).value
    except Refusal:
        return None
