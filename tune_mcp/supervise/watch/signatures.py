"""What the end of a finished log says about missing numbers: an infrastructure failure, or nothing (rule WDG-01)."""

from __future__ import annotations

from pathlib import Path

from tune_mcp.config.signatures import WatchRules
from tune_mcp.supervise.watch.log_lines import last_line, redacted


def failure_in(log: Path, rules: WatchRules) -> str:
    """Name and line of the last infrastructure signature in the end of a log; empty when there is none."""
    found = last_line(log, [one for one in rules.fatal + rules.suspicious if one.infrastructure])
    return f"{found.pattern.name}: {redacted(found.line.strip()[:200])}" if found else ""
