"""Expressions over one constant and the measured values, and what can be said of them without running a test.

The interpreter builds them from the very operations that Python would do, in the same order, so that evaluating one
gives the same number to the last bit.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeGuard, cast

Value = object
"""A plain Python value, an expression, or one of the interpreter's objects."""


OPERATORS: Mapping[str, Callable[..., object]] = vars(operator)
"""The functions of the module ``operator`` by name."""
TIMES, DIVIDE, POWER = OPERATORS["mul"], OPERATORS["truediv"], OPERATORS["pow"]
COMPARISONS: dict[Callable[..., object], int] = {operator.lt: -1, operator.le: -1, operator.gt: 1, operator.ge: 1}
"""How the truth of a comparison moves with its left side."""
STRICT = frozenset({operator.lt, operator.gt})
_SHIFT = OPERATORS["lshift"]
_GROWING = (POWER, pow, _SHIFT)
_LARGE = 20_000
"""The most bits, characters or elements that are computed with."""
_WIDE = re.compile(r"\d{4}")


class Expr:
    """A value that is not known before a constant or a measurement is. ``ref``: it depends on the constant."""

    ref: bool = False


class Reference(Expr):
    """The constant itself."""

    ref = True


REFERENCE = Reference()


class Origin(Enum):
    """Where an unknown value comes from: the test's measurement, or the surroundings (environment, a library)."""

    MEASURED = "measured"
    PARAMETER = "parameter"
    SETTING = "setting"


_THE_SAME = frozenset(
    ("attribute", name)
    for name in ("item", "tolist", "numpy", "cpu", "detach", "float", "double", "squeeze", "iloc", "loc", "values", "T")
)
"""Members by which an array or a tensor gives its own numbers: no names of results."""


@dataclass(eq=False)
class Opaque(Expr):
    """A value that only a run knows. ``base`` is the result that it was taken from, ``parents`` what made that.

    ``ref`` True: the constant went into it in a way that is not understood. ``mixed`` names what it was computed from
    when it is a value of several results, or of one result by code that is not followed: then it is no result itself.
    ``written`` True: the test writes it as JSON. ``changed`` says what the test itself has put there. ``owner`` is what
    it is a part of, ``part`` which one. ``touched`` are the moments at which code that is not followed
    could change it.
    """

    name: str
    origin: Origin
    ref: bool = False
    base: Opaque | None = None
    parents: frozenset[Opaque] = frozenset()
    mixed: str = ""
    written: bool = False
    changed: str = ""
    owner: Opaque | None = None
    part: tuple[str, object] = ("", None)
    touched: tuple[int, ...] = ()
    children: dict[tuple[str, object], Opaque] = field(default_factory=lambda: dict[tuple[str, object], Opaque]())

    @property
    def root(self) -> Opaque:
        """The result that this value was taken from."""
        return self.base or self

    @property
    def is_result(self) -> bool:
        """Whether it may be a measured number; a whole argument of a test is a tool more often than a number."""
        return self.origin is Origin.MEASURED or (self.origin is Origin.PARAMETER and self.base is not None)

    def child(self, kind: str, key: object, name: str) -> Opaque:
        """A part of this value; the same part each time. What has a name in a computed value is a result again."""
        found = self.children.get((kind, key))
        if found is None:
            named = kind in ("item", "attribute") and isinstance(key, str) and (kind, key) not in _THE_SAME
            mixed = name if kind == "sum" else "" if named else self.mixed
            found = Opaque(
                name, self.origin, self.ref, self.root, self.parents, mixed, changed=self.changed, owner=self
            )
            found.part = kind, key
            self.children[found.part] = found
        return found

    def change(self, what: str, key: object = None) -> None:
        """The test changes the part ``key`` of this value; any part when it is not a name."""
        part = self.child("item", key, f"{self.name}[{key!r}]") if isinstance(key, str) else self
        part.mark(what)
        if isinstance(key, str):
            self.child("attribute", key, f"{self.name}.{key}").mark(what)

    def mark(self, what: str) -> None:
        """Say of it and all its parts who put them there; nobody, once the test writes them."""
        self.changed = what
        for one in self.children.values():
            one.mark(what)


class Compound(Expr):
    """A value made of others."""

    def __post_init__(self) -> None:
        self.ref = any(map(depends, parts(self)))


@dataclass(eq=False)
class Apply(Compound):
    """A pure Python function of values; ``place`` says where a comparison stands.

    ``stored`` is the name under which code keeps the value: it may then be what is recorded as the result.
    """

    function: Callable[..., object]
    name: str
    args: tuple[Value, ...]
    place: str = ""
    stored: str = ""


@dataclass(eq=False)
class Not(Compound):
    """Boolean negation."""

    arg: Value


@dataclass(eq=False)
class Every(Compound):
    """All of the conditions."""

    args: tuple[Value, ...]


@dataclass(eq=False)
class Some(Compound):
    """At least one of the conditions."""

    args: tuple[Value, ...]


@dataclass(eq=False)
class Choice(Compound):
    """One value or another."""

    condition: Value
    then: Value
    other: Value


@dataclass(eq=False)
class Present(Expr):
    """A test of whether a measured value is there at all (``is None``, ``isinstance``, ``in``); ``likely`` if it is."""

    subject: Opaque
    text: str
    likely: bool


@dataclass(eq=False)
class EachTime(Expr):
    """True in the iterations of a loop over values that only a run knows."""


def depends(value: Value) -> bool:
    """Whether the constant is in it."""
    return isinstance(value, Expr) and value.ref


def negated(value: Value) -> Value:
    """Boolean negation, folded."""
    if isinstance(value, Not):
        return value.arg
    return Not(value) if isinstance(value, Expr) else not value


def every(values: Iterable[Value]) -> Value:
    """Conjunction of conditions, folded and flattened."""
    return _folded(values, Every, empty=True)


def some(values: Iterable[Value]) -> Value:
    """Disjunction of conditions, folded and flattened."""
    return _folded(values, Some, empty=False)


def _folded(values: Iterable[Value], kind: type[Every | Some], *, empty: bool) -> Value:
    """The conditions as one of that kind; ``empty`` is the value of none, and its negation decides alone."""
    found: list[Value] = []
    for one in values:
        if isinstance(one, kind):
            found += one.args
        elif isinstance(one, Expr):
            found.append(one)
        elif bool(one) is not empty:
            return not empty
    known = {id(one): one for one in found}
    if any(isinstance(one, Not) and id(one.arg) in known for one in found):
        return not empty
    found = list(known.values())
    return empty if not found else found[0] if len(found) == 1 else kind(tuple(found))


def choose(condition: Value, then: Value, other: Value) -> Value:
    """``then if condition else other``, folded."""
    if not isinstance(condition, Expr):
        return then if condition else other
    return then if then is other else Choice(condition, then, other)


def literals(condition: Value, *, positive: bool = True) -> Iterator[tuple[int, bool]]:
    """The identities of what a condition, or its negation, is a conjunction of, each with whether it is to hold."""
    match condition:
        case Not():
            yield from literals(condition.arg, positive=not positive)
        case Every() if positive:
            for one in condition.args:
                yield from literals(one)
        case Some() if not positive:
            for one in condition.args:
                yield from literals(one, positive=False)
        case _:
            yield id(condition), positive


def each_side(value: Choice, of: Callable[[Value], Value]) -> Value:
    """The choice between what a function makes of either value."""
    return choose(value.condition, of(value.then), of(value.other))


def parts(value: Value) -> Iterator[Value]:
    """The direct operands of an expression."""
    match value:
        case Apply() | Every() | Some():
            yield from value.args
        case Not():
            yield value.arg
        case Choice():
            yield from (value.condition, value.then, value.other)
        case _:
            return


def nodes(value: Value) -> Iterator[Expr]:
    """An expression and all that it is made of, each once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen and isinstance(one, Expr):
            seen.add(id(one))
            yield one
            waiting += parts(one)


def leaves(value: Value) -> dict[int, Expr]:
    """All leaves of an expression by identity."""
    return {id(one): one for one in nodes(value) if next(parts(one), None) is None}


class Undefined(Exception):
    """Python would raise here."""


def rebuilt(value: Value, replaced: Callable[[Expr], Value]) -> Value:
    """The expression with every node that ``replaced`` answers differently exchanged, folded again.

    What is known is computed, each node once, and of a choice that is decided only one side. Raises Undefined where
    Python would raise.
    """
    known: dict[int, Value] = {}

    def walk(one: Value) -> Value:
        if not isinstance(one, Expr):
            return one
        if id(one) not in known:
            known[id(one)] = again(one)
        return known[id(one)]

    def again(one: Expr) -> Value:
        other = replaced(one)
        if other is not one:
            return other
        match one:
            case Apply():
                args = tuple(walk(part) for part in one.args)
                if all(a is b for a, b in zip(args, one.args, strict=True)):
                    return one
                unknown = any(isinstance(part, Expr) for part in args)
                return Apply(one.function, one.name, args, one.place) if unknown else computed(one.function, args)
            case Not():
                return negated(walk(one.arg))
            case Every():
                return every(walk(part) for part in one.args)
            case Some():
                return some(walk(part) for part in one.args)
            case Choice():
                condition = walk(one.condition)
                if not isinstance(condition, Expr):
                    return walk(one.then if condition else one.other)
                return choose(condition, walk(one.then), walk(one.other))
            case _:
                return one

    return walk(value)


def computed(function: Callable[..., object], args: Iterable[Value]) -> Value:
    """The function's value. Raises Undefined where Python would raise, or where the value could be very large."""
    try:
        given = list(args)
        if _may_be_huge(function, given):
            raise Undefined("a very large value")
        return function(*given)
    except Exception as error:
        raise Undefined(str(error)) from error


def _may_be_huge(function: Callable[..., object], args: list[Value]) -> bool:
    """Whether Python could be busy with it for long: whole numbers of many digits, long texts and tuples."""
    sizes = [one.bit_length() if isinstance(one, int) else len(one) if isinstance(one, Sized) else 0 for one in args]
    if sum(sizes) > _LARGE:
        return True
    if any(isinstance(one, str) and _WIDE.search(one) for one in args) and function in (format, OPERATORS["mod"]):
        return True
    if function in _GROWING and len(args) == 2 and all(isinstance(one, int) for one in args):
        power = abs(cast("int", args[1]))
        return (power if function is _SHIFT else sizes[0] * power) > _LARGE
    if function is TIMES and not all(isinstance(one, (int, float)) for one in args):
        return any(isinstance(one, int) and one * max(sizes) > _LARGE for one in args)
    return False


def evaluate(value: Value, reference: float, measured: float) -> Value:
    """The value of an expression whose only unknowns are the constant and one measured value.

    Raises Undefined where Python would raise.
    """

    def given(one: Expr) -> Value:
        if isinstance(one, Present | EachTime):
            raise Undefined(type(one).__name__)
        return reference if isinstance(one, Reference) else measured if isinstance(one, Opaque) else one

    return rebuilt(value, given)


def is_number(value: Value) -> TypeGuard[int | float]:
    """Whether it is a plain number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
