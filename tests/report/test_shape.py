"""Flags need two measures at once, and only ever remark."""

from __future__ import annotations

import random

import pytest

from tune_mcp.report.shape import FlagKind, clusters, flag, is_cold, quantum


def kind(values: tuple[float, ...]) -> FlagKind | None:
    found = flag(values, "max")
    return found and found.kind


def test_a_p95_that_flips_between_two_values_is_bistable_and_keeps_both() -> None:
    values = (7.7, 15.0, 7.69, 15.1, 7.75)
    assert kind(values) is FlagKind.BISTABLE
    low, high = clusters(values) or ([], [])
    assert sorted([*low, *high]) == sorted(values)


@pytest.mark.parametrize(
    "values",
    [
        (1.000, 1.001, 1.100, 1.101, 1.0005),  # far against the scatter, near against the value
        (1.0, 1.6, 2.2, 2.9, 3.4),  # far against the value, near against the scatter
    ],
)
def test_one_measure_alone_is_no_bistability(values: tuple[float, ...]) -> None:
    assert clusters(values) is None


def test_two_modes_are_parted_at_the_widest_step_between_them_wherever_it_is() -> None:
    assert clusters((1.0, 1.01, 3.0, 3.01, 3.02)) == ([1.0, 1.01], [3.0, 3.01, 3.02])
    assert clusters((3.01, 1.0, 1.02, 3.0, 1.01)) == ([1.0, 1.01, 1.02], [3.0, 3.01])
    assert clusters((0.0, 0.0, 0.0, 0.0, 0.0)) is None


def test_a_slow_first_repeat_is_cold_on_the_bad_side_only() -> None:
    values = (0.44, 0.298, 0.299, 0.2977, 0.2988)
    assert is_cold(values, "max")
    assert not is_cold(values, "min")
    assert is_cold(tuple(1 / value for value in values), "min")
    assert not is_cold(values[::-1], "max")


@pytest.mark.parametrize(("cv", "most"), [(0.05, 0.006), (0.1, 0.02)])
def test_clean_normal_data_is_seldom_flagged(cv: float, most: float) -> None:
    chooser = random.Random(5)
    rows = [[chooser.gauss(1, cv) for _ in range(5)] for _ in range(10_000)]
    flagged = sum(is_cold(row, "max") or clusters(row) is not None for row in rows)
    assert flagged / len(rows) < most


@pytest.mark.parametrize("values", [(0.5,) * 5, (0.5,), (0, 0, 0), (100.0,) * 3])
def test_equal_answers_need_no_remark_of_their_own(values: tuple[float, ...]) -> None:
    assert kind(values) is None


def test_one_sample_of_24_is_the_quantum_of_an_accuracy() -> None:
    assert quantum((16 / 24, 15 / 24), 24, is_share=True) == pytest.approx(1 / 24)
    assert quantum((16 / 24, 15 / 24), 24, is_share=False) == pytest.approx(1 / 24)


def test_a_value_that_is_no_share_of_the_samples_has_no_quantum() -> None:
    assert quantum((0.0625, 0.0625), 24, is_share=False) is None
    assert quantum((0.5, 0.5), 24, is_share=False) is None
    assert quantum((5.7, 5.8), 24, is_share=False) is None
    assert quantum((0.5, 0.75), None, is_share=True) is None
    assert quantum((0.5, 1.5), 24, is_share=True) is None
    assert quantum((0.0, 1.0), 24, is_share=True) == 1 / 24
