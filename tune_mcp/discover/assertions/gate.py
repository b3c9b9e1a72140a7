"""How tests compare a measured value with a constant: the limit to the last bit, and what the assertion says."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import neg

from tune_mcp.config.stages import WorstOp
from tune_mcp.discover.assertions.formula import (
    COMPARISONS,
    Apply,
    Not,
    Opaque,
    Undefined,
    Value,
    evaluate,
    is_number,
    leaves,
)
from tune_mcp.discover.assertions.left import LeftAt

_SMALLEST = 5e-324
_SIDES = (1.7976931348623157e308, 1e150, 1e75, 1e15, 1e6)


BOUND: Mapping[WorstOp, str] = {"min": "a lower bound", "max": "an upper bound"}
"""What a constant is whose metric's bad extreme is that one, for people."""


class UnreadKind(StrEnum):
    """Why the tests do not say how a measured value is compared with a constant."""

    TWO_SIDED = "two_sided"
    NOT_ASSERTED = "not_asserted"
    UNCLEAR = "unclear"
    DISAGREE = "disagree"


@dataclass(frozen=True)
class Unread:
    """No gate could be read; ``reason`` is for people. ``how``: the place and the code, where an assertion is why."""

    reason: str
    kind: UnreadKind
    how: str = field(default="", compare=False)


@dataclass(frozen=True)
class FailCondition:
    """A condition on one measured value and the constant under which a test fails.

    ``positive``: how it moves with the measured value is known for positive ones only.
    """

    fails: Value
    positive: bool

    def failed(self, reference: float, measured: float) -> bool:
        """Whether the test fails; it does as well where Python would raise."""
        try:
            return bool(evaluate(self.fails, reference, measured))
        except Undefined:
            return True

    def limit(self, worst: WorstOp, strict: bool, reference: float) -> float:
        """The limit on the measured value, see ``Gate.limit``."""
        direct = _direct(self.fails)
        if direct is None:
            return self._searched(worst, strict, reference)
        try:
            found = evaluate(direct, reference, math.nan)
        except Undefined:
            found = None
        return found if is_number(found) else math.inf if worst == "min" else -math.inf

    def _searched(self, worst: WorstOp, strict: bool, reference: float) -> float:
        """The outermost double that passes (strict: the first that fails), by halving over all doubles."""
        low, high = _rank(_SMALLEST if self.positive else -math.inf), _rank(math.inf)
        bad = low if worst == "min" else high
        # Not every function takes an infinite or a very large value: int(inf) raises. So the nearest that passes.
        sides = (*reversed(_SIDES), math.inf)
        if worst == "max":
            sides = (_SMALLEST,) if self.positive else tuple(map(neg, sides))
        passing = next((one for one in sides if not self.failed(reference, one)), None)
        if passing is None:
            return math.inf if worst == "min" else -math.inf
        good = _rank(passing)
        if not self.failed(reference, _unrank(bad)):
            return -math.inf if worst == "min" else math.inf
        while abs(good - bad) > 1:
            middle = (good + bad) // 2
            if self.failed(reference, _unrank(middle)):
                bad = middle
            else:
                good = middle
        return _unrank(bad if strict else good)


@dataclass(frozen=True)
class Gate:
    """How the tests compare a measured value with one constant.

    ``worst``: "min" where the measured value must not lie below the limit, "max" where not above. ``strict``: the limit
    itself fails. ``how``: the place and the code. ``tests``: node names below the test file that assert it.
    ``measured``: the expression that is compared, as far as it has one. ``others``: ``how`` of every other comparison.
    ``left``: where the tests leave that very value, as far as their code shows it. ``besides``: ``how`` of comparisons
    with another measured value, by its code.
    """

    worst: WorstOp
    strict: bool
    how: str
    tests: tuple[str, ...]
    rules: tuple[FailCondition, ...] = field(repr=False, compare=False)
    measured: str = ""
    others: tuple[str, ...] = field(default=(), compare=False)
    left: frozenset[LeftAt] = field(default=frozenset(), compare=False)
    besides: tuple[str, ...] = field(default=(), compare=False)

    def limit(self, reference: float) -> float:
        """The limit on the measured value for that reference, to the last bit as the test computes it.

        Slack and rounding are in it. Where the test changes the measured value before it compares, it is the outermost
        measured value that still passes (strict: the first that fails). Infinite where every or no value passes.
        """
        limits = [one.limit(self.worst, self.strict, reference) for one in self.rules]
        return max(limits) if self.worst == "min" else min(limits)

    def passes(self, value: float, reference: float) -> bool:
        """What the assertion says of that measured value."""
        return not any(one.failed(reference, value) for one in self.rules)


def compares(value: Value) -> bool:
    """Whether a measured value is in it."""
    return any(isinstance(one, Opaque) for one in leaves(value).values())


def _direct(fails: Value) -> Value | None:
    """The side of a plain comparison that is the limit, when the measured value alone is the other."""
    inner = fails.arg if isinstance(fails, Not) else fails
    if not isinstance(inner, Apply) or inner.function not in COMPARISONS:
        return None
    left, right = inner.args
    if isinstance(left, Opaque) and not compares(right):
        return right
    return left if isinstance(right, Opaque) and not compares(left) else None


def _rank(value: float) -> int:
    """Doubles as whole numbers in their own order."""
    bits = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits if bits >= 0 else -(bits & 0x7FFFFFFFFFFFFFFF)


def _unrank(rank: int) -> float:
    found: float = struct.unpack("<d", struct.pack("<q", abs(rank)))[0]
    return found if rank >= 0 else -found
