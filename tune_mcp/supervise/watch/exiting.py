"""Whether pytest exits once its session is over: the guard's last line shows when, and which threads it still had.

Everything before that line is the tests' own: a teardown, a report that another plugin writes, may take its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import open_plain, parse_json
from tune_mcp.words import number_of


class ExitWatch:
    """``look()`` now and then: empty, or why pytest has to be stopped although its session is over.

    ``grace_s`` is how long it may take to exit; ``children`` names the processes below it.
    """

    def __init__(self, record: Path, grace_s: float, children: Callable[[], tuple[str, ...]]) -> None:
        self._record = record
        self._grace_s = grace_s
        self._children = children
        self._read = 0
        self._pid: Json = None
        self._threads: tuple[str, ...] = ()
        self.over_at: float | None = None
        """When the session was seen to be over, on the monotonic clock; None as long as it is not."""

    def look(self) -> str:
        """One look; costs a stat while nothing is written."""
        for line in self._new_lines():
            self._read_line(line)
        if self.over_at is None or time.monotonic() - self.over_at < self._grace_s:
            return ""
        children = self._children()
        left = [f"thread {', '.join(self._threads[:3])}"] if self._threads else []
        left += [f"{number_of(len(children), 'process', 'processes')}, {', '.join(children[:3])}"] if children else []
        had = f"it still had {'; '.join(left)}" if left else "no other thread or process was left: an exit handler?"
        return (
            f"pytest did not exit by itself within {self._grace_s:g} s of its session's end ({had}), so it was "
            "stopped; what it had measured is whole"
        )

    def _new_lines(self) -> list[bytes]:
        try:
            if self._record.stat().st_size <= self._read:
                return []
            with open_plain(self._record) as stream:
                stream.seek(self._read)
                whole = stream.read().rpartition(b"\n")[0]
        except OSError:
            return []
        self._read += len(whole) + 1 if whole else 0
        return [line for line in whole.split(b"\n") if b'"start"' in line or b'"exiting"' in line]

    def _read_line(self, raw: bytes) -> None:
        try:
            line = parse_json(raw)
        except ValueError:
            return
        if not isinstance(line, dict):
            return
        if line.get("event") == "start" and self._pid is None:
            self._pid = line.get("pid")
        elif line.get("event") == "exiting" and line.get("pid") == self._pid:  # not a fork that came this far
            threads = line.get("threads")
            self._threads = tuple(str(name) for name in threads) if isinstance(threads, list) else ()
            self.over_at = time.monotonic()
