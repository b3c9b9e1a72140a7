"""Values that a test hands over by name: ``tune_record("metric", value)``, or pytest's own ``record_property``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from tune_mcp.discover.source_tree import AnyFunction, called

RECORDERS = frozenset({"tune_record", "record_property"})
"""The fixtures that take a name and a value."""


def recorded(tree: ast.Module) -> Mapping[str, frozenset[str]]:
    """Name -> the test functions that record a value under it; a helper that does so is none."""
    found: dict[str, frozenset[str]] = {}
    for node, around in _in_functions(tree):
        name = node.args[0] if isinstance(node, ast.Call) and node.args and called(node) in RECORDERS else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            tests = {around} if around.startswith("test") else set[str]()
            found[name.value] = found.get(name.value, frozenset[str]()) | tests
    return found


def _in_functions(tree: ast.AST, around: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the innermost function around it."""
    for node in ast.iter_child_nodes(tree):
        yield node, around
        yield from _in_functions(node, node.name if isinstance(node, AnyFunction) else around)
