"""The dashboard: one page, inside a client that shows MCP Apps, and as a file for everybody else.

In a client it is the page of the tool ``status``: it gets that tool's answer and asks again through its host. On disk
it holds one status and a log tail, and reloads itself. No dependency, no network of its own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tune_mcp.contract.status import StatusReply
from tune_mcp.files import dump_json

URI = "ui://tune/dashboard.html"
_PLACE = "/*START*/null/*END*/"


@cache
def page() -> str:
    """The page as a client gets it: without facts."""
    return Path(__file__).with_name("dashboard.html").read_text(encoding="utf-8")


def page_of(status: StatusReply, log_lines: tuple[str, ...]) -> str:
    """The page with the facts of one moment in it."""
    facts = dump_json({"status": status.model_dump(mode="json"), "log": list(log_lines)}).decode()
    return page().replace(_PLACE, facts.replace("<", "\\u003c"))
