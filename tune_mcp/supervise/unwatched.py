"""Does anybody look at the run (POL-01, POL-12)? Every ``status`` touches one file; the supervisor reads its time."""

from __future__ import annotations

from pathlib import Path

from tune_mcp.config.stages import Frozen

LIMIT_S = 120.0
"""No poll of an active run is further than this from the next."""


class PollingGap(Frozen):
    """Nobody polled since a moment (Unix seconds), and for how many ``seconds`` once that is over."""

    since: float
    seconds: float | None = None


class Watchers:
    """Notices when nobody polls; each gap is reported once when it opens and once when it is over."""

    def __init__(self, path: Path, started: float) -> None:
        self._path = path
        self._last = started
        self._open = False

    def look(self, now: float) -> PollingGap | None:
        """News, if there are any; ``now`` is Unix time."""
        last = max(self._last, self._polled())
        if last > self._last:
            over = PollingGap(since=self._last, seconds=last - self._last) if self._open else None
            self._last, self._open = last, False
            return over
        if self._open or now - last <= LIMIT_S:
            return None
        self._open = True
        return PollingGap(since=last)

    def _polled(self) -> float:
        try:
            return self._path.stat().st_mtime
        except OSError:
            return 0.0
