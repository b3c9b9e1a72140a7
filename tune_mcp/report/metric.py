"""One metric of one stage as a report shows it: its repeats, its threshold now and proposed, and what N can carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tune_mcp.apply.plan import Row
from tune_mcp.config.stages import Number
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.discover.assertions import Gate, Unread, UnreadKind
from tune_mcp.discover.constants import ModuleConstants, parse_module
from tune_mcp.discover.python_files import remembered
from tune_mcp.errors import Refusal
from tune_mcp.observe.worst import change_percent, direction
from tune_mcp.report import shape, statistics
from tune_mcp.report.facts import AssertedFacts, MetricFacts, PastFacts
from tune_mcp.report.figures import reading_digits
from tune_mcp.report.noise import Noise
from tune_mcp.session import provenance
from tune_mcp.session.provenance import Commit


def describe(row: Row, noise: Noise, history: HistoryReader) -> MetricFacts:
    """The facts about one row of the apply plan."""
    display = row.stage.metrics[row.metric_key].display
    values, current, proposed = row.per_run_raw, row.current_raw, row.write_value
    gate = row.gate
    described = statistics.spread(values)
    limit = _limit(gate, proposed)
    present = None if current is None else _limit(gate, current)
    strict = isinstance(gate, Gate) and gate.strict
    family, step = noise.families[row.key], noise.series[row.key].step
    step = None if family == "count" else step
    past = history.past(row)
    moved = None if current is None else abs(proposed - current)
    return MetricFacts(
        key=row.metric_key,
        label=display.label,
        scale=display.scale,
        digits=reading_digits(values, display),
        worst_op=row.worst_op,
        place=row.place,
        file=row.file,
        line=row.line,
        values=values,
        worst_raw=row.worst_raw,
        worst_repeats=tuple(repeat for repeat, value in enumerate(values, 1) if value == row.worst_raw),
        current_raw=current,
        write_value=proposed,
        direction=row.direction,
        change_percent=None if current is None else change_percent(current, proposed),
        decision=row.decision,
        doubts=tuple(doubt.text for doubt in row.doubts),
        reason=row.reason,
        asserted=AssertedFacts(strict=gate.strict, how=gate.how, tests=gate.tests) if isinstance(gate, Gate) else None,
        unread=_unread(gate, proposed),
        unasserted=isinstance(gate, Unread) and gate.kind is UnreadKind.NOT_ASSERTED,
        limit_present=present,
        limit_proposed=limit,
        present_misses=None
        if current is None or isinstance(gate, Unread)
        else sum(not gate.passes(value, current) for value in values),
        spread=described,
        chance=noise.chance(row.key, limit, strict=strict),
        chance_present=None if present is None else noise.chance(row.key, present, strict=strict),
        past=past,
        loosened_in_a_row=loosened_in_a_row(row, past),
        family=family,
        quantum=step,
        one_sample=bool(step and moved and moved <= step * (1 + 1e-9)),
        within_noise=bool(moved and described.spread and moved <= described.spread),
        flag=shape.flag(values, row.worst_op, is_time=family == "speed"),
    )


def _limit(gate: Gate | Unread, reference: Number) -> float | None:
    """The limit for a reference, None when it is not known or there is none."""
    found = gate.limit(reference) if isinstance(gate, Gate) else math.nan
    return found if math.isfinite(found) else None


def _unread(gate: Gate | Unread, reference: Number) -> str:
    """Why there is no limit to show, "" when there is one."""
    if isinstance(gate, Unread):
        return gate.reason
    if math.isfinite(limit := gate.limit(reference)):
        return ""
    every = limit == (-math.inf if gate.worst == "min" else math.inf)
    return f"with {reference!r} {'every value passes' if every else 'no value passes'} ({gate.how})"


MOST_COMMITS = 10
"""A file's last commits that are read; each costs one git call and one parse."""


@dataclass
class HistoryReader:
    """Reads the past of one repository's threshold files up to one commit, each version once."""

    repo_root: Path
    until: str

    def past(self, row: Row) -> tuple[PastFacts, ...]:
        """The values that the row's literal had, oldest first, each named by the commit that brought it."""
        found: list[PastFacts] = []
        for commit, module in self._file(row.file):
            value = _value(module, row)
            if value is not None and (not found or found[-1].value != value):
                found.append(PastFacts(value=value, sha=commit.sha, day=commit.day))
        return tuple(found)

    @remembered
    def _file(self, name: str) -> list[tuple[Commit, ModuleConstants | None]]:
        commits = provenance.touching(self.repo_root, name, self.until, MOST_COMMITS)
        return [(commit, self._module(commit, name)) for commit in reversed(commits)]

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
