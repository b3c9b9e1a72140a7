"""Places of a threshold that has no value yet: ``None``, a key that its table lacks, an empty table (rule APL-17)."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import StrEnum

from tune_mcp.discover.source_tree import last_name


class BlankForm(StrEnum):
    """What stands in the file where the value would be."""

    NONE = "None"
    NO_KEY = "its key is missing"
    NO_TABLE = "its table is empty"


@dataclass(frozen=True)
class Blank:
    """A place without a value; ``start`` and ``end`` are bytes of the ``None``, or of the dict that lacks the key."""

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


@dataclass(frozen=True)
class TableUses:
    """What a file asks of each name that it reads: string keys. ``handed_on``: given to other code as a whole."""

    keys: dict[str, frozenset[str]]
    handed_on: frozenset[str]


def table_uses(tree: ast.Module) -> TableUses:
    """How each name is used: ``X[n]["k"]``, ``.get("k")`` and ``"k" in`` ask for a key, also of ``row = X.get(n)``."""
    parents = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    keys: dict[str, set[str]] = {}
    whole: set[str] = set()
    rows: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found, row, is_whole = _use(node, parents)
            keys.setdefault(node.id, set()).update(found)
            whole |= {node.id} if is_whole else set()
            for name in row:
                rows.setdefault(name, set()).add(node.id)
    for _ in range(2):  # a row of a row
        for name, tables in rows.items():
            for table in tables:
                keys[table] |= keys.get(name, set())
                whole |= {table} if name in whole else set()
    return TableUses({name: frozenset(found) for name, found in keys.items()}, frozenset(whole))


def _use(name: ast.Name, parents: dict[int, ast.AST]) -> tuple[set[str], set[str], bool]:
    """Keys that one use of a table asks for, the names that it gives a row of it, and whether all of it goes on."""
    node: ast.AST = name
    while (up := parents.get(id(node))) is not None:
        match up:
            case ast.Subscript(value=inner, slice=ast.Constant(value=str(key))) if inner is node:
                return {key}, set(), False
            case ast.Subscript(value=inner) if inner is node:
                node = up
            case ast.Attribute(attr="get") if isinstance(call := parents.get(id(up)), ast.Call) and call.func is up:
                key = call.args[0] if call.args else None
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    return {key.value}, set(), False
                node = call
            case ast.BoolOp(values=[first, *_]) if first is node:
                node = up  # X.get(n) or {}
            case ast.Compare(left=ast.Constant(value=str(key)), ops=[ast.In() | ast.NotIn()]):
                return {key}, set(), False
            case ast.Compare() | ast.If() | ast.While() | ast.Assert() | ast.UnaryOp(op=ast.Not()):
                return set(), set(), False  # it only asks whether there is anything
            case ast.Assign(targets=targets) if node is not name and all(isinstance(one, ast.Name) for one in targets):
                return set(), {one.id for one in targets if isinstance(one, ast.Name)}, False
            case _:
                break
    return set(), set(), True


def lines_with(tree: ast.Module, symbol: str) -> frozenset[int]:
    """The lines of every simple statement that names ``symbol``, or a name that such a statement binds."""
    simple: list[ast.stmt | ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While)):
            simple.append(node.test)
        elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
            simple.append(node)
    named = {id(node): {*map(last_name, ast.walk(node))} - {""} for node in simple}
    wanted = {symbol}
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
