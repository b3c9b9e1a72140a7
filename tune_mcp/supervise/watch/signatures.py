"""What the end of a finished log says about missing numbers: an infrastructure failure, or nothing (rule WDG-01)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tune_mcp.config.signatures import Signature, WatchRules
from tune_mcp.supervise.watch.log_lines import last_line, redacted

_SOURCE = re.compile(r"\0?(>? {4,}|> {2,})\S")
"""Source code that a traceback quotes: an error that is written there was perhaps never raised."""


class _Told(Signature):
    def fits(self, line: str) -> bool:
        return not _SOURCE.match(line) and super().fits(line)


def failure_in(log: Path, rules: WatchRules, raised: Iterable[str] = ()) -> str:
    """Name and line of the last infrastructure signature in the end of a log; empty when there is none.

    Where the log has none, ``raised`` are looked at: what failed, as the guard saw it.
    """
    known = [_Told.model_validate(one.model_dump()) for one in rules.fatal + rules.suspicious if one.infrastructure]
    found = last_line(log, known)
    if found:
        return f"{found.pattern.name}: {redacted(found.line.strip()[:200])}"
    told = ((one.name, line) for line in raised for one in known if one.fits(line))
    return next((f"{name}: {redacted(line[:200])}" for name, line in told), "")
