"""Calls of what is not in the repository: built-in functions and methods, and the few libraries that tests lean on."""

from __future__ import annotations

import ast
import math
import operator
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping

from tune_mcp.discover.assertions.expressions import Expressions
from tune_mcp.discover.assertions.formula import (
    Apply,
    Choice,
    Expr,
    Opaque,
    Present,
    Value,
    choose,
    every,
    negated,
    some,
)
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Approx,
    Class,
    Instance,
    Items,
    Library,
    Table,
    as_tuple,
    beyond,
    stored,
    tainted,
)
from tune_mcp.discover.assertions.values import count

_PURE: dict[str, Callable[..., object]] = {
    "round": round, "abs": abs, "float": float, "int": int, "pow": pow, "str": str, "format": format,
    **{f"operator.{name}": getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne", "add", "sub", "mul",
                                                               "truediv", "neg", "abs")},
}  # fmt: skip
_WRITERS = frozenset({"json.dump", "json.dumps", "orjson.dumps", "ujson.dump", "ujson.dumps", "yaml.dump",
                      "yaml.safe_dump"})  # fmt: skip
_UNITTEST: dict[str, Callable[..., object]] = {
    "assertGreater": operator.gt, "assertGreaterEqual": operator.ge, "assertLess": operator.lt,
    "assertLessEqual": operator.le, "assertEqual": operator.eq, "assertNotEqual": operator.ne,
}  # fmt: skip
_TEXT_METHODS = frozenset({"lower", "upper", "strip", "startswith", "endswith", "replace", "removeprefix",
                           "removesuffix", "split", "rpartition", "partition"})  # fmt: skip
_HARMLESS = re.compile(r"(print|pprint|log|logger|logging|warnings|json|repr|time|math|statistics|hash|id|type)\b")
_ASKING = frozenset({"print", "len", "isinstance", "hasattr", "type", "bool"})
"""Functions whose answer, for a known argument, leaves nothing of the constant out of sight."""
_ASKS = re.compile(r"assert|check|verif|expect|requir|ensure|valid|compar|gate|must|fail|should", re.IGNORECASE)
_NUMERIC_TYPES = frozenset({"int", "float", "dict", "list", "str", "tuple", "Number", "numbers.Number", "numbers.Real"})


class Calls(Expressions):
    """Calls of built-in and library functions; those of the repository's own come from the class below."""

    def __init__(self, concurrency: int | None, env: Mapping[str, str]) -> None:
        super().__init__(concurrency)
        self.env = env

    @abstractmethod
    def fails(self, condition: Value, node: ast.AST, kind: str = "AssertionError") -> None:
        """The test fails where the condition and those in force hold."""

    def library(self, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        """Call something from outside the repository."""
        bare = name.removeprefix("builtins.")
        if bare in _WRITERS and args:
            self.measure(args[0])
        if name.startswith("unittest.") and self._asserted(name.removeprefix("unittest."), args, keywords, node):
            return None
        special = getattr(self, "_do_" + bare.replace(".", "_"), None)
        if special is not None:
            try:
                found = special(args, keywords, node)
            except (IndexError, KeyError):
                pass
            else:
                if bare not in _ASKING and not tainted(found):
                    self.loses(f"`{name}`", [*args, *keywords.values()])
                return found
        elif bare in _PURE or bare.startswith("math."):
            return self._pure(bare, args, keywords, node)
        return self._foreign(name, args, keywords, node)

    def _foreign(self, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        given = [*args, *keywords.values()]
        last = name.rpartition(".")[2]
        if not _HARMLESS.match(name):
            self.loses(f"`{name}`", given)
            if _ASKS.search(last) and any(tainted(one) for one in given if not isinstance(one, str)):
                self.fails(Opaque(f"`{name}`", self.unknown("").origin, ref=True), node)
            for one in given:
                if isinstance(one, (Table, Items)) and not last[:1].isupper():
                    self.spoil(one, f"`{name}`")
        return self.unknown(f"{name}(…)", given)

    def _pure(self, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        if name == "round" and set(keywords) <= {"ndigits", "number"}:
            args = [keywords["number"], *args] if "number" in keywords else args
            args = [*args, keywords["ndigits"]] if "ndigits" in keywords else args
            keywords = {}
        if keywords or any(isinstance(one, (Items, Table, Instance)) for one in args):
            return self.unknown(f"{name}(…)", [*args, *keywords.values()])
        last = name.rpartition(".")[2]
        function = _PURE.get(name) or getattr(math, last, None)
        return self.pure(function, last, args) if callable(function) else self.unknown(f"{name}(…)", args)

    def _asserted(self, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> bool:
        """A method of unittest.TestCase."""
        if name in _UNITTEST and len(args) >= 2:
            self.fails(negated(self._ordered(_UNITTEST[name], args[0], args[1])), node)
        elif name in ("assertTrue", "assert_") and args:
            self.fails(negated(self.truth(args[0])), node)
        elif name == "assertFalse" and args:
            self.fails(self.truth(args[0]), node)
        elif name in ("assertAlmostEqual", "assertNotAlmostEqual") and len(args) >= 2:
            self.fails(negated(self.pure(math.isclose, "isclose", args[:2])), node)
        elif name == "fail":
            self.fails(True, node)
        elif name == "addCleanup" and args:
            self.call(args[0], args[1:], keywords, node)
        else:
            return name in ("skipTest", "subTest")
        return True

    # pytest and the standard library

    def _do_pytest_fail(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        self.fails(True, node, "Failed")
        return None

    def _do_type(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        (one,) = args
        return one.kind if isinstance(one, Instance) else self._foreign("type", args, keywords, node)

    def _do_sys_exit(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        self.fails(True, node, "SystemExit")
        return None

    _do_exit = _do_quit = _do_os__exit = _do_pytest_exit = _do_sys_exit

    def _do_unittest_TestCase(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return Library("unittest")

    _do_unittest_case_TestCase = _do_unittest_TestCase

    def _do_typing_cast(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return args[1]

    def _do_setattr(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        if not isinstance(args[0], Instance) or not isinstance(args[1], str):
            return self._foreign("builtins.setattr", args, keywords, node)
        stored(args[0].names, args[1], args[2], beyond(self.guards, args[0].created))
        return None

    def _do_pytest_approx(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return Approx(args[0])

    def _do_pytest_param(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return tuple(args)

    def _do_math_isnan(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        value = args[0]
        return Present(value, ast.unparse(node)[:60], likely=False) if isinstance(value, Opaque) else False

    _do_math_isinf = _do_numpy_isnan = _do_numpy_isinf = _do_math_isnan

    def _do_math_isfinite(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return negated(self._do_math_isnan(args, keywords, node))

    _do_numpy_isfinite = _do_math_isfinite

    def _do_math_isclose(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return self.pure(math.isclose, "isclose", args[:2])

    _do_numpy_isclose = _do_numpy_allclose = _do_np_isclose = _do_np_allclose = _do_math_isclose

    def _do_os_environ_get(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        name = args[0]
        if isinstance(name, str) and name in self.env and name not in self.anew:
            return self.env[name]
        return self.setting(f"environment variable {name}")

    _do_os_getenv = _do_os_environ_get

    def _do_asyncio_run(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return args[0]

    def _do_dataclasses_field(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        if "default_factory" in keywords:
            return self.call(keywords["default_factory"], [], {}, node)
        return keywords["default"]

    def _do_copy_deepcopy(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return self.copied(args[0], deep=True)

    def _do_copy_copy(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return self.copied(args[0], deep=False)

    def copied(self, value: Value, *, deep: bool) -> Value:
        """A copy of a container."""

        def inner(one: Value) -> Value:
            return self.copied(one, deep=True) if deep else one

        match value:
            case Table():
                return Table({key: inner(one) for key, one in value.entries.items()}, self.now())
            case Items():
                return Items([(condition, inner(one)) for condition, one in value.items], self.now(), value.ordered)
            case Instance():
                return Instance(value.kind, {key: inner(one) for key, one in value.names.items()}, self.now())
            case Choice():
                return choose(value.condition, inner(value.then), inner(value.other)) if deep else value
            case _:
                return value

    # Built-in functions

    def _do_bool(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return self.truth(args[0])

    def _do_len(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        value = self.plain(args[0])
        if isinstance(value, Items) and value.known() is None:
            return Apply(count, "len", tuple(condition for condition, _ in value.items))
        if isinstance(value, Opaque):
            return value.child("len", None, f"len({value.name})")
        known = self.known_items(value)
        return self.unknown("len(…)", args) if known is None else len(known)

    def _do_any(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return some(every([condition, self.truth(one)]) for condition, one in self.iterate(args[0]))

    def _do_all(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        found = self.iterate(args[0])
        return negated(some(every([condition, negated(self.truth(one))]) for condition, one in found))

    def _do_min(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return self._extreme(min, args, keywords)

    def _do_max(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return self._extreme(max, args, keywords)

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

    def _do_sum(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        value = self.plain(args[0])
        if isinstance(value, Opaque):
            return value.child("sum", None, f"sum({value.name})")
        if isinstance(value, Items) and value.known() is None:
            return self.reduced(value, "sum(…)", summed=True)
        total: Value = args[1] if len(args) > 1 else 0
        known = self.known_items(value)
        if known is None:
            return self.unknown("sum(…)", args)
        for one in known:
            total = self.pure(operator.add, "+", [total, one])
        return total

    def _do_isinstance(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return self._is_a(args[0], args[1], node)

    def _is_a(self, value: Value, kinds: Value, node: ast.AST) -> Value:
        asked = as_tuple(kinds) or (kinds,)
        names = [one.name.removeprefix("builtins.") for one in asked if isinstance(one, Library)]
        match value:
            case Choice():
                return choose(
                    value.condition, self._is_a(value.then, kinds, node), self._is_a(value.other, kinds, node)
                )
            case Opaque():
                likely = any(name in _NUMERIC_TYPES for name in names)
                if not names or (not likely and names != ["bool"]):
                    return self.unknown(ast.unparse(node)[:60], [value])
                return Present(value, ast.unparse(node)[:60], likely)
            case Expr():
                return any(name in ("int", "float") for name in names)
            case Table():
                return "dict" in names
            case Items():
                return "list" in names
            case Instance():
                return isinstance(kinds, Class) and kinds in value.kind.ancestry()
            case _:
                return type(value).__name__ in names

    def _do_hasattr(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        if isinstance(args[0], Opaque):
            return Present(args[0], ast.unparse(node)[:60], likely=True)
        return self.unknown("hasattr(…)", args)

    def _do_getattr(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        if isinstance(args[1], str):
            return self.attribute(args[0], args[1])
        return self.unknown("getattr(…)", [*args, Opaque("getattr", self.unknown("").origin, ref=True)])

    def _do_print(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return None

    def _do_range(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        if all(isinstance(one, int) for one in args):
            numbers = range(*(one for one in args if isinstance(one, int)))
            return tuple(numbers[:1000])
        return self.unknown("range(…)", args)

    def _do_list(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        ordered = not args or not isinstance(args[0], Items) or args[0].ordered
        return Items(self.iterate(args[0]) if args else [], self.now(), ordered)

    def _do_tuple(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        known = self.in_order(args[0]) if args else []
        return self._do_list(args, keywords, node) if known is None else tuple(known)

    _do_iter = _do_collections_deque = _do_list

    def _do_reversed(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        return Items(self.iterate(args[0])[::-1], self.now(), self.in_order(args[0]) is not None)

    def _do_sorted(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        found = self.iterate(args[0]) if args else []
        return Items(
            found, self.now(), ordered=len(found) < 2 and self.known_items(args[0] if args else ()) is not None
        )

    _do_set = _do_frozenset = _do_sorted

    def _do_dict(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        table = Table({}, self.now())
        if args and isinstance(args[0], Table):
            table.entries.update(args[0].entries)
        elif args:
            for _, pair in self.iterate(args[0]):
                known = as_tuple(pair) or ()
                key, value = known if len(known) == 2 else (self.unknown("…", [pair]), pair)
                self.put(table, key, value)
        table.entries.update(keywords)
        return table

    def _do_enumerate(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        found = self.iterate(args[0])
        start = args[1] if len(args) > 1 else keywords.get("start", 0)
        if not isinstance(start, int) or self.in_order(args[0]) is None:
            return Items([(condition, (self.unknown("a number"), one)) for condition, one in found], self.now())
        return Items([(condition, (number, one)) for number, (condition, one) in enumerate(found, start)], self.now())

    def _do_zip(self, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        known = [self.in_order(one) for one in args]
        if all(one is not None for one in known):
            rows = zip(*(one for one in known if one is not None), strict=False)
            return Items([(True, tuple(row)) for row in rows], self.now())
        return self.unknown("zip(…)", args)

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
        condition = beyond(self.guards, owner.created)
        if name in ("append", "add") and args:
            owner.items.append((condition, args[0]))
        elif name in ("extend", "update") and args:
            self.fits(owner.items, owner.items)
            owner.items += [(every([condition, one]), value) for one, value in self.iterate(args[0])]
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
                return (args[1] if len(args) > 1 else None) if found is MISSING else found
            case "items":
                return Items([(True, (key, one)) for key, one in owner.entries.items()], self.now())
            case "keys":
                return tuple(owner.entries)
            case "values":
                return tuple(owner.entries.values())
            case "copy":
                return self.copied(owner, deep=False)
            case "update" if not args or isinstance(args[0], Table):
                given = args[0].entries if args and isinstance(args[0], Table) else {}
                for key, value in {**given, **keywords}.items():
                    self.put(owner, key, value)
                return None
            case _:
                self.spoil(owner, f"….{name}(…)", args)
                return self.unknown(f"….{name}(…)", [owner, *args])
