"""Numbers that stand inside something else: class attributes, entries of dicts, fields of dataclasses.

``None`` stands for a number that has no value yet.

A leaf is named by the Python expression that reads it: ``TestServing.TTFT_MAX``, ``LIMITS['acc']``,
``TABLE['gemma-2b']['acc']``, ``BY_LOAD[('gemma-2b', 8)]``, ``LIMITS.acc``. Bare module constants and tables
``{concurrency: {metric: number}}`` have forms of their own (``constants``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from tune_mcp.discover.bindings import ModuleScope
from tune_mcp.discover.blanks import is_none
from tune_mcp.discover.places import plain_key
from tune_mcp.discover.source_tree import called, number_of, parsed_expression

_SETTERS = frozenset({"setattr", "setitem", "delattr", "__setattr__"})
_PLAIN_BASES = frozenset({"NamedTuple", "object", "Generic", "Protocol", "ABC"})
_ENUMS = frozenset({"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"})
_MAPPINGS = frozenset({"dict", "OrderedDict", "MappingProxyType"})


@dataclass(frozen=True)
class Leaf:
    """One number, or ``None``, inside something else.

    ``problem`` says why it may not be edited; None when its place is plain.
    """

    source: str
    node: ast.expr
    problem: str | None


def leaf_nodes(tree: ast.Module) -> dict[str, Leaf]:
    """Every leaf of a module by its source, in the order of the file."""
    scope = ModuleScope()
    scope.visit(tree)
    changed = _changed(tree)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found: dict[str, Leaf] = {}
    for root, bindings in scope.bindings.items():
        value = bindings[-1].value
        if root in classes and bindings[-1].how == "a class definition":
            problem = None if len(bindings) == 1 else f"{root} is bound {len(bindings)} times"
            inner = _in_class(root, classes[root], classes, problem)
        elif value is not None:
            inner = _inside(root, value, classes, scope.problem(root))
        else:
            continue
        for leaf in inner:
            doubled = leaf.source in found
            why = f"its place {leaf.source} is written twice" if doubled else leaf.problem or changed.why(leaf.source)
            found[leaf.source] = Leaf(leaf.source, leaf.node, why)
    return found


def _in_class(place: str, node: ast.ClassDef, classes: dict[str, ast.ClassDef], problem: str | None) -> Iterator[Leaf]:
    inner = ModuleScope()
    for statement in node.body:
        inner.visit(statement)
    for name, bindings in inner.bindings.items():
        value = bindings[-1].value
        if value is None:
            continue
        source, why = f"{place}.{name}", problem or inner.problem(name)
        if _is_place(value):
            yield Leaf(source, value, why)
        else:
            yield from _inside(source, value, classes, why)
    for statement in node.body:
        if isinstance(statement, ast.ClassDef):
            yield from _in_class(f"{place}.{statement.name}", statement, classes, problem)


def _inside(place: str, node: ast.expr, classes: dict[str, ast.ClassDef], problem: str | None) -> Iterator[Leaf]:
    """The numbers inside a value that is bound to ``place``."""
    parts: list[tuple[str, ast.expr]] = []
    if isinstance(node, ast.Dict):
        plain = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if plain_key(key) is not None]
        parts = [(_item(place, key), value) for key, value in plain if key is not None]
    elif isinstance(node, ast.Call):
        parts = list(_fields(place, node, classes))
    for source, value in parts:
        if _is_place(value):
            yield Leaf(source, value, problem)
        else:
            yield from _inside(source, value, classes, problem)


def _is_place(node: ast.expr) -> bool:
    """Whether a number stands there, or a ``None`` in the place of one."""
    return number_of(node) is not None or is_none(node)


def _item(place: str, key: ast.expr) -> str:
    return ast.unparse(ast.Subscript(parsed_expression(place), key, ast.Load()))


def _fields(place: str, node: ast.Call, classes: dict[str, ast.ClassDef]) -> Iterator[tuple[str, ast.expr]]:
    """What a call's arguments become: entries of a dict, else attributes of the object."""
    kind = called(node)
    if kind in _MAPPINGS:
        for argument in node.args[:1]:
            if isinstance(argument, ast.Dict):
                yield place, argument
        for keyword in node.keywords:
            if keyword.arg:
                yield _item(place, ast.Constant(keyword.arg)), keyword.value
        return
    if not kind[:1].isupper():
        return  # a function may do anything with what it is given
    fields = _positional(kind, classes)
    if fields is None:
        return
    for name, argument in zip(fields, node.args, strict=False):
        if isinstance(argument, ast.Starred):
            break
        if name:
            yield f"{place}.{name}", argument
    for keyword in node.keywords:
        if keyword.arg:
            yield f"{place}.{keyword.arg}", keyword.value


def _positional(name: str, classes: dict[str, ast.ClassDef]) -> list[str] | None:
    """The fields that the arguments of a record class fill in order, its bases' first; "" for what is no attribute.

    None where a class decides itself what becomes of its arguments. A class of another file has none that are known.
    """
    kind = classes.get(name)
    if kind is None:
        return []
    fields: dict[str, str] = {}
    for base in (ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in kind.bases):
        inherited = _positional(base, {key: one for key, one in classes.items() if key != name})
        if inherited is None or base in _ENUMS:
            return None
        if base not in classes and base not in _PLAIN_BASES:
            return []
        fields |= {one: one for one in inherited}
    for one in kind.body:
        if isinstance(one, ast.FunctionDef) and one.name in ("__init__", "__new__"):
            return None
        if not (isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)):
            continue
        kind_of_field = ast.unparse(one.annotation)
        if "KW_ONLY" in kind_of_field:
            break
        if "ClassVar" in kind_of_field or _not_in_init(one.value):
            fields.pop(one.target.id, None)
        else:
            fields[one.target.id] = "" if "InitVar" in kind_of_field else one.target.id
    return [] if _only_keywords(kind) else list(fields.values())


def _not_in_init(value: ast.expr | None) -> bool:
    keywords = value.keywords if isinstance(value, ast.Call) else []
    return any(one.arg in ("init", "kw_only") for one in keywords)


def _only_keywords(kind: ast.ClassDef) -> bool:
    calls = [one for one in kind.decorator_list if isinstance(one, ast.Call)]
    return any(keyword.arg in ("kw_only", "init") for call in calls for keyword in call.keywords)


@dataclass(frozen=True)
class _Changes:
    """Attributes and containers that some code of the file sets anew: name -> line."""

    attributes: dict[str, int]
    containers: dict[str, int]

    def why(self, source: str) -> str | None:
        node = parsed_expression(source)
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            known, name = self.attributes, node.attr if isinstance(node, ast.Attribute) else ""
            if isinstance(node, ast.Subscript):
                known = self.containers
                name = node.value.attr if isinstance(node.value, ast.Attribute) else ast.unparse(node.value)
            if name in known:
                return f"perhaps set anew on line {known[name]}"
            node = node.value
        return None


def _changed(tree: ast.Module) -> _Changes:
    found = _Changes({}, {})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            found.attributes.setdefault(node.attr, node.lineno)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            inner = node.value
            while isinstance(inner, ast.Subscript):
                inner = inner.value
            name = inner.attr if isinstance(inner, ast.Attribute) else ast.unparse(inner)
            found.containers.setdefault(name, node.lineno)
        elif isinstance(node, ast.Call) and called(node) in _SETTERS:
            for argument in node.args[:2]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    name = argument.value.rpartition(".")[2]
                    found.attributes.setdefault(name, node.lineno)
                else:
                    name = argument.attr if isinstance(argument, ast.Attribute) else ast.unparse(argument)
                    found.containers.setdefault(name, node.lineno)
    return found
