"""How an expression moves with the measured value: which side of a comparison is the bound, or that there is none."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tune_mcp.discover.assertions.formula import (
    COMPARISONS,
    DIVIDE,
    POWER,
    TIMES,
    Apply,
    Choice,
    Every,
    Expr,
    Not,
    Opaque,
    Reference,
    Some,
    Value,
    depends,
    is_number,
)
from tune_mcp.discover.assertions.gate import compares
from tune_mcp.discover.python_files import remembered

_RISING: dict[Callable[..., object], str] = {
    round: "round", float: "float", int: "int", math.ceil: "ceil", math.floor: "floor", math.sqrt: "sqrt",
    math.log: "log", math.log2: "log2", math.log10: "log10", math.exp: "exp", operator.pos: "+",
}  # fmt: skip
"""Functions that never fall when their first argument rises."""
_TWO_SIDED = frozenset({"isclose", "approx"})


class TwoSided(Exception):
    """The measured value is held from both sides."""


class NotMonotone(Exception):
    """Nothing is known about how an expression moves with the measured value."""


@dataclass
class Trend:
    """How expressions move with the measured value, for constants of one sign (1: zero or above).

    ``positive`` becomes True when an answer holds for positive measured values only.
    """

    reference_sign: int
    positive: bool = False

    def of(self, value: Value) -> int:
        """1: rises (conditions: becomes true), -1: falls, 0: does not move. Raises TwoSided or NotMonotone."""
        return self._of(value) if isinstance(value, Expr) else 0

    @remembered
    def _of(self, value: Expr) -> int:
        match value:
            case Opaque():
                return 1
            case Not():
                return -self.of(value.arg)
            case Every() | Some():
                return _joined(self.of(one) for one in value.args)
            case Choice():
                if compares(value.condition):
                    raise NotMonotone
                return _joined((self.of(value.then), self.of(value.other)))
            case Apply():
                return self._apply(value)
            case _:
                return 0

    def _apply(self, value: Apply) -> int:
        if not compares(value):
            return 0
        function, args = value.function, value.args
        if function in COMPARISONS and len(args) == 2:
            sense = COMPARISONS[function]
            return _joined((sense * self.of(args[0]), -sense * self.of(args[1])))
        if function in (operator.eq, operator.ne) or value.name in _TWO_SIDED:
            sides = [(compares(one), depends(one)) for one in args]
            raise TwoSided if sides in ([(True, False), (False, True)], [(False, True), (True, False)]) else NotMonotone
        if function is operator.add:
            return _joined(self.of(one) for one in args)
        if function is operator.sub:
            return _joined((self.of(args[0]), -self.of(args[1])))
        if function is operator.neg:
            return -self.of(args[0])
        if function is operator.mul:
            return _joined((self._times(args[0], args[1]), self._times(args[1], args[0])))
        if function is DIVIDE:
            # Below zero the quotient moves the same way, but it jumps at zero.
            self.positive = self.positive or compares(args[1])
            return _joined((self._times(args[0], args[1]), -self._times(args[1], args[0])))
        if function in _RISING and not any(compares(one) for one in args[1:]):
            return self.of(args[0])
        if function in (min, max):
            return _joined(self.of(one) for one in args)
        if function is abs:
            sign = self.sign(args[0])
            if sign is None:
                raise TwoSided if depends(args[0]) else NotMonotone
            return sign * self.of(args[0])
        if function in (POWER, pow) and is_number(args[1]) and args[1] > 0:
            if self.sign(args[0]) == 1:
                return self.of(args[0])
            raise TwoSided if depends(args[0]) else NotMonotone
        raise NotMonotone

    def _times(self, moving: Value, factor: Value) -> int:
        """How a product moves with one of its factors."""
        trend = self.of(moving)
        if trend == 0:
            return 0
        sign = self.sign(factor)
        if sign is None:
            raise NotMonotone
        return trend * sign

    def sign(self, value: Value) -> int | None:
        """1: zero or above, -1: below zero, None: unknown. A measured value is taken as positive."""
        if isinstance(value, Expr):
            return self._signed(value)
        return (1 if value >= 0 else -1) if is_number(value) else None

    @remembered
    def _signed(self, value: Expr) -> int | None:
        match value:
            case Reference():
                return self.reference_sign
            case Opaque():
                self.positive = True
                return 1
            case Choice():
                return _same((self.sign(value.then), self.sign(value.other)))
            case Apply():
                return self._sign(value)
            case _:
                return None

    def _sign(self, value: Apply) -> int | None:
        function, args = value.function, value.args
        if function is abs or function is math.exp:
            return 1
        signs = [self.sign(one) for one in args]
        if function in (operator.add, min, max):
            return _same(signs)
        if function in (TIMES, DIVIDE) and None not in signs:
            return math.prod(one for one in signs if one is not None)
        if function is operator.neg:
            return None if signs[0] is None else -signs[0]
        if function in (round, float, math.sqrt) or (function is math.ceil and signs[0] == 1):
            return signs[0]
        return None


def _joined(trends: Iterable[int]) -> int:
    found = set(trends) - {0}
    if found == {1, -1}:
        raise NotMonotone
    return found.pop() if found else 0


def _same(signs: Iterable[int | None]) -> int | None:
    found = set(signs)
    return found.pop() if len(found) == 1 else None
