"""What the end of a finished log says about missing numbers: an infrastructure failure, or nothing (rule WDG-01)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tune_mcp.config.signatures import Signature, WatchRules
from tune_mcp.supervise.watch.log_lines import last_line, redacted

QUOTED_SOURCE = re.compile(r"\0?(>? {4,}|> {2,})\S")
"""Source code that a traceback quotes: an error that is written there was perhaps never raised."""


_REPORTED = re.compile(r"\0?E {2,}")
"""pytest's own report of an error: the last link of the chain, seldom the first."""


class _Told(Signature):
    """Said by the process that it happened to."""

    def fits(self, line: str) -> bool:
        return not QUOTED_SOURCE.match(line) and not _REPORTED.match(line) and super().fits(line)


class _Reported(Signature):
    def fits(self, line: str) -> bool:
        return not QUOTED_SOURCE.match(line) and super().fits(line)


def failure_in(log: Path, rules: WatchRules, raised: Iterable[str] = ()) -> str:
    """Name and line of the last infrastructure signature in the end of a log; empty when there is none.

    A process's own line goes before pytest's report of it, a cause before its ``consequence``. Where the log has none,
    ``raised`` are looked at: what failed, as the guard saw it.
    """
    known = [one.model_dump() for one in rules.fatal + rules.suspicious if one.infrastructure]
    told = [_Told.model_validate(one) for one in known]
    reported = [_Reported.model_validate(one) for one in known]
    for patterns in ([one for one in told if not one.consequence], told, reported):
        if found := last_line(log, patterns):
            return f"{found.pattern.name}: {redacted(found.line.strip()[:200])}"
    seen = ((one.name, line) for line in raised for one in reported if one.fits(line))
    return next((f"{name}: {redacted(line[:200])}" for name, line in seen), "")
