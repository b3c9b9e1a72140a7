"""Watch one pytest from outside while it runs: its log, its processes, the disk, the clock (rules WDG-01 to WDG-12).

A line alone never stops pytest. A fatal one is confirmed by the process table (a process of the test ended, or nothing
moves any more) and only while a test is at work, because an orderly stop of a server prints the same words. A
suspicious one stops pytest only when nothing moves for its whole window. What stopped an earlier attempt of the same
repeat is only suspicious in the next, so that a wrong stop costs one attempt and never a run.

A look reads what was appended to the log and, every few seconds, the process table; that pace gives way so that the
table costs at most half a percent of a core.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tune_mcp.config.signatures import SUSPICIOUS_STILL_S, LinePattern, Signature, WatchRules
from tune_mcp.run_dir import utc_now
from tune_mcp.supervise import guard_record
from tune_mcp.supervise.process_tree import Census, ProcessTree, Stillness, read_tree
from tune_mcp.supervise.watch import slow_start
from tune_mcp.supervise.watch.alerts import AlertBook
from tune_mcp.supervise.watch.log_lines import QUOTED_SOURCE, Found, GrowingLog, LineFinder, last_text, redacted
from tune_mcp.supervise.watch.slow_start import LaunchFacts, old_locks

_BLOCKS_A_LOOK = 16
_TOO_FAR_BEHIND = 64 * 1024 * 1024
_PACE_S = 2.0
_TABLE_SHARE = 0.005
_CONFIRM_S = 10.0
_DEATH_BEFORE_S = 3.0
_ENOUGH = 50
_CLOCK_JUMP_S = 5.0
_DISK_LOOKS = 10
_MIB = 1024 * 1024
_REPORTED = re.compile(r"[E>] {2,}")
"""pytest's own report of a failure: it knows already, and goes on."""


@dataclass(frozen=True)
class Senses:
    """Where a look gets its facts from; a test hands in its own."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now
    tree: Callable[[], ProcessTree] = read_tree
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free


@dataclass(frozen=True)
class _Suspect:
    """A signature that was seen: its line, when (monotonic), and how still it must be for a stop."""

    signature: Signature
    line: str
    at: float
    still_s: float


@dataclass
class Watchdog:
    """``look()`` at least every 0.1 s or so; a sentence means: stop pytest, and that is why.

    ``doubted`` are signatures that stopped an earlier attempt of this repeat.
    """

    rules: WatchRules
    log: Path
    guard: Path
    launch: LaunchFacts
    book: AlertBook
    senses: Senses = field(default_factory=Senses)
    doubted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        rules = self.rules
        self._began = self.senses.monotonic()
        self._offset = self._wall_offset(self._began)
        self._reader = GrowingLog(self.log)
        self._finder = LineFinder[LinePattern](
            (*rules.fatal, *rules.suspicious, *rules.startup.up, *rules.startup.evidence)
        )
        self._counts: Counter[LinePattern] = Counter()
        self._seen_at = -1
        self._read_all = True
        self._up = False
        self._start_lines: deque[str] = deque(maxlen=3)
        self._diagnosed = False
        self._raised: set[str] = set()
        self._pending: _Suspect | None = None
        self._suspects: dict[str, _Suspect] = {}
        self._stillness = Stillness()
        self._census = Census(rules.role)
        self._last_death: tuple[float, str] | None = None
        self._sizes: deque[tuple[float, int]] = deque(maxlen=6)
        self._disk_waits: deque[bool] = deque(maxlen=_DISK_LOOKS)
        self._pace = min(_PACE_S, rules.alert_after_s / 5, rules.startup_after_s / 5)
        self._due = self._began
        self._cost = 0.0
        self.stopped_by = ""

    def look(self) -> str:
        """One look; the reason to stop, empty to go on."""
        at = self.senses.monotonic()
        self._look_at_clock(at)
        grew = self._read(at)
        tree = self._tree(at) if at >= self._due or self._pending else None
        self._stillness.look(at, tree, grew=grew)
        if tree is not None:
            self._look_at_processes(at, tree)
        reason = self._confirmed(at, tree) or self._stalled()
        if at >= self._due:
            self._due = at + max(self._pace, self._cost / _TABLE_SHARE)
            self._look_at_start(at)
            self._look_at_room(at)
        self.book.write()
        return reason

    @property
    def alarmed(self) -> bool:
        """A fatal line waits to be confirmed: look again soon."""
        return self._pending is not None

    def ended(self) -> None:
        """pytest is gone: what its last moments left in the log, and whether it ever came up."""
        at = self.senses.monotonic()
        self._read(at)
        self._look_at_start(at)
        self.book.write()

    def _tree(self, at: float) -> ProcessTree:
        tree = self.senses.tree()
        self._cost = self.senses.monotonic() - at
        return tree

    # ---- the log ----

    def _read(self, at: float) -> bool:
        """Read on; whether the log grew. The part read at one look is bounded, and a reader too far behind skips."""
        grew = self._reader.look()
        behind = self._reader.size - self._reader.position
        if behind > _TOO_FAR_BEHIND:
            self._reader.position = self._reader.size - GrowingLog.BLOCK
            self._finder.skip(self._reader.position)
            self.book.raise_alert(
                "log too fast",
                f"{behind // _MIB} MiB were written faster than they could be read, and were not searched",
                "let the test log less; the log itself is whole",
            )
        found: list[Found[LinePattern]] = []
        for _ in range(_BLOCKS_A_LOOK):
            data = self._reader.read()
            if not data:
                break
            self._read_all = False
            found += self._finder.feed(data)
        if not found and not grew and not self._read_all:
            # Nothing more came: the last line may be all there is of a crash.
            self._read_all = True
            found = self._finder.unfinished()
        for one in found:
            self._line(one, at)
        return grew

    def _line(self, found: Found[LinePattern], at: float) -> None:
        pattern, line = found.pattern, redacted(found.line.strip()[:300])
        if found.offset <= self._seen_at and self._counts[pattern]:
            return  # an unfinished line that was looked at before
        self._seen_at = max(self._seen_at, found.offset)
        self._counts[pattern] += 1
        if self._counts[pattern] >= _ENOUGH:
            self._finder.forget(pattern)
        if isinstance(pattern, Signature):
            if pattern in self.rules.suspicious and QUOTED_SOURCE.match(found.line):
                return  # what a traceback quotes was perhaps never raised; what was raised has a line of its own
            self._signature(pattern, line, at)
        elif pattern in self.rules.startup.up:
            self._come_up(at)
        else:
            self._start_lines.append(line)

    def _signature(self, signature: Signature, line: str, at: float) -> None:
        self.book.raise_alert(signature.name, signature.cause, signature.remedy, (line,))
        self._raised.add(signature.name)
        suspect = _Suspect(signature, line, at, signature.still_s or SUSPICIOUS_STILL_S)
        if signature in self.rules.suspicious:
            self._suspects.setdefault(signature.name, suspect)
        elif signature.name in self.doubted or _REPORTED.match(line):
            self._doubt(suspect)
        elif self._pending is None:
            self._pending = suspect

    def _doubt(self, suspect: _Suspect) -> None:
        """Treat an unconfirmed fatal line as only suspicious from here on."""
        wait = max(suspect.still_s, min(SUSPICIOUS_STILL_S, self.rules.stop_after_s))
        self._suspects.setdefault(suspect.signature.name, _Suspect(suspect.signature, suspect.line, suspect.at, wait))

    # ---- to stop or not ----

    def _confirmed(self, at: float, tree: ProcessTree | None) -> str:
        pending = self._pending
        if pending is None or tree is None:
            return ""
        still = self._stillness.seconds
        death = self._last_death if self._last_death and self._last_death[0] >= pending.at - _DEATH_BEFORE_S else None
        if death is None and still < pending.still_s:
            if at - pending.at > _CONFIRM_S:
                self._pending = None
                self._doubt(pending)
            return ""
        if guard_record.phase(self.guard) == "teardown":
            self._pending = None
            self._doubt(pending)
            return ""
        how = f"process ended: {death[1]}" if death else f"no log line and no processor time for {still:.1f} s after it"
        return self._stop(pending.signature.name, f"{pending.line[:200]} ({how})")

    def _stalled(self) -> str:
        still = self._stillness.seconds
        for name, suspect in self._suspects.items():
            if still >= suspect.still_s:
                return self._stop(name, f"{suspect.line[:200]} (no log line and no processor time for {still:.0f} s)")
        if still < self.rules.alert_after_s:
            self.book.end("no progress", "it goes on")
            return ""
        if not self.book.open("no progress"):
            locks = old_locks(self.launch.variables, self.launch.began)
            self.book.raise_alert(
                "no progress",
                f"no log line and no processor time for {still:.0f} s"
                + (f", perhaps waiting on the lock {locks[0]}, which an earlier build left behind" if locks else ""),
                (f"delete {locks[0]}; " if locks else "")
                + f"pytest is stopped after {self.rules.stop_after_s:g} s; a repeat that is not whole is tried again",
                (*locks, *self._running()),
            )
        if still >= self.rules.stop_after_s:
            return self._stop("no progress", self.book.alerts["no progress"].cause)
        return ""

    def _stop(self, name: str, why: str) -> str:
        self.stopped_by = name
        return f"stopped by the watchdog: {name}: {why}"

    # ---- processes, start, disk, clock ----

    def _look_at_processes(self, at: float, tree: ProcessTree) -> None:
        ended = self._census.update(tree)
        if ended:
            self._last_death = (at, ended[0])
        if at < self._due:
            return
        self.book.processes = self._census.roles()
        self._disk_waits.append(any(member.state == "D" for member in tree.values()))
        if sum(self._disk_waits) * 2 > _DISK_LOOKS:
            self.book.raise_alert(
                "disk sleep",
                "processes of the test wait for the disk most of the time",
                "look for processes that compete for the disk; nothing in the tests is wrong",
                self._running(),
            )
        elif not any(self._disk_waits):
            self.book.end("disk sleep", "no process waits for the disk any more")

    def _running(self) -> tuple[str, ...]:
        counted = ", ".join(f"{count} {role}" for role, count in self.book.processes.items())
        return (f"running: {counted}",) if counted else ()

    def _look_at_start(self, at: float) -> None:
        if self._up:
            return
        if guard_record.phase(self.guard) != "start":
            self._come_up(at)
        elif at - self._began >= self.rules.startup_after_s and not self._diagnosed:
            found = slow_start.diagnose(
                self.launch,
                self.rules.startup,
                tuple(self._start_lines),
                compiling=any(role.passing and self.book.processes.get(role.role) for role in self.rules.roles),
                seen=[one for name, one in self.book.alerts.items() if name in self._raised and not one.over],
                last_line=last_text(self.log),
            )
            since = f"no server is up and no test has begun {self.rules.startup_after_s:g} s after pytest's start"
            words = (f"{since}: {found.cause}", found.remedy, (*found.evidence, *self._running()))
            if not self.book.open("slow start"):
                self.book.raise_alert("slow start", *words)
            elif found.known:
                self.book.amend("slow start", *words)
            self._diagnosed = found.known

    def _come_up(self, at: float) -> None:
        if not self._up:
            self._up = True
            self.book.end("slow start", f"up after {at - self._began:.0f} s")
            for pattern in self.rules.startup.up + self.rules.startup.evidence:
                self._finder.forget(pattern)

    def _look_at_room(self, at: float) -> None:
        free = self.senses.free_bytes(self.book.path.parent) / _MIB
        if free < self.rules.free_mib:
            self.book.raise_alert(
                "disk nearly full",
                f"{free:.0f} MiB are free where the run is kept ({self.book.path.parent})",
                f"free some until there are {self.rules.free_mib:g} MiB; what is recorded stays complete",
            )
        elif free > self.rules.free_mib * 1.2:
            self.book.end("disk nearly full", f"{free:.0f} MiB are free")
        size = self._reader.size
        self._sizes.append((at, size))
        then, before = self._sizes[0]
        rate = (size - before) / _MIB / (at - then) if at > then else 0.0
        if size / _MIB > self.rules.log_mib or rate > self.rules.log_mib_per_s:
            self.book.raise_alert(
                "log grows",
                f"the pytest log has {size // _MIB} MiB and grows by {rate:.1f} MiB/s",
                "let the test's servers log less; the log is kept whole as long as the disk holds it",
            )

    def _wall_offset(self, at: float) -> float:
        return self.senses.now().timestamp() - at

    def _look_at_clock(self, at: float) -> None:
        offset = self._wall_offset(at)
        jump, self._offset = offset - self._offset, offset
        if abs(jump) > _CLOCK_JUMP_S:
            self.book.raise_alert(
                "clock jump",
                f"the machine's clock was set {'forward' if jump > 0 else 'back'} by {abs(jump):.0f} s",
                "nothing: durations and limits are measured by another clock; only times of day in the record differ",
            )
