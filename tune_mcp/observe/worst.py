"""Worst of N and the value to write: exact arithmetic, never tighter than what was observed (APL-07 to APL-11)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

from tune_mcp.config.stages import Display, GroupPolicy, Number, Stage, WorstOp
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.observe.audit import AuditedStage

EXACT = 700
"""Digits of decimal arithmetic: every float, however large or small, and its decimals (the default holds 28)."""


@dataclass(frozen=True)
class Worst:
    """One metric of one stage over exactly N strict repeats.

    ``per_run_raw`` in repeat order; ``worst_rounded`` is scaled and rounded for display only;
    ``write_value`` is the number for the threshold file.
    """

    stage: Stage
    metric_key: str
    per_run_raw: tuple[Number, ...]
    worst_raw: Number
    worst_rounded: float
    write_value: Number

    @property
    def worst_op(self) -> WorstOp:
        """``min`` for a lower bound, ``max`` for an upper bound."""
        return self.stage.metrics[self.metric_key].worst

    @property
    def source(self) -> str:
        """The threshold symbol as stages.yaml names it."""
        return self.stage.metrics[self.metric_key].source


def worst_of_n(audited: AuditedStage, policy: GroupPolicy) -> list[Worst]:
    """Worst-of-N for every metric of a stage that is N of N strict. Raises ``ValueError`` otherwise (MET-08)."""
    stage = audited.stage
    if not audited.ready:
        raise ValueError(f"{stage.key} is not strict-complete")
    found: list[Worst] = []
    for key, metric in stage.metrics.items():
        values: list[Number] = []
        for cell in audited.cells:
            value = cell.stored.content.metrics[key] if cell.stored and cell.cell is Cell.STRICT else None
            if value is None:
                raise ValueError(f"{stage.key}: {key} has no value in a strict repeat")
            values.append(value)
        raw = min(values) if metric.worst == "min" else max(values)
        found.append(
            Worst(
                stage=stage,
                metric_key=key,
                per_run_raw=tuple(values),
                worst_raw=raw,
                worst_rounded=shown(raw, metric.display),
                write_value=write_value(raw, metric.worst, metric.display, policy),
            )
        )
    return found


def shown(raw: Number, display: Display) -> float:
    """The number for people: scaled first, then rounded to the display digits (never written to a file)."""
    with localcontext(prec=EXACT):
        return float(round(Decimal(repr(raw)) * Decimal(repr(display.scale)), display.digits))


def write_value(raw: Number, worst: WorstOp, display: Display, policy: GroupPolicy) -> Number:
    """The literal for the threshold file; within the bound that was observed, and a fixed point of itself.

    ``ceil4``: up to 4 decimals, in decimal arithmetic on the shortest form of the number, so 0.0122 stays 0.0122.
    ``display``: rounded to the display digits unless that would be tighter than observed, then the raw value.
    ``ceil_int``: a count, rounded to the loose side. ``raw``: as observed.
    """
    with localcontext(prec=EXACT):
        return _rounded(raw, worst, display, policy)


def _rounded(raw: Number, worst: WorstOp, display: Display, policy: GroupPolicy) -> Number:
    exact = Decimal(repr(raw))
    loose = ROUND_FLOOR if worst == "min" else ROUND_CEILING
    match policy.rounding:
        case "raw":
            value = exact
        case "ceil4":
            value = exact.quantize(Decimal("0.0001"), rounding=loose)
        case "ceil_int":
            value = exact.quantize(Decimal(1), rounding=loose)
        case "display":
            value = exact if display.scale != 1 else round(exact, display.digits)
            if value < exact if worst == "max" else value > exact:
                value = exact
    return _plain(value, raw)


def _plain(value: Decimal, raw: Number) -> Number:
    if value == Decimal(repr(raw)):
        return raw
    return int(value) if isinstance(raw, int) and value == value.to_integral_value() else float(value)


def direction(worst: WorstOp, old: Number | None, new: Number) -> Direction:
    """What replacing ``old`` by ``new`` does to CI's strictness (APL-21)."""
    if old is None:
        return Direction.UNKNOWN
    if old == new:
        return Direction.EQUAL
    higher = new > old
    return Direction.TIGHTENS if higher is (worst == "min") else Direction.LOOSENS


def change_percent(old: Number, new: Number) -> float | None:
    """Signed percent change of the raw value against the old one; None when the old one is 0."""
    if old == 0:
        return None
    before, after = Decimal(repr(old)), Decimal(repr(new))
    return float((after - before) / abs(before) * 100)


def direction_text(worst: WorstOp, old: Number | None, new: Number, *, first: bool = False) -> str:
    """``tightens (+2.1%)``, ``loosens (-7.9%)``, ``loosens (n/a)`` when old is 0, ``equal``, ``unknown`` (APL-21).

    ``first``: there was no value, as opposed to one that is not known.
    """
    found = Direction.FIRST if first and old is None else direction(worst, old, new)
    if old is None or found in (Direction.EQUAL, Direction.UNKNOWN):
        return str(found)
    change = change_percent(old, new)
    return f"{found} ({'n/a' if change is None else f'{change:+.1f}%'})"
