"""Values that a test hands over by name: ``tune_record("metric", value)``, or pytest's own ``record_property``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from tune_mcp.discover.source_tree import called

RECORD_FILE = "tune_record.json"
"""Where the guard plugin leaves them, below basetemp: one key a name."""
RECORDERS = frozenset({"tune_record", "record_property"})
"""The fixtures that take a name and a value."""


def names_for(code: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Threshold -> the name under which its value is recorded, where one name alone fits the code that asserts it."""
    found: dict[str, str] = {}
    for source, asserted in code.items():
        fitting = [name for name, value in names.items() if holds(asserted, value)]
        if len(fitting) == 1 and fitting[0] not in found.values():
            found[source] = fitting[0]
    return found


def holds(code: str, value: str) -> bool:
    """Whether an expression is a part of some code, not of a longer name."""
    return re.search(rf"(?<![\w.\]]){re.escape(value)}(?![\w(\[])", code) is not None


def recorded(tree: ast.Module) -> Mapping[str, str]:
    """Name -> the code of the value that is recorded under it; the last one of a name counts."""
    return {
        name.value: code
        for name, code in _recordings(tree)
        if isinstance(name, ast.Constant) and isinstance(name.value, str)
    }


def made_names(tree: ast.Module) -> Mapping[str, str]:
    """A pattern of each name that is made at run time (an f-string) -> the code of the value recorded under it."""
    return {_pattern(name): code for name, code in _recordings(tree) if isinstance(name, ast.JoinedStr)}


def _recordings(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) > 1 and called(node) in RECORDERS:
            yield node.args[0], ast.unparse(node.args[1])


def _pattern(text: ast.JoinedStr) -> str:
    return "".join(re.escape(str(one.value)) if isinstance(one, ast.Constant) else ".+" for one in text.values)
