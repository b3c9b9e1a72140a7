"""One metric of one stage as a report tells it: its repeats, its threshold now and proposed, and what N can carry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tune_mcp.apply.plan import Row
from tune_mcp.config.stages import Number, Stage
from tune_mcp.discover.assertions import Gate, Unread, UnreadKind
from tune_mcp.observe.worst import change_percent
from tune_mcp.report import shape, statistics
from tune_mcp.report.facts import AssertedFacts, MetricFacts
from tune_mcp.report.figures import reading_digits
from tune_mcp.report.noise import Noise
from tune_mcp.report.threshold_history import HistoryReader, loosened_in_a_row


@dataclass(frozen=True)
class MetricReader:
    """Tells the metrics of one apply plan's rows, by (stage key, metric key)."""

    past: HistoryReader
    rows: Mapping[tuple[str, str], Row]
    noise: Noise

    def read(self, stage: Stage) -> Iterator[MetricFacts]:
        """The stage's metrics in its own order."""
        for key in stage.metrics:
            if (row := self.rows.get((stage.key, key))) is not None:
                yield self._one(stage, row)

    def _one(self, stage: Stage, row: Row) -> MetricFacts:
        worst, display = row.worst, stage.metrics[row.metric_key].display
        values, current, proposed = worst.per_run_raw, row.current_raw, row.write_value
        gate = row.gate or Unread("not read", UnreadKind.UNCLEAR)
        described = statistics.spread(values)
        limit = _limit(gate, proposed)
        present = None if current is None else _limit(gate, current)
        strict = isinstance(gate, Gate) and gate.strict
        family, step = self.noise.families[row.key], self.noise.series[row.key].step
        step = None if family == "count" else step
        past = self.past.past(row)
        moved = None if current is None else abs(proposed - current)
        return MetricFacts(
            key=worst.metric_key,
            label=display.label,
            scale=display.scale,
            digits=reading_digits(values, display),
            worst_op=row.worst_op,
            place=row.place,
            file=row.file,
            line=row.line,
            values=values,
            worst_raw=worst.worst_raw,
            worst_repeats=tuple(repeat for repeat, value in enumerate(values, 1) if value == worst.worst_raw),
            current_raw=current,
            write_value=proposed,
            direction=row.direction,
            change_percent=None if current is None else change_percent(current, proposed),
            decision=row.decision,
            doubts=tuple(doubt.text for doubt in row.doubts),
            reason=row.reason,
            asserted=AssertedFacts(strict=gate.strict, how=gate.how, tests=gate.tests)
            if isinstance(gate, Gate)
            else None,
            unread=_unread(gate, proposed),
            limit_present=present,
            limit_proposed=limit,
            present_misses=None if current is None else _misses(gate, values, current),
            spread=described,
            chance=self.noise.chance(row.key, limit, strict=strict),
            chance_present=None if present is None else self.noise.chance(row.key, present, strict=strict),
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


def _misses(gate: Gate | Unread, values: tuple[Number, ...], reference: Number) -> int | None:
    return sum(not gate.passes(value, reference) for value in values) if isinstance(gate, Gate) else None
