"""Figures over a handful of repeats, against closed forms, SciPy's values, and simulations with a fixed seed."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_mcp.report import statistics
from tune_mcp.report.statistics import (
    PRIORS,
    Prior,
    Series,
    any_fails,
    chance_with_slack,
    coverage,
    digamma,
    each_fails,
    fail_chance,
    prior,
    repeats_for,
    repeats_with_slack,
    shift_between,
    slack_for,
    slow_repeats,
    slow_share,
    spread,
    student_tail,
    trigamma,
)

SPEED, ACCURACY, WER, COUNT = (PRIORS[name] for name in ("speed", "accuracy", "wer", "count"))
LATENCY = Series((1.401, 1.365, 1.382, 1.418, 1.372), "max")
# Six speed metrics, and what SciPy says of them: brentq over polygamma(1, d/2), then exp of the mean.
ROWS = (
    (5.71, 5.86, 5.79, 5.64, 5.83),
    (1.401, 1.365, 1.382, 1.418, 1.372),
    (0.31, 0.33, 0.36, 0.38, 0.41),
    (0.4412, 0.2981, 0.2993, 0.2977, 0.2988),
    (10.1, 10.2, 10.15, 10.12, 10.18),
    (2.0, 2.5, 2.2, 2.1, 2.4),
)
SIX = [Series(row, "max") for row in ROWS]


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


@pytest.mark.parametrize(
    ("x", "first", "second"),
    [(0.1, -10.423754940411076, 101.43329915), (0.5, -1.9635100260214235, 4.9348022),
     (1, -0.5772156649015329, 1.64493407),
     (2.5, 0.7031566406452432, 0.49035776), (30, 3.384438132685525, 0.03389506)],
)  # fmt: skip
def test_digamma_and_trigamma_are_those_of_scipy(x: float, first: float, second: float) -> None:
    assert digamma(x) == pytest.approx(first, rel=1e-9)
    assert trigamma(x) == pytest.approx(second, rel=1e-7)


def test_digamma_and_trigamma_are_exact_where_closed_forms_are_known() -> None:
    assert trigamma(1) == pytest.approx(math.pi**2 / 6, rel=2e-11)
    assert trigamma(0.5) == pytest.approx(math.pi**2 / 2, rel=1e-11)
    assert digamma(0.5) == pytest.approx(-0.5772156649015329 - 2 * math.log(2), rel=1e-11)


def test_a_tail_without_a_degree_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="one degree of freedom"):
        student_tail(1.0, 0)


def test_worst_of_five_covers_the_p95_with_22_6_percent() -> None:
    assert coverage(5) == pytest.approx(0.2262, abs=5e-5)
    assert (repeats_for(0.5), repeats_for(0.95)) == (14, 59)
    for wanted in (0.3, 0.5, 0.9, 0.95, 0.99):
        n = repeats_for(wanted)
        assert coverage(n) >= wanted > coverage(n - 1)


def test_location_and_scatter_of_a_row() -> None:
    row = spread((1.0, 2.0, 6.0))
    assert (row.n, row.median, row.minimum, row.maximum, row.spread) == (3, 2.0, 1.0, 6.0, 5.0)
    assert row.spread_relative == 2.5
    assert row.cv == pytest.approx(math.sqrt(7) / 3)
    assert spread((1.0, 3.0)).cv == pytest.approx(math.sqrt(2) / 2)
    negative = spread((-1.0, -2.0, -6.0))
    assert (negative.spread_relative, negative.cv) == (2.5, pytest.approx(math.sqrt(7) / 3))


def test_no_tail_is_negative() -> None:
    for df in range(1, 70):
        assert all(student_tail(t, df) >= 0 for t in (5.0, 40.0, 1e3, 1e8, math.inf))
        assert student_tail(-math.inf, df) == pytest.approx(1)


# The prior of a family


def test_two_repeats_have_a_variance_and_one_has_none() -> None:
    assert Series((1.0, 1.1), "max").variance() == pytest.approx(math.log(1.1) ** 2 / 2)
    assert Series((3.0,), "max", 1.0).variance() == 0


def test_two_equal_repeats_are_unchanged_and_one_is_not() -> None:
    assert Series((1.0, 1.0), "max").unchanged
    assert not Series((1.0,), "max").unchanged
    assert not Series((1.0, 1.0, 2.0), "max").unchanged


@pytest.mark.parametrize("degrees", [0.06, 0.7, 5.0, 30.0, 50.0, 59.9])
def test_degrees_are_found_over_their_whole_range(degrees: float) -> None:
    assert statistics._inverse_trigamma_degrees(trigamma(degrees / 2)) == pytest.approx(degrees, rel=1e-6)
    assert statistics._inverse_trigamma_degrees(trigamma(31)) == 60
    assert statistics._inverse_trigamma_degrees(1e9) == pytest.approx(0.05)


def test_a_family_that_nobody_named_is_taken_for_the_widest() -> None:
    assert PRIORS["other"] == PRIORS["wer"]
    assert {family: (one.degrees, one.sd) for family, one in PRIORS.items() if family in ("cer", "score")} == {
        "cer": (0.87, 0.0022),
        "score": (1.43, 0.0032),
    }


def test_six_metrics_give_their_family_a_prior_of_its_own() -> None:
    found = prior("speed", SIX)
    assert (found.degrees, found.sd) == (pytest.approx(0.7590831526, rel=1e-6), pytest.approx(0.0166267705, rel=1e-6))


def test_with_five_metrics_the_history_stands_in() -> None:
    assert prior("speed", SIX[:5]) == SPEED
    assert prior("wer", []) == WER


def test_single_repeats_and_metrics_that_never_moved_do_not_count_for_a_prior() -> None:
    still, single = Series((2.0,) * 5, "max"), Series((2.0,), "max")
    assert prior("speed", [*SIX[:5], still, single]) == SPEED
    assert prior("speed", [*SIX, still, single]) == prior("speed", SIX)


def test_the_shown_digit_is_the_least_spread_that_is_believed() -> None:
    still = Series((2.0,) * 5, "max", resolution=0.01)
    assert still.variance() == pytest.approx((0.01 / 2.0) ** 2 / 12)
    assert prior("speed", [*SIX[:5], still]) != SPEED


def test_metrics_of_one_spread_are_pooled_as_one() -> None:
    chooser = random.Random(1)
    found = prior("speed", [Series(tuple(chooser.gauss(1, 0.05) for _ in range(5)), "max") for _ in range(200)])
    assert found.sd == pytest.approx(0.05, rel=0.05)
    assert found.degrees >= 20
    alike = [Series((1.0, 1.1, 1.05, 1.0, 1.1), "max")] * 8
    assert prior("speed", alike).degrees == statistics.MOST_DEGREES


def test_the_fit_finds_the_degrees_and_the_spread_that_made_the_variances() -> None:
    chooser, rows = random.Random(2), []
    for _ in range(3000):
        sigma = 0.02 * math.sqrt(3 / chooser.gammavariate(1.5, 2))
        rows.append(Series(tuple(math.exp(chooser.gauss(0, sigma)) for _ in range(5)), "max"))
    found = prior("speed", rows)
    assert (found.degrees, found.sd) == (pytest.approx(3, rel=0.1), pytest.approx(0.02, rel=0.05))


# One metric


def test_noise_is_a_predictive_t_with_the_moderated_variance() -> None:
    # SciPy: s2 = (1.06 * 0.0162**2 + 4 * var(log)) / 5.06; t.sf(distance / sqrt(1.2 * s2), 5)
    found = fail_chance(LATENCY, 1.418 * 1.02, SPEED)
    assert found.noise == pytest.approx(0.030406922300, rel=1e-9)
    assert found.sd == pytest.approx(0.01574253531767, rel=1e-9)
    assert found.with_slow == found.noise
    assert fail_chance(LATENCY, 1.418 * 1.2, SPEED).noise == pytest.approx(3.791566248e-05, rel=1e-6)


def test_slow_runs_are_a_second_part_with_a_tail_of_its_own() -> None:
    share = slow_share(1, 30)
    assert share == pytest.approx(1.5 / 43)
    assert fail_chance(LATENCY, 1.418 * 1.02, SPEED, slow=share).with_slow == pytest.approx(0.0642299366, rel=1e-8)
    assert fail_chance(LATENCY, 1.418 * 1.2, SPEED, slow=share).with_slow == pytest.approx(0.0194642387, rel=1e-8)
    assert fail_chance(LATENCY, 1.418 * 1.2, SPEED, slow=share).noise == fail_chance(LATENCY, 1.418 * 1.2, SPEED).noise


def test_a_shift_between_calibrations_counts_for_both_sides() -> None:
    assert fail_chance(LATENCY, 1.418 * 1.05, SPEED).noise == pytest.approx(0.004716085983, rel=1e-8)
    assert fail_chance(LATENCY, 1.418 * 1.05, SPEED, shift=0.02).noise == pytest.approx(0.0432030997, rel=1e-8)


def test_zero_slack_fails_one_clean_run_in_n_plus_one_whatever_the_distribution() -> None:
    chooser = random.Random(7)
    for draw in (lambda: chooser.gauss(1, 0.05), lambda: chooser.expovariate(1), lambda: chooser.random() ** 4):
        failed = sum(draw() > max(draw() for _ in range(5)) for _ in range(20_000))
        assert failed / 20_000 == pytest.approx(1 / 6, abs=0.01)
    values = (1.0, 1.1, 1.2, 1.3, 1.4)
    for worst, limit in (("max", 1.4), ("min", 1.0)):
        found = fail_chance(Series(values, "max" if worst == "max" else "min"), limit, SPEED, slow=0.04)
        assert (found.noise, found.with_slow) == (pytest.approx(1 / 6), pytest.approx(1 / 6))


def test_an_unknown_limit_costs_as_much_as_no_slack() -> None:
    assert fail_chance(Series((1.0, 1.1, 1.2), "max"), None, SPEED).noise == pytest.approx(0.25)


@pytest.mark.parametrize(("limit", "beyond"), [(1.35, 1), (1.15, 3), (0.9, 5)])
def test_a_limit_that_repeats_missed_is_missed_at_least_as_often_again(limit: float, beyond: int) -> None:
    found = fail_chance(Series((1.0, 1.1, 1.2, 1.3, 1.4), "max"), limit, SPEED, slow=0.04)
    assert beyond / 6 <= found.noise <= found.with_slow <= min(1, (beyond + 1) / 6)


@pytest.mark.parametrize("step", [None, 0.05])
def test_a_limit_that_everything_or_nothing_passes_is_certain(step: float | None) -> None:
    upper, lower = Series((1.0, 1.1, 1.2), "max", step), Series((1.0, 1.1, 1.2), "min", step)
    assert fail_chance(upper, math.inf, SPEED, slow=0.04).with_slow == 0
    assert fail_chance(lower, -math.inf, SPEED, slow=0.04).with_slow == 0
    assert fail_chance(upper, -math.inf, SPEED).noise == fail_chance(lower, math.inf, SPEED).noise == 1


def test_equality_fails_a_strict_assertion_and_passes_the_other() -> None:
    values = Series((0.8, 0.81, 0.82, 0.83, 0.84), "min")
    assert (values.beyond(0.8), values.beyond(0.8, strict=True)) == (0, 1)
    assert fail_chance(values, 0.8, ACCURACY).noise == pytest.approx(1 / 6)
    assert fail_chance(values, 0.8, ACCURACY, strict=True).noise >= 1 / 6
    same = Series((0.8125,) * 5, "min", 1 / 16)
    assert fail_chance(same, 0.8125, ACCURACY, strict=True).noise >= 1 - 0.5 / 6
    assert fail_chance(same, 0.8125, ACCURACY).noise <= 0.5 / 6


def test_the_sample_quantum_takes_the_place_of_a_spread_that_was_not_seen() -> None:
    # 12 of 16 right in every repeat, no slack: the next lower value is 11 of 16, the boundary is in the middle.
    found = fail_chance(Series((0.75,) * 5, "min", 1 / 16), 0.75, ACCURACY)
    assert found.noise == pytest.approx(0.07208393143, rel=1e-8)
    assert found.sd == pytest.approx(0.02245582973, rel=1e-8)


def test_all_right_is_no_certainty() -> None:
    found = fail_chance(Series((1.0,) * 5, "min", 1 / 50), 0.98, ACCURACY)
    assert found.noise == pytest.approx(0.00221974913, rel=1e-8)


def test_equal_values_are_worth_half_a_repeat_and_never_nothing() -> None:
    still = Series((0.731,) * 5, "min")
    assert fail_chance(still, 0.731, PRIORS["score"]).noise == pytest.approx(0.5 / 6)
    assert 0 < fail_chance(still, 0.72, PRIORS["score"]).noise < 0.5 / 6
    assert fail_chance(still, 0.74, PRIORS["score"]).noise == pytest.approx(1, abs=0.5 / 6)
    assert fail_chance(still, 0.7310001, PRIORS["score"]).noise == pytest.approx(1 - 0.5 / 6)


def test_nothing_but_zeros_and_no_known_step_says_only_what_is_not_excluded() -> None:
    zeros = Series((0.0,) * 5, "max")
    assert [fail_chance(zeros, limit, WER).noise for limit in (0.0, 0.02, 9.0)] == [pytest.approx(0.5 / 6)] * 3
    assert fail_chance(zeros, -1.0, WER).noise == 1
    assert fail_chance(Series((0.0,), "max"), 0.02, WER).noise == 0.5


def test_a_rate_of_zeros_moves_by_one_sample_and_a_count_by_one() -> None:
    rate = fail_chance(Series((0.0,) * 5, "max", 0.01), 0.02, WER)
    count = fail_chance(Series((0,) * 5, "max", 1.0), 2, COUNT)
    assert rate.noise == pytest.approx(0.00026053349475, rel=1e-8)
    assert count.noise == pytest.approx(0.00026053349475, rel=1e-8)
    assert fail_chance(Series((0,) * 5, "max", 1.0), 0, COUNT).noise == pytest.approx(0.5 / 6)


def test_zeros_among_other_values_are_compared_relative_to_their_mean() -> None:
    found = fail_chance(Series((0.0, 0.0, 0.01, 0.0, 0.02), "max"), 0.05, WER)
    assert found.noise == pytest.approx(0.00233252336, rel=1e-8)
    assert fail_chance(Series((0, 0, 1, 0, 0), "max", 1.0), 3, COUNT).noise == pytest.approx(0.000382879, rel=1e-6)


def test_one_repeat_has_what_its_family_usually_has() -> None:
    found = fail_chance(Series((3.0,), "max"), 4.0, SPEED)
    assert found.noise == pytest.approx(0.025295993359, rel=1e-9)
    assert fail_chance(Series((3.0,), "max"), 3.0, SPEED).noise == 0.5
    assert spread((3.0,)).cv is None


def test_a_positive_metric_cannot_fall_below_a_lower_limit_of_zero_or_less() -> None:
    series = Series((0.2, 0.3, 0.25), "min")
    assert [fail_chance(series, limit, SPEED, slow=0.04).with_slow for limit in (0.0, -1.0)] == [0, 0]
    assert fail_chance(Series((0.2, 0.3, 0.25), "max"), 0.0, SPEED).noise == 1


@pytest.mark.parametrize(
    ("limit", "strict", "boundary"),
    [(0.75, False, 0.71875), (0.75, True, 0.78125), (0.74, False, 0.71875), (0.74, True, 0.71875)],
)
def test_a_limit_between_two_steps_is_the_middle_of_the_last_that_passes_and_the_first_that_does_not(
    limit: float, strict: bool, boundary: float
) -> None:
    series = Series((0.75, 0.8125), "min", 1 / 16)
    assert series.boundary(limit, strict=strict) == pytest.approx(boundary)
    assert strict or series.boundary(limit) == series.boundary(limit, strict=False)
    mirrored = Series((0.25, 0.1875), "max", 1 / 16)
    assert 1 - mirrored.boundary(1 - limit, strict=strict) == pytest.approx(boundary)


def test_throughput_and_the_latency_that_is_its_inverse_have_the_same_chance() -> None:
    latency = (0.617, 0.408, 0.869)
    one = fail_chance(Series(latency, "max"), max(latency) * 4, SPEED, slow=0.03)
    other = fail_chance(Series(tuple(2 / v for v in latency), "min"), 2 / max(latency) / 4, SPEED, slow=0.03)
    assert (one.noise, one.with_slow) == (pytest.approx(other.noise), pytest.approx(other.with_slow))


positive = st.lists(st.floats(0.01, 100), min_size=1, max_size=12).map(tuple)
anything = st.lists(st.floats(-100, 100), min_size=1, max_size=12).map(tuple)
bounds = st.sampled_from(("min", "max"))
steps = st.sampled_from((None, 0.25, 1.0))
shares = st.sampled_from((None, 0.0, 0.04, 1.0))
known = st.builds(Prior, st.floats(0.05, 60), st.floats(1e-4, 0.5))


@given(anything, bounds, steps, shares, known, st.lists(st.floats(-200, 200), min_size=2, max_size=6), st.booleans())
def test_a_looser_limit_is_never_missed_more_often(values, worst, step, slow, prior, limits, strict) -> None:
    series = Series(values, worst, step)
    tight_to_loose = sorted(limits, reverse=worst == "min")
    found = [fail_chance(series, limit, prior, strict=strict, slow=slow, shift=0.01) for limit in tight_to_loose]
    assert all(0 <= one.noise <= one.with_slow <= 1 for one in found)
    for tight, loose in pairwise(found):
        assert loose.noise <= tight.noise + 1e-12
        assert loose.with_slow <= tight.with_slow + 1e-12


@given(positive, bounds, known, st.floats(0.5, 2), st.sampled_from((1e-3, 0.1, 7.0, 1e4)))
def test_the_unit_of_a_metric_changes_no_chance(values, worst, prior, slack, unit) -> None:
    limit = (max(values) if worst == "max" else min(values)) * slack
    one = fail_chance(Series(values, worst), limit, prior, slow=0.04)
    other = fail_chance(Series(tuple(v * unit for v in values), worst), limit * unit, prior, slow=0.04)
    bound = 1 / (len(values) + 1) + 1e-6
    if slack != 1:
        assert one.noise == pytest.approx(other.noise, abs=1e-6) or abs(one.noise - other.noise) <= bound
    assert one.sd == pytest.approx(other.sd, rel=1e-6)


# Slow runs and shifts


def test_a_repeat_is_slow_when_any_metric_of_its_test_lies_ten_percent_beyond_the_worst_other() -> None:
    calm = Series((1.0, 1.02, 1.01, 0.99), "max")
    late = Series((1.0, 1.02, 1.13, 0.99), "max")
    slow = Series((10.0, 9.9, 8.0, 10.2), "min")
    assert slow_repeats([("a", [calm])]) == (0, 4)
    assert slow_repeats([("a", [calm, late])]) == (1, 4)
    assert slow_repeats([("a", [late, slow])]) == (1, 4)
    assert slow_repeats([("a", [late]), ("b", [slow])]) == (2, 8)
    assert slow_repeats([("a", [Series((1.0,), "max")]), ("b", [])]) == (0, 0)
    assert slow_repeats([("a", [Series((1.0, 1.0, 1.11), "max")])]) == (1, 3)
    assert slow_repeats([("a", [Series((1.0, 1.0, 1.09), "max")])]) == (0, 3)
    assert slow_repeats([("a", [Series((1.0, 1.0, 0.5), "max")])]) == (0, 3)


def test_one_metric_with_two_modes_does_not_hide_a_shift_of_the_others() -> None:
    calm = (Series((1.0, 1.01, 0.99, 1.0), "max"), Series((1.1, 1.11, 1.09, 1.1), "max"))
    modes = (Series((1.0, 2.0, 1.0, 2.0), "max"), Series((1.0, 2.0, 1.0, 2.0), "max"))
    assert shift_between([calm] * 6 + [modes]) == pytest.approx(math.log(1.1) / math.sqrt(2), rel=0.01)


def test_without_any_repeat_slow_runs_are_as_frequent_as_in_the_history() -> None:
    assert slow_share(0, 0) == pytest.approx(0.5 / 13)
    assert slow_share(14, 403) == pytest.approx(14.5 / 416)


def test_a_shift_between_calibrations_is_found_over_the_metrics_and_scatter_is_no_shift() -> None:
    chooser = random.Random(3)

    def pairs(shift: float) -> list[tuple[Series, Series]]:
        found = []
        for _ in range(400):
            then, now = chooser.gauss(0, shift), chooser.gauss(0, shift)
            found.append(
                tuple(
                    Series(tuple(math.exp(chooser.gauss(mean, 0.02)) for _ in range(5)), "max") for mean in (then, now)
                )
            )
        return found

    assert shift_between(pairs(0.03)) == pytest.approx(0.03, rel=0.1)
    assert (shift_between(pairs(0.0)) or 0) < 0.004
    assert shift_between(pairs(0.03)[:5]) is None
    moved = (Series((2.0, 2.0), "max"), Series((2.2, 2.2), "max"))
    single = (Series((2.0,), "max"), Series((2.2,), "max"))
    assert shift_between([moved] * 5 + [single]) is None
    assert shift_between([moved] * 6) == pytest.approx(math.log(1.1) / math.sqrt(2))
    assert shift_between([(Series((0.0, 1.0), "max"), moved[1])] * 6) is None


# The suite, and advice


def test_forty_gates_of_one_sixth_fail_almost_surely() -> None:
    assert any_fails([1 / 6] * 40) > 0.999
    assert any_fails([0.5, 0.5]) == pytest.approx(0.75)
    assert any_fails([]) == 0


@pytest.mark.parametrize(("attempts", "deviations"), [(1, 2.72), (2, 1.26), (3, 0.555)])
def test_one_percent_for_twenty_tests_at_five_repeats_needs_this_many_deviations(
    attempts: int, deviations: float
) -> None:
    each = each_fails(0.01, 20, attempts)
    assert any_fails([each**attempts] * 20) == pytest.approx(0.01)
    assert slack_for(each, 5) == pytest.approx(deviations, abs=0.01)
    assert chance_with_slack(5, slack_for(each, 5)) == pytest.approx(each)


def test_no_room_is_needed_where_the_chance_is_low_enough_and_none_suffices_for_zero() -> None:
    assert slack_for(0.2, 5) == 0
    assert slack_for(0.0, 5) == math.inf
    assert chance_with_slack(5, 0) == pytest.approx(1 / 6)
    assert each_fails(0.01, 0) == pytest.approx(0.01)


def test_the_fewest_repeats_are_found_or_said_not_to_exist() -> None:
    found = repeats_with_slack(0.005, 1.5)
    assert found is not None
    assert chance_with_slack(found, 1.5) <= 0.005 < chance_with_slack(found - 1, 1.5)
    assert repeats_with_slack(1 / 61, 0) == 60
    assert repeats_with_slack(1 / 62, 0) is None
    assert repeats_with_slack(0.5, 0) == 1


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("room", [0.5, 1.5, 2.5])
def test_the_formula_of_the_advice_is_what_normal_noise_does(n: int, room: float) -> None:
    chooser, trials, missed = random.Random(5), 20_000, 0.0
    for _ in range(trials):
        missed += math.erfc((max(chooser.gauss(0, 1) for _ in range(n)) + room) / math.sqrt(2)) / 2
    assert chance_with_slack(n, room) == pytest.approx(missed / trials, rel=0.3)


# Location and scatter


def test_relative_figures_have_no_value_where_they_have_no_meaning() -> None:
    described = spread((0, 0, 0))
    assert (described.spread_relative, described.cv) == (None, None)
    with pytest.raises(ValueError, match="no values"):
        spread(())
