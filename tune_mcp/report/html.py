"""report.html: the same facts as one self-contained page, with a strip of every repeat for each metric."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tune_mcp.report.facts import MetricFacts, ReportFacts
from tune_mcp.report.figures import chance_text, direction_text, percent, plain, shown_text

_WIDTH = 440.0
_MARGIN = 14.0


@dataclass(frozen=True)
class Mark:
    """One mark on a strip: its place in SVG units, what it is, and its value as text."""

    x: float
    kind: str
    text: str


def render(facts: ReportFacts) -> str:
    """The page. Every text is escaped; nothing is loaded from anywhere."""
    environment = Environment(
        loader=PackageLoader("tune_mcp.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    given = {
        "marks": marks,
        "plain": plain,
        "brief": lambda value: f"{value:.6g}",
        "shown": shown_text,
        "percent": percent,
        "chance": chance_text,
        "direction_text": direction_text,
        "width": _WIDTH,
    }
    return environment.get_template("report.html.j2").render(facts=facts, **given)


def marks(metric: MetricFacts) -> list[Mark]:
    """Every repeat, the present and the proposed threshold, and where CI fails once the file's slack is applied."""
    lines: list[tuple[float, str, str]] = []
    if metric.current_raw is not None:
        lines.append((metric.current_raw, "present", "present"))
    lines.append((metric.write_value, "proposed", "to write"))
    if metric.limit_proposed is not None:
        lines.append((metric.limit_proposed, "limit", "CI fails beyond"))
    points = [(value, "repeat", f"run {number}") for number, value in enumerate(metric.values, 1)]
    low = min(value for value, _, _ in [*lines, *points])
    high = max(value for value, _, _ in [*lines, *points])
    room = (high - low) or abs(high) or 1.0

    def place(value: float) -> float:
        return round(_MARGIN + (value - low) / room * (_WIDTH - 2 * _MARGIN), 1)

    return [
        Mark(place(value), kind, f"{name}: {shown_text(value, metric.scale, metric.digits)}")
        for value, kind, name in [*lines, *points]
    ]
