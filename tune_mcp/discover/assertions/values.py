"""Values of which some are known only by a run: their parts, their operations, and how long all may take."""

from __future__ import annotations

import ast
import math
import operator
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass

from tune_mcp.discover.assertions.formula import (
    COMPARISONS,
    OPERATORS,
    Apply,
    Choice,
    EachTime,
    Every,
    Expr,
    Not,
    Opaque,
    Origin,
    Present,
    Some,
    Undefined,
    Value,
    computed,
    depends,
    each_side,
    is_number,
    leaves,
    literals,
    some,
)
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Approx,
    Class,
    Function,
    Guards,
    Instance,
    Items,
    Lazy,
    Library,
    Method,
    Module,
    Table,
    as_tuple,
    has_own_truth,
    is_measured,
    is_plain,
    opaques_in,
    tainted,
)

_BOOLEAN = frozenset({*COMPARISONS, operator.eq, operator.ne, operator.is_, operator.contains, bool})
_OBJECTS = (Items, Table, Instance, Function, Class, Module, Method, Approx)
_MAX_STEPS = 60_000
_CLOCKED = 64
MAX_LENGTH = 10_000


@dataclass(frozen=True)
class Target:
    """The constant that is asked for: its file, its symbol, and for a dict its key and the load.

    ``node`` is the number itself where it stands inside a class, a dict or an object, or has no name at all.
    """

    file: str
    symbol: str
    subkey: str | None
    concurrency: int | None
    node: ast.expr | None = None


class TooLong(Exception):
    """The code takes more steps than a test's assertions should."""


class OutOfTime(TooLong):
    """The CPU time of a reading is spent, wherever in the code."""


def count(*conditions: object) -> int:
    """How many conditions hold: the length of a list whose elements are there under conditions."""
    return sum(map(bool, conditions))


def is_condition(value: Value) -> bool:
    """Whether the value can only be True or False."""
    match value:
        case bool() | Every() | Some() | Not() | Present() | EachTime():
            return True
        case Apply():
            return value.function in _BOOLEAN or value.name in ("approx", "isclose")
        case Choice():
            return is_condition(value.then) and is_condition(value.other)
        case _:
            return False


def is_itself(value: Value) -> bool:
    """Whether a value is a plain number or what a run gives, not arithmetic over it."""
    if isinstance(value, Apply) and value.function is float:
        return is_itself(value.args[0])
    return isinstance(value, Opaque) or not isinstance(value, Expr)


class Values(ABC):
    """What can be done with values; expressions, statements, calls and imports come from the classes below it."""

    def __init__(self, target: Target, env: Mapping[str, str]) -> None:
        self.target = target
        self.env = env
        self.present: float | None = None
        """The number that the constant is now."""
        self.found = False
        self.guards: list[Value] = []
        self.steps = 0
        self.allowed = _MAX_STEPS
        self.testing = False
        self._settings: dict[str, Opaque] = {}
        self.deadline = math.inf
        self.pinned = ""
        self.lost = ""
        """Where the constant went out of sight, for the first time."""
        self.touched = False
        """Whether a test came to the constant at all."""
        self.decided = ""
        """Where a test first decided something by the constant."""
        self.anew: Mapping[str, str] = {}
        """Names that are set from outside, and where."""
        self.at: ast.stmt | None = None
        self.calling: ast.AST = ast.Pass()
        """The last call of a function from outside the repository that is known."""

    @abstractmethod
    def call(self, function: Value, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        """Call a value."""

    @abstractmethod
    def force(self, lazy: Lazy) -> Value:
        """The value of an imported name."""

    @abstractmethod
    def imported(self, importer: str, dotted: str, level: int = 0) -> Module | Library:
        """The module that an import names."""

    @abstractmethod
    def reads(self, function: Function) -> bool:
        """Whether the constant is within a function's reach."""

    @abstractmethod
    def place(self, node: ast.AST) -> str:
        """Where the code stands, and the code."""

    def step(self) -> None:
        """Count one step. Raises TooLong."""
        self.steps += 1
        if self.steps > self.allowed:
            raise TooLong
        if self.steps % _CLOCKED == 0:
            self.clock()

    def fits(self, *parts: Sized) -> None:
        """Hold a list to a length. Raises TooLong."""
        if sum(map(len, parts)) > MAX_LENGTH:
            raise TooLong

    def clock(self) -> None:
        """Look at this thread's CPU time. Raises OutOfTime."""
        if time.thread_time() > self.deadline:
            raise OutOfTime

    def pins(self, old: Value, value: Value) -> None:
        """A number takes the place of a limit that the constant made: said where nothing else asserts it."""
        if depends(old) and is_number(value) and self.at is not None:
            self.pinned = f"its limit is pinned to {value!r} ({self.place(self.at)})"

    # What is measured

    def keeps(self, name: str, value: Value) -> Value:
        """Arithmetic over results that a test keeps under a name: nobody knows which of the two is recorded."""
        if isinstance(value, Apply) and self.testing and not value.ref and not value.stored:
            arithmetic = value.function is not float and not is_condition(value) and is_measured(value)
            value.stored = name if arithmetic else ""
        return value

    # What is unknown

    def settled(self, name: str, value: Value) -> Value:
        """What a name of a module means; unknown where something sets it from outside."""
        where = self.anew.get(name) or (self.anew.get("*") if depends(value) else None)
        if where is None or isinstance(value, Library):
            return value
        return Opaque(f"{name}, which {where} sets", Origin.SETTING, ref=tainted(value))

    def loses(self, name: str, given: Iterable[Value]) -> None:
        """Remember that the constant, or a function that reads it, was given to code that is not followed."""
        if self.testing and not self.lost:
            reading = (isinstance(one, Function) and self.reads(one) for one in given)
            self.lost = name if any(tainted(one) for one in given) or any(reading) else ""

    def unknown(self, name: str, args: Iterable[Value] = (), root: Opaque | None = None) -> Opaque:
        """A value that only a run knows. ``args`` are what it was made from."""
        found = list(args)
        origin = Origin.MEASURED if self.testing else Origin.SETTING
        parents = opaques_in([*found, *([root] if root else [])])
        mixed = name if self.testing and any(is_measured(one) for one in found) else ""
        return Opaque(name, origin, any(tainted(one) for one in found), None, parents, mixed)

    def setting(self, name: str) -> Opaque:
        """A value from the surroundings, the same each time."""
        return self._settings.setdefault(name, Opaque(name, Origin.SETTING))

    def plain(self, value: Value) -> Value:
        """The value as an operand: what is from a library is unknown."""
        return self.setting(value.name) if isinstance(value, Library) else value

    def reduced(self, items: Items, name: str, *, summed: bool) -> Opaque:
        """One unknown value made of many; the largest or smallest of results is one of them, their sum is none."""
        values = [value for _, value in items.items]
        roots = {leaf.root for value in values for leaf in leaves(value).values() if isinstance(leaf, Opaque)}
        found = self.unknown(name, [items, *values])
        mixed = found.mixed if summed or not all(is_itself(value) for value in values) else ""
        return Opaque(name, found.origin, found.ref, roots.pop() if len(roots) == 1 else None, found.parents, mixed)

    # Conditions

    @contextmanager
    def under(self, *conditions: Value) -> Generator[None]:
        """Run what follows under more conditions."""
        size = len(self.guards)
        self.guards += [one for one in conditions if one is not True]
        try:
            yield
        finally:
            del self.guards[size:]

    def now(self) -> Guards:
        """The conditions in force."""
        return tuple(self.guards)

    def within(self, value: Value) -> Value:
        """A value without the choices that the conditions in force decide."""
        while isinstance(value, Choice):
            force = {one for guard in self.guards for one in literals(guard)}
            asked = set(literals(value.condition))
            if asked <= force:
                value = value.then
            elif any((name, not holds) in force for name, holds in asked):
                value = value.other
            else:
                break
        return value

    def truth(self, value: Value) -> Value:
        """The value as a condition."""
        self.step()
        value = self.plain(value)
        self.decides(value)
        match value:
            case Items():
                filled = some(condition for condition, _ in value.items)
                self.decides(filled)
                return filled
            case Table() if value.unseen:
                return self.unknown("a dict with an unknown key", [value])
            case Table():
                return some(
                    True if entry is not MISSING and not isinstance(entry, Choice) else self.there(entry)
                    for entry in value.entries.values()
                )
            case Choice():
                return each_side(value, self.truth)
            case Apply(function=function, args=args) if function is count:
                return some(args)
            case Expr():
                return value if is_condition(value) else Apply(bool, "bool", (value,))
            case Instance() if has_own_truth(value.kind):
                return self.unknown(f"bool({value.kind.name}(…))", [value])
            case Instance() | Function() | Class() | Module() | Method() | Approx():
                return True
            case _:
                return bool(value)

    def decides(self, value: Value) -> None:
        """Remember that something depends on the constant: it may be asserted in a way that is not followed."""
        if self.testing and self.at is not None and not self.decided and depends(value):
            self.decided = self.place(self.at)

    def there(self, entry: Value) -> Value:
        """Where an entry of a dict is there."""
        if isinstance(entry, Choice):
            return each_side(entry, self.there)
        return entry is not MISSING

    # Operations

    def binary(self, function: Callable[..., object] | None, left: Value, right: Value, node: ast.AST) -> Value:
        """An arithmetic operation."""
        if function is None:
            return self.unknown(ast.unparse(node)[:40], [left, right])
        if isinstance(left, Table) and isinstance(right, Table) and function is OPERATORS["or_"]:
            return Table(left.entries | right.entries, self.now(), right.unseen or left.unseen)
        if isinstance(left, Table) != isinstance(right, Table) and function is OPERATORS["or_"]:
            merged = self.unknown("a dict", [left, right])
            merged.mark(self.place(node))
            return merged
        if isinstance(left, Items) and isinstance(right, Items) and function is operator.add:
            self.fits(left.items, right.items)
            return Items(left.items + right.items, self.now(), left.ordered and right.ordered)
        if isinstance(left, Library) and function is OPERATORS["truediv"]:
            return self.setting(left.name)
        kinds = (*(as_tuple(left) or (left,)), right)
        if function is OPERATORS["or_"] and all(isinstance(one, (Library, Class)) for one in kinds):
            return kinds  # `int | float`: isinstance takes it like a tuple
        if isinstance(left, Expr) and isinstance(right, str) and function is OPERATORS["truediv"]:
            return self.unknown(f"… / {right!r}", [left])  # a path, whatever its folder is
        return self.pure(function, type(node).__name__, [left, right])

    def pure(self, function: Callable[..., object], name: str, args: list[Value]) -> Value:
        """A function without side effects: computed when all is known, else an expression."""
        found = [self.plain(one) for one in args]
        if any(isinstance(one, _OBJECTS) or ((inner := as_tuple(one)) and not is_plain(inner)) for one in found):
            return self.unknown(name, found)
        if any(isinstance(one, Expr) for one in found):
            return Apply(function, name, tuple(found))
        try:
            return computed(function, found)
        except Undefined:
            return self.unknown(f"an error in {name}", found)
