"""Runs a test file's code once, statement by statement, with every branch taken under its condition.

Nothing is imported or executed: what a statement does is done to the interpreter's own objects. A test fails where an
assertion or an exception is reached; the conditions of all such places are what is looked for.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tune_mcp.discover.assertions.expressions import BINARY, TooLong
from tune_mcp.discover.assertions.formula import (
    REFERENCE,
    Choice,
    EachTime,
    Every,
    Expr,
    Opaque,
    Origin,
    Some,
    Value,
    choose,
    depends,
    every,
    is_number,
    negated,
    some,
)
from tune_mcp.discover.assertions.library import Calls
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Class,
    Function,
    Instance,
    Items,
    Lazy,
    Library,
    Method,
    Module,
    Scope,
    Table,
    beyond,
    stored,
    tainted,
)
from tune_mcp.discover.imports import SourceFiles

_MAX_DEPTH = 60
_BRIEF = 2_000
_HOW_LONG = 90
_SAME_EACH_TIME = frozenset(
    {"mean", "min", "max", "sum", "item", "items", "values", "keys", "tolist", "json", "median"}
)
"""Methods without arguments that give the same part of a result each time; any other may measure anew."""
_CATCH_ALL = frozenset({"", "Exception", "BaseException", "AssertionError"})


@dataclass(frozen=True)
class Target:
    """The constant that is asked for: its file, its symbol, and for a dict its key and the load."""

    file: str
    symbol: str
    subkey: str | None
    concurrency: int | None


@dataclass
class Raised:
    """A place where an exception leaves a test: its condition, the code, and the exception's name."""

    condition: Value
    how: str
    kind: str


@dataclass
class _Frame:
    """One running function: whether it has returned, and what."""

    scope: Scope
    results: list[tuple[Value, Value]] = field(default_factory=list[tuple[Value, Value]])
    yields: list[tuple[Value, Value]] = field(default_factory=list[tuple[Value, Value]])
    done: Value = False
    ended: list[Value] = field(default_factory=list[Value])
    """For each loop that runs, the innermost last: where this iteration has ended."""
    caught: list[list[Raised]] = field(default_factory=list[list[Raised]])

    def over(self) -> Value:
        """Where the statements that follow do not run."""
        return some([self.done, *self.ended])


class Interpreter(Calls):
    """Executes modules and functions of one repository, with one constant replaced by an unknown."""

    def __init__(
        self,
        files: SourceFiles,
        target: Target,
        near: str,
        env: Mapping[str, str],
        reaches: Callable[[str, ast.AST], bool],
        long: set[int],
    ) -> None:
        super().__init__(target.concurrency, env)
        self.long = long
        self.reaches = reaches
        self.files = files
        self.target = target
        self.near = PurePosixPath(near).parts[0]
        self.modules: dict[str, Module] = {}
        self.raised: list[list[Raised]] = [[]]
        self.frames: list[_Frame] = []
        self.present: float | None = None
        self.found = False
        self.depth = 0

    # Modules and names

    def module(self, path: str) -> Module:
        """The file's module, its top level executed once."""
        if path in self.modules:
            return self.modules[path]
        dotted = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        module = self.modules[path] = Module(path, dotted)
        module.scope.names.update({"__name__": dotted, "__file__": path, "TYPE_CHECKING": False})
        tree = self.files.tree(path)
        if tree is None:
            return module
        kept, self.guards, testing, self.testing = self.guards, [], self.testing, False
        self.raised.append([])
        self.frames.append(_Frame(module.scope))
        try:
            self.block(tree.body, module.scope)
        finally:
            self.frames.pop()
            self.raised.pop()
            self.guards, self.testing = kept, testing
        return module

    def imported(self, importer: str, dotted: str, level: int = 0) -> Module | Library:
        """The module that an import names."""
        path = self.files.resolve(importer, dotted, level)
        return self.module(path) if path else Library("." * level + dotted, importer)

    def force(self, lazy: Lazy) -> Value:
        """The value of an imported name."""
        origin = self.imported(lazy.importer, lazy.module, lazy.level)
        if isinstance(origin, Library):
            joint = "" if not lazy.module else "."
            inner = self.imported(lazy.importer, f"{lazy.module}{joint}{lazy.name}", lazy.level)
            return inner if isinstance(inner, Module) else Library(f"{origin.name}.{lazy.name}")
        return self.attribute(origin, lazy.name)

    def lookup(self, scope: Scope, name: str) -> Value:
        """What a name means, through the enclosing scopes to the built-in names."""
        one: Scope | None = scope.outer.get(name, scope)
        while one is not None:
            if name in one.names:
                found = one.names[name]
                if isinstance(found, Lazy):
                    found = one.names[name] = self.force(found)
                return found
            one = one.parent
        return Library(f"builtins.{name}") if name in _BUILTINS else MISSING

    # Statements

    def block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; True when none after them would run."""
        frame = self.frames[-1]
        for statement in body:
            over = frame.over()
            if over is True:
                return True
            self.at = statement
            with self.under(negated(self._here(over))):
                if self.statement(statement, scope, frame):
                    return True
        return frame.over() is True

    def statement(self, node: ast.stmt, scope: Scope, frame: _Frame) -> bool:
        """Run one statement; True when none after it would run."""
        match node:
            case ast.Expr(value=ast.Yield(value=value)):
                frame.yields.append((self.since(scope), self.eval(value, scope) if value else None))
            case ast.Expr(value=value):
                self.eval(value, scope)
            case ast.Assign(targets=targets, value=value):
                found = self.eval(value, scope)
                for target in targets:
                    self.bind(target, found, scope)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.bind(target, self.eval(value, scope), scope)
            case ast.AugAssign(target=target, op=op, value=value):
                self._augmented(target, op, value, scope)
            case ast.Assert(test=test):
                self.fails(negated(self.truth(self.eval(test, scope))), node)
            case ast.Return(value=value):
                condition = self.since(scope)
                frame.results.append((condition, self.eval(value, scope) if value else None))
                frame.done = some([frame.done, condition])
                return True
            case ast.Raise():
                self._raise(node, scope, frame)
                return True
            case (
                ast.If()
                | ast.For()
                | ast.AsyncFor()
                | ast.While()
                | ast.Try()
                | ast.TryStar()
                | ast.With()
                | ast.AsyncWith()
                | ast.Match()
            ):
                return self.compound(node, scope, frame)
            case ast.Continue() | ast.Break():
                if frame.ended:
                    which = -1 if isinstance(node, ast.Continue) else -2
                    frame.ended[which] = some([frame.ended[which], self.since(scope)])
                return True
            case _:
                self._definition(node, scope)
        return False

    def since(self, scope: Scope) -> Value:
        """The condition that has been added since the scope was entered."""
        return beyond(self.guards, scope.created)

    def _definition(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                value: Value = Function(node, scope, (self.defaults(node.args, scope),))
                self.bind(ast.Name(id=node.name, ctx=ast.Store()), value, scope)
            case ast.ClassDef():
                self.bind(ast.Name(id=node.name, ctx=ast.Store()), self._class(node, scope), scope)
            case ast.Import(names=names):
                for alias in names:
                    first = alias.name.partition(".")[0]
                    wanted = alias.name if alias.asname else first
                    scope.names[alias.asname or first] = self.imported(scope.module.path, wanted)
            case ast.ImportFrom(module=module, names=names, level=level):
                for alias in names:
                    lazy = Lazy(scope.module.path, module or "", level, alias.name)
                    if alias.name != "*":
                        stored(scope.names, alias.asname or alias.name, lazy, self.since(scope))
                    elif isinstance(origin := self.imported(scope.module.path, module or "", level), Module):
                        taken = {k: v for k, v in origin.scope.names.items() if not k.startswith("_")}
                        scope.names.update(taken)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                for name in names:
                    scope.outer[name] = self._home(scope, name, is_global=isinstance(node, ast.Global))
            case ast.Delete(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Name):
                        scope.names.pop(target.id, None)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.eval(child, scope)

    def _home(self, scope: Scope, name: str, *, is_global: bool) -> Scope:
        if is_global:
            return scope.module.scope
        one = scope.parent
        while one is not None and name not in one.names:
            one = one.parent
        return one or scope

    def bind(self, target: ast.expr, value: Value, scope: Scope, *, fresh: bool = False) -> None:
        """Assign to a target where the conditions in force hold."""
        match target:
            case ast.Name(id=name):
                home = scope.outer.get(name, scope)
                value = self._injected(name, value, home)
                if home.parent is None:
                    self.pins(home.names.get(name), value)
                stored(home.names, name, value, True if fresh else beyond(self.guards, home.created))
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                known = self.known_items(value)
                for number, element in enumerate(elements):
                    if known is not None and len(known) == len(elements):
                        part = known[number]
                    else:
                        part = self.item(value, number, target)
                    self.bind(element.value if isinstance(element, ast.Starred) else element, part, scope, fresh=fresh)
            case ast.Subscript(value=inner, slice=index):
                owner = self.eval(inner, scope)
                for one in self._alternatives(owner):
                    if isinstance(one, Table):
                        self._put(one, self.index(index, scope), value)
                    elif isinstance(one, Items):
                        self.spoil(one, ast.unparse(target), [value])
            case ast.Attribute(value=inner, attr=name):
                owner = self.eval(inner, scope)
                for one in self._alternatives(owner):
                    if isinstance(one, Instance):
                        stored(one.names, name, value, beyond(self.guards, one.created))
                    elif isinstance(one, Module | Class):
                        stored(one.scope.names, name, value, beyond(self.guards, ()))
            case _:
                self.eval(target, scope)

    def _put(self, table: Table, key: Value, value: Value) -> None:
        level = self._level(table) if isinstance(key, Opaque) else None
        self.put(table, key if level is None else level, value)

    def _alternatives(self, value: Value) -> list[Value]:
        return (
            [*self._alternatives(value.then), *self._alternatives(value.other)]
            if isinstance(value, Choice)
            else [value]
        )

    def _augmented(self, target: ast.expr, op: ast.operator, value: ast.expr, scope: Scope) -> None:
        old = self.eval(target, scope)
        new = self.eval(value, scope)
        if isinstance(old, Items) and isinstance(op, ast.Add):
            condition = beyond(self.guards, old.created)
            self.fits(old.items, old.items)
            old.items += [(every([condition, one]), element) for one, element in self.iterate(new)]
            return
        node = ast.BinOp(left=target, op=op, right=value)
        self.bind(target, self.binary(BINARY.get(type(op)), old, new, node), scope)

    def _injected(self, name: str, value: Value, home: Scope) -> Value:
        """The constant that is asked for becomes an unknown where its file binds it."""
        wanted = self.target
        if home.parent is not None or home.module.path != wanted.file or name != wanted.symbol:
            return value
        if wanted.subkey is None:
            self.found = True
            self.present = float(value) if is_number(value) else None
            return REFERENCE
        table = value
        if isinstance(table, Table) and wanted.subkey not in table.entries:
            level = wanted.concurrency if wanted.concurrency is not None else self._only(table)
            table = table.entries.get(level, MISSING)
        if isinstance(table, Table) and wanted.subkey in table.entries:
            old = table.entries[wanted.subkey]
            self.present = float(old) if is_number(old) else None
            table.entries[wanted.subkey] = REFERENCE
            self.found = True
        return value

    def _only(self, table: Table) -> Value:
        return next(iter(table.entries)) if len(table.entries) == 1 else None

    # Branches, loops, exceptions

    def compound(self, node: ast.stmt, scope: Scope, frame: _Frame) -> bool:
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
                return self._with(items, body, scope)
            case ast.Try() | ast.TryStar():
                return self._try(node, scope, frame)
            case ast.Match(cases=cases):
                for case in cases:
                    names = [one for one in ast.walk(case.pattern) if isinstance(one, ast.MatchAs) and one.name]
                    with self.under(self.unknown(f"a match on line {node.lineno}")):
                        for name in names:
                            scope.names[str(name.name)] = self.unknown(str(name.name))
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
        frame: _Frame,
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
            with self.under(condition, negated(self._here(frame.over()))):
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

    def _with(self, items: list[ast.withitem], body: list[ast.stmt], scope: Scope) -> bool:
        swallows = False
        for item in items:
            name = ast.unparse(item.context_expr).partition("(")[0]
            swallows = swallows or name.endswith(("raises", "assertRaises", "assertRaisesRegex", "suppress"))
            value = self.eval(item.context_expr, scope)
            if item.optional_vars is not None:
                entered = value if isinstance(value, Instance | Opaque) else self.unknown(name, [value])
                self.bind(item.optional_vars, entered, scope)
        if not swallows:
            return self.block(body, scope)
        self.raised.append([])
        self.block(body, scope)
        for one in self.raised.pop():
            if depends(one.condition):
                self._note(f"`with {ast.unparse(items[0].context_expr)[:40]}`", one.how)
        return False

    def _note(self, what: str, how: str) -> None:
        """A use of the constant that is not understood."""
        self.raised[-1].append(Raised(Opaque(what, Origin.SETTING, ref=True), how, "AssertionError"))

    def _try(self, node: ast.Try | ast.TryStar, scope: Scope, frame: _Frame) -> bool:
        self.raised.append([])
        ended = self.block([*node.body, *node.orelse], scope)
        waiting = self.raised.pop()
        for handler in node.handlers:
            kinds = _kinds(handler)
            caught = [one for one in waiting if kinds & {one.kind, *(_CATCH_ALL - {"AssertionError"})}]
            if "Exception" in kinds and not kinds & {"", "BaseException"}:
                caught = [one for one in caught if one.kind != "Failed"]
            waiting = [one for one in waiting if one not in caught]
            surprise = Opaque(f"an exception on line {node.lineno}", Origin.SETTING)
            frame.caught.append(caught)
            with self.under(some([*(self._left(one.condition) for one in caught), surprise])):
                if handler.name:
                    scope.names[handler.name] = self.unknown("an exception")
                ended = self.block(handler.body, scope) and ended
            frame.caught.pop()
        self.raised[-1] += waiting
        self.block(node.finalbody, scope)
        return ended

    def _left(self, condition: Value) -> Value:
        """A condition without those that are in force anyway."""
        found = condition.args if isinstance(condition, Every) else (condition,)
        return every(one for one in found if not any(one is guard for guard in self.guards))

    def _here(self, condition: Value) -> Value:
        """The same for a choice of conditions."""
        return some(self._left(one) for one in condition.args) if isinstance(condition, Some) else self._left(condition)

    def _raise(self, node: ast.Raise, scope: Scope, frame: _Frame) -> None:
        if node.exc is None and frame.caught:
            self.raised[-1] += frame.caught[-1]
            return
        called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        kind = ast.unparse(called).rpartition(".")[2] if called is not None else "Exception"
        self.fails(True, node, kind)

    def fails(self, condition: Value, node: ast.AST, kind: str = "AssertionError") -> None:
        """The test fails where the condition and those in force hold."""
        if condition is False:
            return
        whole = every([*self.guards, condition])
        self.raised[-1].append(Raised(whole, self.place(node), kind))

    def place(self, node: ast.AST) -> str:
        """Where the code stands, and the code."""
        text = " ".join(ast.unparse(node).split())
        shortened = text if len(text) <= _HOW_LONG else f"{text[: _HOW_LONG - 1]}…"
        path = self.frames[-1].scope.module.path if self.frames else self.target.file
        return f"{path}:{getattr(node, 'lineno', 0)}: {shortened}"

    # Functions and classes

    def defaults(self, arguments: ast.arguments, scope: Scope) -> dict[str, Value]:
        """The defaults of a function's parameters."""
        positional = [*arguments.posonlyargs, *arguments.args]
        found = {
            parameter.arg: self.eval(value, scope)
            for parameter, value in zip(reversed(positional), reversed(arguments.defaults), strict=False)
        }
        for parameter, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if value is not None:
                found[parameter.arg] = self.eval(value, scope)
        return found

    def call(self, function: Value, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        """Call a value."""
        given = [*args, *keywords.values()]
        match function:
            case Function():
                return self._invoke(function, args, keywords, node)
            case Class():
                return self._instance(function, args, keywords, node)
            case Method(owner=owner, name=name):
                return self.method(owner, name, args, keywords, node)
            case Library(name=name):
                return self.library(name, args, keywords, node)
            case Choice():
                with self.under(function.condition):
                    then = self.call(function.then, args, keywords, node)
                with self.under(negated(function.condition)):
                    other = self.call(function.other, args, keywords, node)
                return choose(function.condition, then, other)
            case Opaque():
                return self._opaque_call(function, given, node)
            case _:
                return self.unknown(ast.unparse(node)[:40], given)

    def _opaque_call(self, function: Opaque, given: list[Value], node: ast.AST) -> Value:
        name = f"{function.name}(…)"
        if not given and function.name.rpartition(".")[2] in _SAME_EACH_TIME:
            return function.child("call", None, name)
        if any(tainted(one) and not isinstance(one, str) for one in given):
            self._foreign(function.name, given, {}, node)
        found = self.unknown("", [function, *given])
        return Opaque(name, function.origin, found.ref, None, found.parents)

    def _invoke(self, function: Function, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        given = [*args, *keywords.values()]
        path = function.scope.module.path
        matters = any(tainted(one) for one in (*given, function.owner)) or self.reaches(path, function.node)
        if not matters and self.testing and PurePosixPath(path).parts[0] != self.near:
            return self._skipped(function, args, keywords)
        odd = [one for one in function.decorators if not _is_plain_decorator(one)]
        self.raised.append([])
        found = self.run(function, args, keywords) if matters else self._briefly(function, args, keywords)
        for one in self.raised.pop():
            if odd and depends(one.condition):
                self._note(f"the decorator `{odd[0][:40]}`", one.how)
            else:
                self.raised[-1].append(one)
        return self.unknown(f"{function.name}(…)", [found, *given]) if odd else found

    def _briefly(self, function: Function, args: list[Value], keywords: dict[str, Value]) -> Value:
        """Run a function that the constant does not reach, unless it takes long: then what it gives is unknown."""
        if id(function.node) in self.long:
            return self._skipped(function, args, keywords)
        kept = (len(self.guards), len(self.raised), len(self.frames), self.depth, self.allowed)
        self.allowed = min(self.allowed, self.steps + _BRIEF)
        try:
            return self.run(function, args, keywords)
        except TooLong:
            if self.steps > kept[4] or self.allowed == 0:
                raise
            del self.guards[kept[0] :], self.raised[kept[1] :], self.frames[kept[2] :]
            self.depth = kept[3]
            self.long.add(id(function.node))
            return self._skipped(function, args, keywords)
        finally:
            self.allowed = kept[4]

    def _skipped(self, function: Function, args: list[Value], keywords: dict[str, Value]) -> Value:
        """What a function gives that is not followed: unknown, and so is what it was given to change."""
        given = [*args, *keywords.values()]
        for one in given:
            if isinstance(one, Table | Items):
                self.spoil(one, f"`{function.name}`")
        return self.unknown(f"{function.name}(…)", given)

    def run(self, function: Function, args: list[Value], keywords: dict[str, Value]) -> Value:
        """Run a function's body with its parameters bound, and give what it returns."""
        if self.depth > _MAX_DEPTH:
            raise TooLong
        scope = Scope(function.scope.module, function.scope, self.now())
        self._parameters(function, args, keywords, scope)
        if isinstance(function.node, ast.Lambda):
            return self.eval(function.node.body, scope)
        frame = _Frame(scope)
        self.frames.append(frame)
        self.depth += 1
        try:
            returns = self.block(function.node.body, scope)
        finally:
            self.depth -= 1
            self.frames.pop()
        if frame.yields:
            return frame.yields[0][1] if function.is_fixture else Items(frame.yields, scope.created)
        value: Value = frame.results.pop()[1] if returns and frame.results else None
        for condition, result in reversed(frame.results):
            value = result if condition is True else choose(condition, result, value)
        return value

    def _parameters(self, function: Function, args: list[Value], keywords: dict[str, Value], scope: Scope) -> None:
        arguments = function.node.args
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        given = [function.owner, *args] if function.owner is not None else args
        bound = dict(zip(names, given, strict=False))
        if arguments.vararg is not None:
            bound[arguments.vararg.arg] = tuple(given[len(names) :])
        every_name = [*names, *(one.arg for one in arguments.kwonlyargs)]
        bound |= {key: value for key, value in keywords.items() if key in every_name}
        if arguments.kwarg is not None:
            rest: dict[object, Value] = {key: value for key, value in keywords.items() if key not in every_name}
            bound[arguments.kwarg.arg] = Table({**rest}, self.now())
        defaults = function.defaults[0] if function.defaults else {}
        for name in every_name:
            scope.names[name] = bound[name] if name in bound else defaults.get(name, MISSING)
            if scope.names[name] is MISSING:
                scope.names[name] = Opaque(name, Origin.PARAMETER)
        for extra in (arguments.vararg, arguments.kwarg):
            if extra is not None:
                scope.names[extra.arg] = bound[extra.arg]

    def _class(self, node: ast.ClassDef, scope: Scope) -> Class:
        bases = tuple(self.eval(one, scope) for one in node.bases)
        inner = Scope(scope.module, scope, self.now())
        fields = tuple(
            one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        )
        self.block(node.body, inner)
        # A class's names are seen by its own body only, not by its methods.
        for value in inner.names.values():
            if isinstance(value, Function) and value.scope is inner:
                value.scope = scope
        return Class(node.name, node, bases, inner, fields)

    def _instance(self, kind: Class, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        found = Instance(kind, {}, self.now())
        init = kind.find("__init__")
        if isinstance(init, Function):
            self._invoke(Function(init.node, init.scope, init.defaults, found), args, keywords, node)
            return found
        names = [name for one in reversed(kind.ancestry()) for name in one.fields]
        bound = {**dict(zip(names, args, strict=False)), **keywords}
        for name in dict.fromkeys(names):
            if name in bound:
                found.names[name] = bound[name]
            else:
                default = kind.find(name)
                found.names[name] = self.copied(default, deep=True) if default is not MISSING else self.unknown(name)
        if isinstance(after := kind.find("__post_init__"), Function):
            self._invoke(Function(after.node, after.scope, after.defaults, found), [], {}, node)
        if not names and (args or keywords):
            found.names.update(keywords)
        return found


def _kinds(handler: ast.ExceptHandler) -> frozenset[str]:
    if handler.type is None:
        return frozenset({""})
    nodes = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return frozenset(ast.unparse(one).rpartition(".")[2] for one in nodes)


def _is_plain_decorator(text: str) -> bool:
    name = text.partition("(")[0]
    plain = ("staticmethod", "classmethod", "property", "cache", "lru_cache", "wraps", "fixture", "contextmanager",
             "cached_property", "override", "abstractmethod", "overload", "dataclass")  # fmt: skip
    return name.rpartition(".")[2] in plain or ".mark." in text


_BUILTINS = frozenset(dir(builtins))
