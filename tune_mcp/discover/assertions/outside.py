"""Names that code sets in another place than its own scope: with monkeypatch, mock, a hook, a fixture or a string."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tune_mcp.discover.source_tree import is_fixture, last_name

MUTATORS = frozenset({"update", "setdefault", "pop", "popitem", "clear", "append", "extend", "insert", "remove", "sort",
                      "reverse", "__setitem__", "__delitem__"})  # fmt: skip
ANYTHING = "*"
"""A name that is made at run time: every name of its file may be meant."""


def set_by(node: ast.AST) -> Iterator[str]:
    """Names that a piece of code sets in another place than its own scope."""
    match node:
        case ast.Attribute(value=owner, attr=name, ctx=ast.Store() | ast.Del()) if not _is_self(owner):
            yield name
        case ast.Subscript(value=owner, slice=ast.Constant(value=str(name)), ctx=ast.Store() | ast.Del()):
            if ast.unparse(owner).endswith(("__dict__", ")")):
                yield name
        case ast.Call(args=[first, *_]) if (setter := _setter(node.func)) and not _is_self(first):
            texts = [text for one in node.args for text in ast.walk(one) if isinstance(text, ast.Constant)]
            names = [str(one.value).rpartition(".")[2] for one in texts if isinstance(one.value, str)]
            names += [one.arg for one in node.keywords if one.arg]
            if setter in ("setitem", "delitem", "dict"):
                yield from (f"[{name}]" for name in names)
                yield _container(first)
            if setter not in ("setitem", "delitem", "dict") or _container(first) in ("", "__dict__"):
                yield from names
            if setter in ("setattr", "object") and not any(isinstance(one.value, str) for one in texts):
                yield ANYTHING
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from _environment(node.body)
            inner = list(ast.walk(node))
            if node.name.startswith("pytest_") or is_fixture(node) or any(isinstance(one, ast.Yield) for one in inner):
                yield from (name for one in inner if isinstance(one, ast.Global) for name in one.names)
                yield from (name for one in inner if (name := container_changed(one)))
        case ast.Module():
            yield from _environment(node.body)
        case _:
            return


def _environment(body: list[ast.stmt]) -> Iterator[str]:
    """Variables that code sets in any case; what an option may set is what the launch says that it is."""
    for node in body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith("environ"):
                yield str(target.slice.value) if isinstance(target.slice, ast.Constant) else ANYTHING


def container_changed(node: ast.AST) -> str:
    """The name of the container that a node changes in place, empty for none."""
    match node:
        case ast.Subscript(value=owner, ctx=ast.Store() | ast.Del()):
            return _container(owner)
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in MUTATORS:
            return _container(owner)
        case _:
            return ""


def _container(node: ast.expr) -> str:
    """The name of what an expression is or lies in: ``L`` of ``L[8]``, ``module.L`` and ``L``."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return last_name(node)


def _setter(function: ast.expr) -> str:
    """The name of a call that sets a name for a test: of monkeypatch, of mock, or built in; empty for another."""
    text = ast.unparse(function)
    last = text.rpartition(".")[2]
    if last in ("setattr", "delattr", "setitem", "delitem", "setenv", "delenv", "patch", "__setattr__"):
        return last
    return last if last in ("object", "dict", "multiple") and "patch" in text else ""


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
