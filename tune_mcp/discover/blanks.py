"""Places of a threshold that has no value yet: ``None``, a key that its table lacks, an empty table (rule APL-17)."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import StrEnum


class BlankForm(StrEnum):
    """What stands in the file where the value would be."""

    NONE = "None"
    NO_KEY = "its key is missing"
    NO_TABLE = "its table is empty"


@dataclass(frozen=True)
class Blank:
    """One such place. ``start`` and ``end`` are the byte offsets of the ``None``, or of the dict without the key."""

    symbol: str
    concurrency: int | None
    subkey: str | None
    form: BlankForm
    start: int
    end: int
    line: int


def is_none(node: ast.expr | None) -> bool:
    """Whether the expression is the literal ``None``."""
    return isinstance(node, ast.Constant) and node.value is None


def keys_read(tree: ast.Module) -> dict[str, frozenset[str]]:
    """Name -> the string keys by which the file asks for something inside it: ``X[n]["k"]``, ``.get("k")``, ``in``."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=base, slice=ast.Constant(value=str(key)), ctx=ast.Load()):
                pass
            case ast.Call(func=ast.Attribute(value=base, attr="get"), args=[ast.Constant(value=str(key)), *_]):
                pass
            case ast.Compare(left=ast.Constant(value=str(key)), ops=[ast.In() | ast.NotIn()], comparators=[base]):
                pass
            case _:
                continue
        if (name := _root(base)) is not None:
            found.setdefault(name, set()).add(key)
    return {name: frozenset(keys) for name, keys in found.items()}


def handed_on(tree: ast.Module) -> frozenset[str]:
    """Names that are used as a whole, or by a number alone: other code may ask for any key of them."""
    inside = {
        id(node.value.value if isinstance(node.value, ast.Subscript) else node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    }
    return frozenset(
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in inside
    )


def lines_with(tree: ast.Module, symbol: str) -> frozenset[int]:
    """The lines of every simple statement that names ``symbol``, or a name that such a statement binds."""
    simple: list[ast.stmt | ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While)):
            simple.append(node.test)
        elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
            simple.append(node)
    named = {id(node): {_name(inner) for inner in ast.walk(node)} - {None} for node in simple}
    wanted: set[str | None] = {symbol}
    for _ in range(2):
        for node in simple:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and named[id(node)] & wanted:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                wanted |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(
        line
        for node in simple
        if named[id(node)] & wanted
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )


def _name(node: ast.AST) -> str | None:
    """The name of a variable or an attribute."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        return _root(node.func.value)
    return node.id if isinstance(node, ast.Name) else None
