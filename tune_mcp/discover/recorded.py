"""Values that a test hands over by name: ``tune_record("metric", value)``, or pytest's own ``record_property``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tune_mcp.discover.source_tree import AnyFunction, called

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


@dataclass(frozen=True)
class NamedValue:
    """A value to which a test file gives a name: its code, and the lines on which the same code means this value.

    ``test`` is the test function around it, empty in a fixture or another function.
    """

    code: str
    lines: range
    test: str

    def asserted(self, path: str, how: str) -> bool:
        """Whether it is what an assertion of its file ``path`` compares; ``how`` is ``path:line: code``."""
        place, _, asserted = how.partition(": ")
        file, _, line = place.rpartition(":")
        here = file == path and line.isdecimal() and int(line) in self.lines
        return here and re.search(rf"(?<![\w.\]]){re.escape(self.code)}(?![\w(\[])", asserted) is not None


def names_for(path: str, asserted: Mapping[str, str], names: Mapping[str, NamedValue]) -> dict[str, str]:
    """Threshold -> the name under which its value is recorded, where one name alone fits the code that asserts it.

    ``asserted`` are places and codes of assertions, by threshold; ``names`` what the test file ``path`` records.
    """
    found: dict[str, str] = {}
    for source, how in asserted.items():
        fitting = [name for name, value in names.items() if value.asserted(path, how)]
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
    """The lines end where a name in the value is bound anew; a call of unknown code gives another value each time."""
    names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    calls = any(isinstance(node, ast.Call) and called(node) not in _PURE for node in ast.walk(value))
    bound = [
        node.lineno
        for node in ast.walk(function)
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and _root(node) in names
    ]
    first = max((line for line in bound if line <= value.lineno), default=function.lineno)
    after = min((line for line in bound if line > value.lineno), default=(function.end_lineno or first) + 1)
    test = function.name if function.name.startswith("test") else ""
    return NamedValue(ast.unparse(value), range(first, first if calls else after), test)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _pattern(text: ast.JoinedStr) -> str:
    return "".join(re.escape(str(one.value)) if isinstance(one, ast.Constant) else ".+" for one in text.values)
