from __future__ import annotations

import pytest

from tune_mcp.config.stages import Display
from tune_mcp.observe.worst import change_percent, direction_text
from tune_mcp.report.figures import (
    brief,
    chance_text,
    percent,
    plain,
    reading_digits,
    shown_text,
)


@pytest.mark.rule("APL-21")
@pytest.mark.parametrize(
    ("worst", "old", "new", "text"),
    [
        ("max", 2.0, 1.9, "tightens (-5.0%)"),
        ("max", 1.9, 2.0, "loosens (+5.3%)"),
        ("min", 10, 10.21, "tightens (+2.1%)"),
        ("min", 1000, 921, "loosens (-7.9%)"),
        ("min", 1.465, 11.558, "tightens (+688.9%)"),
        ("max", 0, 0.5, "loosens (n/a)"),
        ("max", 0.5, 0.5, "equal"),
        ("max", None, 0.5, "unknown"),
        ("min", -2.0, -3.0, "loosens (-50.0%)"),
    ],
)
def test_direction_comes_from_the_worst_operator_and_the_percentage_from_the_raw_values(
    worst: str, old: float | None, new: float, text: str
) -> None:
    assert direction_text("min" if worst == "min" else "max", old, new) == text


@pytest.mark.rule("APL-20")
@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0239, "0.0239"), (100.0, "100"), (100, "100"), (0.70, "0.7"), (5e-7, "0.0000005"), (1e22, "1" + "0" * 22),
     (0, "0"), (-0.30, "-0.3"), (0.1 + 0.2, "0.30000000000000004")],
)  # fmt: skip
def test_a_raw_number_is_whole_trimmed_and_never_scientific(value: float, text: str) -> None:
    assert plain(value) == text
    assert float(plain(value)) == value


@pytest.mark.rule("RPT-08")
def test_percentages_are_shown_with_two_decimals_after_scaling() -> None:
    assert shown_text(0.123456, 100, 2) == "12.35"
    assert shown_text(0.6965, 100, 2) == "69.65"
    assert shown_text(5, 1, 3) == "5.000"


def test_a_chance_is_never_a_false_zero_or_a_false_certainty() -> None:
    assert chance_text(1e-9) == "< 0.01 %"
    assert chance_text(1 - 1e-9) == "> 99.99 %"
    assert (chance_text(0), chance_text(1), chance_text(1 / 6), chance_text(0.0023)) == (
        "0 %",
        "100 %",
        "16.7 %",
        "0.23 %",
    )


def test_a_shortened_number_admits_that_it_is_one() -> None:
    assert brief(0.0131) == "0.0131"
    assert (brief(0.9178391234567), brief(46.1789123), brief(4.736998578298837)) == ("≈0.91784", "≈46.179", "≈4.737")
    assert (brief(1234567.5), brief(1234567)) == ("≈1234600", "1234567")
    assert percent(None) == "n/a"
    assert change_percent(0, 3) is None


@pytest.mark.parametrize(
    ("share", "text"), [(0.1234, "12.3 %"), (0.0004, "0.04 %"), (0.0, "0.0 %"), (0.001, "0.1 %"), (None, "n/a")]
)
def test_a_small_share_is_never_shown_as_nothing(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.rule("RPT-08")
@pytest.mark.parametrize(
    ("values", "digits", "scale", "texts"),
    [
        ((0.0003214, 0.0002), 3, 1, ["0.000321", "0.000200"]),
        ((0.0612345, 0.2), 3, 1, ["0.0612", "0.2000"]),
        ((5.838, 30.5638602), 3, 1, ["5.838", "30.564"]),
        ((0.04975124, 0.0), 2, 100, ["4.98", "0.00"]),
        ((0.000512, 0.5), 2, 100, ["0.0512", "50.0000"]),
        ((7, 12), 0, 1, ["7", "12"]),
        ((0.5, 0.25), 4, 1, ["0.5000", "0.2500"]),
        ((-0.00012,), 2, 1, ["-0.000120"]),
        ((21192064.207875, 9051525.820205), 6, 1, ["21192064.2", "9051525.8"]),
        ((1234.56789, 12.5), 4, 1, ["1234.5679", "12.5000"]),
        ((123456789012.5,), 3, 1, ["123456789012"]),
        ((0.0, 0), 3, 1, ["0.000", "0.000"]),
    ],
)
def test_a_small_value_is_never_shown_as_nothing_and_a_large_one_without_idle_decimals(
    values, digits, scale, texts
) -> None:
    display = Display(label="x", digits=digits, scale=scale)
    decimals = reading_digits(values, display)
    assert [shown_text(value, scale, decimals) for value in values] == texts
