"""A reading that pytest contradicts is discarded; a failure that no threshold explains is named."""

from __future__ import annotations

import pytest
from apply.gates import LINE, gate

from tune_mcp.apply.locating import Located
from tune_mcp.apply.reading import ThresholdReading
from tune_mcp.apply.reality import (
    Cause,
    Failure,
    PytestOutcome,
    cause_of,
    contradiction,
    failed_tests,
    names,
)
from tune_mcp.discover.assertions import Gate, Unread, UnreadKind

NODE = "tests/test_x.py::test_a"
LOW = gate('assert result["acc"] >= LIMIT')
UNCLEAR, UNASSERTED = (Unread("x", kind) for kind in (UnreadKind.UNCLEAR, UnreadKind.NOT_ASSERTED))


def failure(nodeid: str = NODE, when: str = "call", exception: str = "AssertionError", **more) -> Failure:
    given = {"assertion": exception == "AssertionError", "message": "0.4 >= 0.5", **more}
    return Failure(nodeid=nodeid, when=when, exception=exception, **given)


def reading(read: Gate | Unread = LOW, values=(0.6, 0.7), present: float | None = 0.5, **more) -> ThresholdReading:
    repeats = range(1, len(values) + 1)
    given = {"tests": frozenset({"test_a"}), **more}
    return ThresholdReading(
        Located(),
        "k",
        read,
        values=dict(zip(repeats, values, strict=True)),
        present=dict.fromkeys(repeats, present),
        **given,
    )


def passed(*repeats: int):
    return {("k", repeat): PytestOutcome((NODE,), ()) for repeat in repeats}


def failed(repeat: int, *failures: Failure):
    return {("k", repeat): PytestOutcome((NODE,), failures)}


def against(one: ThresholdReading, outcomes, *others: ThresholdReading) -> str:
    return contradiction(one, (one, *others), outcomes)


def test_a_reading_that_agrees_with_pytest_holds() -> None:
    assert against(reading(), passed(1, 2)) == ""
    assert against(reading(values=(0.4, 0.7)), {**failed(1, failure()), **passed(2)}) == ""


def test_a_repeat_that_fails_by_our_reading_but_passed_contradicts_it() -> None:
    found = against(reading(values=(0.6, 0.4)), passed(1, 2))
    assert "as tune-mcp reads it, repeat 2 fails, 0.4 against 0.5" in found and f"pytest passed {NODE}" in found


def test_a_repeat_that_passes_by_our_reading_but_failed_its_assertion_contradicts_it() -> None:
    found = against(reading(), {**passed(1), **failed(2, failure())})
    assert "as tune-mcp reads it, repeat 2 passes" in found and "0.4 >= 0.5" in found


@pytest.mark.parametrize(
    "other", [failure(when="setup"), failure(exception="ValueError"), failure(exception="Failed", assertion=True)]
)
def test_a_failure_that_is_no_assert_speaks_against_no_reading(other: Failure) -> None:
    assert against(reading(), failed(1, other)) == ""


def test_an_assertion_of_a_test_that_did_not_run_is_no_reading() -> None:
    found = against(reading(tests=frozenset({"TestOther::test_b"})), passed(1, 2))
    assert found.startswith("TestOther::test_b asserts it") and found.endswith("did not run in repeat 1")


def test_an_unexplained_failure_of_a_test_with_two_thresholds_speaks_against_neither() -> None:
    assert against(reading(), failed(1, failure()), reading()) == ""
    assert against(reading(), failed(1, failure()), reading(tests=frozenset({"test_b"}))) != ""


def test_nothing_is_said_without_a_gate_a_threshold_or_a_record_of_the_launch() -> None:
    low = (0.1, 0.1)
    assert against(reading(UNCLEAR, low), passed(1, 2)) == ""
    assert against(reading(values=low, present=None), passed(1, 2)) == ""
    assert against(reading(values=low), {}) == ""
    assert against(reading(values=low), {("k", 1): PytestOutcome((), ())}) == ""


def test_a_repeat_without_a_threshold_does_not_hide_the_next_one() -> None:
    one = reading(values=(0.4, 0.4))
    mixed = ThresholdReading(one.located, one.test_key, one.read, one.tests, one.values, {1: None, 2: 0.5})
    assert "repeat 2 fails" in against(mixed, passed(1, 2))
    unrecorded = reading(values=(0.4, 0.4))
    assert "repeat 2 fails" in against(unrecorded, passed(2))


def test_a_failure_that_is_a_thresholds_does_not_hide_the_next_one() -> None:
    outcomes = {**failed(1, failure(), failure(exception="OSError")), **failed(2, failure(exception="OSError"))}
    (one,) = failed_tests({"k": [reading(values=(0.4, 0.7))]}, outcomes, lambda *_: "")
    assert one.repeats == (1, 2)
    assert against(reading(), failed(1, failure()), reading(values=(0.4, 0.7))) == ""


def test_a_failure_whose_message_differs_only_in_its_numbers_is_named_once() -> None:
    outcomes = {
        **failed(1, failure(message="assert 0.8 >= 99")),
        **failed(2, failure(message="assert 0.82 >= 99")),
        **failed(3, failure(message="assert 0.84 >= 99")),
        **failed(4, failure(message="lost a frame")),
    }

    numbers, other = failed_tests({}, outcomes, lambda *_: "")

    assert (numbers.repeats, other.repeats) == ((1, 2, 3), (4,))
    assert "assert 0.8 >= 99 (the first; the numbers differ)" in numbers.text and "differ" not in other.text


@pytest.mark.parametrize(
    ("found", "readings", "cause"),
    [
        (failure(when="setup"), [reading()], Cause.FIXTURE),
        (failure(when="teardown"), [reading(values=(0.4, 0.7))], Cause.FIXTURE),
        (failure(exception="KeyError"), [reading(values=(0.4, 0.7))], Cause.EXCEPTION),
        (failure(), [], Cause.NO_THRESHOLD),
        (failure(), [reading(tests=frozenset({"test_b"}), values=(0.4, 0.7))], Cause.NO_THRESHOLD),
        (failure(), [reading()], Cause.PASSES),
        (failure(exception="Failed", assertion=True), [reading()], Cause.PASSES),
        (failure(), [reading(values=(0.4, 0.7))], None),
        (failure(exception="Failed", assertion=True), [reading(values=(0.4, 0.7))], Cause.MISSED_TOO),
        (failure(), [reading(UNCLEAR)], None),
        (failure(exception="Failed", assertion=True), [reading(UNCLEAR)], Cause.UNCLEAR),
        (failure(exception="Failed", assertion=True), [reading(UNCLEAR), reading(values=(0.4, 0.7))], Cause.MISSED_TOO),
        (failure(), [reading(UNASSERTED)], Cause.PASSES),
        (failure(), [reading(present=None)], None),
        (failure(), [reading(), reading(values=(0.4, 0.7))], None),
    ],
)
def test_why_a_failure_is_no_thresholds(found: Failure, readings: list[ThresholdReading], cause: Cause | None) -> None:
    assert cause_of(found, 1, readings) is cause


@pytest.mark.parametrize(
    ("exception", "message", "line", "explained"),
    [
        ("TypeError", "'>=' not supported between 'float' and 'NoneType'", LINE, True),
        ("AttributeError", "'NoneType' object has no attribute 'x'", LINE, True),
        ("TypeError", "'>=' not supported between 'float' and 'str'", LINE, False),
        ("ValueError", "NoneType", LINE, False),
        ("TypeError", "NoneType", LINE + 1, False),
        ("KeyError", "'k'", LINE, True),
        ("KeyError", "'other'", LINE, False),
        ("KeyError", "'k'", 0, False),
    ],
)
def test_a_test_fails_for_want_of_a_value_only_where_it_asks_for_it(
    exception: str, message: str, line: int, explained: bool
) -> None:
    without = reading(present=None, asked_at=frozenset({LINE}), keys=frozenset({"'k'"}))
    found = failure(exception=exception, message=message, test_line=line)
    assert (cause_of(found, 1, [without]) is None) is explained


def test_the_same_failure_of_several_repeats_is_named_once_with_what_accepts_it() -> None:
    outcomes = {**failed(2, failure(exception="OSError")), **failed(1, failure(exception="OSError"))}
    (one,) = failed_tests({"k": [reading()]}, outcomes, lambda *_: "allowed_pytest_failure")
    assert one.text == f"{NODE} in repeats 1, 2: OSError: 0.4 >= 0.5; not an assertion"
    assert (one.allowed, one.repeats) == ("allowed_pytest_failure", (1, 2))
    (setup,) = failed_tests({}, failed(1, failure(when="setup", exception="", message="")), lambda *_: "")
    assert setup.text == f"{NODE} (setup) in repeat 1: no reason was recorded; not in the test's own call"
    assert failed_tests({"k": [reading(values=(0.4, 0.7))]}, failed(1, failure()), lambda *_: "") == ()


def test_a_test_is_known_by_every_way_to_name_it() -> None:
    node = "tests/test_x.py::TestA::test_b[1::2]"
    assert names(node) == {node, "tests/test_x.py::TestA::test_b", "TestA::test_b", "test_b"}
    assert names(NODE) == {NODE, "test_a"}
