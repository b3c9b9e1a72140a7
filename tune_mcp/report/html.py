"""report.html: the same facts as one self-contained page, with a strip of every repeat for each metric.

Nothing is loaded from anywhere: no script, no font, no picture; every text is escaped. It opens from disk, in light
and dark, on a phone, and prints.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tune_mcp.contract.apply_plan import Direction
from tune_mcp.report import figures, hosts, since, wording
from tune_mcp.report.facts import ReportFacts
from tune_mcp.report.strip import strip
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
        "lanes": hosts.lanes(facts.launches),
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
