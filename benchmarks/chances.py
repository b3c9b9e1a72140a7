"""Whether the printed chances come true: predicted / actual over known truths and over a real project's history.

``python benchmarks/chances.py [--rounds N]`` prints markdown tables, seeded, in under two minutes; exit code 1 when a
ratio with a target misses it. The limit has 10 % of slack throughout: worst × 1.1, or worst × 0.9 for a lower bound.

- **Simulated**: a run of 20 tests with one speed metric each. Whether the next run misses the limit is not drawn but
  computed from the truth, so the actual chance is exact for each calibration.
- **History**: of each calibration each round is left out in turn; the other rounds give priors, slow share and limits,
  and the left-out one says what came true.

``before`` is the estimator that this one replaced: Student's predictive t of each metric's own logarithms.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, stdev

from tune_mcp.config.stages import Family, WorstOp
from tune_mcp.report import statistics
from tune_mcp.report.statistics import Prior, Series

HISTORY = Path(__file__).parent / "data" / "history.csv"
TARGET = (0.7, 1.5)
TESTS = 20


@dataclass
class Tally:
    """Sums of predicted and actual chances over many gates."""

    gates: int = 0
    before: float = 0.0
    noise: float = 0.0
    with_slow: float = 0.0
    actual: float = 0.0

    def add(self, before: float, noise: float, with_slow: float, actual: float) -> None:
        self.gates += 1
        self.before += before
        self.noise += noise
        self.with_slow += with_slow
        self.actual += actual


@dataclass
class Row:
    """One line of a table; ``bound`` names the column that has a target, if any."""

    name: str
    tally: Tally
    bound: str = ""

    def ratio(self, column: str) -> float:
        return getattr(self.tally, column) / self.tally.actual if self.tally.actual else math.nan

    @property
    def held(self) -> bool:
        return not self.bound or TARGET[0] <= self.ratio(self.bound) <= TARGET[1]

    def text(self) -> str:
        def cell(column: str) -> str:
            ratio = self.ratio(column)
            shown = "—" if math.isnan(ratio) else f"{ratio:.2f}"
            return f"**{shown}**{'' if self.held else ' (misses)'}" if column == self.bound else shown

        actual = 100 * self.tally.actual / self.tally.gates
        share = f"{actual:.1f} %" if actual >= 1 else f"{actual:.2g} %"
        return f"| {self.name} | {share} | {cell('before')} | {cell('noise')} | {cell('with_slow')} |"


def before(series: Series, limit: float) -> float:
    """The estimator that was replaced, for a limit that no repeat misses."""
    n, bound = len(series.values), 1 / (len(series.values) + 1)
    if series.unchanged:
        return 0.0
    if n == 1:
        return bound
    losses = series.losses()
    scale = stdev(losses) * math.sqrt(1 + 1 / n)
    return min(statistics.student_tail((series.loss(limit) - math.fsum(losses) / n) / scale, n - 1), bound)


def limit_of(series: Series) -> float:
    """The worst repeat with 10 % of slack."""
    return max(series.values) * 1.1 if series.worst == "max" else min(series.values) * 0.9


# Simulated truths


@dataclass(frozen=True)
class Truth:
    """Draws one value, and the exact chance that one is worse than a limit."""

    draw: Callable[[random.Random], float]
    missed: Callable[[float], float]


Maker = Callable[[random.Random, float], Truth]
"""Makes the truth of one metric; the second argument is 1 where larger is worse, else -1."""


def normal(cv: float) -> Maker:
    return lambda _, sign: Truth(lambda chooser: chooser.gauss(1, cv), lambda limit: _above(sign * (limit - 1) / cv))


def lognormal(cv: float) -> Maker:
    sigma = math.sqrt(math.log(1 + cv**2))
    return lambda _, sign: Truth(
        lambda chooser: math.exp(chooser.gauss(0, sigma)), lambda limit: _above(sign * math.log(limit) / sigma)
    )


def heavy(cv: float) -> Maker:
    """Logarithms of Student's t with 3 degrees of freedom, which has a standard deviation of sqrt(3)."""
    scale = cv / math.sqrt(3)

    def draw(chooser: random.Random) -> float:
        square = math.fsum(chooser.gauss(0, 1) ** 2 for _ in range(3))
        return math.exp(scale * chooser.gauss(0, 1) / math.sqrt(square / 3))

    return lambda _, sign: Truth(draw, lambda limit: statistics.student_tail(sign * math.log(limit) / scale, 3))


def real_like(series: Sequence[Series]) -> Maker:
    """As the history's speed metrics: spreads that differ from test to test, and slow runs as often and as slow."""
    calm = [trimmed for one in series if len((trimmed := _without_slow(one)).values) > 1]
    spread = statistics.prior("speed", calm)
    slow, every = statistics.slow_repeats((str(place), [one]) for place, one in enumerate(series))
    extra = [loss - median(one.losses()) for one in series for loss in _slow_losses(one)]
    share = slow / every

    def make(chooser: random.Random, sign: float) -> Truth:
        sigma = min(0.3, spread.sd * math.sqrt(spread.degrees / chooser.gammavariate(spread.degrees / 2, 2)))

        def draw(chooser: random.Random) -> float:
            late = chooser.choice(extra) if chooser.random() < share else 0.0
            return math.exp(sign * (chooser.gauss(0, sigma) + late))

        def missed(limit: float) -> float:
            distance = sign * math.log(limit)
            tails = [_above((distance - late) / sigma) for late in extra]
            return (1 - share) * _above(distance / sigma) + share * math.fsum(tails) / len(tails)

        return Truth(draw, missed)

    return make


def _above(deviations: float) -> float:
    """P(X > deviations) of a standard normal X, without loss of digits in the tail."""
    return math.erfc(deviations / math.sqrt(2)) / 2


def _slow_losses(series: Series) -> list[float]:
    losses = series.losses()
    edges = [max(losses[:place] + losses[place + 1 :], default=math.inf) for place in range(len(losses))]
    return [loss for loss, edge in zip(losses, edges, strict=True) if loss > edge + math.log(statistics.SLOW_BEYOND)]


def _without_slow(series: Series) -> Series:
    slow = _slow_losses(series)
    kept = tuple(value for value in series.values if series.loss(value) not in slow)
    return Series(kept, series.worst, series.step, series.resolution)


def simulated(make: Maker, n: int, rounds: int, *, tests: int = TESTS, worst: WorstOp | None = None) -> Tally:
    """Predicted and actual over ``rounds`` calibrations of ``tests`` tests, n repeats each.

    Half of the metrics have a lower bound, half an upper one, unless ``worst`` says which.
    """
    chooser, tally = random.Random(f"{n} {tests}"), Tally()
    for turn in range(rounds):
        bounds: list[WorstOp] = [worst or ("min" if (turn + k) % 2 else "max") for k in range(tests)]
        truths = [make(chooser, 1.0 if bound == "max" else -1.0) for bound in bounds]
        found = [
            Series(tuple(truth.draw(chooser) for _ in range(n)), bound)
            for truth, bound in zip(truths, bounds, strict=True)
        ]
        known = statistics.prior("speed", found)
        share = statistics.slow_share(*statistics.slow_repeats((str(k), [one]) for k, one in enumerate(found)))
        for truth, series in zip(truths, found, strict=True):
            limit = limit_of(series)
            chance = statistics.fail_chance(series, limit, known, slow=share)
            tally.add(before(series, limit), chance.noise, chance.with_slow, truth.missed(limit))
    return tally


def simulations(history: Sequence[Past], rounds: int) -> Iterator[Row]:
    """The truths, each at N = 5 and 10; then what is worth knowing beside them."""
    like = real_like([one.series for one in history if one.family == "speed"])
    truths: list[tuple[str, Maker, str]] = [
        ("normal, CV 5 %", normal(0.05), "noise"),
        ("normal, CV 10 %", normal(0.10), "noise"),
        ("lognormal, CV 5 %", lognormal(0.05), "noise"),
        ("lognormal, CV 10 %", lognormal(0.10), "noise"),
        ("heavy tail (t of 3), CV 5 %", heavy(0.05), ""),
        ("heavy tail (t of 3), CV 10 %", heavy(0.10), ""),
        ("real-like", like, "with_slow"),
    ]
    for name, make, bound in truths:
        for n in (5, 10):
            yield Row(f"{name}, N = {n}", simulated(make, n, rounds), bound)
    for n in (5, 10):
        yield Row(f"normal, CV 5 %, N = {n}, lower bounds only", simulated(normal(0.05), n, rounds, worst="min"))
        yield Row(f"normal, CV 5 %, N = {n}, upper bounds only", simulated(normal(0.05), n, rounds, worst="max"))
    for name, make, _ in truths[:2] + truths[-1:]:
        yield Row(f"{name}, N = 5, one test alone", simulated(make, 5, rounds * TESTS // 2, tests=1))


# The history


@dataclass(frozen=True)
class Past:
    """One metric of one calibration of the history."""

    calibration: str
    test: str
    metric: str
    family: Family
    series: Series


def read_history(path: Path = HISTORY) -> list[Past]:
    """Every series, its printed resolution as the last digit that any of its values shows."""
    found: list[Past] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            texts = row["values"].split()
            digits = max(len(text.partition(".")[2]) for text in texts)
            family: Family = next(name for name in statistics.PRIORS if name == row["family"])
            series = Series(
                tuple(float(text) for text in texts),
                "max" if row["worst"] == "max" else "min",
                step=1.0 if family == "count" else None,
                resolution=10.0**-digits,
            )
            calibration = f"{row['calibration']} {row['source']}"
            found.append(Past(calibration, row["stage"].rpartition("_")[0], row["metric"], family, series))
    return found


def priors(history: Iterable[Past]) -> dict[Family, Prior]:
    """The prior of each family over the whole history: what ``statistics.PRIORS`` holds.

    Series with a zero have no logarithms; the largest WER of one sample (wmax) jumps from word to word or stays.
    """
    found: dict[Family, list[Series]] = defaultdict(list)
    for one in history:
        if min(one.series.values) > 0 and one.metric != "wmax":
            found[one.family].append(one.series)
    return {family: statistics.prior(family, series) for family, series in found.items()}


@dataclass
class LeftOut:
    """What leaving out each round of each calibration gives: per family, over all metrics, and per suite."""

    families: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    metrics: Tally = field(default_factory=Tally)
    suites: Tally = field(default_factory=Tally)


def leave_one_out(history: Iterable[Past]) -> LeftOut:
    """Leave out each round in turn; counts have no limit with relative slack and are left aside."""
    found, calibrations = LeftOut(), defaultdict[str, list[Past]](list)
    for one in history:
        if len(one.series.values) >= 4 and one.family != "count":
            calibrations[one.calibration].append(one)
    for pasts in calibrations.values():
        for place in range(max(len(one.series.values) for one in pasts)):
            _leave_out([one for one in pasts if len(one.series.values) > place], place, found)
    return found


def _leave_out(pasts: Sequence[Past], place: int, found: LeftOut) -> None:
    kept = [_without(one.series, place) for one in pasts]
    families: set[Family] = {one.family for one in pasts}
    known = {
        family: statistics.prior(family, [s for one, s in zip(pasts, kept, strict=True) if one.family == family])
        for family in families
    }
    speed = [(one.test, [series]) for one, series in zip(pasts, kept, strict=True) if one.family == "speed"]
    share = statistics.slow_share(*statistics.slow_repeats(speed))
    tests: dict[str, list[tuple[float, float, float, bool]]] = defaultdict(list)
    for one, series in zip(pasts, kept, strict=True):
        limit = limit_of(series)
        slow = share if one.family == "speed" else None
        chance = statistics.fail_chance(series, limit, known[one.family], slow=slow)
        missed = series.sign * one.series.values[place] > series.sign * limit
        line = before(series, limit), chance.noise, chance.with_slow, missed
        found.families[one.family].add(*line)
        found.metrics.add(*line)
        tests[one.test].append(line)
    worst = [[max(line[k] for line in lines) for lines in tests.values()] for k in range(3)]
    every = [line[0] for lines in tests.values() for line in lines]
    failed = any(line[3] for lines in tests.values() for line in lines)
    noise, with_slow = (statistics.any_fails(one) for one in worst[1:])
    found.suites.add(statistics.any_fails(every), noise, with_slow, failed)


def _without(series: Series, place: int) -> Series:
    values = series.values[:place] + series.values[place + 1 :]
    return Series(values, series.worst, series.step, series.resolution)


def left_out(history: Iterable[Past]) -> Iterator[Row]:
    """The history's rows."""
    found = leave_one_out(history)
    yield Row("all metrics", found.metrics, "with_slow")
    for family in ("speed", "wer", "cer", "accuracy", "score"):
        yield Row(f"{family}", found.families[family])
    yield Row("whole suite", found.suites, "with_slow")


def show(rows: Iterable[Row]) -> bool:
    """Print a table; returns whether every target is met."""
    held = True
    print("\n| truth | really misses | before | noise | with slow runs |\n|---|---:|---:|---:|---:|")
    for row in rows:
        print(row.text())
        held = held and row.held
    return held


def main() -> int:
    """Print all tables; exit code 1 when a target is missed."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=400, help="simulated calibrations of 20 tests per line")
    rounds, history = arguments.parse_args().rounds, read_history()
    print("Predicted / actual; in bold what must lie between 0.7 and 1.5.")
    held = [show(simulations(history, rounds)), show(left_out(history))]
    print("\n| family | degrees | sd |\n|---|---:|---:|")
    for family, one in priors(history).items():
        print(f"| {family} | {one.degrees:.2f} | {one.sd:.2%} |")
    return 0 if all(held) else 1


if __name__ == "__main__":
    raise SystemExit(main())
