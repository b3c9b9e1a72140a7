"""report.html: the same facts as one self-contained page, with a strip of every repeat for each metric.

Nothing is loaded from anywhere: no script, no font, no picture; every text is escaped. It opens from disk, in light
and dark, on a phone, and prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tune_mcp.contract.apply_plan import Direction
from tune_mcp.report import apart, figures, since, wording
from tune_mcp.report.facts import MetricFacts, ReportFacts
from tune_mcp.report.figures import shown_text
from tune_mcp.words import number_of

if TYPE_CHECKING:
    from jinja2 import Template

_SYMBOL = {
    Direction.LOOSENS: "▲",
    Direction.TIGHTENS: "▼",
    Direction.FIRST: "+",
    Direction.EQUAL: "=",
    Direction.UNKNOWN: "?",
}
"""Beside every colour a sign and a word: a reader without colours, or on paper, loses nothing."""


def render(facts: ReportFacts) -> str:
    """The page."""
    rows = facts.loudest_first()
    given: dict[str, object] = {
        "facts": facts,
        "rows": rows,
        "tiles": [
            (way, sign, facts.count(way))
            for way, sign in _SYMBOL.items()
            if way is not Direction.FIRST or facts.count(way)
        ],
        "symbol": _SYMBOL,
        "strip": strip,
        "wording": wording,
        "since": since,
        "figures": figures,
        "number_of": number_of,
        "lanes": apart.lanes(facts.launches),
        "speed": [stage for stage in facts.stages if stage.group == "speed"],
    }
    return _template().render(**given)


@cache
def _template() -> Template:
    """The page's template, compiled once a process, which takes longer than a page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # a server starts without the templates

    environment = Environment(
        loader=PackageLoader("tune_mcp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


_EDGE = 3.0
_REACH = 2.2
_LEAST_WIDTH_PX = 330
_LETTER_PX = 5.9
_TOP, _BOTTOM = 20.0, 18.0


@dataclass(frozen=True)
class Dot:
    """One repeat: x in per cent, y in pixels; the first is drawn hollow, the worst ringed."""

    x: float
    y: float
    repeat: int
    worst: bool
    text: str


@dataclass(frozen=True)
class Line:
    """One threshold: x in per cent; ``kind`` is present, limit-now, proposed or limit-then."""

    x: float
    kind: str
    text: str


@dataclass(frozen=True)
class Label:
    """A word over (row top) or under (row bottom) the dots; ``anchor`` is SVG's text-anchor."""

    x: float
    row: str
    anchor: str
    kind: str
    text: str


@dataclass(frozen=True)
class Strip:
    """Everything the template draws; ``fail`` is (x, width) in per cent of the zone where CI will fail, or None."""

    height: float
    base: float
    dots: tuple[Dot, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    ticks: tuple[str, str]
    fail: tuple[float, float] | None
    description: str


def strip(metric: MetricFacts) -> Strip:
    """Lay one metric out."""
    low, high = _domain(metric)

    def x(value: float) -> float:
        return round(_EDGE + (value - low) / (high - low) * (100 - 2 * _EDGE), 2)

    def text(value: float) -> str:
        return shown_text(value, metric.scale, metric.digits)

    count = len(metric.values)
    marked = metric.worst_repeats if len(metric.worst_repeats) < count else ()
    step = min(9.0, max(4.0, 54.0 / count))
    dots = tuple(
        Dot(x(value), round(_TOP + 6 + index * step, 1), index + 1, index + 1 in marked, text(value))
        for index, value in enumerate(metric.values)
    )
    base = round(_TOP + 12 + (count - 1) * step, 1)
    lines: list[Line] = []
    labels: list[Label] = []
    for row, marks in _rows(metric):
        inside = [(value, kind, name) for value, kind, name in marks if low <= value <= high]
        lines += [Line(x(value), kind, f"{name} {text(value)}") for value, kind, name in inside]
        placed = _labels([(x(value), kind, name) for value, kind, name in inside], row)
        placed += _edge_notes([mark for mark in marks if mark[0] < low], row, 0.0, text, placed)
        placed += _edge_notes([mark for mark in marks if mark[0] > high], row, 100.0, text, placed)
        labels += placed
    return Strip(
        height=base + _BOTTOM + 16,
        base=base,
        dots=dots,
        lines=tuple(lines),
        labels=tuple(labels),
        ticks=(text(low), text(high)),
        fail=_fail_zone(metric, low, high, x(metric.limit_proposed) if metric.limit_proposed is not None else None),
        description=_description(metric, text),
    )


_Mark = tuple[float, str, str]


def _rows(metric: MetricFacts) -> list[tuple[str, list[_Mark]]]:
    top: list[_Mark] = []
    if metric.current_raw is not None:
        top.append((metric.current_raw, "present", "present"))
    if metric.limit_present is not None and metric.limit_present != metric.current_raw:
        top.append((metric.limit_present, "limit-now", "CI limit now"))
    written = {Direction.UNKNOWN: "worst", Direction.FIRST: "first baseline"}.get(metric.direction, "to write")
    bottom: list[_Mark] = [(metric.write_value, "proposed", written)]
    if metric.limit_proposed is not None and metric.limit_proposed != metric.write_value:
        bottom.append((metric.limit_proposed, "limit-then", "CI limit then"))
    return [("top", top), ("bottom", bottom)]


def _domain(metric: MetricFacts) -> tuple[float, float]:
    core = [*metric.values, metric.write_value]
    low, high = float(min(core)), float(max(core))
    width = max(high - low, abs(metric.spread.median) * 0.01) or 1.0
    reach = (low - _REACH * width, high + _REACH * width)
    others = [mark[0] for _, marks in _rows(metric) for mark in marks if reach[0] <= mark[0] <= reach[1]]
    pad = width * 0.12
    return min([low, *others]) - pad, max([high, *others]) + pad


def _edge_notes(
    marks: list[_Mark], row: str, edge: float, text: Callable[[float], str], taken: list[Label]
) -> list[Label]:
    """A note at the edge for the lines beyond it, moved inwards past a word that stands there."""
    if not marks:
        return []
    words = ", ".join(f"{name} {text(value)}" for value, _, name in sorted(marks, reverse=edge == 0.0))
    anchor, words = ("start", f"◂ {words}") if edge == 0.0 else ("end", f"{words} ▸")
    spans = [_span(label.x, label.anchor, label.text) for label in taken]
    x = edge
    for left, right in sorted(spans, reverse=edge != 0.0):
        note = _span(x, anchor, words)
        if note[0] <= right and note[1] >= left:
            x = right if edge == 0.0 else left
    return [Label(round(x, 2), row, anchor, marks[0][1], words)]


def _labels(marks: list[tuple[float, str, str]], row: str) -> list[Label]:
    """Words at their lines, leaving out one that would run into another: its line and number stay."""
    spans: list[tuple[float, float]] = []
    placed: list[Label] = []
    for place, kind, name in marks:
        for anchor in ("middle", "start", "end"):
            span = _span(place, anchor, name)
            if span[0] >= 0 and span[1] <= 100 and all(span[1] < left or span[0] > right for left, right in spans):
                spans.append(span)
                placed.append(Label(place, row, anchor, kind, name))
                break
    return placed


def _span(x: float, anchor: str, text: str) -> tuple[float, float]:
    width = (len(text) * _LETTER_PX + 6) / _LEAST_WIDTH_PX * 100
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, left + width


def _fail_zone(metric: MetricFacts, low: float, high: float, x: float | None) -> tuple[float, float] | None:
    if x is None or metric.limit_proposed is None or not low <= metric.limit_proposed <= high:
        return None
    return (0.0, x) if metric.worst_op == "min" else (x, round(100 - x, 2))


def _description(metric: MetricFacts, text: Callable[[float], str]) -> str:
    runs = ", ".join(text(value) for value in metric.values)
    parts = [f"{metric.label}: repeats {runs}"]
    parts += [f"{name} {text(value)}" for _, marks in _rows(metric) for value, _, name in marks]
    return "; ".join(parts)
