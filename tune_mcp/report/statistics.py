"""What N repeats of a metric can carry: location, spread, and the chance that a clean CI run misses a limit.

Pure functions over per-run values in repeat order, raw units. Nothing here rejects or changes a value, and the worst
of N is never called a percentile.

The chance has two parts. **Noise**: a predictive Student's t of the logarithms, whose variance is moderated over the
metrics of a family, as limma does for genes (Smyth 2004, Statistical Applications in Genetics 3(1), article 3). Five
repeats alone know their variance badly; thirty metrics of one kind know each other's. **Slow runs**: speed also has
repeats that are far slower than all others, too rare to be seen in every calibration.

Every constant comes from the published calibrations in benchmarks/data/history.csv: 33 calibrations of a real project,
450 series, N = 5 mostly. ``benchmarks/chances.py`` derives them again and compares the chances with what came true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, stdev

from tune_mcp.config.stages import Family, Frozen, Number, WorstOp

LEAST_FOR_A_PRIOR = 6
"""Series of a family below which the history's prior is used instead of the run's own."""
MOST_DEGREES = 60.0
SLOW_BEYOND = 1.10
"""A repeat is slow when it lies more than 10 % beyond the worst of the others: 16 of 411 in the history."""
SLOW_FROM = 0.05
SLOW_SCALE = 0.27
"""How far slow runs lie beyond the median, in logarithms: 0.05 and an exponential of mean 0.27. The history's slow
repeats lie 0.32 beyond on average. An exponential of mean 0.30 from the median itself is too low near the limit: a
truth made of the history's slow runs then misses 1.4 times as often as predicted at N = 10, with this one 1.3 times."""
_SLOW_BEFORE = (0.5, 13.0)
"""What is known of slow runs before the first repeat, as slow ones among repeats: 3.8 %, the history's share."""
_USUAL_SHIFT = 0.02
"""Between calibrations speed shifts by about 2 % in the history, changed code included."""
_MOST_SPREAD = 1e6
"""A step so much larger than the values themselves says no more."""
UNSEEN = 0.5
"""Jeffreys' pseudo count for what N equal values did not show: 0.5/(N+1), 10 % at N = 4. In the history 17 of 249
left-out repeats (7 %) were worse where the other four were all the same."""


@dataclass(frozen=True)
class Prior:
    """What is known of a family's noise before its repeats: ``sd`` of the logarithms, worth ``degrees`` of freedom."""

    degrees: float
    sd: float


PRIORS: Mapping[Family, Prior] = {
    "speed": Prior(1.06, 0.0162),
    "wer": Prior(0.67, 0.0260),
    "cer": Prior(0.87, 0.0022),
    "accuracy": Prior(0.62, 0.0049),
    "score": Prior(1.43, 0.0032),
    "count": Prior(0.67, 0.0284),
    "other": Prior(0.67, 0.0260),
}
"""Fits of ``prior`` to the whole history, a series' spread at least its printed resolution. ``other`` is the widest."""


class Spread(Frozen):
    """Location and scatter of N raw values.

    ``spread`` is max - min; ``spread_relative`` is that over the absolute median and ``cv`` the sample standard
    deviation over the absolute mean, both fractions, None where the denominator is 0 or N is 1.
    """

    n: int
    median: float
    minimum: Number
    maximum: Number
    spread: float
    spread_relative: float | None
    cv: float | None


class Chance(Frozen):
    """Chance that one more clean run misses a limit: from ``noise`` alone, and ``with_slow`` runs.

    Both are the same where nothing measures speed, which alone has slow runs.
    """

    noise: float
    with_slow: float


class FailChance(Chance):
    """One metric's; ``sd`` is the moderated relative standard deviation, a fraction."""

    sd: float


@dataclass(frozen=True)
class Series:
    """One metric's repeats: raw values in repeat order, and the bad extreme.

    ``step`` is the distance of neighbouring values that the metric can have (one sample's share, 1 for a count), None
    for a continuous one. ``resolution`` is the last digit that is shown: a spread below it is not believed.
    """

    values: tuple[Number, ...]
    worst: WorstOp
    step: float | None = None
    resolution: float = 0.0

    @property
    def sign(self) -> float:
        """1 where larger is worse, else -1."""
        return 1.0 if self.worst == "max" else -1.0

    @property
    def unchanged(self) -> bool:
        """Whether several repeats have one and the same value."""
        return len(self.values) > 1 and len(set(self.values)) == 1

    @property
    def size(self) -> float:
        """Mean absolute value, what a relative spread is relative to; 0 only where every value is 0."""
        return math.fsum(map(abs, self.values)) / len(self.values)

    def loss(self, value: float) -> float:
        """``value`` on the scale of the estimate, larger is worse: the logarithm where every repeat is positive.

        Throughput and the latency that is its inverse then have the same chance. Where a repeat is zero or negative
        it is the value relative to ``size``.
        """
        if min(self.values) <= 0:
            return self.sign * value / (self.size or 1.0)
        return self.sign * (math.log(value) if value > 0 else -math.inf)

    def losses(self) -> list[float]:
        """The repeats on the scale of the estimate."""
        return [self.loss(value) for value in self.values]

    def variance(self) -> float:
        """Sample variance of the losses, at least that of one unseen step or digit; 0 for a single repeat."""
        if len(self.values) < 2:
            return 0.0
        least = min((self.step or self.resolution) / (self.size or 1.0), _MOST_SPREAD)
        return max(stdev(self.losses()) ** 2, least**2 / 12)

    def beyond(self, limit: float, *, strict: bool = False) -> int:
        """How many repeats miss ``limit``; ``strict``: a value equal to the limit misses it too."""
        edge = self.sign * limit
        return sum(self.sign * value > edge or (strict and self.sign * value == edge) for value in self.values)

    def boundary(self, limit: float, *, strict: bool = False) -> float:
        """The limit itself; for values in steps the middle between the last that passes and the first that misses."""
        if not self.step or math.isinf(limit):
            return limit
        steps = self.sign * limit / self.step
        last = math.ceil(steps - 1e-6) - 1 if strict else math.floor(steps + 1e-6)
        return self.sign * (last + 0.5) * self.step


def spread(values: Sequence[Number]) -> Spread:
    """Describe the values. Raises ``ValueError`` for none."""
    if not values:
        raise ValueError("no values")
    middle, mean = float(median(values)), math.fsum(values) / len(values)
    width = float(max(values) - min(values))
    sd = stdev(values) if len(values) > 1 else None
    return Spread(
        n=len(values),
        median=middle,
        minimum=min(values),
        maximum=max(values),
        spread=width,
        spread_relative=width / abs(middle) if middle else None,
        cv=None if sd is None or not mean else sd / abs(mean),
    )


def coverage(n: int) -> float:
    """Chance that the worst of ``n`` clean runs is at least as bad as the true 95th percentile (n=5: 22.6 %)."""
    return 1 - 0.95**n


def repeats_for(wanted: float) -> int:
    """Repeats after which the worst one covers the true 95th percentile with probability ``wanted`` (95 %: 59)."""
    return math.ceil(math.log(1 - wanted) / math.log(0.95) - 1e-12)


def student_tail(t: float, df: int) -> float:
    """P(T > t) of Student's t with ``df`` degrees of freedom (finite series, Abramowitz and Stegun 26.7.3-4)."""
    if df < 1:
        raise ValueError("a t distribution needs one degree of freedom")
    angle = math.atan(abs(t) / math.sqrt(df))
    cosine, sine = math.cos(angle), math.sin(angle)
    term = total = cosine if df % 2 else 1.0
    for k in range(2 + df % 2, df - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    if df == 1:
        between = 2 * angle / math.pi
    elif df % 2:
        between = 2 / math.pi * (angle + sine * total)
    else:
        between = sine * total
    tail = max(0.0, (1 - between) / 2)
    return tail if t >= 0 else 1 - tail


def digamma(x: float) -> float:
    """Derivative of ln gamma for x > 0 (recurrence up to 8, then Abramowitz and Stegun 6.3.18)."""
    shift = 0.0
    while x < 8:
        shift -= 1 / x
        x += 1
    f = 1 / (x * x)
    return shift + math.log(x) - 0.5 / x - f * (1 / 12 - f * (1 / 120 - f * (1 / 252 - f / 240)))


def trigamma(x: float) -> float:
    """Derivative of digamma for x > 0 (recurrence up to 8, then Abramowitz and Stegun 6.4.12)."""
    shift = 0.0
    while x < 8:
        shift += 1 / (x * x)
        x += 1
    f = 1 / (x * x)
    return shift + 1 / x + f / 2 + f / x * (1 / 6 - f * (1 / 30 - f * (1 / 42 - f / 30)))


def prior(family: Family, series: Iterable[Series]) -> Prior:
    """The family's noise over all metrics of a run: their variances as draws of one scaled inverse chi square.

    Series without any spread, step or digit have no variance and count as absent, and so do single repeats; with fewer
    than six others the history's prior stands.
    """
    found = [(variance, len(one.values) - 1) for one in series if (variance := one.variance()) > 0]
    if len(found) < LEAST_FOR_A_PRIOR:
        return PRIORS[family]
    logs = [math.log(variance) - digamma(d / 2) + math.log(d / 2) for variance, d in found]
    middle = math.fsum(logs) / len(logs)
    scatter = math.fsum((one - middle) ** 2 for one in logs) / (len(logs) - 1)
    degrees = _inverse_trigamma_degrees(scatter - math.fsum(trigamma(d / 2) for _, d in found) / len(found))
    return Prior(degrees, math.exp((middle + digamma(degrees / 2) - math.log(degrees / 2)) / 2))


def _inverse_trigamma_degrees(wanted: float) -> float:
    """The degrees d with trigamma(d/2) = ``wanted``, between 0.05 and MOST_DEGREES; by bisection, it only falls."""
    low, high = 0.05, MOST_DEGREES
    if wanted <= trigamma(high / 2):
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if trigamma(middle / 2) > wanted else (low, middle)
    return low


def fail_chance(
    series: Series,
    limit: float | None,
    known: Prior,
    *,
    strict: bool = False,
    slow: float | None = None,
    shift: float = 0.0,
) -> FailChance:
    """Chance that the next clean run misses ``limit``, the effective limit with the test's slack on it.

    ``limit`` None: unknown, the worst value counts as the limit. ``strict``: a value equal to the limit misses it.
    ``known`` is the family's prior, ``slow`` the share of slow runs (None: the metric has none), ``shift`` the relative
    standard deviation between calibrations of unchanged code.

    With b of n repeats beyond the limit the answer lies between b/(n+1) and (b+1)/(n+1), which hold for every
    distribution; a continuous metric without any slack has the upper one exactly. See ``_bounds`` for equal values.
    """
    n, degrees = len(series.values), len(series.values) - 1
    worst = max(series.values, key=lambda value: series.sign * value)
    limit = worst if limit is None else limit
    least, most = _bounds(n, series.beyond(limit, strict=strict), unchanged=series.unchanged)
    variance = _moderated(series, known)
    scale = math.sqrt(variance * (1 + 1 / n) + 2 * shift**2)
    losses, edge = series.losses(), series.loss(series.boundary(limit, strict=strict))
    if not scale or (limit == worst and not strict and not series.step and not series.unchanged):
        noise = most
    else:
        tail = student_tail((edge - math.fsum(losses) / n) / scale, max(1, round(degrees + known.degrees)))
        noise = min(max(tail, least), most)
    with_slow = noise
    if slow is not None:
        beyond = math.exp(-max(0.0, edge - median(losses) - SLOW_FROM) / SLOW_SCALE)
        with_slow = min(noise + slow * max(0.0, beyond - noise), most)
    return FailChance(noise=noise, with_slow=with_slow, sd=math.sqrt(variance))


def _bounds(n: int, beyond: int, *, unchanged: bool) -> tuple[float, float]:
    """Between what the chance lies when ``beyond`` of ``n`` repeats miss the limit, whatever the distribution.

    ``unchanged``: the repeats showed no spread, and half a repeat counts for what they did not show.
    """
    if unchanged:
        return (1 - UNSEEN / (n + 1), 1.0) if beyond else (0.0, UNSEEN / (n + 1))
    return beyond / (n + 1), (beyond + 1) / (n + 1)


def _moderated(series: Series, known: Prior) -> float:
    """Relative variance from the repeats and the family together; 0 where every value is 0 and no step is known."""
    if not series.size:
        return (series.step or 0.0) ** 2 / 12
    degrees = len(series.values) - 1
    return (known.degrees * known.sd**2 + degrees * series.variance()) / (known.degrees + degrees)


def slow_repeats(tests: Iterable[tuple[str, Sequence[Series]]]) -> tuple[int, int]:
    """(slow ones, all) among the repeats of each test's speed metrics.

    A repeat is slow when one of its values lies more than 10 % beyond the worst of the other repeats.
    """
    slow: set[tuple[str, int]] = set()
    every: set[tuple[str, int]] = set()
    for test, found in tests:
        for series in found:
            losses = series.losses()
            every |= {(test, place) for place in range(len(losses))} if len(losses) > 1 else set()
            for place, loss in enumerate(losses):
                others = losses[:place] + losses[place + 1 :]
                if others and loss > max(others) + math.log(SLOW_BEYOND):
                    slow.add((test, place))
    return len(slow), len(every)


def slow_share(slow: int, repeats: int) -> float:
    """The share of slow runs, from ``slow`` ones among ``repeats`` and what the history knows before them."""
    return (slow + _SLOW_BEFORE[0]) / (repeats + _SLOW_BEFORE[1])


def shift_between(pairs: Sequence[tuple[Series, Series]]) -> float | None:
    """Relative standard deviation between calibrations of unchanged code, from (then, now) of each metric.

    What the means differ by beyond what the repeats' own scatter explains; None for fewer than six metrics. A metric
    weighs as much as its scatter allows, so that one with two modes does not hide the others.
    """
    usable = [pair for pair in pairs if all(min(one.values) > 0 and len(one.values) > 1 for one in pair)]
    if len(usable) < LEAST_FOR_A_PRIOR:
        return None
    total = weights = 0.0
    for then, now in usable:
        apart = math.fsum(then.losses()) / len(then.values) - math.fsum(now.losses()) / len(now.values)
        scatter = then.variance() / len(then.values) + now.variance() / len(now.values)
        weight = (scatter + _USUAL_SHIFT**2) ** -2
        total, weights = total + weight * (apart**2 - scatter), weights + weight
    return math.sqrt(max(0.0, total / weights / 2))


def any_fails(chances: Iterable[float]) -> float:
    """Chance that at least one of several independent gates fails."""
    return 1 - math.prod(1 - chance for chance in chances)


def each_fails(goal: float, gates: int, attempts: int = 1) -> float:
    """Chance for one attempt of one gate at which all of several gates together fail with ``goal``."""
    return (1 - (1 - goal) ** (1 / max(1, gates))) ** (1 / attempts)


def chance_with_slack(repeats: int, deviations: float) -> float:
    """Chance that normal noise misses a limit ``deviations`` standard deviations beyond the worst of the repeats.

    A fit to simulations, within 30 %: (N + 1) P = exp(-(0.13 + 0.62 ln N) u - 0.37 u^2).
    """
    slope = 0.13 + 0.62 * math.log(repeats)
    return math.exp(-slope * deviations - 0.37 * deviations**2) / (repeats + 1)


def slack_for(chance: float, repeats: int) -> float:
    """The standard deviations between worst value and limit that bring the chance down to ``chance``; 0 for no need."""
    if chance <= 0:
        return math.inf
    slope, wanted = 0.13 + 0.62 * math.log(repeats), math.log(1 / (chance * (repeats + 1)))
    return (math.sqrt(slope**2 + 4 * 0.37 * wanted) - slope) / (2 * 0.37) if wanted > 0 else 0.0


def repeats_with_slack(chance: float, deviations: float) -> int | None:
    """The fewest repeats, up to 60, that bring the chance down to ``chance`` at that slack; None for no number."""
    fits = (n for n in range(1, 61) if chance_with_slack(n, max(0.0, deviations)) <= chance)
    return next(fits, None)
