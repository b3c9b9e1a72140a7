"""One metric of one stage as a report shows it: its repeats, its threshold now and proposed, and what N can carry."""

from __future__ import annotations

import math

from tune_mcp.apply.plan import Row
from tune_mcp.config.stages import Number
from tune_mcp.discover.assertions import Gate, Unread, UnreadKind
from tune_mcp.observe.worst import change_percent
from tune_mcp.report import shape, statistics
from tune_mcp.report.facts import AssertedFacts, MetricFacts
from tune_mcp.report.figures import reading_digits
from tune_mcp.report.noise import Noise


def describe(row: Row, noise: Noise) -> MetricFacts:
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
        family=family,
        quantum=step,
        one_sample=bool(step and moved and moved <= step * (1 + 1e-9)),
        within_noise=bool(moved and described.spread and moved <= described.spread),
        flag=shape.flag(values, row.worst_op),
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
