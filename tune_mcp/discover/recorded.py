"""Values that a test hands over by name: ``tune_record("metric", value)``, or pytest's own ``record_property``."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tune_mcp.discover.source_tree import AnyFunction, called, number_of, parameters, parsed_expression, root_name

RECORD_FILE = "tune_record.json"
"""Where the guard plugin leaves them, below basetemp: one key a name."""
RECORDERS = frozenset({"tune_record", "record_property"})
"""The fixtures that take a name and a value."""
_PURE = frozenset(
    {
        "abs", "float", "fmean", "get", "int", "item", "len", "log", "max", "mean", "median", "min", "percentile",
        "quantile", "round", "sqrt", "std", "stdev", "sum",
    }
)  # fmt: skip
"""Calls that give the same value twice, by their last word."""
_OF_ONE = frozenset({"abs", "float", "int", "round"})
"""Calls whose value is the number that they are given, nearly."""
_READING = re.compile(
    r"^(?:assert|check|debug|dump|info|log|print|record|report|save|store|validate|verify|warning|write)"
    r"|^(?:append|asdict|dict|isinstance|items|keys|list|sorted|str|values|vars)$"
)
"""Calls that leave an argument as it is, by their last word."""
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


@dataclass(frozen=True)
class NamedValue:
    """A value to which a test file gives a name: its code, and the lines on which the same code means this value.

    ``test`` is the test function around it, empty in a fixture or another function. ``codes``: also the local name
    that is bound to it alone.
    """

    codes: frozenset[str]
    lines: frozenset[int]
    test: str

    def asserted(self, path: str, hows: Iterable[str], source: str) -> bool:
        """Whether all assertions of its file ``path`` compare it with ``source``; each is ``path:line: code``."""
        return all(
            file == path and line in self.lines and not self.codes.isdisjoint(_compared(code, source))
            for file, line, code in map(_how, hows)
        )


def names_for(path: str, asserted: Mapping[str, Collection[str]], names: Mapping[str, NamedValue]) -> dict[str, str]:
    """Threshold -> the name under which its value is recorded, where one name alone fits the code that asserts it.

    ``asserted`` are places and codes of assertions, by threshold; ``names`` what the test file ``path`` records.
    """
    found: dict[str, str] = {}
    for source, hows in asserted.items():
        fitting = [name for name, value in names.items() if hows and value.asserted(path, hows, source)]
        if len(fitting) == 1 and fitting[0] not in found.values():
            found[source] = fitting[0]
    return found


def recorded(tree: ast.Module) -> Mapping[str, NamedValue]:
    """Name -> the value that is recorded under it; the last one of a name counts."""
    return {
        name.value: value
        for name, value in _recordings(tree)
        if isinstance(name, ast.Constant) and isinstance(name.value, str)
    }


def made_names(tree: ast.Module) -> Mapping[str, NamedValue]:
    """A pattern of each name that is made at run time (an f-string) -> the value recorded under it."""
    return {_pattern(name): value for name, value in _recordings(tree) if isinstance(name, ast.JoinedStr)}


def entries(tree: ast.Module) -> Iterator[tuple[str, NamedValue]]:
    """Every key that a function gives to a value in a dict, as one does for a result file."""
    for function, node in _in_functions(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, _named(value, function)
        elif isinstance(node, ast.Call) and called(node) == "dict":
            yield from ((one.arg, _named(one.value, function)) for one in node.keywords if one.arg)


def _recordings(tree: ast.Module) -> Iterator[tuple[ast.expr, NamedValue]]:
    for function, node in _in_functions(tree):
        if isinstance(node, ast.Call) and len(node.args) > 1 and called(node) in RECORDERS:
            yield node.args[0], _named(node.args[1], function)


def _in_functions(tree: ast.AST, around: AnyFunction | None = None) -> Iterator[tuple[AnyFunction, ast.AST]]:
    """Every node with the innermost function around it."""
    for node in ast.iter_child_nodes(tree):
        if around is not None:
            yield around, node
        yield from _in_functions(node, node if isinstance(node, AnyFunction) else around)


def _named(value: ast.expr, function: AnyFunction) -> NamedValue:
    """The lines end where the value may change; a call of unknown code gives another value each time."""
    value = value.target if isinstance(value, ast.NamedExpr) else value
    inner = [*ast.walk(function)]
    functions = {id(node.func) for node in ast.walk(value) if isinstance(node, ast.Call)}
    names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name) and id(node) not in functions}
    calls = any(isinstance(node, ast.Call) and called(node) not in _PURE for node in ast.walk(value))
    bound = [node.lineno for node in inner if isinstance(node, ast.expr) and _stored(node) in names]
    if any(
        isinstance(node, ast.Attribute | ast.Subscript) or (isinstance(node, ast.Call) and called(node) not in _OF_ONE)
        for node in ast.walk(value)
    ):
        bound += [node.lineno for node in inner if isinstance(node, ast.Call) and _may_change(node, names)]
    first = max((line for line in bound if line <= value.lineno), default=function.lineno)
    after = min((line for line in bound if line > value.lineno), default=(function.end_lineno or first) + 1)
    elsewhere = {
        line
        for node in inner
        if (isinstance(node, AnyFunction) and node is not function)
        or (isinstance(node, ast.Lambda) and not names.isdisjoint(parameters(node.args)))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    test = function.name if function.name.startswith("test") else ""
    lines = frozenset(range(first, first if calls else after)) - elsewhere
    code = ast.unparse(value)
    return NamedValue(frozenset({code, *_other_names(code, inner, lines)}), lines, test)


def _other_names(code: str, inner: Iterable[ast.AST], lines: Collection[int]) -> Iterator[str]:
    """The names that are bound once in a function, and to that code, on one of these lines."""
    bound = [name for node in inner if (name := _stored(node))]
    for node in inner:
        if isinstance(node, ast.Assign) and node.lineno in lines and ast.unparse(node.value) == code:
            yield from (one.id for one in node.targets if isinstance(one, ast.Name) and bound.count(one.id) == 1)


def _stored(node: ast.AST) -> str:
    """The name that a node binds anew, or in whose object it does so; empty for none."""
    changes = isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load)
    return root_name(node) if changes else ""


def _may_change(call: ast.Call, names: Iterable[str]) -> bool:
    """Whether a call may change an object that one of the names means."""
    last = called(call)
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if isinstance(call.func, ast.Attribute) and (last == "append" or not _READING.search(last)):
        given.append(call.func.value)
    if last in _PURE | RECORDERS:
        return False
    if _READING.search(last):
        given = given[len(call.args) + len(call.keywords) :]
    return any(isinstance(node, ast.Name) and node.id in names for one in given for node in ast.walk(one))


def _how(how: str) -> tuple[str, int, str]:
    place, _, code = how.partition(": ")
    file, _, line = place.rpartition(":")
    return file, int(line) if line.isdecimal() else 0, code


def _compared(code: str, source: str) -> set[str]:
    """The codes that a comparison holds against ``source``; none where it cannot be read."""
    try:
        tree = parsed_expression(code.removeprefix("assert "))
    except SyntaxError:
        return set()
    root = re.split(r"\W", source)[0]
    if isinstance(tree, ast.Call) and called(tree).startswith("assert"):
        compared = [tree.args]
    else:
        parts = tree.values if isinstance(tree, ast.BoolOp) else [tree]
        parts = [one.operand if isinstance(one, ast.UnaryOp) else one for one in parts]
        compared = [[one.left, *one.comparators] for one in parts if isinstance(one, ast.Compare)]
    ours = [sides for sides in compared if any(_mentions(side, root) for side in sides)] or compared
    beside = {leaf for sides in ours for side in sides if not _mentions(side, root) for leaf in _leaves(side)}
    together = {leaf for sides in ours for side in sides for leaf in _leaves(side)}
    return beside or {leaf for leaf in together if not _constant(parsed_expression(leaf))}


def _mentions(node: ast.expr, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


def _leaves(node: ast.expr) -> Iterator[str]:
    """A measured value as it is before constants change it: its limit is counted back through them."""
    if isinstance(node, ast.BinOp):
        for side, other in ((node.left, node.right), (node.right, node.left)):
            if _constant(other):
                yield from _leaves(side)
    elif not isinstance(node, ast.UnaryOp | ast.Constant):
        yield ast.unparse(node)
        if isinstance(node, ast.Call) and called(node) in _OF_ONE and node.args:
            yield from _leaves(node.args[0])


def _constant(node: ast.expr) -> bool:
    """A number, or what is named as a constant: ``REF``, ``LIMITS['lat']``, ``self.REF``."""
    named = root_name(node).isupper() or (isinstance(node, ast.Attribute) and node.attr.isupper())
    return named or number_of(node) is not None


def writes_another(tree: ast.Module, path: str, how: str, source: str) -> bool:
    """Whether the function that asserts writes JSON documents, but none of them for certain from what it compares."""
    file, line, code = _how(how)
    around = [node for node in ast.walk(tree) if isinstance(node, AnyFunction) and _holds(node, line)]
    if file != path or not around:
        return False
    inner = [*ast.walk(max(around, key=lambda node: node.lineno))]
    dumps = [node for node in inner if isinstance(node, ast.Call) and called(node) in ("dump", "dumps") and node.args]
    if any(
        _holds(loop, line) and _holds(loop, one.lineno) for loop in inner if isinstance(loop, _LOOPS) for one in dumps
    ):
        return True  # one file for several values
    made_of: dict[str, set[str]] = {}
    for node in inner:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            for name in {name for one in ast.walk(node) if (name := _stored(one))}:
                made_of.setdefault(name, set()).update(_read(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (name := root_name(node.func)):
            made_of.setdefault(name, set()).update(_read(node))
    ours = {name for leaf in _compared(code, source) for name in _read(parsed_expression(leaf))}
    written = {name for one in dumps for name in _read(one.args[0])}
    return (
        bool(dumps and ours)
        and ours.isdisjoint(_closed(written, made_of))
        and written.isdisjoint(_closed(ours, made_of))
    )


def _holds(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _read(node: ast.expr) -> set[str]:
    """The names in code but for those that it only calls."""
    functions = {id(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and id(one) not in functions}


def _closed(names: set[str], made_of: Mapping[str, set[str]]) -> set[str]:
    """The names and all that they are made of."""
    found, waiting = set[str](), [*names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += made_of.get(name, ())
    return found


def _pattern(text: ast.JoinedStr) -> str:
    return "".join(re.escape(str(one.value)) if isinstance(one, ast.Constant) else ".+" for one in text.values)
