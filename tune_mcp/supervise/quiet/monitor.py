"""Watches one lane: waits until it is quiet before a launch, and records what others used of it during one.

Looks come more often at first, so that a short measurement has parts as well, and never so often that they take more
than half a percent of a core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tune_mcp import procfs
from tune_mcp.config.lanes import Quiet, cpu_list
from tune_mcp.errors import Code
from tune_mcp.observe.observation import GpuRange, Quietness
from tune_mcp.supervise.job import Blocked
from tune_mcp.supervise.quiet.foreign import ForeignUse, foreign_use, intruders
from tune_mcp.supervise.quiet.look import Look, Looker
from tune_mcp.supervise.quiet.rule import Intrusion, busiest, intrusion, last, mean, sustained
from tune_mcp.supervise.retry import MAKE_QUIET
from tune_mcp.supervise.watch.alerts import AlertBook
from tune_mcp.supervise.watch.log_lines import redacted

WAIT_LIMIT_S = 600.0
_SHARE = 0.004
_FIRST_S = 0.5
_BEFORE_S = 1.0
_NAMED = 3
_RECORDED = 10
_LETTERS = 60
_ALERT, _BLIND = "not quiet", "quiet unknown"


@dataclass
class Monitor:
    """One lane during one attempt. ``quiet`` is the host profile's; without it everything is recorded, nothing decided.

    ``take_look`` takes a look; ``root`` is the topmost process of ours.
    """

    lane: frozenset[int]
    root: int
    quiet: Quiet | None
    take_look: Callable[[], Look]
    cost_s: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    readings: list[ForeignUse] = field(default_factory=list[ForeignUse])
    others: dict[str, float] = field(default_factory=dict[str, float])
    """The processes that were seen above the limit, and the core-seconds of each."""
    _last: Look | None = None
    _due: float = 0.0
    _began: float = 0.0
    _cost_before: float = 0.0

    @classmethod
    def of(cls, cpus: frozenset[int], root: int, quiet: Quiet | None) -> Monitor:
        """The monitor of these CPUs, from the real /proc. Its first look is taken now."""
        looker = Looker(cpus, root)
        made = cls(cpus, root, quiet, looker.look, lambda: looker.cost_s)
        made.begin()
        return made

    @property
    def limits(self) -> Quiet:
        """The limits that decide, or the defaults where nothing does."""
        return self.quiet or Quiet()

    def begin(self) -> None:
        """Measure from now on: what came before is another measurement's."""
        self.readings, self.others = [], {}
        self._cost_before = self.cost_s()
        self._last = self.take_look()
        self._began = self._last.at
        self._due = self._next(self._last)

    def look(self, book: AlertBook | None = None) -> None:
        """One step, when it is due; costs nothing before. An intrusion that goes on is an alert in ``book``."""
        if self.clock() < self._due:
            return
        now, cpus = self._step(), cpu_list(self.lane)
        if self.quiet is None or book is None:
            return
        if now.unmeasured:
            cause = f"what others use of CPUs {cpus} cannot be measured: {now.unmeasured}"
            book.raise_alert(
                _BLIND, cause, "nothing says whether this repeat is disturbed; /proc/stat must be the kernel's own"
            )
        found = sustained(last(self.readings, self.quiet.window_s), self.quiet)
        if found and self._began + self.quiet.window_s <= self.clock():
            cause = f"others use {found.cores:.2f} cores of CPUs {cpus}; the repeat will be measured again"
            book.raise_alert(_ALERT, cause, MAKE_QUIET, (self.names(),))
        else:
            book.end(_ALERT, "they leave it alone")

    def wait(
        self,
        until: float,
        wait: Callable[[float], None],
        cancelled: Callable[[], bool],
        waiting: Callable[[str], None],
    ) -> str:
        """Wait until others leave the lane alone, at most until the clock's ``until``; who did not, else empty.

        What counts is the time since the last look, a second at least; after that, one step. ``waiting`` hears each
        new set of intruders once.
        """
        reported = frozenset[str]()
        step = max(0.0, _BEFORE_S - (self.clock() - (self._last.at if self._last else 0.0)))
        while True:
            wait(step)
            self.others = {}
            found = self._step()
            noisy = found.low is not None and found.low > self.limits.foreign_cores
            if not noisy or cancelled():
                return ""
            why = f"{found.low:.2f} cores of other processes on CPUs {cpu_list(self.lane)}: {self.names()}"
            if self.clock() >= until:
                return f"{why}; waited {WAIT_LIMIT_S:.0f} s"
            if (now := frozenset(self.others)) != reported or not reported:
                reported = now
                waiting(why)
            step = max(_BEFORE_S, self.limits.step_s)

    def end(self) -> Intrusion | None:
        """The last step; what disturbed the measurement, None where nothing did or nothing is to decide it."""
        self._step()
        return intrusion(self.readings, self.quiet) if self.quiet else None

    def names(self) -> str:
        """The processes that used most, by name."""
        named = ", ".join([*self._most()][:_NAMED])
        return named or "none that can be seen from here (another container, or too short-lived)"

    def sentence(self, found: Intrusion) -> str:
        """``disturbed: 1.02 cores of other processes on CPUs 0-7 for 45 s ...``."""
        how = (
            f"on average over {found.seconds:.0f} s, again and again"
            if found.recurring
            else (f"for {found.seconds:.0f} s from second {found.since_s:.0f} on")
        )
        limit = f"{self.limits.foreign_cores:g} for {self.limits.window_s:g} s"
        on = f"{found.cores:.2f} cores of other processes on CPUs {cpu_list(self.lane)}"
        return f"{on} {how} (limit {limit}): {self.names()}"

    def quietness(self, gpus: Sequence[GpuRange] = ()) -> Quietness:
        """Everything that was measured since ``begin``."""
        known = [one for one in self.readings if one.low is not None]
        seconds = sum(one.seconds for one in self.readings)
        highest = [(one.high or 0.0) * one.seconds for one in known]
        stolen = [(one.stolen or 0.0) * one.seconds for one in known]
        measured = sum(one.seconds for one in known)
        return Quietness(
            cpus=tuple(sorted(self.lane)),
            measured_s=round(measured, 1),
            foreign_cores=_rounded(mean(known)),
            foreign_at_most=_rounded(sum(highest) / measured) if known else None,
            peak_cores=_rounded(max((one.low or 0.0 for one in known), default=None)),
            window_cores=_rounded(busiest(self.readings, self.limits.window_s)),
            stolen_cores=_rounded(sum(stolen) / measured) if known else None,
            memory_wait=_waits([(one.seconds, one.memory) for one in self.readings]),
            io_wait=_waits([(one.seconds, one.io) for one in self.readings]),
            gpus=tuple(gpus),
            others=dict([*self._most().items()][:_RECORDED]),
            steps=tuple((round(one.seconds, 2), _rounded(one.low), _rounded(one.high)) for one in self.readings),
            unmeasured=next((one.unmeasured for one in self.readings if one.unmeasured), ""),
            cost=_rounded((self.cost_s() - self._cost_before) / seconds, 5) if seconds else None,
        )

    def _most(self) -> dict[str, float]:
        return {name: round(used, 1) for name, used in sorted(self.others.items(), key=lambda one: -one[1])}

    def _step(self) -> ForeignUse:
        before, now = self._last, self.take_look()
        assert before
        found = foreign_use(before, now, self.lane, self.root)
        self._last, self._due = now, self._next(now)
        if found.seconds <= 0:
            return found
        self.readings.append(found)
        if found.high is not None and found.high > self.limits.foreign_cores:
            self._name(intruders(before, now), found.seconds)
        return found

    def _name(self, cores: Mapping[procfs.Identity, float], seconds: float) -> None:
        for (pid, _), used in [*cores.items()][:_NAMED]:
            allowed = procfs.allowed_cpus(pid)
            if allowed is None or allowed & self.lane:
                name = f"{_program(pid)} (process {pid})"
                self.others[name] = self.others.get(name, 0.0) + used * seconds

    def _next(self, now: Look) -> float:
        """A sixth of what has been measured so far, as the window's step at most."""
        step = min(self.limits.step_s, max(_FIRST_S, (now.at - self._began) / 6))
        spent = self.cost_s() - self._cost_before
        return max(now.at + step, self._began + spent / _SHARE)


def not_quiet(why: str) -> Blocked:
    """The launch that was not made because the lane did not become quiet."""
    return Blocked(code=Code.NOT_QUIET, rule="GPU-14", reason=f"the lane is not quiet: {why}", next=MAKE_QUIET)


def _program(pid: int) -> str:
    """The program without its folder, and as much of its arguments as tells it from others."""
    words = procfs.words(pid)
    command = " ".join([Path(words[0]).name, *words[1:]]) if words else procfs.command(pid)
    return redacted(command)[:_LETTERS].strip() or "ended since"


def _waits(shares: Sequence[tuple[float, float | None]]) -> tuple[float, float] | None:
    known = [(seconds, share) for seconds, share in shares if share is not None]
    if not known:
        return None
    whole = sum(seconds for seconds, _ in known)
    mean = sum(seconds * share for seconds, share in known) / whole
    return round(mean, 4), round(max(share for _, share in known), 4)


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
