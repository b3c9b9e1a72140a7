"""Calls of what is not in the repository: unittest, pytest and the few libraries that tests lean on."""

from __future__ import annotations

import ast
import math
import operator
import re
from abc import abstractmethod
from collections.abc import Callable
from inspect import signature

from tune_mcp.discover.assertions.formula import (
    Apply,
    Opaque,
    Present,
    Value,
    negated,
)
from tune_mcp.discover.assertions.functions import Functions
from tune_mcp.discover.assertions.left import below_tmp, file_name
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Approx,
    Class,
    Instance,
    Items,
    Library,
    Module,
    Table,
    tainted,
)

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
_HARMLESS = re.compile(r"(print|pprint|log|logger|logging|warnings|json|repr|time|math|statistics|hash|id|type)\b")
_ASKING = frozenset({"print", "len", "isinstance", "hasattr", "type", "bool"})
"""Functions whose answer, for a known argument, leaves nothing of the constant out of sight."""
_ASKS = re.compile(r"assert|check|verif|expect|requir|ensure|valid|compar|gate|must|fail|should", re.IGNORECASE)

_READS_ONLY = re.compile(
    r"^(?:assert|check|debug|exists|info|is_|log|mkdir|open|print|read|record|report|stat|validate|verify|warning)"
    r"|^(?:asdict|decode|dict|encode|fmean|get|isinstance|item|items|keys|list|loads?|mean|median|percentile|quantile"
    r"|sorted|std|str|values|vars)$"
)


def reads_only(function: str) -> bool:
    """Whether code of that name, which is not followed, leaves what it is given as it is."""
    return bool(_READS_ONLY.search(function))


class Calls(Functions):
    """Calls of library functions; those of the repository's own come from the class below."""

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
        known = getattr(self, "_do_" + bare.replace(".", "_"), None)
        if known is not None and _takes(known, args, keywords):
            self.calling = node
            found = known(*args, **keywords)
            if bare not in _ASKING and not tainted(found):
                self.loses(f"`{name}`", [*args, *keywords.values()])
            return found
        if bare in _PURE or bare.startswith("math."):
            return self._pure(bare, args, keywords, node)
        return self.foreign(name, args, keywords, node)

    def foreign(self, name: str, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        """Call something that is not followed: what is given to it is lost, and it may be an assertion."""
        given = [*args, *keywords.values()]
        last = name.rpartition(".")[2]
        if not _HARMLESS.match(name):
            self.loses(f"`{name}`", given)
            if _ASKS.search(last) and any(tainted(one) for one in given if not isinstance(one, str)):
                self.fails(Opaque(f"`{name}`", self.unknown("").origin, ref=True), node)
            for one in given:
                if isinstance(one, (Table, Items)) and not last[:1].isupper():
                    self.spoil(one, f"`{name}`")
            if not reads_only(last):
                self.touches(given)
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

    def _do_print(self, *_args: Value, **_keywords: Value) -> Value:
        return None

    def _do_typing_cast(self, _kind: Value, value: Value, /) -> Value:
        return value

    def _do_asyncio_run(self, value: Value, /, **_keywords: Value) -> Value:
        return value

    def _do_unittest_TestCase(self, *_args: Value) -> Value:
        return Library("unittest")

    _do_unittest_case_TestCase = _do_unittest_TestCase

    def _do_pytest_param(self, *args: Value, **_keywords: Value) -> Value:
        return args

    def _do_pytest_approx(self, value: Value, /, *_tolerance: Value, **_keywords: Value) -> Value:
        return Approx(value)

    def _do_pytest_fail(self, *_args: Value, **_keywords: Value) -> Value:
        self.fails(True, self.calling, "Failed")
        return None

    def _do_type(self, one: Value, /) -> Value:
        return one.kind if isinstance(one, Instance) else self.foreign("type", [one], {}, self.calling)

    def _do_sys_exit(self, *_args: Value, **_keywords: Value) -> Value:
        self.fails(True, self.calling, "SystemExit")
        return None

    _do_exit = _do_quit = _do_os__exit = _do_pytest_exit = _do_sys_exit

    def _do_setattr(self, owner: Value, name: Value, value: Value, /) -> Value:
        if isinstance(owner, Instance | Class | Module) and isinstance(name, str):
            return self.set_attribute(owner, name, value)
        return self.foreign("builtins.setattr", [owner, name, value], {}, self.calling)

    def _do_math_isnan(self, value: Value, /) -> Value:
        text = ast.unparse(self.calling)[:60]
        return Present(value, text, likely=False) if isinstance(value, Opaque) else False

    _do_math_isinf = _do_numpy_isnan = _do_numpy_isinf = _do_math_isnan

    def _do_math_isfinite(self, value: Value, /) -> Value:
        return negated(self._do_math_isnan(value))

    _do_numpy_isfinite = _do_math_isfinite

    def is_there(self, path: Value, node: ast.AST) -> Value:
        """Whether a file is there: it is in every repeat that counts, where the measured value is read from it."""
        text = ast.unparse(node)[:60]
        if isinstance(path, Opaque) and path is path.root:
            return Present(path, text, likely=True)
        return self.unknown(text, [path])

    def _do_os_path_isfile(self, path: Value, /) -> Value:
        return self.is_there(path, self.calling)

    _do_os_path_exists = _do_os_path_isfile

    def _do_math_isclose(self, one: Value, other: Value, /, *_tolerance: Value, **_keywords: Value) -> Value:
        return self.pure(math.isclose, "isclose", [one, other])

    _do_numpy_isclose = _do_numpy_allclose = _do_np_isclose = _do_np_allclose = _do_math_isclose

    def _do_os_environ_get(self, name: Value, /, *_default: Value, **_keywords: Value) -> Value:
        if isinstance(name, str) and name in self.env and name not in self.anew:
            return self.env[name]
        return self.setting(f"environment variable {name}")

    _do_os_getenv = _do_os_environ_get

    def _do_dataclasses_field(self, *, default: Value = MISSING, default_factory: Value = MISSING, **_: Value) -> Value:
        if default_factory is not MISSING:
            return self.call(default_factory, [], {}, self.calling)
        return self.foreign("dataclasses.field", [], {}, self.calling) if default is MISSING else default

    def _do_dataclasses_asdict(self, value: Value, /, **_keywords: Value) -> Value:
        if isinstance(value, Instance):
            return self._as_dict(value)
        return self.foreign("dataclasses.asdict", [value], {}, self.calling)

    def _as_dict(self, value: Value) -> Value:
        if not isinstance(value, Instance):
            return value
        return Table({name: self._as_dict(one) for name, one in value.names.items()}, self.now())

    def _do_os_path_join(self, *parts: Value) -> Value:
        return self.unknown(f"… / {parts[-1]!r}" if isinstance(parts[-1], str) else "os.path.join(…)", parts)

    # What is left behind

    def _do_open(self, path: Value, /, *_mode: Value, **_keywords: Value) -> Value:
        last = path.args[-1] if isinstance(path, Apply) else ""
        return self.unknown(f"… / {last!r}" if isinstance(last, str) and "/" in last else "open(…)", [path])

    def _do_json_dump(self, obj: Value, fp: Value, /, **_keywords: Value) -> Value:
        document = self.leaves_behind(obj, file_name(fp))
        document.doubtful = document.doubtful or not below_tmp(fp)
        return self.unknown("json.dump(…)", [obj])

    def _do_json_dumps(self, obj: Value, /, **_keywords: Value) -> Value:
        text = self.leaves_behind(obj).text = self.unknown("json.dumps(…)", [obj])
        return text

    _do_ujson_dump, _do_ujson_dumps, _do_orjson_dumps = _do_json_dump, _do_json_dumps, _do_json_dumps

    def _do_json_load(self, source: Value, /, **_keywords: Value) -> Value:
        found = self.unknown("json.load(…)", [source])
        if below_tmp(source) and (file := file_name(source)):
            self.leaves_behind(found, file, is_read=True)
        return found

    _do_json_loads = _do_ujson_load = _do_ujson_loads = _do_orjson_loads = _do_json_load

    def _do_copy_deepcopy(self, value: Value, /, *_memo: Value) -> Value:
        return self.copied(value, deep=True)

    def _do_copy_copy(self, value: Value, /) -> Value:
        return self.copied(value, deep=False)


def _takes(function: Callable[..., Value], args: list[Value], keywords: dict[str, Value]) -> bool:
    """Whether a function can be called with those arguments."""
    try:
        signature(function).bind(*args, **keywords)
    except TypeError:
        return False
    return True
