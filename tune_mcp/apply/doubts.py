"""What a person must see before a proposed value is written, whatever the mode says about its group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum

from tune_mcp.config.stages import Number, WorstOp
from tune_mcp.discover.assertions import Gate, Unread
from tune_mcp.observe.worst import Direction, Worst

_SPEED = "speed"
_DECIMALS = range(4, -1, -1)


class DoubtKind(StrEnum):
    """Why a value is not written without a person's word on it."""

    SMOKE_RUN = "smoke run"
    CONTRADICTED = "contradicted"
    FAILS_REPEATS = "fails its own repeats"
    NATURAL_EDGE = "natural edge"
    BEYOND_SLACK = "beyond its slack"


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
        text = f"WHAT THE TEST ASSERTS IS UNKNOWN, our reading is thrown away: {contradicted}"
        yield Doubt(DoubtKind.CONTRADICTED, text)
    gate = read if isinstance(read, Gate) else None
    failing = tuple(
        repeat
        for repeat, value in enumerate(worst.per_run_raw, 1)
        if gate and not gate.passes(value, worst.write_value)
    )
    if gate and failing:
        yield Doubt(DoubtKind.FAILS_REPEATS, _fails(worst, gate, failing))
    if edge := _edge(worst, gate):
        yield Doubt(DoubtKind.NATURAL_EDGE, edge)
    if moves is Direction.LOOSENS and worst.stage.group != _SPEED and current is not None:
        if gate is None:
            text = f"a quality metric would loosen from {current!r}, and its slack is not known"
            yield Doubt(DoubtKind.BEYOND_SLACK, text)
        elif not gate.passes(worst.write_value, current):
            text = f"a quality metric would loosen beyond its own slack: {worst.write_value!r} fails the present limit "
            yield Doubt(DoubtKind.BEYOND_SLACK, f"{text}{gate.limit(current):g} ({gate.how})")


def _fails(worst: Worst, gate: Gate, failing: tuple[int, ...]) -> str:
    which = f"repeat{'s' if len(failing) > 1 else ''} {', '.join(map(str, failing))}"
    why = f"{which} would not pass {worst.write_value!r} ({gate.how})"
    if gate.strict and worst.worst_raw == gate.limit(worst.write_value):
        why = f"the comparison is strict, so a value equal to the limit fails: {why}"
    passing = passing_value(worst, gate)
    return why if passing is None else f"{why}; {passing!r} would pass"


def passing_value(worst: Worst, gate: Gate) -> Number | None:
    """A short value next to the worst that every repeat passes; None when no step of up to 1 is enough."""
    loose, sign = (ROUND_FLOOR, -1) if worst.worst_op == "min" else (ROUND_CEILING, 1)
    whole = all(isinstance(value, int) for value in (worst.write_value, *worst.per_run_raw))
    for decimals in (0,) if whole else _DECIMALS:
        step = Decimal(1).scaleb(-decimals)
        rounded = Decimal(repr(worst.worst_raw)).quantize(step, rounding=loose)
        for exact in (rounded, rounded + sign * step):
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
    room = abs(gate.limit(value) - value) if gate else 0.0
    if room > 0:
        return ""
    slack = "its slack does nothing there" if gate else "a slack that multiplies does nothing there"
    return (
        f"{value!r} is the best value that there is, and {slack}: the first worse sample fails CI. "
        f"That all {len(worst.per_run_raw)} repeats had it does not say that the next one will"
    )
