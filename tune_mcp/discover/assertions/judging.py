"""From the conditions under which tests fail to the one gate on which they agree, or to why there is none."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tune_mcp.config.stages import WorstOp
from tune_mcp.discover.assertions.formula import (
    COMPARISONS,
    STRICT,
    Apply,
    Choice,
    EachTime,
    Every,
    Expr,
    Not,
    Opaque,
    Present,
    Some,
    Undefined,
    Value,
    depends,
    every,
    leaves,
    negated,
    nodes,
    parts,
    rebuilt,
    some,
)
from tune_mcp.discover.assertions.gate import FailCondition, Gate, Unread, UnreadKind, compares
from tune_mcp.discover.assertions.left import LeftBehind
from tune_mcp.discover.assertions.trend import NotMonotone, Trend, TwoSided

_MAX_PIECES = 4000
_PROBES = (1.0, 0.5, 2.0, 0.9, 1.1, 0.01, 100.0, 0.1, 10.0, 0.97, 1.03, 0.3333, 3.1416, 0.777, 1.2345, 17.0)
_ENOUGH = "it is enough that one of many values passes"
_STRANGE = "the comparison is not understood"


@dataclass(frozen=True)
class FailurePath:
    """A condition under which a test fails, the code that says so, and the test."""

    condition: Value
    how: str
    test: str
    left: LeftBehind = field(default_factory=LeftBehind)
    moment: int = 0


class _Unclear(Exception):
    """A use of the constant that is not understood; the text is for people."""


class _Condition(Exception):
    """Nobody knows whether the test compares at all; the text names what that depends on."""


class _Never(Exception):
    """The condition holds only where there is no measurement."""


def judge(failures: Iterable[FailurePath], present: float | None, clock: Callable[[], None]) -> Gate | Unread:
    """The gate that all failing conditions agree on. ``present`` is the constant's value now, if it is a number.

    ``clock`` is called often, and raises when it takes too long.
    """
    uses: list[tuple[Gate, str]] = []
    for failure in failures:
        try:
            for piece in _pieces(failure.condition, clock):
                use = _use(piece, failure, present)
                if use is not None:
                    uses.append(use)
        except TwoSided:
            return Unread(f"compared from both sides ({failure.how})", UnreadKind.TWO_SIDED)
        except _Unclear as found:
            return Unread(f"{found} ({failure.how})", UnreadKind.UNCLEAR, failure.how)
    if not uses:
        return Unread("not asserted by a measured test", UnreadKind.NOT_ASSERTED)
    uses.sort(key=lambda use: bool(use[1]))
    first, condition = uses[0]
    if condition:
        return Unread(f"asserted only under a condition on {condition} ({first.how})", UnreadKind.UNCLEAR, first.how)
    for use, _ in uses[1:]:
        clock()
        if use.worst != first.worst and use.measured == first.measured:
            return Unread(f"compared from both sides ({first.how}; {use.how})", UnreadKind.TWO_SIDED)
        if not _agree(first, use, present):
            return Unread(f"its uses disagree ({first.how}; {use.how})", UnreadKind.DISAGREE, first.how)
    rules = {id(rule.fails): rule for use, _ in uses for rule in use.rules}
    tests = dict.fromkeys(test for use, condition in uses for test in use.tests if not condition)
    others = tuple(dict.fromkeys(use.how for use, _ in uses if use.how != first.how))
    left = first.left.intersection(*(use.left for use, _ in uses))
    besides = tuple(dict.fromkeys(use.how for use, _ in uses if use.measured != first.measured))
    found = replace(first, tests=tuple(tests), rules=tuple(rules.values()), others=others)
    return replace(found, left=left, besides=besides)


def _agree(one: Gate, other: Gate, present: float | None) -> bool:
    if (one.worst, one.strict) != (other.worst, other.strict):
        return False
    base = present if present else 1.0
    for reference in [*(base * factor for factor in _PROBES), 0.0, *([present] if present is not None else [])]:
        limits = [use.limit(reference) for use in (one, other)]
        if limits[0] != limits[1] and not all(math.isnan(limit) for limit in limits):
            return False
    return True


def _pieces(condition: Value, clock: Callable[[], None]) -> Iterator[Value]:
    """The condition as alternatives, each a conjunction; only those that hold the constant."""
    waiting = [_normal(condition, clock)]
    for _ in range(_MAX_PIECES):
        clock()
        if not waiting:
            return
        one = waiting.pop(0)
        if isinstance(one, Some):
            waiting[:0] = one.args
            continue
        if not depends(one):
            continue
        split = next((part for part in one.args if isinstance(part, Some)), None) if isinstance(one, Every) else None
        if split is not None and isinstance(one, Every):
            others = [part for part in one.args if part is not split]
            waiting[:0] = [every([alternative, *others]) for alternative in split.args]
            continue
        yield one
    raise _Unclear("too many conditions")


def _normal(value: Value, clock: Callable[[], None], *, positive: bool = True) -> Value:
    """The condition, or its negation, with negations at the comparisons only."""
    clock()
    match value:
        case Not():
            return _normal(value.arg, clock, positive=not positive)
        case Every() | Some():
            is_every = isinstance(value, Every)
            if is_every and not positive and value.ref and any(isinstance(one, EachTime) for one in value.args):
                raise _Unclear(_ENOUGH)
            found = [_normal(one, clock, positive=positive) for one in value.args]
            return every(found) if is_every is positive else some(found)
        case Choice():
            sides = ((value.then, True), (value.other, False))
            return some(
                every([_normal(value.condition, clock, positive=wanted), _normal(one, clock, positive=positive)])
                for one, wanted in sides
            )
        case _:
            return value if positive else negated(value)


def _use(piece: Value, failure: FailurePath, present: float | None) -> tuple[Gate, str] | None:
    """What one comparison says, and what it depends on where it is not known whether the test makes it at all."""
    literals = list(piece.args) if isinstance(piece, Every) else [piece]
    asserted = [_given(one, literals) for one in literals if depends(one)]
    measured = _measured(asserted)
    if measured is None:
        return None
    condition = ""
    kept = [_assumed(one, measured) for one in asserted]
    for literal in literals:
        if depends(literal):
            continue
        try:
            kept += [] if _is_presence(literal, measured) else [literal]
        except _Never:
            return None
        except _Condition as found:
            condition = condition or str(found)
    fails = every(kept)
    if not isinstance(fails, Expr) or not any(one is measured for one in leaves(fails).values()):
        return None
    trend = Trend(-1 if present is not None and present < 0 else 1)
    try:
        direction = trend.of(fails)
    except NotMonotone:
        raise _Unclear(_STRANGE) from None
    if direction == 0:
        raise _Unclear(_STRANGE)
    worst: WorstOp = "max" if direction > 0 else "min"
    rule = FailCondition(fails, trend.positive)
    how = _place(fails) or failure.how
    left = failure.left.places(measured, failure.moment)
    return Gate(worst, _is_strict(fails), how, (failure.test,), (rule,), measured.name, left=left), condition


def _given(literal: Value, literals: list[Value]) -> Value:
    """The literal with the others of its conjunction taken as true."""
    true = {id(one) for one in literals if one is not literal}
    false = {id(one.arg) for one in literals if isinstance(one, Not) and one is not literal}

    return _rebuilt(literal, lambda node: True if id(node) in true else False if id(node) in false else node)


def _rebuilt(literal: Value, replaced: Callable[[Expr], Value]) -> Value:
    try:
        return rebuilt(literal, replaced)
    except Undefined:
        raise _Unclear(_STRANGE) from None


def _measured(asserted: list[Value]) -> Opaque | None:
    """The one measured value of comparisons; None when they hold none."""
    found: dict[int, Opaque] = {}
    for literal in asserted:
        for leaf in leaves(literal).values():
            if isinstance(leaf, EachTime):
                raise _Unclear(_ENOUGH)
            if isinstance(leaf, Opaque):
                if leaf.ref:
                    raise _Unclear(f"it goes through {leaf.name}, which is not understood")
                found[id(leaf)] = leaf
    if len(found) > 1:
        names = ", ".join(one.name for one in list(found.values())[:3])
        raise _Unclear(f"compared with several unknown values at once: {names}")
    measured = next(iter(found.values()), None)
    if measured is None:
        return None
    if measured.changed:
        raise _Unclear(f"the test itself has set {measured.name} before ({measured.changed})")
    if measured.mixed and not measured.written:
        raise _Unclear(f"compared with {measured.mixed}, which is computed from results and is none itself")
    if not (measured.written or measured.root.written):
        kept = next(
            (one for literal in asserted for one in nodes(literal) if isinstance(one, Apply) and one.stored), None
        )
        if kept is not None:
            raise _Unclear(f"`{kept.stored}` is computed before it is compared, so either may be what is recorded")
    return measured


def _assumed(literal: Value, measured: Opaque) -> Value:
    """The literal with the tests of whether the measurement is there taken as passed."""

    def replaced(node: Expr) -> Value:
        if isinstance(node, Present):
            if not _related(node.subject, measured):
                raise _Unclear(f"it depends on `{node.text}`")
            return node.likely
        return node

    return _rebuilt(literal, replaced)


def _is_presence(literal: Value, measured: Opaque) -> bool:
    """Whether a condition without the constant only asks if there is a measurement.

    False for one that compares the measured value itself. Raises for any other.
    """
    inner = literal.arg if isinstance(literal, Not) else literal
    plain = inner is literal
    if isinstance(inner, EachTime):
        if not plain:
            raise _Unclear(_ENOUGH)
        return True
    if isinstance(inner, Present):
        if not _related(inner.subject, measured):
            raise _Condition(f"`{inner.text}`")
        if inner.likely != plain:
            if inner.subject is measured:
                raise _Never
            raise _Condition(f"`{inner.text}`")
        return True
    found = list(leaves(literal).values())
    unknown = [one for one in found if isinstance(one, Opaque)]
    if len(unknown) == len(found) and all(one.root is measured.root for one in unknown) and _is_plain_question(inner):
        return True
    if all(one is measured for one in found):
        return False
    names = ", ".join(dict.fromkeys(one.name for one in unknown)) or "a value that is not known"
    raise _Condition(names)


def _is_plain_question(literal: Value) -> bool:
    """``if x``, ``x == 0``, ``x > 0``: whether there is anything, nothing about how good it is."""
    if isinstance(literal, Opaque):
        return True
    if not isinstance(literal, Apply):
        return False
    if literal.function is bool:
        return isinstance(literal.args[0], Opaque)
    comparison = literal.function in COMPARISONS or literal.function in (operator.eq, operator.ne, operator.is_)
    others = [one for one in literal.args if not isinstance(one, Opaque)]
    return comparison and len(others) == 1 and (isinstance(others[0], bool) or others[0] in (0, ""))


def _related(subject: Opaque, measured: Opaque) -> bool:
    return subject.root is measured.root or subject.root in measured.root.parents or subject.root in measured.parents


def _place(fails: Value) -> str:
    """The comparison's own place: a collector's checks all fail in one."""
    waiting = [fails]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, Apply) and one.place:
            return one.place
        waiting += parts(one)
    return ""


def _is_strict(fails: Value) -> bool:
    """Whether the limit itself fails: the condition that fails a test holds with equality."""
    match fails:
        case Not():
            return not _is_strict(fails.arg)
        case Every() | Some():
            return next((_is_strict(one) for one in fails.args if compares(one)), False)
        case Choice():
            return _is_strict(fails.then if compares(fails.then) else fails.other)
        case Apply():
            return fails.function in COMPARISONS and fails.function not in STRICT
        case _:
            return False
