"""Which numbers the tests of a file compare with something, read from names alone: no test is followed step by step.

Taken widely: a name that reaches an ordering comparison of test code through local variables, constants made of it, or
the arguments of a checking function counts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tune_mcp.discover.assertions.names import NameReader, QualifiedName
from tune_mcp.discover.source_tree import AnyFunction, called, number_of

_BOUNDS: Mapping[type[ast.cmpop], str] = {ast.Lt: "max", ast.LtE: "max", ast.Gt: "min", ast.GtE: "min"}
"""Which side the right of a comparison bounds."""
_OTHER = {"min": "max", "max": "min"}
_UNITTEST = {"assertGreater": "min", "assertGreaterEqual": "min", "assertLess": "max", "assertLessEqual": "max"}
_CHECKING = re.compile(
    r"(?:^|_)(?:assert|check|verify|expect|validate|require|threshold|gate)(?:s|ed|ing)?(?:_|$)|^assert[A-Z]"
)
_SIDE = re.compile(r"(?:^|_)(min|max)(?:_|$)")
_BOUND_NAME = re.compile(r"(?:^|_)(?:MIN|MAX|THRESHOLDS?|LIMIT|REF|REFERENCE|FLOOR|CEILING|R?TOL)(?:_|$)")
_KEEPING = re.compile(
    r"^(?:round|min|max|int|float|abs|ceil|floor|fsum|sum|Decimal|Fraction|approx)$|slack|scale|limit|threshold"
)
"""Functions whose value is still the number that they are given, more or less."""


@dataclass(frozen=True)
class Use:
    """Where a number is compared, and the side that it bounds ("" where that is not seen)."""

    path: str
    line: int
    side: str = ""


@dataclass
class Asserted:
    """The uses of named numbers, by (file, name), and the numbers without a name, of one or more test files."""

    named: dict[QualifiedName, Use] = field(default_factory=dict[QualifiedName, Use])
    nameless: list[tuple[Use, int | float]] = field(default_factory=list[tuple[Use, "int | float"]])


def asserted(names: NameReader, test_file: str) -> Asserted:
    """What the tests of one file compare, in the file itself and in the test code that it reaches."""
    top = PurePosixPath(test_file).parts[0]
    tests = names.tests(test_file)
    reached = {one for test in tests for one in names.reached(test_file, test) if PurePosixPath(one[0]).parts[0] == top}
    code = {id(node): (path, node) for path, name in reached for node in names.names(path).statements.get(name, ())}
    code |= {id(test.function): (test.path, test.function) for test in tests}
    found = Asserted()
    for path, node in code.values():
        for use, parts in _uses(path, node):
            for place in _places(names, path, parts):
                if place in reached and (place not in found.named or (use.side and not found.named[place].side)):
                    found.named[place] = use
        if path == test_file:
            found.nameless += _nameless(path, node)
    _through_constants(names, reached, found.named)
    return found


def plainly_asserted(tree: ast.Module, path: str) -> Asserted:
    """What a test file of no model compares: its own assert statements, and its own names."""
    found = Asserted(nameless=list(_nameless(path, tree)))
    for use, parts in _in_asserts(path, tree):
        found.named |= {(path, one.id): use for one in parts if isinstance(one, ast.Name) and one.id.upper() == one.id}
    for node in (one for one in ast.walk(tree) if isinstance(one, ast.Call) and _CHECKING.search(called(one))):
        for one in (*node.args, *(keyword.value for keyword in node.keywords)):
            if isinstance(one, ast.Name) and one.id.upper() == one.id and _BOUND_NAME.search(one.id):
                found.named.setdefault((path, one.id), Use(path, node.lineno))
    return found


def _nameless(path: str, node: ast.AST) -> Iterator[tuple[Use, int | float]]:
    """Numbers in the asserts of a piece of code; zero only asks whether there is anything."""
    for use, parts in _in_asserts(path, node):
        for one in parts:
            if value := number_of(one):
                yield use, value


def _uses(path: str, node: ast.AST) -> Iterator[tuple[Use, list[ast.expr]]]:
    """Each comparison and each call of a checking function in a statement, with what stands in it."""
    aliases = _aliases(node) if isinstance(node, AnyFunction) else {}
    tested = {id(inner) for part in _asked(node) for inner in ast.walk(part)}
    refused = {id(inner) for part in _refused(node) for inner in ast.walk(part)} ^ {*_negated(node)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Compare) and (id(inner) in tested or any(type(op) in _BOUNDS for op in inner.ops)):
            yield from _comparison(path, inner, aliases, refused=id(inner) in refused)
        elif isinstance(inner, ast.Call) and _CHECKING.search(function := called(inner)):
            for name, part in [("", one) for one in inner.args] + [
                (one.arg or "", one.value) for one in inner.keywords
            ]:
                side = _SIDE.search(name) or _SIDE.search(function)
                yield Use(path, inner.lineno, side[1] if side else ""), [*_spread([part], aliases)]


def _comparison(
    path: str, node: ast.Compare, aliases: Mapping[str, list[ast.expr]], *, refused: bool = False
) -> Iterator[tuple[Use, list[ast.expr]]]:
    """What a comparison bounds; ``refused``: the test fails where it holds."""
    sides = [node.left, *node.comparators]
    for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
        bound = _BOUNDS.get(type(op), "")
        if bound:
            bound = _OTHER[bound] if refused else bound
            yield Use(path, node.lineno, bound), [*_spread([right], aliases)]
            yield Use(path, node.lineno, _OTHER[bound]), [*_spread([left], aliases)]
        elif isinstance(op, ast.Eq | ast.NotEq):
            yield Use(path, node.lineno), [*_spread([left, right], aliases)]


def _in_asserts(path: str, node: ast.AST) -> Iterator[tuple[Use, list[ast.expr]]]:
    """The ordering comparisons that assert statements and checking functions are given."""
    for one in ast.walk(node):
        side = _UNITTEST.get(called(one)) if isinstance(one, ast.Call) else None
        if isinstance(one, ast.Call) and side and len(one.args) > 1:
            yield Use(path, one.lineno, _OTHER[side]), [one.args[0]]
            yield Use(path, one.lineno, side), [one.args[1]]
    refused = {*_negated(node)}
    for inner in (inner for part in _asked(node) for inner in ast.walk(part)):
        if isinstance(inner, ast.Compare) and any(type(op) in _BOUNDS for op in inner.ops):
            yield from _comparison(path, inner, {}, refused=id(inner) in refused)


def _asked(node: ast.AST) -> Iterator[ast.expr]:
    """What assert statements and checking functions are given."""
    for one in ast.walk(node):
        if isinstance(one, ast.Assert):
            yield one.test
        elif isinstance(one, ast.Call) and _CHECKING.search(called(one)):
            yield from one.args


def _refused(node: ast.AST) -> Iterator[ast.expr]:
    """The conditions of an ``if`` that only fails the test: ``if value > LIMIT: raise ValueError(...)``."""
    for one in ast.walk(node):
        if isinstance(one, ast.If) and not one.orelse and all(_fails(step) for step in one.body):
            yield from one.test.values if isinstance(one.test, ast.BoolOp) else [one.test]


def _negated(node: ast.AST, *, negated: bool = False) -> Iterator[int]:
    """The identities of all code below a ``not`` or an ``assertFalse``; below two of them it stands as it is."""
    for inner in ast.iter_child_nodes(node):
        refuses = isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not)
        refuses = refuses or (isinstance(inner, ast.Call) and called(inner) == "assertFalse")
        yield from [id(inner)] if negated else ()
        yield from _negated(inner, negated=negated != refuses)


def _fails(step: ast.stmt) -> bool:
    call = step.value if isinstance(step, ast.Expr) else None
    return isinstance(step, ast.Raise) or (isinstance(call, ast.Call) and called(call) in ("fail", "xfail"))


def _aliases(function: AnyFunction) -> dict[str, list[ast.expr]]:
    """What the local variables of a function are made of."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for target in targets:
            if isinstance(target, ast.Name) and value is not None:
                found.setdefault(target.id, []).append(value)
    return found


def _spread(parts: Iterable[ast.expr], aliases: Mapping[str, list[ast.expr]]) -> Iterator[ast.expr]:
    """The expressions, and those that their local variables are made of."""
    waiting, seen = list(parts), set[str]()
    while waiting:
        part = waiting.pop()
        yield part
        for node in _numeric_parts(part):
            if isinstance(node, ast.Name) and node.id in aliases and node.id not in seen:
                seen.add(node.id)
                waiting += aliases[node.id]


def _numeric_parts(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in an expression but what it only hands to a function that makes something else of it."""
    yield node
    if isinstance(node, ast.JoinedStr):
        return
    for inner in ast.iter_child_nodes(node):
        if not isinstance(node, ast.Call) or inner is node.func or _KEEPING.search(called(node)):
            yield from _numeric_parts(inner)


def _places(names: NameReader, path: str, parts: Iterable[ast.expr]) -> Iterator[QualifiedName]:
    for part in parts:
        for node in _numeric_parts(part):
            if isinstance(node, ast.Name):
                yield from names.meaning(path, node.id)


def _through_constants(names: NameReader, reached: set[QualifiedName], named: dict[QualifiedName, Use]) -> None:
    """What a compared constant is made of, also by a function that makes it, is compared with it."""
    waiting = list(named)
    makers: set[QualifiedName] = set()
    while waiting:
        path, name = place = waiting.pop()
        for node in names.names(path).statements.get(name, ()):
            if isinstance(node, AnyFunction):
                made = [node] if place in makers else []
            else:
                made = [node.value] if isinstance(node, ast.Assign | ast.AnnAssign) and node.value else []
            texts = {
                id(part)
                for one in made
                for text in ast.walk(one)
                if isinstance(text, ast.JoinedStr)
                for part in ast.walk(text)
            }
            for inner in (inner for one in made for inner in ast.walk(one) if id(inner) not in texts):
                for made_of in names.meaning(path, inner.id) if isinstance(inner, ast.Name) else ():
                    if made_of not in named and made_of in reached:
                        named[made_of] = named[place]
                        makers.add(made_of)
                        waiting.append(made_of)
