"""What a test file's names can be bound to while it is read: containers, functions, classes, modules."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from tune_mcp.discover.assertions.formula import Choice, Opaque, Origin, Value, choose, depends, every, leaves
from tune_mcp.discover.source_tree import is_fixture

Guards = tuple[Value, ...]
"""Conditions under which a statement runs, the outermost first."""


class Missing:
    """No entry."""


MISSING = Missing()
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(eq=False)
class Items:
    """A list or set: each element with the condition under which it is in it. ``ordered``: the order is known."""

    items: list[tuple[Value, Value]]
    created: Guards = ()
    ordered: bool = True

    def known(self) -> list[Value] | None:
        """The elements, None when some of them are there only under a condition."""
        found = [value for condition, value in self.items if condition is True]
        return found if len(found) == len(self.items) else None


@dataclass(eq=False)
class Table:
    """A dict with known keys; ``unseen`` is what it may hold under others, None for nothing."""

    entries: dict[Hashable, Value]
    created: Guards = ()
    unseen: Opaque | None = None

    def take(self, other: Table) -> None:
        """Have what another one has."""
        self.entries.update(other.entries)
        self.unseen = other.unseen or self.unseen


@dataclass(eq=False)
class Scope:
    """The names of a module, class or function."""

    module: Module
    parent: Scope | None
    created: Guards = ()
    names: dict[str, Value] = field(default_factory=dict[str, Value])
    outer: dict[str, Scope] = field(default_factory=lambda: dict[str, Scope]())


@dataclass(eq=False)
class Module:
    """A file of the repository, its top level executed."""

    path: str
    dotted: str
    scope: Scope = field(init=False)

    def __post_init__(self) -> None:
        self.scope = Scope(self, None)


@dataclass(eq=False)
class Function:
    """A function or lambda and where it was defined; ``owner`` is the object that it is bound to."""

    node: FunctionNode
    scope: Scope
    defaults: dict[str, Value] = field(default_factory=dict[str, Value])
    owner: Value = None

    def bound(self, owner: Value) -> Function:
        """The function as a method of an object."""
        return Function(self.node, self.scope, self.defaults, owner)

    @property
    def name(self) -> str:
        """The name in its definition."""
        return "<lambda>" if isinstance(self.node, ast.Lambda) else self.node.name

    @property
    def decorators(self) -> list[str]:
        """The code of its decorators."""
        return [] if isinstance(self.node, ast.Lambda) else [ast.unparse(one) for one in self.node.decorator_list]

    @property
    def is_fixture(self) -> bool:
        """Whether pytest calls it to fill a parameter."""
        return not isinstance(self.node, ast.Lambda) and is_fixture(self.node)


@dataclass(eq=False)
class Class:
    """A class of the repository; ``fields`` are annotated names in order, the parameters of a dataclass."""

    name: str
    node: ast.ClassDef
    bases: tuple[Value, ...]
    scope: Scope
    fields: tuple[str, ...]

    def ancestry(self) -> list[Class]:
        """The class and its bases, depth first, as far as they are classes of the repository."""
        found = [self]
        for base in self.bases:
            found += base.ancestry() if isinstance(base, Class) else []
        return list(dict.fromkeys(found))

    def find(self, name: str) -> Value:
        """An attribute of the class or a base, MISSING for none."""
        return next((one.scope.names[name] for one in self.ancestry() if name in one.scope.names), MISSING)

    def is_test_case(self) -> bool:
        """Whether it is a ``unittest.TestCase``."""
        bases = [base for one in self.ancestry() for base in one.bases]
        return any(isinstance(base, Library) and base.name.endswith("TestCase") for base in bases)


@dataclass(eq=False)
class Instance:
    """An object of a class of the repository."""

    kind: Class
    names: dict[str, Value]
    created: Guards = ()


@dataclass(frozen=True)
class Library:
    """Something from outside the repository, by its dotted name; ``importer`` is the file that names it."""

    name: str
    importer: str = field(default="", compare=False)


@dataclass(frozen=True)
class Method:
    """A built-in method of a known object."""

    owner: Value
    name: str


@dataclass(frozen=True)
class Lazy:
    """A name imported from a module, which is looked up when it is used."""

    importer: str
    module: str
    level: int
    name: str


@dataclass(frozen=True)
class Approx:
    """``pytest.approx(value)``."""

    value: Value


def tainted(value: Value) -> bool:
    """Whether the constant is anywhere in it."""
    return any(depends(one) for one in nested(value))


def is_plain(value: Value) -> bool:
    """Whether nothing in it is unknown before a run."""
    return all(one is None or isinstance(one, (str, bytes, int, float, complex, tuple, slice)) for one in nested(value))


def is_measured(value: Value) -> bool:
    """Whether a result of the test is anywhere in it."""
    return any(
        one.is_result
        if isinstance(one, Opaque)
        else any(isinstance(leaf, Opaque) and leaf.origin is not Origin.SETTING for leaf in leaves(one).values())
        for one in nested(value)
    )


def nested(value: Value) -> Iterator[Value]:
    """The value and everything that it holds, each object once."""
    seen: set[int] = set()
    waiting: list[Value] = [value]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += contents(one)


def contents(value: Value) -> Iterable[Value]:
    """What a container holds."""
    match value:
        case Items():
            return [part for pair in value.items for part in pair]
        case Table():
            return [*value.entries.values(), value.unseen]
        case Instance():
            return list(value.names.values())
        case Choice():
            return [value.condition, value.then, value.other]
        case Approx():
            return [value.value]
        case Method():
            return [value.owner]
        case Function():
            return [value.owner]
        case _:
            return as_tuple(value) or ()


def has_own_truth(kind: Class) -> bool:
    """Whether an object of the class may be false: it says so itself, or is a container or a number."""
    names = ("__bool__", "__len__")
    bases = [base.name for one in kind.ancestry() for base in one.bases if isinstance(base, Library)]
    built_in = [getattr(builtins, name.removeprefix("builtins."), None) for name in bases]
    return (
        any(kind.find(name) is not MISSING for name in names)
        or any(hasattr(one, name) for one in built_in if isinstance(one, type) for name in names)
        or any(name.startswith("collections.") for name in bases)
    )


def as_tuple(value: Value) -> tuple[Value, ...] | None:
    """The value if it is a tuple."""
    return cast("tuple[Value, ...]", value) if isinstance(value, tuple) else None


def opaques_in(values: Iterable[Value]) -> frozenset[Opaque]:
    """The roots of unknown values among some arguments."""
    found: set[Opaque] = set()
    for value in values:
        for one in (value, *contents(value)):
            for leaf in leaves(one).values():
                if isinstance(leaf, Opaque):
                    found |= {leaf.root, *leaf.parents}
    return frozenset(found)


def beyond(guards: Iterable[Value], created: Guards) -> Value:
    """The condition that the guards add to those under which an object was made."""
    left = list(guards)
    common = 0
    while common < min(len(left), len(created)) and left[common] is created[common]:
        common += 1
    return every(left[common:])


def stored(names: dict[str, Value], name: str, value: Value, condition: Value) -> None:
    """Bind a name where ``condition`` holds; elsewhere it keeps its value."""
    old = names.get(name, MISSING)
    names[name] = value if old is MISSING else choose(condition, value, old)
