"""Figures over a handful of repeats, against closed forms and simulations with a fixed seed."""

from __future__ import annotations

import math
import random

import pytest

from tune_mcp.report.statistics import any_fails, coverage, fail_chance, repeats_for, spread, student_tail, together


@pytest.mark.parametrize(
    ("df", "t", "tail"),
    [(1, 1.0, 0.25), (1, 12.706, 0.025), (2, 4.303, 0.025), (4, 2.776, 0.025), (4, 3.747, 0.01), (5, 4.032, 0.005),
     (9, 1.833, 0.05), (30, 2.042, 0.025), (4, 0.0, 0.5)],
)  # fmt: skip
def test_the_tail_of_student_agrees_with_printed_tables(df: int, t: float, tail: float) -> None:
    assert student_tail(t, df) == pytest.approx(tail, rel=2e-3)
    assert student_tail(-t, df) == pytest.approx(1 - tail, rel=2e-3)


@pytest.mark.parametrize("df", range(1, 12))
def test_the_tail_of_student_agrees_with_numerical_integration(df: int) -> None:
    norm = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    steps, t = 20_000, 1.7
    width = t / steps
    density = (norm * (1 + ((k + 0.5) * width) ** 2 / df) ** (-(df + 1) / 2) for k in range(steps))
    assert student_tail(t, df) == pytest.approx(0.5 - math.fsum(density) * width, abs=1e-8)


def test_worst_of_five_covers_the_p95_with_22_6_percent() -> None:
    assert coverage(5) == pytest.approx(0.2262, abs=5e-5)
    assert (repeats_for(0.5), repeats_for(0.95)) == (14, 59)
    for wanted in (0.3, 0.5, 0.9, 0.95, 0.99):
        n = repeats_for(wanted)
        assert coverage(n) >= wanted > coverage(n - 1)


def test_zero_slack_fails_one_clean_run_in_n_plus_one_whatever_the_distribution() -> None:
    chooser = random.Random(7)
    for draw in (lambda: chooser.gauss(1, 0.05), lambda: chooser.expovariate(1), lambda: chooser.random() ** 4):
        failed = sum(draw() > max(draw() for _ in range(5)) for _ in range(20_000))
        assert failed / 20_000 == pytest.approx(1 / 6, abs=0.01)
    assert fail_chance((1.0, 1.1, 1.2, 1.3, 1.4), "max", 1.4).estimate == pytest.approx(1 / 6)
    assert fail_chance((1.0, 1.1, 1.2, 1.3, 1.4), "min", 1.0).estimate == pytest.approx(1 / 6)


def test_unknown_slack_costs_as_much_as_none_and_says_so() -> None:
    chance = fail_chance((1.0, 1.1, 1.2), "max", None)
    assert (chance.estimate, chance.basis) == (pytest.approx(0.25), "slack unknown")


def test_the_chance_falls_with_slack_and_never_exceeds_the_bound() -> None:
    values = (5.71, 5.86, 5.79, 5.64, 5.83)
    chances = [fail_chance(values, "min", 5.64 * factor).estimate for factor in (1, 0.99, 0.95, 0.9, 0.8)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == pytest.approx(1 / 6)


def test_the_predictive_chance_is_what_a_simulation_finds_for_a_fixed_number_of_deviations() -> None:
    chooser = random.Random(11)
    trials, failed, told = 20_000, 0, 0.0
    for _ in range(trials):
        values = [chooser.gauss(10, 1) for _ in range(5)]
        described = spread(values)
        assert described.sd is not None
        limit = max(max(values) + 1e-9, described.mean + 3 * described.sd)
        told += fail_chance(values, "max", limit).estimate
        failed += chooser.gauss(10, 1) > limit
    assert told / trials == pytest.approx(failed / trials, rel=0.15)


def test_identical_repeats_promise_nothing_beyond_the_bound() -> None:
    chance = fail_chance((0.0625,) * 5, "max", 0.09)
    assert (chance.estimate, chance.bound, chance.basis) == (0.0, pytest.approx(1 / 6), "no spread seen")
    assert fail_chance((0.0625,) * 5, "max", 0.05).estimate == 1.0


def test_one_repeat_shows_no_spread_and_is_not_taken_for_a_certainty() -> None:
    chance = fail_chance((3.0,), "max", 4.0)
    assert (chance.estimate, chance.basis) == (0.5, "distribution-free")
    assert spread((3.0,)).sd is None


def test_a_limit_tighter_than_observed_counts_the_repeats_beyond_it() -> None:
    assert fail_chance((1.0, 2.0, 3.0, 4.0, 5.0), "max", 2.5).estimate >= 3 / 5


def test_throughput_and_the_latency_that_is_its_inverse_have_the_same_chance() -> None:
    latency = (0.617, 0.408, 0.869)
    qps = tuple(2 / value for value in latency)
    one = fail_chance(latency, "max", max(latency) * 4, by_ratio=True)
    other = fail_chance(qps, "min", min(qps) / 4, by_ratio=True)
    assert one.estimate == pytest.approx(other.estimate)
    assert one.basis == other.basis == "student-t of logarithms"
    assert fail_chance((0.0, 0.1, 0.2), "max", 0.3, by_ratio=True).basis == "student-t"


def test_a_limit_that_every_repeat_broke_is_still_no_certainty() -> None:
    chance = fail_chance((7.72, 15.01, 7.69, 15.12, 7.75), "max", 2.475).estimate
    assert 5 / 6 <= chance < 1


def test_two_halves_of_the_repeats_show_what_two_calibrations_would_differ_by() -> None:
    assert spread((1.0, 9.0, 2.0, 9.5, 3.0)).halves == pytest.approx(9.25 - 2.0)
    assert spread((2.0, 2.0, 2.0, 2.0)).halves == 0
    assert spread((1.0, 2.0, 3.0)).halves is None


def test_relative_figures_have_no_value_where_they_have_no_meaning() -> None:
    described = spread((0, 0, 0))
    assert (described.spread_relative, described.cv) == (None, None)
    with pytest.raises(ValueError, match="no values"):
        spread(())


def test_forty_gates_of_one_sixth_fail_almost_surely() -> None:
    assert any_fails([1 / 6] * 40) > 0.999
    assert any_fails([]) == 0


def test_metrics_of_one_invocation_that_move_together_count_once() -> None:
    qps = (5.0, 6.0, 7.0, 8.0, 9.0)
    latency = tuple(8 / value for value in qps)
    other = (0.3, 0.1, 0.2, 0.15, 0.25)
    assert together([("a", qps), ("a", latency), ("a", other), ("b", latency)]) == [[0, 1], [2], [3]]
