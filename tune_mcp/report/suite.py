"""The whole suite: one gate per test, CI's attempts, and what would bring the false alarms down to a wished rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tune_mcp.report import statistics
from tune_mcp.report.facts import GateFacts, MetricFacts, StageFacts, SuiteFacts
from tune_mcp.report.noise import Noise
from tune_mcp.report.statistics import Chance


@dataclass(frozen=True)
class CiGate:
    """How CI judges: attempts that it gives a failing test, and the false alarms of a whole suite that are wished for.

    ``attempts`` is at least 1; ``false_alarms`` is the chance that a clean commit fails, above 0 and below 1.
    """

    attempts: int = 1
    false_alarms: float = 0.01


_MOST_SLACK = math.log(1000)


def suite(stages: Sequence[StageFacts], noise: Noise, ci: CiGate) -> SuiteFacts:
    """The chance over all tests: within one, throughput and latency are one measurement and the largest decides."""
    tests: dict[str, list[tuple[StageFacts, MetricFacts]]] = {}
    for stage in stages:
        for metric in stage.metrics:
            tests.setdefault(stage.test_key, []).append((stage, metric))
    wished = statistics.each_fails(ci.false_alarms, len(tests), ci.attempts)
    gates = tuple(_gate(test, pairs, noise, wished) for test, pairs in tests.items())
    metrics = [metric for pairs in tests.values() for _, metric in pairs]
    present = [
        _largest([metric.chance_present for _, metric in pairs if metric.chance_present]) for pairs in tests.values()
    ]
    return SuiteFacts(
        gates=gates,
        chance=_any([gate.chance for gate in gates]),
        attempts=ci.attempts,
        every_attempt=_any([gate.chance for gate in gates], ci.attempts),
        present=_any(present) if any(metric.chance_present for metric in metrics) else None,
        slow_repeats=noise.slow_runs.slow,
        counted_repeats=noise.slow_runs.repeats,
        earlier_reports=noise.slow_runs.earlier,
        shift=max((shift for shift in noise.shifts.values() if shift is not None), default=None),
        false_alarms=ci.false_alarms,
        wished=wished,
        unknown_slack=sum(metric.limit_proposed is None for metric in metrics),
        unchanged=sum(metric.spread.n > 1 and not metric.spread.spread for metric in metrics),
    )


def _gate(test: str, pairs: Sequence[tuple[StageFacts, MetricFacts]], noise: Noise, wished: float) -> GateFacts:
    """The test's chance, and the slack or the repeats that its noisiest metric needs for the wished one."""
    stage, metric = max(pairs, key=lambda pair: (pair[1].chance.with_slow, pair[1].chance.noise))
    noisy_stage, noisy = max(pairs, key=lambda pair: (pair[1].chance.noise, pair[1].chance.sd))
    series, n = noise.series[(noisy_stage.key, noisy.key)], len(noisy.values)
    enough = noisy.chance.noise <= wished
    margin = 0.0 if noisy.limit_proposed is None else max(0.0, series.loss(noisy.limit_proposed) - max(series.losses()))
    slack = repeats = None  # no slack is named where it would have to be a thousandfold
    if not enough:
        # The formula is for normal noise of a known size: it starts from the slack that would explain the chance above.
        deviations = statistics.slack_for(noisy.chance.noise, n)
        sd = margin / deviations if margin and deviations else noisy.chance.sd
        exponent = statistics.slack_for(wished, n) * sd
        if 0 < exponent <= _MOST_SLACK:
            upper = math.expm1(exponent)
            slack = upper if noisy.worst_op == "max" else upper / (1 + upper)
        repeats = statistics.repeats_with_slack(wished, deviations)
    return GateFacts(
        test=test,
        stage=stage.key,
        metric=metric.key,
        chance=_largest([one.chance for _, one in pairs]),
        noisy=f"{noisy_stage.key}/{noisy.key}",
        slack=slack,
        repeats=repeats,
    )


def _largest(chances: Sequence[Chance]) -> Chance:
    return Chance(
        noise=max((one.noise for one in chances), default=0.0),
        with_slow=max((one.with_slow for one in chances), default=0.0),
    )


def _any(chances: Sequence[Chance], attempts: int = 1) -> Chance:
    return Chance(
        noise=statistics.any_fails(one.noise**attempts for one in chances),
        with_slow=statistics.any_fails(one.with_slow**attempts for one in chances),
    )
