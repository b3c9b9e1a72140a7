"""Branches, loops and exceptions: every path is taken under its condition, and where a test fails is kept."""

from __future__ import annotations

import ast
import builtins
from abc import abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tune_mcp.discover.assertions.formula import (
    EachTime,
    Every,
    Expr,
    Opaque,
    Origin,
    Some,
    Value,
    depends,
    every,
    negated,
    some,
)
from tune_mcp.discover.assertions.library import Calls
from tune_mcp.discover.assertions.objects import (
    Class,
    Function,
    Instance,
    Items,
    Library,
    Scope,
    beyond,
)
from tune_mcp.discover.assertions.values import Target

COMPOUND = ast.If | ast.For | ast.AsyncFor | ast.While | ast.Try | ast.TryStar | ast.With | ast.AsyncWith | ast.Match
"""The statements that have a body and open no scope."""
_HOW_LONG = 90
_UNKNOWN = "?"


@dataclass
class Raised:
    """A place where an exception leaves a test: its condition, the code, the names of its class and their bases."""

    condition: Value
    how: str
    kinds: frozenset[str]
    moment: int = 0


@dataclass
class Frame:
    """One running function: whether it has returned, and what."""

    scope: Scope
    results: list[tuple[Value, Value]] = field(default_factory=list[tuple[Value, Value]])
    yields: list[tuple[Value, Value]] = field(default_factory=list[tuple[Value, Value]])
    done: Value = False
    ended: list[Value] = field(default_factory=list[Value])
    """For each loop that runs, the innermost last: where this iteration has ended."""
    caught: list[tuple[int, list[Raised]]] = field(default_factory=list[tuple[int, "list[Raised]"]])
    """For each handler that runs: how many conditions were in force where it began, and what it caught."""

    def over(self) -> Value:
        """Where the statements that follow do not run."""
        return some([self.done, *self.ended])


class Branches(Calls):
    """Runs statements with a body; the other statements come from the class below."""

    def __init__(self, target: Target, env: Mapping[str, str]) -> None:
        super().__init__(target, env)
        self.raised: list[list[Raised]] = [[]]
        self.frames: list[Frame] = []
        self.trying: list[int] = []
        """For each ``try`` body that runs: the number of its list in ``raised``."""

    def thrown(self) -> Value:
        """Where an assertion on the constant has left the innermost ``try`` body already."""
        if not self.trying:
            return False
        return some(
            one.condition for found in self.raised[self.trying[-1] :] for one in found if depends(one.condition)
        )

    @abstractmethod
    def block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; True when none after them would run."""

    def since(self, scope: Scope) -> Value:
        """The condition that has been added since the scope was entered."""
        return beyond(self.guards, scope.created)

    def compound(self, node: ast.stmt, scope: Scope, frame: Frame) -> bool:
        """Run a statement with a body."""
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                condition = self.truth(self.eval(test, scope))
                if not isinstance(condition, Expr):
                    return self.block(body if condition else orelse, scope)
                with self.under(condition):
                    first = self.block(body, scope)
                with self.under(negated(condition)):
                    second = self.block(orelse, scope)
                return first and second
            case (
                ast.For(target=target, iter=iterable, body=body, orelse=orelse)
                | ast.AsyncFor(target=target, iter=iterable, body=body, orelse=orelse)
            ):
                return self._loop(target, self.iterate(self.eval(iterable, scope)), body, orelse, scope, frame)
            case ast.While(test=test, body=body, orelse=orelse):
                condition = self.truth(self.eval(test, scope))
                turns: list[tuple[Value, Value]] = [(every([EachTime(), condition]), None)] if condition else []
                return self._loop(None, turns, body, orelse, scope, frame)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                return self._with(items, body, scope, is_async=isinstance(node, ast.AsyncWith))
            case ast.Try() | ast.TryStar():
                return self._try(node, scope, frame)
            case ast.Match(subject=matched, cases=cases):
                subject = self.eval(matched, scope)
                self.loses("a match", [subject])
                for case in cases:
                    names = [one for one in ast.walk(case.pattern) if isinstance(one, ast.MatchAs) and one.name]
                    with self.under(self.unknown(f"a match on line {node.lineno}")):
                        for name in names:
                            scope.names[str(name.name)] = self.unknown(str(name.name), [subject])
                        if case.guard is not None:
                            self.loses("a match", [self.eval(case.guard, scope)])
                        self.block(case.body, scope)
                return False
            case _:
                return False

    def _loop(
        self,
        target: ast.expr | None,
        turns: list[tuple[Value, Value]],
        body: list[ast.stmt],
        orelse: list[ast.stmt],
        scope: Scope,
        frame: Frame,
    ) -> bool:
        again = any(not isinstance(condition, bool) for condition, _ in turns)
        carried = self._carried(body, target, scope) if again else {}
        for name, value in carried.items():
            scope.names[name] = self.unknown(name, [value])
        frame.ended += [False, False]
        for condition, element in turns:
            frame.ended[-1] = False
            if frame.over() is True:
                break
            with self.under(condition, negated(self.here(frame.over()))):
                if target is not None:
                    self.bind(target, element, scope, fresh=True)
                self.block(body, scope)
        broken = frame.ended[-2]
        del frame.ended[-2:]
        for name in carried:
            scope.names[name] = self.unknown(name, [scope.names[name]])
        with self.under(negated(broken)):
            if orelse and broken is not True:
                self.block(orelse, scope)
        return frame.over() is True

    def _carried(self, body: list[ast.stmt], target: ast.expr | None, scope: Scope) -> dict[str, Value]:
        """Names that one turn of a loop leaves to the next; those only ever set to plain constants are followed."""
        names: set[str] = set()
        plain: dict[str, bool] = {}
        for statement in body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Assign):
                    for one in node.targets:
                        if isinstance(one, ast.Name):
                            plain[one.id] = plain.get(one.id, True) and isinstance(node.value, ast.Constant)
                            names.add(one.id)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
                    plain.setdefault(node.id, False)
                elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                    plain[node.target.id] = False
        bound = {node.id for node in ast.walk(target) if isinstance(node, ast.Name)} if target else set[str]()
        known = {name for name in names - bound if name in scope.names and not plain.get(name, False)}
        return {name: scope.names[name] for name in known if not isinstance(scope.names[name], Items)}

    def _with(self, items: list[ast.withitem], body: list[ast.stmt], scope: Scope, *, is_async: bool) -> bool:
        swallows = False
        managers: list[tuple[Value, str, ast.expr]] = []
        for item in items:
            name = ast.unparse(item.context_expr).partition("(")[0]
            swallows = swallows or name.endswith(("raises", "assertRaises", "assertRaisesRegex", "suppress"))
            called = self.eval(item.context_expr.func, scope) if isinstance(item.context_expr, ast.Call) else None
            swallows = swallows or _catches(called)
            value = self.eval(item.context_expr, scope)
            enter, leave = ("__aenter__", "__aexit__") if is_async else ("__enter__", "__exit__")
            entered = value if isinstance(value, Opaque) else self.unknown(name, [value])
            if isinstance(value, Instance):
                entered = self._around(value, enter, [], item.context_expr, value)
            managers.append((value, leave, item.context_expr))
            if item.optional_vars is not None:
                self.bind(item.optional_vars, entered, scope)
        if not swallows:
            ended = self.block(body, scope)
            for value, leave, code in reversed(managers):
                self._around(value, leave, [None, None, None], code, None)
            return ended
        with self.swallowing(f"with {ast.unparse(items[0].context_expr)[:40]}"):
            self.block(body, scope)
        return False

    def _around(self, value: Value, name: str, args: list[Value], code: ast.expr, otherwise: Value) -> Value:
        """What a context manager of the repository does around the body."""
        if isinstance(value, Instance) and isinstance(value.kind.find(name), Function):
            return self.call(self.attribute(value, name), args, {}, code)
        return otherwise

    @contextmanager
    def swallowing(self, text: str) -> Generator[None]:
        """Run code whose exceptions do not leave the test: what it asserts of the constant is not understood."""
        self.raised.append([])
        yield
        for one in self.raised.pop():
            if depends(one.condition):
                self.note(f"`{text}`", one.how)

    def note(self, what: str, how: str) -> None:
        """A use of the constant that is not understood."""
        self.raised[-1].append(Raised(Opaque(what, Origin.SETTING, ref=True), how, _names(AssertionError)))

    def _try(self, node: ast.Try | ast.TryStar, scope: Scope, frame: Frame) -> bool:
        if _leaves(node.finalbody):
            size = len(frame.results)
            with self.swallowing("a finally that leaves"):
                ended = self._caught(node, scope, frame)
            for number in range(size, len(frame.results)):
                condition, value = frame.results[number]
                frame.results[number] = (condition, self.unknown("a finally that leaves", [value]))
            return ended
        return self._caught(node, scope, frame)

    def _caught(self, node: ast.Try | ast.TryStar, scope: Scope, frame: Frame) -> bool:
        self.raised.append([])
        self.trying.append(len(self.raised) - 1)
        try:
            ended = self.block(node.body, scope)
            thrown = self.thrown()
        finally:
            self.trying.pop()
        waiting = self.raised.pop()
        with self.under(negated(self.here(thrown))):
            ended = self.block(node.orelse, scope) or ended
        for handler in node.handlers:
            caught, maybe = self._sorted(waiting, handler, scope)
            for one in maybe:
                if depends(one.condition):
                    self.note(f"an exception that line {handler.lineno} may catch", one.how)
            waiting = [one for one in waiting if one not in caught]
            surprise = Opaque(f"an exception on line {node.lineno}", Origin.SETTING)
            with self.under(some([*(self.left(one.condition) for one in caught), surprise])):
                frame.caught.append((len(self.guards), caught))
                if handler.name:
                    scope.names[handler.name] = self.unknown("an exception")
                ended = self.block(handler.body, scope) and ended
            frame.caught.pop()
        self.raised[-1] += waiting
        self.block(node.finalbody, scope)
        return ended

    def _sorted(
        self, waiting: list[Raised], handler: ast.ExceptHandler, scope: Scope
    ) -> tuple[list[Raised], list[Raised]]:
        """The exceptions that a handler catches, and those of which that is not known."""
        if handler.type is None:
            return waiting, []
        nodes = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        kinds = [self.kinds(one, scope) for one in nodes]
        own = {found[0] for found in kinds}
        caught = [one for one in waiting if own & one.kinds - {_UNKNOWN}]
        unsure = [one for one in waiting if _UNKNOWN in one.kinds | own and one not in caught]
        return caught, unsure

    def kinds(self, node: ast.expr, scope: Scope) -> list[str]:
        """The names of an exception class and of its bases, its own first; a question mark for what is not known."""
        if ast.unparse(node).endswith("fail.Exception"):
            return ["Failed", "BaseException"]
        value = self.eval(node, scope)
        if isinstance(value, Instance):
            value = value.kind
        if isinstance(value, Class):
            bases = [one for kind in value.ancestry() for one in kind.bases if isinstance(one, Library)]
            return [*(kind.name for kind in value.ancestry()), *(name for one in bases for name in _library_kinds(one))]
        return _library_kinds(value) if isinstance(value, Library) else [_UNKNOWN]

    def left(self, condition: Value) -> Value:
        """A condition without those that are in force anyway."""
        found = condition.args if isinstance(condition, Every) else (condition,)
        return every(one for one in found if not any(one is guard for guard in self.guards))

    def here(self, condition: Value) -> Value:
        """A choice of conditions, each without those that are in force anyway."""
        return some(self.left(one) for one in condition.args) if isinstance(condition, Some) else self.left(condition)

    def raises(self, node: ast.Raise, scope: Scope, frame: Frame) -> None:
        """A ``raise`` is reached; one without an exception gives on what was caught."""
        if node.exc is None and frame.caught:
            size, caught = frame.caught[-1]
            self.raised[-1] += [replace(one, condition=every([*self.guards[size:], one.condition])) for one in caught]
            return
        called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        self._fails(True, node, frozenset(self.kinds(called, scope) if called is not None else [_UNKNOWN]))

    def fails(self, condition: Value, node: ast.AST, kind: str = "AssertionError") -> None:
        """The test fails where the condition and those in force hold."""
        self._fails(condition, node, frozenset(_library_kinds(Library(f"builtins.{kind}"))))

    def _fails(self, condition: Value, node: ast.AST, kinds: frozenset[str]) -> None:
        if condition is not False:
            self.raised[-1].append(
                Raised(every([*self.guards, condition]), self.place(node), kinds, self.next_moment())
            )

    def place(self, node: ast.AST) -> str:
        """Where the code stands, and the code."""
        text = " ".join(ast.unparse(node).split())
        shortened = text if len(text) <= _HOW_LONG else f"{text[: _HOW_LONG - 1]}…"
        path = self.frames[-1].scope.module.path if self.frames else ""
        return f"{path}:{getattr(node, 'lineno', 0)}: {shortened}"


def _catches(called: Value) -> bool:
    """Whether a context manager of the repository may keep an exception to itself."""
    is_class = isinstance(called, Class)
    if is_class:
        found = called.find("__exit__")
        called = found if isinstance(found, Function) else called.find("__aexit__")
    inner = list(ast.walk(called.node)) if isinstance(called, Function) else []
    if is_class:
        gives = (one.value for one in inner if isinstance(one, ast.Return))
        return any(one is not None and not (isinstance(one, ast.Constant) and not one.value) for one in gives)
    handlers = [one for one in inner if isinstance(one, ast.ExceptHandler)]
    return any(not isinstance(one.body[-1], ast.Raise) for one in handlers) or any(
        isinstance(one, ast.withitem) and "suppress" in ast.unparse(one.context_expr) for one in inner
    )


def _leaves(body: list[ast.stmt]) -> bool:
    """Whether statements leave the block that they are in."""
    return any(isinstance(one, ast.Return | ast.Break | ast.Continue) for part in body for one in ast.walk(part))


def _names(kind: type) -> frozenset[str]:
    return frozenset(one.__name__ for one in kind.__mro__)


def _library_kinds(value: Library) -> list[str]:
    """The names of an exception class from outside the repository and of its bases, its own first."""
    name = value.name.rpartition(".")[2]
    kind = getattr(builtins, name, None) if value.name.startswith("builtins.") else None
    if isinstance(kind, type):
        return [one.__name__ for one in kind.__mro__]
    return [name, "BaseException"] if name in ("Failed", "Exit") else [name, _UNKNOWN, "BaseException"]
