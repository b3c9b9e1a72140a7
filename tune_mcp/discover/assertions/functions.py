"""Built-in functions, and the built-in methods of containers and plain values."""

from __future__ import annotations

import ast
import numbers
import operator
from abc import abstractmethod
from collections import abc
from collections.abc import Callable

from tune_mcp.discover.assertions.expressions import Expressions
from tune_mcp.discover.assertions.formula import (
    Apply,
    Choice,
    Expr,
    Opaque,
    Present,
    Value,
    each_side,
    every,
    negated,
    some,
)
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Class,
    Function,
    Instance,
    Items,
    Library,
    Method,
    Module,
    Table,
    as_tuple,
    beyond,
)
from tune_mcp.discover.assertions.values import count

_TEXT_METHODS = frozenset({"lower", "upper", "strip", "startswith", "endswith", "replace", "removeprefix",
                           "removesuffix", "split", "rpartition", "partition"})  # fmt: skip
_KINDS: dict[str, type] = {
    **{one.__name__: one for one in (int, float, str, bool, dict, list, tuple, set)},
    **{
        f"{where}{name}": getattr(module, name)
        for module, names in (
            (abc, ("Mapping", "MutableMapping", "Sequence", "Iterable", "Collection", "Sized", "Callable")),
            (numbers, ("Number", "Real", "Integral")),
        )
        for where in ("", f"{module.__name__}.", "typing.")
        for name in names
    },
}
"""Types from outside the repository that a value may be asked for."""
_NUMERIC_TYPES = frozenset({"int", "float", "dict", "list", "str", "tuple", "Number", "numbers.Number", "numbers.Real"})


class Functions(Expressions):
    """Calls of built-in functions and methods; a function that is not known comes from the class below."""

    @abstractmethod
    def foreign(self, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        """Call something that is not followed."""

    def copied(self, value: Value, *, deep: bool) -> Value:
        """A copy of a container."""

        def inner(one: Value) -> Value:
            return self.copied(one, deep=True) if deep else one

        match value:
            case Table():
                return Table({key: inner(one) for key, one in value.entries.items()}, self.now(), value.unseen)
            case Items():
                return Items([(condition, inner(one)) for condition, one in value.items], self.now(), value.ordered)
            case Instance():
                return Instance(value.kind, {key: inner(one) for key, one in value.names.items()}, self.now())
            case Choice():
                return each_side(value, inner) if deep else value
            case _:
                return value

    # Each method takes what the function of its name takes in Python

    def _do_bool(self, value: Value, /) -> Value:
        return self.truth(value)

    def _do_len(self, of: Value, /) -> Value:
        value = self.plain(of)
        if isinstance(value, Items) and value.known() is None:
            return Apply(count, "len", tuple(condition for condition, _ in value.items))
        if isinstance(value, Opaque):
            return value.child("len", None, f"len({value.name})")
        known = self.known_items(value)
        return self.unknown("len(…)", [of]) if known is None else len(known)

    def _do_any(self, values: Value, /) -> Value:
        return some(every([condition, self.truth(one)]) for condition, one in self.iterate(values))

    def _do_all(self, values: Value, /) -> Value:
        found = self.iterate(values)
        return negated(some(every([condition, negated(self.truth(one))]) for condition, one in found))

    def _do_min(self, first: Value, /, *more: Value, **keywords: Value) -> Value:
        return self._extreme(min, [first, *more], keywords)

    def _do_max(self, first: Value, /, *more: Value, **keywords: Value) -> Value:
        return self._extreme(max, [first, *more], keywords)

    def _extreme(self, function: Callable[..., object], args: list[Value], keywords: dict[str, Value]) -> Value:
        name = function.__name__
        if set(keywords) - {"default"}:
            return self.unknown(f"{name}(…)", [*args, *keywords.values()])
        if len(args) > 1:
            return self.pure(function, name, args)
        value = self.plain(args[0])
        if isinstance(value, Opaque):
            return value.child(name, None, f"{name}({value.name})")
        if isinstance(value, Items) and value.known() is None:
            return self.reduced(value, f"{name}(…)", summed=False)
        known = self.known_items(value)
        if not known:
            return keywords.get("default", self.unknown(f"{name}(…)", args))
        return known[0] if len(known) == 1 else self.pure(function, name, known)

    def _do_sum(self, of: Value, /, start: Value = 0) -> Value:
        value = self.plain(of)
        if isinstance(value, Opaque):
            return value.child("sum", None, f"sum({value.name})")
        if isinstance(value, Items) and value.known() is None:
            return self.reduced(value, "sum(…)", summed=True)
        known = self.known_items(value)
        if known is None:
            return self.unknown("sum(…)", [of, start])
        for one in known:
            start = self.pure(operator.add, "+", [start, one])
        return start

    def _do_isinstance(self, value: Value, kinds: Value, /) -> Value:
        text = ast.unparse(self.calling)[:60]
        asked = as_tuple(kinds) or (kinds,)
        names = [one.name.removeprefix("builtins.") for one in asked if isinstance(one, Library)]
        match value:
            case Choice():
                return each_side(value, lambda one: self._do_isinstance(one, kinds))
            case Opaque():
                likely = any(name in _NUMERIC_TYPES for name in names)
                if not names or (not likely and names != ["bool"]):
                    return self.unknown(text, [value])
                return Present(value, text, likely)
            case Instance():
                return isinstance(kinds, Class) and kinds in value.kind.ancestry()
            case Function() | Class() | Module() | Method() | Library():
                return self.unknown(text, [value])
            case _:
                known = [_KINDS[name] for name in names if name in _KINDS]
                likely = (0, 0.0) if isinstance(value, Expr) else (_like(value),)
                found = {isinstance(one, tuple(known)) for one in likely}
                whole = len(known) + sum(isinstance(one, Class) for one in asked) == len(asked)
                if len(found) > 1 or not (whole or True in found):
                    return self.unknown(text, [value])
                return found.pop()

    def _do_hasattr(self, value: Value, name: Value, /) -> Value:
        if isinstance(value, Opaque):
            return Present(value, ast.unparse(self.calling)[:60], likely=True)
        return self.unknown("hasattr(…)", [value, name])

    def _do_getattr(self, value: Value, name: Value, /, *default: Value) -> Value:
        if isinstance(name, str):
            return self.attribute(value, name)
        return self.unknown("getattr(…)", [value, name, *default, Opaque("getattr", self.unknown("").origin, ref=True)])

    def _do_range(self, first: Value, /, *more: Value) -> Value:
        args = (first, *more)
        numbers = [one for one in args if isinstance(one, int)]
        return tuple(range(*numbers)[:1000]) if len(numbers) == len(args) else self.unknown("range(…)", args)

    def _do_list(self, values: Value = (), /, *_more: Value, **_keywords: Value) -> Value:
        ordered = not isinstance(values, Items) or values.ordered
        return Items(self.iterate(values), self.now(), ordered)

    def _do_tuple(self, values: Value = (), /) -> Value:
        known = self.in_order(values)
        return self._do_list(values) if known is None else tuple(known)

    _do_iter = _do_collections_deque = _do_list

    def _do_reversed(self, values: Value, /) -> Value:
        return Items(self.iterate(values)[::-1], self.now(), self.in_order(values) is not None)

    def _do_sorted(self, values: Value = (), /, **_keywords: Value) -> Value:
        found = self.iterate(values)
        return Items(found, self.now(), ordered=len(found) < 2 and self.known_items(values) is not None)

    _do_set = _do_frozenset = _do_sorted

    def _do_dict(self, source: Value = (), /, **entries: Value) -> Value:
        table = Table({}, self.now())
        if isinstance(source, Table):
            table.take(source)
        else:
            for _, pair in self.iterate(source):
                known = as_tuple(pair) or ()
                key, value = known if len(known) == 2 else (self.unknown("…", [pair]), pair)
                self.put(table, key, value)
        table.entries.update(entries)
        return table

    def _do_enumerate(self, values: Value, start: Value = 0) -> Value:
        found = self.iterate(values)
        if not isinstance(start, int) or self.in_order(values) is None:
            return Items([(condition, (self.unknown("a number"), one)) for condition, one in found], self.now())
        return Items([(condition, (number, one)) for number, (condition, one) in enumerate(found, start)], self.now())

    def _do_zip(self, *columns: Value, **_keywords: Value) -> Value:
        known = [one for one in map(self.in_order, columns) if one is not None]
        if len(known) < len(columns):
            return self.unknown("zip(…)", columns)
        return Items([(True, tuple(row)) for row in zip(*known, strict=False)], self.now())

    # Methods of known objects

    def method(self, owner: Value, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        """Call a method of a container or of a plain value."""
        if isinstance(owner, Items):
            return self._list_method(owner, name, args, node)
        if isinstance(owner, Table):
            return self._dict_method(owner, name, args, keywords, node)
        given = [*args, *keywords.values()]
        if isinstance(owner, Opaque) and name == "get" and args:
            return self.item(owner, args[0], node)
        if (
            isinstance(owner, str)
            and name in _TEXT_METHODS
            and not any(isinstance(one, (Expr, Items)) for one in given)
            and not keywords
        ):
            return self.pure(lambda *values: getattr(owner, name)(*values), name, args)
        self.loses(f"`….{name}`", [owner, *given])
        return self.unknown(f"….{name}(…)", [owner, *given])

    def _list_method(self, owner: Items, name: str, args: list[Value], node: ast.AST) -> Value:
        if name in ("append", "add") and args:
            owner.items.append((beyond(self.guards, owner.created), args[0]))
        elif name in ("extend", "update") and args:
            self.extend(owner, args[0])
        elif name == "copy":
            return self.copied(owner, deep=False)
        else:
            self.spoil(owner, f"….{name}(…)", args)
            return self.unknown(f"….{name}(…)", [owner, *args])
        return None

    def _dict_method(
        self, owner: Table, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST
    ) -> Value:
        match name:
            case "get":
                found = self.entry(owner, args[0])
                if found is MISSING and owner.unseen:
                    return self.item(owner, args[0], node)
                return (args[1] if len(args) > 1 else None) if found is MISSING else found
            case "items" | "keys" | "values" if owner.unseen:
                return self.unknown(f"….{name}()", [owner])
            case "items":
                return Items([(True, (key, one)) for key, one in owner.entries.items()], self.now())
            case "keys":
                return tuple(owner.entries)
            case "values":
                return tuple(owner.entries.values())
            case "copy":
                return self.copied(owner, deep=False)
            case "update" if not args or isinstance(args[0], Table):
                other = args[0] if args and isinstance(args[0], Table) else Table({})
                for key, value in {**other.entries, **keywords}.items():
                    self.put(owner, key, value)
                owner.unseen = other.unseen or owner.unseen
                return None
            case _:
                self.spoil(owner, f"….{name}(…)", args)
                return self.unknown(f"….{name}(…)", [owner, *args])


def _like(value: Value) -> object:
    """A plain object of the type that a container of the interpreter stands for."""
    return {} if isinstance(value, Table) else [] if isinstance(value, Items) else value
