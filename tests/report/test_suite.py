"""The advice to a whole suite, from metrics whose chance, spread and slack are given."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
from speech_run import Case

from tune_mcp.report.facts import MetricFacts, StageFacts, SuiteFacts
from tune_mcp.report.noise import Noise
from tune_mcp.report.statistics import FailChance, Series, any_fails, each_fails, slack_for
from tune_mcp.report.suite import CiGate, suite

VALUES = (90.0, 95.0, 100.0, 105.0, 110.0)
SD = 0.05


@pytest.fixture
def stage(case: Case) -> StageFacts:
    """A stage of one metric, to be replaced."""
    found = next(iter(case.report().stages))
    return found.model_copy(update={"metrics": found.metrics[:1]})


def of(stage: StageFacts, ci: CiGate, **changes: Any) -> SuiteFacts:
    """The suite of one test with one metric: VALUES, a chance of 10 % (20 % with slow runs), no limit that is known."""
    worst = changes.get("worst_op", "max")
    given = {"values": VALUES, "limit_proposed": None, "chance": FailChance(noise=0.1, with_slow=0.2, sd=SD)}
    metric = cast("MetricFacts", stage.metrics[0].model_copy(update={**given, "worst_op": worst, **changes}))
    noise = SimpleNamespace(
        series={(stage.key, metric.key): Series(metric.values, metric.worst_op)},
        slow_runs=SimpleNamespace(slow=0, repeats=0, earlier=0),
        shifts={},
    )
    return suite([stage.model_copy(update={"metrics": (metric,)})], cast("Noise", noise), ci)


def test_without_a_limit_the_advised_slack_follows_from_the_spread_upward_and_downward_alike(stage: StageFacts) -> None:
    enough = slack_for(each_fails(0.01, 1, 1), len(VALUES)) * SD

    above, below = (of(stage, CiGate(), worst_op=worst) for worst in ("max", "min"))

    assert above.gates[0].slack == pytest.approx(math.exp(enough) - 1)
    assert below.gates[0].slack == pytest.approx(1 - math.exp(-enough))
    assert (above.unknown_slack, below.unknown_slack) == (1, 1)


def test_with_a_limit_the_advised_slack_is_the_present_one_as_many_times_as_the_formula_says(stage: StageFacts) -> None:
    found = of(stage, CiGate(), limit_proposed=121.0)

    times = slack_for(each_fails(0.01, 1, 1), len(VALUES)) / slack_for(0.1, len(VALUES))
    assert found.gates[0].slack == pytest.approx(1.1**times - 1), "the limit is 10 % beyond the worst of 110"
    assert found.unknown_slack == 0


def test_a_limit_that_some_repeat_misses_leaves_no_slack_to_start_from(stage: StageFacts) -> None:
    missed, unknown = of(stage, CiGate(), limit_proposed=100.0), of(stage, CiGate())

    assert missed.gates[0].slack == unknown.gates[0].slack


def test_slow_runs_too_fail_only_what_they_fail_in_every_attempt(stage: StageFacts) -> None:
    found = of(stage, CiGate(attempts=3))

    assert found.every_attempt.with_slow == pytest.approx(any_fails([0.2**3]))
    assert found.every_attempt.noise == pytest.approx(any_fails([0.1**3]))


@pytest.mark.parametrize(("values", "spread", "unchanged"), [(1, 0.0, 0), (2, 0.0, 1), (2, 0.5, 0)])
def test_unchanged_is_said_of_several_equal_repeats(
    stage: StageFacts, values: int, spread: float, unchanged: int
) -> None:
    seen = stage.metrics[0].spread.model_copy(update={"n": values, "spread": spread})

    assert of(stage, CiGate(), spread=seen).unchanged == unchanged


@pytest.mark.parametrize("worst_op", ["max", "min"])
@pytest.mark.parametrize("sd", [10.0, 400.0, 1e300])
def test_no_slack_is_advised_where_the_spread_would_need_a_thousandfold(
    stage: StageFacts, worst_op: str, sd: float
) -> None:
    found = of(stage, CiGate(), worst_op=worst_op, chance=FailChance(noise=0.1, with_slow=0.2, sd=sd))

    assert found.gates[0].slack is None
