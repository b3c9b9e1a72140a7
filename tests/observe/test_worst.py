"""Worst of N and the value to write: never tighter than what was seen, never rounded twice."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tune_mcp.config.stages import Display, GroupPolicy, Rounding, WorstOp
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.observe.worst import direction, shown, write_value

NUMBERS = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False) | st.integers(-(10**9), 10**9)
ROUNDINGS = st.sampled_from(["raw", "ceil4", "ceil_int", "display"])
WORSTS = st.sampled_from(["min", "max"])
DISPLAYS = st.builds(Display, label=st.just("x"), scale=st.sampled_from([1.0, 100.0, 1000.0]), digits=st.integers(0, 4))
PLAIN = Display(label="x")


def policy(rounding: Rounding) -> GroupPolicy:
    return GroupPolicy(rounding=rounding)


@pytest.mark.rule("APL-11", "APL-10", "APL-08")
@given(NUMBERS, WORSTS, ROUNDINGS, DISPLAYS)
def test_what_is_written_is_never_tighter_than_what_was_seen(
    raw: int | float, worst: WorstOp, rounding: Rounding, display: Display
) -> None:
    written = write_value(raw, worst, display, policy(rounding))

    assert written <= raw if worst == "min" else written >= raw
    assert math.isfinite(written)


@pytest.mark.rule("APL-14", "APL-10")
@given(NUMBERS, WORSTS, ROUNDINGS, DISPLAYS)
def test_what_is_written_once_is_written_the_same_again(
    raw: int | float, worst: WorstOp, rounding: Rounding, display: Display
) -> None:
    once = write_value(raw, worst, display, policy(rounding))

    assert write_value(once, worst, display, policy(rounding)) == once


@pytest.mark.rule("APL-09")
@given(NUMBERS, WORSTS, DISPLAYS)
def test_raw_is_raw(raw: int | float, worst: WorstOp, display: Display) -> None:
    written = write_value(raw, worst, display, policy("raw"))
    assert written == raw and type(written) is type(raw)


@given(st.integers(-(10**12), 10**12), WORSTS, ROUNDINGS, DISPLAYS)
def test_a_whole_number_stays_a_whole_number(raw: int, worst: WorstOp, rounding: Rounding, display: Display) -> None:
    written = write_value(raw, worst, display, policy(rounding))
    assert type(written) is int and written == raw


@pytest.mark.rule("APL-08")
@given(st.floats(0, 2, allow_nan=False))
def test_a_wer_goes_up_to_four_decimals_and_by_less_than_one_step(raw: float) -> None:
    written = write_value(raw, "max", PLAIN, policy("ceil4"))

    assert Decimal(repr(written)) == Decimal(repr(written)).quantize(Decimal("0.0001"))
    assert Decimal(0) <= Decimal(repr(written)) - Decimal(repr(raw)) <= Decimal("0.0001")


@pytest.mark.rule("APL-08")
def test_every_wer_of_four_decimals_stays_as_it_is() -> None:
    moved = [
        number
        for number in range(10_001)
        if write_value(float(f"{number / 10_000:.4f}"), "max", PLAIN, policy("ceil4"))
        != float(f"{number / 10_000:.4f}")
    ]
    assert moved == []


@pytest.mark.rule("APL-08")
@pytest.mark.parametrize(
    ("raw", "written"),
    [(0.02387640, 0.0239), (0.0122, 0.0122), (0.01220001, 0.0123), (0.1 + 0.2, 0.3001), (1e-9, 0.0001), (0.0, 0.0)],
)
def test_wer_examples(raw: float, written: float) -> None:
    assert write_value(raw, "max", Display(label="x", scale=100, digits=2), policy("ceil4")) == written


@pytest.mark.rule("APL-10", "APL-11")
@pytest.mark.parametrize(
    ("raw", "worst", "digits", "written"),
    [
        (11.5582, "min", 3, 11.558),
        (11.5588, "min", 3, 11.5588),
        (1.2345, "max", 3, 1.2345),
        (1.2346, "max", 3, 1.235),
        (151.55, "min", 1, 151.55),
        (151.54, "min", 1, 151.5),
        (0.25, "max", 3, 0.25),
    ],
)
def test_speed_is_rounded_unless_that_would_tighten(raw: float, worst: WorstOp, digits: int, written: float) -> None:
    assert write_value(raw, worst, Display(label="x", digits=digits), policy("display")) == written


@pytest.mark.parametrize(
    ("raw", "worst", "written"), [(4, "max", 4), (4.0, "max", 4), (4.2, "max", 5), (4.2, "min", 4)]
)
def test_a_count_goes_to_the_loose_side(raw: int | float, worst: WorstOp, written: int) -> None:
    assert write_value(raw, worst, PLAIN, policy("ceil_int")) == written


@given(NUMBERS, st.integers(0, 6))
def test_what_is_shown_is_scaled_first_and_rounded_after(raw: int | float, digits: int) -> None:
    display = Display(label="x", scale=100, digits=digits)
    assert abs(shown(raw, display) - 100 * raw) <= 0.5 * 10**-digits + abs(100 * raw) * 1e-12


def test_shown_examples() -> None:
    assert shown(0.6965, Display(label="Acc (%)", scale=100, digits=2)) == 69.65
    assert shown(0.696549, Display(label="Acc (%)", scale=100, digits=2)) == 69.65


@pytest.mark.rule("APL-21", "APL-17")
@given(NUMBERS, NUMBERS, WORSTS)
def test_direction_follows_the_operator_and_turns_with_it(old: int | float, new: int | float, worst: WorstOp) -> None:
    assume(old != new)
    other: WorstOp = "max" if worst == "min" else "min"

    assert direction(worst, old, new) is (Direction.TIGHTENS if (new > old) == (worst == "min") else Direction.LOOSENS)
    assert direction(worst, old, new) is not direction(other, old, new)
    assert direction(worst, old, new) is not direction(worst, new, old)
    assert direction(worst, old, old) is Direction.EQUAL
    assert direction(worst, None, new) is Direction.UNKNOWN


@pytest.mark.rule("APL-21", "MET-04")
def test_a_throughput_that_rises_tightens_and_a_latency_that_rises_loosens() -> None:
    assert direction("min", 1.465, 11.558) is Direction.TIGHTENS
    assert direction("max", 0.25, 0.3) is Direction.LOOSENS
