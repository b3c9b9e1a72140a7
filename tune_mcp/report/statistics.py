"""What N repeats of a metric can carry: location, spread, shape, and the chance that a clean CI run fails.

Pure functions over per-run values in repeat order, raw units. Nothing here rejects or changes a value, and the worst
of N is never called a percentile (notes D79, D80, D83, A24).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, stdev
from typing import Literal

from tune_mcp.config.stages import Frozen, Number, WorstOp

Basis = Literal["student-t", "student-t of logarithms", "distribution-free", "slack unknown", "no spread seen"]
_TOGETHER = 0.95
_LEAST_FOR_HALVES = 4


class Spread(Frozen):
    """Location and scatter of N raw values.

    ``spread`` is max - min; ``spread_relative`` is that over the absolute median and ``cv`` the sample standard
    deviation over the absolute mean, both fractions, None where the denominator is 0 or N is 1. ``halves`` is what two
    calibrations of the same thing would differ by: the medians of the odd and of the even repeats, None below N = 4.
    """

    n: int
    median: float
    minimum: Number
    maximum: Number
    spread: float
    spread_relative: float | None
    mean: float
    sd: float | None
    cv: float | None
    halves: float | None = None


class FailChance(Frozen):
    """Chance that one more clean run fails a limit. ``bound`` is 1/(N+1), which holds for any distribution.

    ``basis`` says where ``estimate`` comes from; see ``fail_chance``.
    """

    estimate: float
    bound: float
    basis: Basis


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
        mean=mean,
        sd=sd,
        cv=None if sd is None or not mean else sd / abs(mean),
        halves=abs(float(median(values[::2])) - float(median(values[1::2])))
        if len(values) >= _LEAST_FOR_HALVES
        else None,
    )


def coverage(n: int, quantile: float = 0.95) -> float:
    """Chance that the worst of ``n`` clean runs is at least as bad as the true ``quantile`` (n=5, P95: 22.6 %)."""
    return 1 - quantile**n


def repeats_for(wanted: float, quantile: float = 0.95) -> int:
    """Repeats after which the worst one covers the true ``quantile`` with probability ``wanted`` (P95, 95 %: 59)."""
    return math.ceil(math.log(1 - wanted) / math.log(quantile) - 1e-12)


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


def fail_chance(values: Sequence[Number], worst: WorstOp, limit: float | None, *, by_ratio: bool = False) -> FailChance:
    """Chance that the next clean run is worse than ``limit``, the effective limit with the file's slack on it.

    ``limit`` None: the slack is unknown, and 1/(N+1) is what zero slack would cost. A limit at the worst value seen:
    1/(N+1) exactly, whatever the distribution. A looser one: Student's predictive t, which knows that N is small,
    never above 1/(N+1). Values without any spread: 0, and only the bound says what cannot be excluded. A limit
    tighter than the worst value seen: the share of repeats beyond it (N/(N+1) for all) or the t figure, whichever is
    larger. ``by_ratio``: the slack is a factor, so positive values are compared by their logarithms; throughput and
    the latency that is its inverse then have the same chance.
    """
    n = len(values)
    bound = 1 / (n + 1)
    sign = 1.0 if worst == "max" else -1.0
    losses = [sign * value for value in values]
    beyond = 0 if limit is None else sum(loss > sign * limit for loss in losses)
    if n > 1 and len(set(values)) == 1:
        return FailChance(estimate=1.0 if beyond else 0.0, bound=bound, basis="no spread seen")
    if limit is None:
        return FailChance(estimate=bound, bound=bound, basis="slack unknown")
    if n == 1 or sign * limit == max(losses):
        return FailChance(estimate=bound, bound=bound, basis="distribution-free")
    logarithms = by_ratio and min(*values, limit) > 0
    scale = math.log if logarithms else float
    tail = _tail([sign * scale(value) for value in values], sign * scale(limit))
    estimate = max(tail, min(beyond / n, 1 - bound)) if beyond else min(tail, bound)
    return FailChance(estimate=estimate, bound=bound, basis="student-t of logarithms" if logarithms else "student-t")


def _tail(losses: Sequence[float], limit: float) -> float:
    """Chance that one more normal value exceeds ``limit``, from values that are not all the same."""
    n = len(losses)
    return student_tail((limit - math.fsum(losses) / n) / (stdev(losses) * math.sqrt(1 + 1 / n)), n - 1)


def any_fails(chances: Sequence[float]) -> float:
    """Chance that at least one of several independent gates fails."""
    return 1 - math.prod(1 - chance for chance in chances)


def together(rows: Sequence[tuple[str, Sequence[Number]]]) -> list[list[int]]:
    """Indices of the rows grouped where values of one test move together (|r| >= 0.95 over at least 4 repeats).

    ``rows`` are (test key, values). Throughput and latency of one invocation are one measurement, not two.
    """
    groups: list[list[int]] = []
    for index, (test, values) in enumerate(rows):
        for group in groups:
            head_test, head = rows[group[0]]
            if head_test == test and len(values) >= 4 and abs(_correlation(head, values)) >= _TOGETHER:
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _correlation(left: Sequence[Number], right: Sequence[Number]) -> float:
    mean_left, mean_right = math.fsum(left) / len(left), math.fsum(right) / len(right)
    cross = math.fsum((a - mean_left) * (b - mean_right) for a, b in zip(left, right, strict=True))
    size = math.sqrt(math.fsum((a - mean_left) ** 2 for a in left) * math.fsum((b - mean_right) ** 2 for b in right))
    return cross / size if size else 0.0
