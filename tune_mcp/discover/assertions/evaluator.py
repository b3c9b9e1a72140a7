"""Runs a test file's code once, statement by statement, with every branch taken under its condition.

Nothing is imported or executed: what a statement does is done to the interpreter's own objects. A test fails where an
assertion or an exception is reached; the conditions of all such places are what is looked for.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from tune_mcp.discover.assertions.branches import Frame
from tune_mcp.discover.assertions.formula import (
    Choice,
    Opaque,
    Origin,
    Value,
    choose,
    depends,
    negated,
)
from tune_mcp.discover.assertions.library import reads_only
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
    is_measured,
    tainted,
)
from tune_mcp.discover.assertions.outside import MUTATORS
from tune_mcp.discover.assertions.statements import Statements
from tune_mcp.discover.assertions.values import OutOfTime, Target, TooLong
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.discover.recorded import RECORDERS
from tune_mcp.discover.source_tree import parameters
from tune_mcp.run_dir import RECORD_FILE

_MAX_DEPTH = 60
_BRIEF = 2_000
_LOOK_UP = 8
"""Statements of a function of another package that only takes a result apart, at most."""
_LONGER = (ast.For, ast.AsyncFor, ast.While, ast.comprehension, ast.With, ast.Try, ast.Lambda, ast.Assert)
_SAME_EACH_TIME = frozenset({"min", "max", "item", "items", "values", "keys", "tolist", "json"})
"""Methods without arguments that give the same part of a result each time; any other may measure again."""
_COMPUTING = frozenset(
    {"mean", "median", "sum", "std", "var", "prod", "round", "abs", "clip", "quantile", "percentile"}
)
"""Methods that make another number of what they belong to."""
_FILLS_A_FILE = frozenset({"write_text", "write_bytes", "write"})
_BUILTINS = frozenset(dir(builtins))


class Evaluator(Statements):
    """Executes modules and functions of one repository, with one constant replaced by an unknown."""

    def __init__(
        self,
        files: PythonFiles,
        target: Target,
        near: str,
        env: Mapping[str, str],
        reaches: Callable[[str, ast.AST], bool],
        long: set[int],
    ) -> None:
        super().__init__(target, env)
        self.long = long
        self.reaches = reaches
        self.files = files
        self.near = PurePosixPath(near).parts[0]
        self.modules: dict[str, Module] = {}
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
        self.frames.append(Frame(module.scope))
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
                return self.settled(name, found) if one.parent is None else found
            one = one.parent
        return Library(f"builtins.{name}") if name in _BUILTINS else MISSING

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
                self.loses(ast.unparse(node)[:40], [function, *given])
                return self.unknown(ast.unparse(node)[:40], [function, *given])

    def reads(self, function: Function) -> bool:
        """Whether the constant is within a function's reach."""
        return self.reaches(function.scope.module.path, function.node)

    def _opaque_call(self, function: Opaque, given: list[Value], node: ast.AST) -> Value:
        name, last = f"{function.name}(…)", function.name.rpartition(".")[2]
        if not given and last in _SAME_EACH_TIME:
            return function.child("call", None, name)
        if not given and last in ("is_file", "exists") and function.owner is not None:
            return self.is_there(function.owner, node)
        if last in ("joinpath", "join") and given and isinstance(given[-1], str):
            return self.unknown(f"… / {given[-1]!r}", [function])
        if last in RECORDERS:
            for value in given[1:]:
                self.measure(value)
            if len(given) > 1 and isinstance(given[0], str):
                self.leaves_behind(Table({given[0]: given[1]}), RECORD_FILE)
        elif last in _FILLS_A_FILE:
            for text in given:
                self.left_behind.put_into_file(text, function)
        elif not reads_only(last):
            self.touches([function.owner, *given])
        self.loses(f"`{name}`", [function, *given])
        owner = function.owner
        if last in MUTATORS and owner is not None:
            owner.change(self.place(node))
            self.touches([owner])
        if any(tainted(one) and not isinstance(one, str) for one in given):
            self.foreign(function.name, given, {}, node)
        found = self.unknown("", [function, *given])
        mixed = name if last in _COMPUTING or any(is_measured(one) for one in given) else ""
        return Opaque(name, function.origin, found.ref, None, found.parents, mixed)

    def _invoke(self, function: Function, args: list[Value], keywords: dict[str, Value], node: ast.AST) -> Value:
        given = [*args, *keywords.values()]
        path = function.scope.module.path
        matters = any(tainted(one) for one in (*given, function.owner)) or self.reads(function)
        helper = not function.is_fixture and any(is_measured(one) for one in given)
        looked_up = helper and _only_looks_up(function.node)
        near = looked_up or PurePosixPath(path).parts[0] == self.near
        if not matters and self.testing and not near:
            return self._skipped(function, args, keywords)
        odd = [one for one in function.decorators if not is_plain_decorator(one)]
        self.raised.append([])
        found = self.run(function, args, keywords) if matters else self._briefly(function, args, keywords)
        for one in self.raised.pop():
            if odd and depends(one.condition):
                self.note(f"the decorator `{odd[0][:40]}`", one.how)
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
        except TooLong as error:
            if self.steps > kept[4] or isinstance(error, OutOfTime):
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
        if not reads_only(function.name):
            self.touches(given)
        return self.unknown(f"{function.name}(…)", given)

    def run(self, function: Function, args: list[Value], keywords: dict[str, Value]) -> Value:
        """Run a function's body with its parameters bound, and give what it returns."""
        if self.depth > _MAX_DEPTH:
            raise TooLong
        scope = Scope(function.scope.module, function.scope, self.now())
        self._parameters(function, args, keywords, scope)
        if isinstance(function.node, ast.Lambda):
            return self.eval(function.node.body, scope)
        frame = Frame(scope)
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
        every_name = parameters(arguments)
        bound |= {key: value for key, value in keywords.items() if key in every_name}
        if arguments.kwarg is not None:
            rest: dict[object, Value] = {key: value for key, value in keywords.items() if key not in every_name}
            bound[arguments.kwarg.arg] = Table({**rest}, self.now())
        for name in every_name:
            scope.names[name] = bound[name] if name in bound else function.defaults.get(name, MISSING)
            if scope.names[name] is MISSING:
                scope.names[name] = Opaque(name, Origin.PARAMETER)
        for extra in (arguments.vararg, arguments.kwarg):
            if extra is not None:
                scope.names[extra.arg] = bound[extra.arg]

    def make_class(self, node: ast.ClassDef, scope: Scope) -> Class:
        """The class that a statement defines, its body run once."""
        bases = tuple(self.eval(one, scope) for one in node.bases)
        inner = Scope(scope.module, scope, self.now())
        fields = tuple(
            one.target.id
            for one in node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and _is_parameter(one)
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
            self._invoke(init.bound(found), args, keywords, node)
            return found
        names = list(dict.fromkeys(name for one in reversed(kind.ancestry()) for name in one.fields))
        bound = {**dict(zip(names, args, strict=False)), **keywords}
        for name in names:
            if name in bound:
                found.names[name] = bound[name]
            else:
                default = kind.find(name)
                found.names[name] = self.copied(default, deep=True) if default is not MISSING else self.unknown(name)
        if isinstance(after := kind.find("__post_init__"), Function):
            self._invoke(after.bound(found), [], {}, node)
        if not names and (args or keywords):
            # What a base or __new__ makes of them is not known; they are in it.
            found.names.update({"(arguments)": tuple(args), **keywords})
        return found


def _is_parameter(node: ast.AnnAssign) -> bool:
    """Whether an annotated name of a class body is a parameter of the dataclass."""
    kind = ast.unparse(node.annotation).strip("'\"").partition("[")[0].rpartition(".")[2]
    keywords = node.value.keywords if isinstance(node.value, ast.Call) else []
    outside = any(one.arg == "init" and ast.unparse(one.value) == "False" for one in keywords)
    return kind not in ("ClassVar", "KW_ONLY") and not outside


def is_plain_decorator(text: str) -> bool:
    """Whether a function does with the decorator what it does without, as far as its assertions go."""
    name = text.partition("(")[0]
    plain = ("staticmethod", "classmethod", "property", "cache", "lru_cache", "wraps", "fixture", "contextmanager",
             "cached_property", "override", "abstractmethod", "overload", "dataclass")  # fmt: skip
    return name.rpartition(".")[2] in plain or ".mark." in text


def _only_looks_up(node: ast.AST) -> bool:
    """Whether a function of another package is short and takes a result apart, as ``figure(summary, "wer")`` does."""
    inner = [one for one in ast.walk(node) if one is not node]
    steps = sum(isinstance(one, ast.stmt) for one in inner)
    calls = [one for one in inner if isinstance(one, ast.Call)]
    raised = {id(part) for one in inner if isinstance(one, ast.Raise) for part in ast.walk(one)}
    return (
        steps <= _LOOK_UP
        and not any(isinstance(one, _LONGER) for one in inner)
        and all(id(one) in raised for one in calls)
    )
