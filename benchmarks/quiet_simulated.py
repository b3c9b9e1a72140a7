"""Whole calibrations on a machine with neighbours, seeded: what the rule throws away and keeps, and what is biased.

The machine is made up, the rest is the product: the monitor takes its looks, the reading, the rule and the wait before
a launch decide. Every launch is measured twice, with its neighbours and as it would have been without them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import mean

from figure import Figure
from lengths import FIRST, LENGTHS_S, SPREAD

from tune_mcp.config.lanes import Quiet
from tune_mcp.procfs import TICKS_PER_S, CpuTicks
from tune_mcp.supervise.quiet.look import Look, Member, Where
from tune_mcp.supervise.quiet.monitor import WAIT_LIMIT_S, Monitor

CALIBRATIONS = 24
REPEATS = 5
LANE = frozenset(range(4))
BIN_S = 0.5
DAY_S = 8 * 3600
QUIET = Quiet()
OURS = 2.0
"""Cores that the test itself uses."""
NOISE = 0.02
"""Standard deviation of a metric between launches that nobody disturbs, relative."""
SLOWER = 0.25
"""How much of its throughput a test loses for each foreign core of the four."""
MOST = 6
"""Launches of one repeat, then the run stops for a person."""


@dataclass
class World:
    """Foreign cores on the lane in bins of half a second: the host's background, bursts that every machine has, and
    neighbours that come and stay (an editor's index, an agent, a build), some of them with pauses."""

    dice: random.Random
    intruded: list[float] = field(init=False)
    """Cores of the neighbours that stay, by bin."""
    used: list[float] = field(init=False)
    """Core-seconds of all since the beginning, by bin."""
    usual: list[float] = field(init=False)
    """Those of background and bursts alone."""

    def __post_init__(self) -> None:
        bins = int(DAY_S / BIN_S)
        load = [max(0.0, self.dice.gauss(0.02, 0.02)) for _ in range(bins)]
        self.intruded = [0.0] * bins
        for at in self._moments(300):
            cores = self.dice.uniform(0.5, 3)
            for bin_ in range(at, min(bins, at + int(self.dice.uniform(1, 5) / BIN_S))):
                load[bin_] += cores
        for at in self._moments(2400):
            seconds = min(1800.0, max(40.0, self.dice.lognormvariate(math.log(120), 0.9)))
            cores = min(4.0, max(0.2, self.dice.lognormvariate(math.log(0.8), 0.7)))
            pauses = self.dice.random() < 0.3
            for number, bin_ in enumerate(range(at, min(bins, at + int(seconds / BIN_S)))):
                if not pauses or number * BIN_S % 20 < 12:
                    self.intruded[bin_] += cores
        both = [a + b for a, b in zip(load, self.intruded, strict=True)]
        self.used, self.usual = (
            [0.0, *accumulate(min(len(LANE) - OURS, cores) * BIN_S for cores in one)] for one in (both, load)
        )

    def _moments(self, every_s: float) -> Iterator[int]:
        at = self.dice.expovariate(1 / every_s)
        while at < DAY_S:
            yield int(at / BIN_S)
            at += self.dice.expovariate(1 / every_s)


def until(used: list[float], second: float) -> float:
    """Core-seconds up to then."""
    bin_ = min(int(second / BIN_S), len(used) - 2)
    return used[bin_] + (second / BIN_S - bin_) * (used[bin_ + 1] - used[bin_])


@dataclass
class Machine:
    """The lane as a look sees it; the instrument is off by 2 mcore in ten seconds."""

    world: World
    dice: random.Random
    now: float = 0.0
    looks: int = 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def take(self) -> Look:
        self.looks += 1
        busy = until(self.world.used, self.now) + OURS * self.now + self.dice.gauss(0, 0.014)
        idle = round((len(LANE) * self.now - busy) / len(LANE) * TICKS_PER_S)
        ticks = CpuTicks(round(self.now * TICKS_PER_S) - idle, 0, 0, idle, 0, 0, 0, 0)
        ours = {(1, 1): Member(0, 0.0, 0.0, Where.MIXED), (2, 2): Member(1, OURS * self.now, 0.0, Where.INSIDE)}
        return Look(self.now, dict.fromkeys(LANE, ticks), ours, {}, None, None)


@dataclass(frozen=True)
class Launch:
    """One launch: was it thrown away, had neighbours been there (cores on average and for how long), its value with
    them, and without."""

    disturbed: bool
    cores: float
    intruded_s: float
    seconds: float
    value: float
    clean: float

    @property
    def honest(self) -> bool:
        """No neighbour stayed; bursts are every machine's."""
        return self.intruded_s == 0

    @property
    def spoilt(self) -> bool:
        """A neighbour was there for at least a window, or throughout, with twice the limit on average meanwhile."""
        there = self.intruded_s >= min(QUIET.window_s, 0.9 * self.seconds)
        return there and self.cores * self.seconds / self.intruded_s >= 2 * QUIET.foreign_cores


@dataclass
class Outcome:
    """All launches; of each test the worst of N that are kept, of the first N, and of those without their neighbours;
    seconds spent waiting."""

    launches: list[Launch] = field(default_factory=list[Launch])
    kept: list[float] = field(default_factory=list[float])
    first: list[float] = field(default_factory=list[float])
    clean: list[float] = field(default_factory=list[float])
    waited_s: float = 0.0


def figures(count: int = CALIBRATIONS) -> Iterator[Figure]:
    """The three promises, and how it would be without the rule."""
    found = calibrations(count)
    launches = found.launches
    honest, spoilt = [one for one in launches if one.honest], [one for one in launches if one.spoilt]
    lost, kept = sum(one.disturbed for one in honest), sum(not one.disturbed for one in spoilt)
    name = f"simulated, {count} calibrations, {len(launches)} launches:"
    yield Figure(f"{name} honest ones lost of {len(honest)}", 100 * lost / len(honest), 2, "%", "allowed", 1)
    yield Figure(f"disturbed ones kept of {len(spoilt)}", 100 * kept / len(spoilt), 10, "%", "allowed", 1)
    bias, before = (100 * abs(mean(worst) / mean(found.clean) - 1) for worst in (found.kept, found.first))
    yield Figure(f"bias of the worst of {REPEATS} (without the rule {before:.1f} %)", bias, 1, "%", "allowed", 1)
    hours = sum(one.seconds for one in launches) / 3600
    yield Figure("waiting for quiet", found.waited_s / 3600 / hours * 100, 10, "%", "of the time", 1)


def calibrations(count: int, seed: int = 17) -> Outcome:
    """Every test of the suite, one repeat after the other, on a machine of its own each time."""
    found = Outcome()
    for number in range(count):
        dice = random.Random(f"{seed} {number}")
        machine = Machine(World(dice), dice)
        for length in LENGTHS_S.values():
            kept: list[float] = []
            first: list[Launch] = []
            for repeat in range(REPEATS):
                for attempt in range(MOST):
                    begin = machine.now
                    one = launch(machine, length * (FIRST if repeat == 0 else 1))
                    found.waited_s += machine.now - begin - one.seconds
                    found.launches.append(one)
                    if attempt == 0:
                        first.append(one)
                    if not one.disturbed or attempt == MOST - 1:
                        kept.append(one.value)
                        break
            found.kept.append(min(kept))
            found.first.append(min(one.value for one in first))
            found.clean.append(min(one.clean for one in first))
    return found


def launch(machine: Machine, length: float) -> Launch:
    """Wait until it is quiet, measure, judge. A disturbed launch takes longer by what it loses."""
    made = Monitor(LANE, 1, QUIET, machine.take, lambda: 0.002 * machine.looks, lambda: machine.now)
    made.begin()
    machine.sleep(1.0)  # what a runner does before it launches
    made.wait(machine.now + WAIT_LIMIT_S, machine.sleep, lambda: False, lambda _: None)
    made.begin()
    begin, true = machine.now, 1 + machine.dice.gauss(0, NOISE)
    end = begin + length * (1 + machine.dice.gauss(0, SPREAD))
    while machine.now < end:
        machine.sleep(0.25)
        made.look()
    seconds = machine.now - begin
    disturbed = made.end() is not None
    cores, usual = (
        (until(one, machine.now) - until(one, begin)) / seconds for one in (machine.world.used, machine.world.usual)
    )
    there = machine.world.intruded[int(begin / BIN_S) : int(machine.now / BIN_S)]
    intruded_s = sum(one > 0 for one in there) * BIN_S
    slower = [true * (1 - SLOWER * one) for one in (cores, usual)]
    return Launch(disturbed, sum(there) * BIN_S / seconds, intruded_s, seconds, *slower)
