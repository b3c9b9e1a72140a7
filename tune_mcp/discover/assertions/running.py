"""One test as pytest runs it: its setup, its fixtures, and once for each set of its parameters."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from tune_mcp.discover.assertions.evaluator import Evaluator, is_plain_decorator
from tune_mcp.discover.assertions.formula import Opaque, Origin, Value, depends
from tune_mcp.discover.assertions.judging import FailurePath
from tune_mcp.discover.assertions.left import LeftBehind
from tune_mcp.discover.assertions.names import NameReader, TestNode
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Class,
    Function,
    Instance,
    Lazy,
    Module,
    as_tuple,
    tainted,
)
from tune_mcp.discover.assertions.values import TooLong
from tune_mcp.discover.recorded import RECORDERS
from tune_mcp.discover.source_tree import parameters

_BEFORE = ("setUpClass", "setup_class", "setUp", "setup_method", "asyncSetUp")
_BEFORE_ALL = ("setUpModule", "setup_module", "setup_function")
_MAX_CASES = 256


@dataclass
class Run:
    """One test, run once for each set of its parameters."""

    evaluator: Evaluator
    module: Module
    names: NameReader
    test: TestNode
    fixtures: dict[str, Value] = field(default_factory=dict[str, Value])

    def failures(self) -> list[FailurePath]:
        """The conditions under which the test fails."""
        owner, function = self._function()
        if function is None:
            return []
        shared = [ast.unparse(one) for one in self._marks()]
        owned = [ast.unparse(one) for one in self.test.owner.decorator_list] if self.test.owner else []
        marks = [*function.decorators, *shared]
        if any(".skip(" in one or one.endswith(".skip") for one in marks):
            return []
        odd = [one for one in function.decorators if not is_plain_decorator(one) and "skip" not in one]
        odd += [one for one in shared if ".mark" not in one and one not in owned]
        found: list[FailurePath] = []
        for bound in self._cases(function):
            found += self._once(owner, function, bound)
        found = [one for one in found if depends(one.condition)]
        cases = any("parametrize" in one and ".skip" in one for one in marks)
        expected = any("xfail" in one or "expectedFailure" in one for one in marks)
        if expected or cases or odd:
            why = "a test that is expected to fail" if expected else "a case that may be skipped"
            why = why if expected or cases else f"the decorator `{odd[0][:40]}`"
            return [replace(one, condition=Opaque(why, Origin.SETTING, ref=True)) for one in found[:1]]
        return found

    def _function(self) -> tuple[Class | None, Function | None]:
        if self.test.owner is None:
            found = self._value(self.module, self.test.name)
            return None, found if isinstance(found, Function) else None
        owner = self._value(self.module, self.test.owner.name)
        if not isinstance(owner, Class):
            return None, None
        found = owner.find(self.test.name.rpartition("::")[2])
        return owner, found if isinstance(found, Function) else None

    def _value(self, module: Module, name: str) -> Value:
        found = module.scope.names.get(name, MISSING)
        return self.evaluator.force(found) if isinstance(found, Lazy) else found

    def _marks(self) -> list[ast.expr]:
        """The marks of the test's class, of its bases and of its module; one that has a name there by its code."""
        owner = self.test.owner
        classes = [one for _, one in self.names.ancestry(self.module.path, owner)] if owner else []
        tree = self.names.files.tree(self.module.path)
        named: dict[str, ast.expr] = {}
        found = [mark for one in classes for mark in one.decorator_list]
        for body in (*([tree] if tree else []), *classes):
            for name, value in _assigned(body.body):
                if name != "pytestmark":
                    named[name] = value
                else:
                    marks = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
                    found += [named.get(one.id, one) if isinstance(one, ast.Name) else one for one in marks]
        return found

    def _cases(self, function: Function) -> list[dict[str, Value]]:
        """The values that ``parametrize`` gives, one dict for each combination."""
        nodes = [] if isinstance(function.node, ast.Lambda) else list(function.node.decorator_list)
        nodes += self._marks()
        axes: list[list[dict[str, Value]]] = []
        for node in nodes:
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("parametrize") and len(node.args) > 1:
                axes.append(self._axis(node))
        if math.prod(map(len, axes)) > _MAX_CASES:
            raise TooLong
        return [{name: value for one in combination for name, value in one.items()} for combination in product(*axes)]

    def _axis(self, node: ast.Call) -> list[dict[str, Value]]:
        named = self.evaluator.eval(node.args[0], self.module.scope)
        if isinstance(named, str):
            names = [one.strip() for one in named.split(",") if one.strip()]
        else:
            names = [str(one) for one in self.evaluator.known_items(named) or []]
        values = self.evaluator.eval(node.args[1], self.module.scope)
        known = self.evaluator.known_items(values)
        if known is None or any(keyword.arg == "indirect" for keyword in node.keywords):
            ref = tainted(values)
            return [{name: Opaque(name, Origin.PARAMETER, ref) for name in names}]
        rows = [[one] if len(names) == 1 else self.evaluator.known_items(one) or [] for one in known]
        return [dict(zip(names, _single(row, len(names)), strict=False)) for row in rows]

    def _once(self, owner: Class | None, function: Function, bound: dict[str, Value]) -> list[FailurePath]:
        evaluator = self.evaluator
        self.fixtures = {}
        left = evaluator.left_behind = LeftBehind()
        evaluator.raised.append([])
        evaluator.testing = True
        try:
            instance = Instance(owner, {}) if owner else None
            for before in self._before(owner, instance):
                self._run(before, {})
            self._run(function.bound(instance), bound)
        finally:
            evaluator.testing = False
            found = evaluator.raised.pop()
        return [
            FailurePath(evaluator.as_measured(one.condition), one.how, self.test.name, left, one.moment)
            for one in found
        ]

    def _before(self, owner: Class | None, instance: Instance | None) -> Iterator[Function]:
        """The setup of the module and of the class, and the fixtures of the class that pytest uses by itself."""
        for name in _BEFORE_ALL:
            if isinstance(before := self._value(self.module, name), Function):
                yield before
        if owner is None:
            return
        autouse = [
            name
            for one in owner.ancestry()
            for name, value in one.scope.names.items()
            if isinstance(value, Function) and value.is_fixture and any("autouse=True" in d for d in value.decorators)
        ]
        for name in (*_BEFORE, *autouse):
            if isinstance(before := owner.find(name), Function):
                yield before.bound(owner if "classmethod" in before.decorators else instance)

    def _run(self, function: Function, bound: dict[str, Value], *, brief: bool = False) -> Value:
        names = parameters(function.node.args)[0 if function.owner is None else 1 :]
        needed = (name for name in names if name not in function.defaults)
        given = {name: bound[name] if name in bound else self.fixture(name) for name in needed}
        if brief:
            return self.evaluator.call(function, [], given, function.node)
        return self.evaluator.run(function, [], given)

    def fixture(self, name: str) -> Value:
        """The value of a fixture: what its code gives, else what only a run knows."""
        if name not in self.fixtures:
            self.fixtures[name] = Opaque(name, Origin.PARAMETER)
            # Whatever stands in for a recording fixture: what it is given is a result.
            found = None if name in RECORDERS else self._find(name, self._function()[0])
            if found is not None:
                self.fixtures[name] = self._run(found, {}, brief=True)
        return self.fixtures[name]

    def _find(self, name: str, owner: Class | None) -> Function | None:
        own = owner.find(name) if owner else None
        if owner and isinstance(own, Function) and own.is_fixture:
            return own.bound(Instance(owner, {}))
        for path in (self.module.path, *self.names.files.conftests(self.module.path)):
            module = self.evaluator.module(path)
            for key in list(module.scope.names):
                if key != name and not (key.startswith(("_", "fixture")) or key.endswith("_fixture")):
                    continue
                value = self._value(module, key)
                if isinstance(value, Function) and value.is_fixture and self._is_named(value, key, name):
                    return value
        return None

    def _is_named(self, function: Function, key: str, name: str) -> bool:
        named = [one for one in function.decorators if "name=" in one]
        return any(f"name={name!r}" in one for one in named) if named else key == name


def _assigned(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """The names that statements bind one by one, with what each is bound to."""
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node.value


def _single(row: Sequence[Value], width: int) -> Sequence[Value]:
    """``pytest.param(x)`` of one parameter is its value."""
    if width == 1 and len(row) == 1 and (inner := as_tuple(row[0])) is not None and len(inner) == 1:
        return inner
    return row
