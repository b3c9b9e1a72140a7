"""What we read from the assertions, held against what pytest reported of every repeat that counts.

A reading that pytest contradicts is thrown away: nothing is printed or decided from it. A failure that no threshold
explains is named, since CI would be red whatever is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune_mcp.apply.reading import ThresholdReading
from tune_mcp.contract.report import Cause, FailedTest
from tune_mcp.discover.assertions import Gate
from tune_mcp.observe.observation import Failure


@dataclass(frozen=True)
class PytestOutcome:
    """One pytest session that counts: the node ids that ran, and what failed."""

    tests: tuple[str, ...]
    failures: tuple[Failure, ...]

    def failed(self) -> frozenset[str]:
        """Node ids with a failed phase."""
        return frozenset(one.nodeid for one in self.failures)


_DIGITS = re.compile(r"[\d.]+")
_DIFFER = " (the first; the numbers differ)"
Outcomes = Mapping[tuple[str, int], PytestOutcome]
"""(test key, repeat from 1) -> what pytest reported; a repeat of an older script has none."""


def names(nodeid: str) -> frozenset[str]:
    """How a test may be called: the node id, with and without its parameters, its path in the file, its function."""
    bare = nodeid.partition("[")[0]
    parts = bare.split("::")
    return frozenset({nodeid, bare, "::".join(parts[1:]) or bare, parts[-1]})


def contradiction(reading: ThresholdReading, others: Sequence[ThresholdReading], outcomes: Outcomes) -> str:
    """What pytest reported that the reading cannot explain; empty when it holds or nothing is known.

    An unexplained failure of a test that asserts several thresholds speaks against none of them: it is named instead.
    """
    if not isinstance(reading.read, Gate):
        return ""
    for repeat, value in reading.values.items():
        outcome = outcomes.get((reading.test_key, repeat))
        if outcome is None or not outcome.tests:
            continue
        nodes = [one for one in outcome.tests if names(one) & reading.tests]
        if not nodes:
            asserting = ", ".join(sorted(reading.tests))
            return f"{asserting} asserts it ({reading.read.how}), but did not run in repeat {repeat}"
        present = reading.present.get(repeat)
        if present is None:
            continue
        limit = f"{value!r} against {present!r} ({reading.read.how})"
        if reading.fails(repeat) and not outcome.failed() & frozenset(nodes):
            return f"as tune-mcp reads it, repeat {repeat} fails, {limit}, but pytest passed {nodes[0]}"
        if reading.fails(repeat):
            continue
        for failure in outcome.failures:
            alone = sum(bool(names(failure.nodeid) & one.tests) for one in others) == 1
            if failure.nodeid in nodes and failure.by_assert and alone and not _explained(failure, repeat, others):
                what = f"pytest failed {failure.nodeid}: {failure.message}"
                return f"as tune-mcp reads it, repeat {repeat} passes, {limit}, but {what}"
    return ""


def _explained(failure: Failure, repeat: int, readings: Iterable[ThresholdReading]) -> bool:
    """Whether one threshold that the test reads fails by its reading, or cannot be read and so may have failed."""
    asserting = (one for one in readings if names(failure.nodeid) & one.tests)
    return any(one.fails(repeat) or one.may_fail(repeat) for one in asserting)


def failed_tests(
    readings: Mapping[str, Sequence[ThresholdReading]], outcomes: Outcomes, allowed: Callable[[str, int, Failure], str]
) -> tuple[FailedTest, ...]:
    """Every failure that is no threshold's or may be more, once where only numbers differ. ``readings`` by test key;
    ``allowed(test key, repeat, failure)`` says by what config accepts a failure, empty when it does not.
    """
    found: dict[tuple[str, ...], FailedTest] = {}
    for (test_key, repeat), outcome in sorted(outcomes.items()):
        for failure in outcome.failures:
            cause = cause_of(failure, repeat, readings.get(test_key, ()))
            if cause is None:
                continue
            message = ": ".join(filter(None, (failure.exception, failure.message))) or "no reason was recorded"
            word = allowed(test_key, repeat, failure)
            key = (test_key, failure.nodeid, failure.when, _DIGITS.sub("", message), word)
            repeats: tuple[int, ...] = (repeat,)
            if key in found:
                repeats = (*found[key].repeats, repeat)
                known = found[key].message
                message = known if message == known or known.endswith(_DIFFER) else f"{known}{_DIFFER}"
            found[key] = FailedTest(
                test_key=test_key,
                nodeid=failure.nodeid,
                when=failure.when,
                message=message,
                cause=cause,
                repeats=repeats,
                allowed=word,
            )
    return tuple(found.values())


def cause_of(failure: Failure, repeat: int, readings: Sequence[ThresholdReading]) -> Cause | None:
    """Why a failure is no threshold's, or may be more; None when one explains it."""
    if failure.when != "call":
        return Cause.FIXTURE
    asserting = [one for one in readings if names(failure.nodeid) & one.tests]
    if not failure.assertion:
        return None if any(_without_value(failure, one) for one in asserting) else Cause.EXCEPTION
    if not asserting:
        return Cause.NO_THRESHOLD
    fails = any(one.fails(repeat) for one in asserting)
    if fails or any(one.may_fail(repeat) for one in asserting):
        if failure.by_assert:
            return None
        return Cause.MISSED_TOO if fails else Cause.UNCLEAR  # one pytest.fail often reports several checks
    return Cause.PASSES


def _without_value(failure: Failure, reading: ThresholdReading) -> bool:
    """Whether a test failed because the threshold has no value: it uses ``None``, or asks its table for the key."""
    if failure.test_line not in reading.asked_at:
        return False
    if failure.exception == "KeyError":
        return failure.message in reading.keys
    return failure.exception in ("TypeError", "AttributeError") and "NoneType" in failure.message
