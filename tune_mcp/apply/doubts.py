"""What a person must see before a proposed value is written, whatever the mode says about its group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from enum import StrEnum

from tune_mcp.config.stages import Number, WorstOp
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.discover.assertions import Gate, Unread, UnreadKind
from tune_mcp.observe.worst import EXACT, Worst
from tune_mcp.words import listed

_SPEED = "speed"
_DECIMALS = range(4, -1, -1)
_OTHER_UNIT = 50
"""From this factor on a slack is taken for a conversion: minutes, percent, milliseconds. A slack of 10 occurs."""


class DoubtKind(StrEnum):
    """Why a value is not written without a person's decision."""

    SMOKE_RUN = "smoke run"
    CONTRADICTED = "contradicted"
    FAILS_REPEATS = "fails its own repeats"
    NATURAL_EDGE = "natural edge"
    BEYOND_SLACK = "beyond its slack"
    UNREAD = "not understood"
    OTHER_VALUE = "another value"
    SEVERAL_VALUES = "several values"
    LOST = "a worse value was lost"


@dataclass(frozen=True)
class Doubt:
    """One reason, with a sentence for the person who decides."""

    kind: DoubtKind
    text: str


def find(
    worst: Worst, current: Number | None, moves: Direction, read: Gate | Unread, contradicted: str, repeats: int
) -> Iterator[Doubt]:
    """Every doubt about writing the worst of ``repeats`` repeats over ``current``.

    ``read`` is what the assertion says, ``contradicted`` what pytest reported against it (then ``read`` is Unread).
    """
    if repeats == 1:
        yield Doubt(DoubtKind.SMOKE_RUN, "measured once: a smoke run shows no spread, so it is no worst of N")
    if contradicted:
        text = f"WHAT THE TEST ASSERTS IS UNKNOWN, pytest contradicts how tune-mcp reads it:  {contradicted}"
        yield Doubt(DoubtKind.CONTRADICTED, text)
    gate = read if isinstance(read, Gate) else None
    if isinstance(read, Unread) and not contradicted and _matters(read, moves, worst.stage.group):
        text = f"whether the repeats pass the value is not known, since no assertion could be read: {read.reason}"
        yield Doubt(DoubtKind.UNREAD, text)
    if gate and (text := fails_text(worst, gate, worst.write_value)):
        yield Doubt(DoubtKind.FAILS_REPEATS, text)
    if gate and gate.besides and moves is not Direction.LOOSENS:
        where = listed([*dict.fromkeys((gate.how, *gate.besides))])
        text = f"it bounds several values, of which this metric is one: {where}; another may fail {worst.write_value!r}"
        yield Doubt(DoubtKind.SEVERAL_VALUES, text)
    if edge := _edge(worst, gate):
        yield Doubt(DoubtKind.NATURAL_EDGE, edge)
    if moves is Direction.LOOSENS and worst.stage.group != _SPEED and current is not None:
        if gate is None:
            text = f"a quality metric would loosen from {current!r}, and its slack is not known"
            yield Doubt(DoubtKind.BEYOND_SLACK, text)
        elif not gate.passes(worst.write_value, current):
            text = f"a quality metric would loosen beyond its own slack: {worst.write_value!r} fails the present limit "
            yield Doubt(DoubtKind.BEYOND_SLACK, f"{text}{gate.limit(current):g} ({gate.how})")


def _matters(read: Unread, moves: Direction, group: str) -> bool:
    """Whether a person must know that no assertion was read.

    Not where nothing asserts what would loosen; a quality metric that loosens has a doubt of its own.
    """
    if moves is Direction.LOOSENS:
        return group == _SPEED and read.kind is not UnreadKind.NOT_ASSERTED
    return moves is not Direction.EQUAL


_KEYS = re.compile(r"""(?:\[|\.get\()(['"])([^'"]+)\1[\])]""")


def other_value(worst: Worst, gate: Gate, paths: Mapping[str, str]) -> Iterator[Doubt]:
    """Whether the test asserts the value of another metric than the constant's; ``paths``: JSON path by metric.

    Keys that the comparison names are compared with the ends of the paths; a helper that names none is not judged.
    """
    own = _leaf(paths[worst.metric_key])
    others = {_leaf(path): metric for metric, path in paths.items() if _leaf(path) != own}
    named = {found[2] for found in _KEYS.finditer(gate.how)}
    if own not in named and (wrong := sorted(named & others.keys())):
        yield Doubt(
            DoubtKind.OTHER_VALUE,
            f"config measures it as {paths[worst.metric_key]}, but the test names {wrong[0]} ({gate.how}), which is "
            f"{others[wrong[0]]}: correct the path in config.yaml, then run discover",
        )


def _leaf(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def fails_text(worst: Worst, gate: Gate, reference: Number) -> str:
    """Which repeats would not pass ``reference`` as the constant, why, and what would pass; empty when all pass."""
    failing = [str(repeat) for repeat, value in enumerate(worst.per_run_raw, 1) if not gate.passes(value, reference)]
    if not failing:
        return ""
    why = f"repeat{'s' if len(failing) > 1 else ''} {', '.join(failing)} would not pass {reference!r} ({gate.how})"
    if gate.strict and worst.worst_raw == gate.limit(reference):
        why = f"the comparison is strict, so a value equal to the limit fails: {why}"
    passing = passing_value(worst, gate)
    return why if passing is None else f"{why}; {passing!r} would pass"


def other_unit(gate: Gate, reference: Number) -> bool:
    """Whether the limit moves so much faster or slower than the constant that this is a conversion and no slack.

    A small and a large step must agree, so that neither rounding nor a cap is taken for one.
    """
    steps = (abs(reference) / 100, abs(reference))
    if not all(steps):
        return False
    slopes = [(gate.limit(reference + step) - gate.limit(reference)) / step for step in steps]
    return all(slope >= _OTHER_UNIT or 0 < slope <= 1 / _OTHER_UNIT for slope in slopes)


def passing_value(worst: Worst, gate: Gate) -> Number | None:
    """A short value next to the worst that every repeat passes; None when no step of up to 1 is enough."""
    loose, sign = (ROUND_FLOOR, -1) if worst.worst_op == "min" else (ROUND_CEILING, 1)
    whole = all(isinstance(value, int) for value in (worst.write_value, *worst.per_run_raw))
    for decimals in (0,) if whole else _DECIMALS:
        step = Decimal(1).scaleb(-decimals)
        with localcontext(prec=EXACT):
            rounded = Decimal(repr(worst.worst_raw)).quantize(step, rounding=loose)
            further = rounded + sign * step
        for exact in (rounded, further):
            candidate: Number = int(exact) if whole else float(exact)
            if all(gate.passes(value, candidate) for value in worst.per_run_raw):
                return candidate
    return None


def at_edge(worst_op: WorstOp, value: Number, scale: float, *, share: bool) -> bool:
    """Whether a bound is at the best that its metric can be: nothing for an upper one, 1 or 100 % for a share."""
    if worst_op == "max":
        return value == 0
    return share and value in ((1,) if scale == 100 else (1, 100))


def _edge(worst: Worst, gate: Gate | None) -> str:
    value, metric = worst.write_value, worst.stage.metrics[worst.metric_key]
    share = worst.stage.group != _SPEED
    if worst.worst_op == "min" and value == 0:
        return "a lower bound of 0 can never fail: the test would check nothing"
    if not at_edge(worst.worst_op, value, metric.display.scale, share=share):
        return ""
    if gate and abs(gate.limit(value) - value) > 0:
        return ""
    slack = "the test's slack allows nothing beyond it" if gate else "a slack that multiplies has no effect there"
    return (
        f"{value!r} is the best possible value, and {slack}: the first worse sample fails CI. "
        f"All {len(worst.per_run_raw)} repeats reached it, the next one may not"
    )
