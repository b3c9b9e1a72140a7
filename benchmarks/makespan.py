"""How long a calibration takes beside the shortest time possible: the real scheduler on a simulated clock.

One host with 1 to 8 lanes; then 1, 8 and 64 hosts of 8 GPUs, two for each launch, with attempts that crash and hosts
that are lost. The bound is what no scheduler beats: all the work that was done over the lanes that were there, or, of
one test file, its first repeat, which must be strict before the others start, and the longest of the others after it.
"""

from __future__ import annotations

import heapq
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from statistics import NormalDist

from figure import Figure, show
from lengths import FIRST, LENGTHS_S, SPREAD

from tune_mcp.supervise.schedule import Due, Repeat, starts

REPEATS = 5
MANY_REPEATS = 15
TESTS = {8: 30, 64: 90, 512: 240}
"""GPUs -> test files: a fleet measures many models and presets."""
GPUS_A_HOST, GPUS_A_LANE = 8, 2
FAILS = 0.03
"""Attempts that crash on the way, and are tried again at once on the same lane."""
LOST_EVERY_S, BACK_AFTER_S = 8 * 3600.0, 1200.0
"""A host is lost once in so much of its time, with all that it runs, and is there again so much later."""
CEILING = 1.05


@dataclass
class Running:
    """An attempt on its lane. ``leads``: no repeat of its test file is strict yet."""

    repeat: Repeat
    lane: str
    since: float
    crashes: bool
    leads: bool
    lost: bool = False


@dataclass
class Fleet:
    """Test files of these lengths (s), each measured ``repeats`` times, on ``hosts`` with ``lanes`` each."""

    lengths: Mapping[str, float]
    repeats: int
    lanes: int
    hosts: int = 1
    fails: float = 0.0
    lost_every_s: float = math.inf
    now: float = 0.0
    starts: int = 0
    crashed: int = 0
    lost: int = 0
    deciding_s: float = 0.0
    """Processor time of the scheduler."""
    sorting_s: float = 0.0
    """Processor time of sorting the same repeats by length, as often."""

    def play(self) -> Fleet:
        """Start what the scheduler says until every repeat is strict."""
        self._dice = random.Random(f"{self.hosts} {self.lanes}")
        self._events: list[tuple[float, int, str, str | Running]] = []
        self._numbers = count()
        self._up = {f"{host}/{lane}" for host in range(self.hosts) for lane in range(self.lanes)}
        self._busy: dict[str, Running] = {}
        self._due = {(test, number): None for test in self.lengths for number in range(1, self.repeats + 1)}
        self._strict: set[str] = set()
        self._worked_s = 0.0
        self._leading_s: dict[str, float] = {}
        self._longest_s = dict.fromkeys(self.lengths, 0.0)
        self._places = [(0.0, len(self._up))]
        for host in range(self.hosts):
            self._later(self._until_lost(), "lost", str(host))
        while self._due or self._busy:
            self._fill()
            self.now, _, kind, what = heapq.heappop(self._events)
            if isinstance(what, Running):
                self._end(what)
            elif kind == "lost":
                self._lose(what)
            else:
                self._up |= {f"{what}/{lane}" for lane in range(self.lanes)}
                self._later(self._until_lost(), "lost", what)
            self._places.append((self.now, len(self._up)))
        return self

    def bound_s(self) -> float:
        """What no scheduler beats with the same attempts and the same losses."""
        left = self._worked_s
        for (at, lanes), (until, _) in pairwise([*self._places, (math.inf, 0)]):
            if left <= lanes * (until - at):
                return max(at + left / lanes, *(self._leading_s[one] + self._longest_s[one] for one in self.lengths))
            left -= lanes * (until - at)
        raise AssertionError("more was done than there was time for")

    def figure(self, what: str) -> Figure:
        """The time that it took beside the bound."""
        return Figure(what, self.now / 60, self.bound_s() / 60, "min", "bound", CEILING, 1)

    def _until_lost(self) -> float:
        return self._dice.expovariate(1 / self.lost_every_s) if self.lost_every_s < math.inf else math.inf

    def _later(self, seconds: float, kind: str, what: str | Running) -> None:
        if seconds < math.inf:
            heapq.heappush(self._events, (self.now + seconds, next(self._numbers), kind, what))

    def _fill(self) -> None:
        lanes = tuple(sorted(self._up))
        due = [Due(test, repeat, lanes, self.lengths[test]) for test, repeat in self._due]
        busy = {lane: one.repeat for lane, one in self._busy.items()}
        begin = time.process_time()
        found = starts(due, busy, self._strict, len(lanes))
        decided = time.process_time()
        sorted(due, key=lambda one: one.seconds or 0.0)
        self.deciding_s += decided - begin
        self.sorting_s += time.process_time() - decided
        for one in found:
            del self._due[one.due.key]
            self._launch(one.due.key, one.lane)

    def _launch(self, repeat: Repeat, lane: str) -> None:
        self.starts += 1
        leads, crashes = repeat[0] not in self._strict, self._dice.random() < self.fails
        seconds = self.lengths[repeat[0]] * (FIRST if leads else 1) * (1 + self._dice.gauss(0, SPREAD))
        made = self._busy[lane] = Running(repeat, lane, self.now, crashes, leads)
        self._later(seconds * (self._dice.random() if crashes else 1), "end", made)

    def _end(self, one: Running) -> None:
        if one.lost:
            return
        seconds, test = self._worked(one), one.repeat[0]
        if one.crashes:
            self.crashed += 1
            self._launch(one.repeat, one.lane)
        elif one.leads:
            self._strict.add(test)
            self._leading_s[test] = seconds
        else:
            self._longest_s[test] = max(self._longest_s[test], seconds)

    def _worked(self, one: Running) -> float:
        del self._busy[one.lane]
        self._worked_s += self.now - one.since
        return self.now - one.since

    def _lose(self, host: str) -> None:
        """A host is gone with what it runs; each of its repeats is due again."""
        gone = {f"{host}/{lane}" for lane in range(self.lanes)}
        self._up -= gone
        for one in [one for lane, one in self._busy.items() if lane in gone]:
            one.lost = True
            self.lost += 1
            self._worked(one)
            self._due[one.repeat] = None
        self._later(BACK_AFTER_S, "back", host)


def figures() -> Iterator[Figure]:
    """Lanes of one host, then hosts."""
    for lanes in (1, 2, 4, 8):
        name = f"{len(LENGTHS_S)} tests × {REPEATS} on {lanes} lane{'s' if lanes > 1 else ''}"
        yield Fleet(LENGTHS_S, REPEATS, lanes).play().figure(name)
    played = {(gpus, tests): fleet(gpus, tests).play() for gpus, tests in TESTS.items()}
    for (gpus, tests), found in played.items():
        events = f"{found.crashed} attempts crash, {found.lost} are lost with their host"
        yield found.figure(f"{tests} tests × {MANY_REPEATS} on {gpus} GPUs, {events}")
    (gpus, tests), largest = max(played.items())
    decided, by_length = (1000 * spent / largest.starts for spent in (largest.deciding_s, largest.sorting_s))
    name = f"a decision at {gpus} GPUs and {tests * MANY_REPEATS} repeats, CPU"
    yield Figure(name, decided, by_length, "ms", "the same sorted by length", 6.5)


def fleet(gpus: int, tests: int) -> Fleet:
    """Test files whose lengths are spread as the suite's, on hosts that may be lost."""
    spread = NormalDist.from_samples(map(math.log, LENGTHS_S.values()))
    lengths = {f"test_{n:04}_ci": math.exp(spread.inv_cdf((n * 7 % tests + 0.5) / tests)) for n in range(tests)}
    lanes = GPUS_A_HOST // GPUS_A_LANE
    return Fleet(lengths, MANY_REPEATS, lanes, gpus // GPUS_A_HOST, FAILS, LOST_EVERY_S)


if __name__ == "__main__":
    sys.exit(show(figures(), "--markdown" in sys.argv))
