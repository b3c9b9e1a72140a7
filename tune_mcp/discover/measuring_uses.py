"""Where code reads a threshold for anything but an assertion: there it is a part of the measurement.

A name is followed through arithmetic, further constants, local variables, functions of the repository and the fields
of what is built from it at import. What ends in an ``assert``, in a call of an assertion helper, in a message or
in a condition that only complains is harmless. Everything else counts as a reader, whether or not it is one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tune_mcp.discover.source_tree import AnyFunction, last_name, parameters, read_tree
from tune_mcp.errors import Refusal

Find = Callable[[str], Mapping[str, bytes]]
"""The Python files of the repository that hold a word: path to bytes."""

_HELPER = re.compile(r"_*(assert|check|verif|expect|requir|ensure|validat|compar|fail)", re.IGNORECASE)
_MESSAGES = frozenset({"print", "pprint", "log", "logger", "logging", "warnings"})
_COMPLAINTS = frozenset({"fail", "append", "add", "error", "print"})
_BUILT_IN = frozenset(
    {
        "abs", "all", "any", "approx", "bool", "ceil", "dict", "enumerate", "float", "floor", "format", "int",
        "isclose", "isinstance", "len", "list", "max", "min", "pow", "range", "repr", "reversed", "round", "set",
        "sorted", "sqrt",
        "str", "sum", "tuple", "zip", "Decimal", "Fraction", "MappingProxyType", "ValueError", "KeyError", "TypeError",
        "AssertionError",
    }
)  # fmt: skip
_METHODS = frozenset({"items", "values", "keys", "get", "copy", "update", "append", "extend", "setdefault", "join"})
_EVERYTHING = frozenset({"globals", "vars", "locals", "getsource"})
_NAMES_LIMIT = 200

_Function = AnyFunction | ast.Lambda


@dataclass(frozen=True)
class _File:
    path: str
    tree: ast.Module
    parents: Mapping[ast.AST, ast.AST]

    @classmethod
    def of(cls, path: str, data: bytes) -> _File:
        tree = read_tree(data, path).tree
        return cls(path, tree, {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)})

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while (up := self.parents.get(node)) is not None:
            yield up
            node = up

    def function(self, node: ast.AST) -> _Function | None:
        return next((up for up in self.above(node) if isinstance(up, _Function)), None)


def measuring_uses(symbol: str, path: str, find: Find) -> tuple[str, ...]:
    """Each use of a threshold outside of assertions, as ``file:line what``; ``path`` is the file that assigns it."""
    return tuple(dict.fromkeys(_Search(find).of(symbol.rpartition(".")[2], path)))


class _Search:
    def __init__(self, find: Find) -> None:
        self._find = find
        self._files: dict[str, _File] = {}
        self._wide: list[tuple[str, str]] = []
        self._local: list[tuple[_File, ast.AST, str]] = []
        self._followed: set[tuple[ast.AST, str]] = set()
        self._entered: set[ast.AST] = set()

    def of(self, name: str, path: str) -> Iterator[str]:
        self._wide = [(name, path)]
        for number, (word, home) in enumerate(self._wide):
            if number > _NAMES_LIMIT:
                yield f"{home}: its value is used in too many ways to be followed"
                return
            for file in self._holding(word):
                own = file.path != home and _assigns(file.tree, word)
                yield from self._uses(file, file.tree, word, (ast.Attribute,) if own else (ast.Attribute, ast.Name))
            for file, scope, local in self._local:
                yield from self._uses(file, scope, local, (ast.Name,))
            self._local.clear()

    def _holding(self, word: str) -> Iterator[_File]:
        for path, data in self._find(word).items():
            if path not in self._files:
                try:
                    self._files[path] = _File.of(path, data)
                except Refusal:
                    continue
            yield self._files[path]

    def _uses(self, file: _File, scope: ast.AST, word: str, kinds: tuple[type[ast.AST], ...]) -> Iterator[str]:
        for node in ast.walk(scope):
            if isinstance(node, ast.Name | ast.Attribute):
                read = isinstance(node, kinds) and isinstance(node.ctx, ast.Load) and last_name(node) == word
                if read and (why := self._follow(file, node, word, local=scope is not file.tree)):
                    yield f"{file.path}:{node.lineno} {why}"
            elif isinstance(node, ast.alias) and node.name == word and node.asname:
                self._spread(file, node, ast.Name(node.asname, ast.Store()))
            elif isinstance(node, ast.Constant) and node.value == word and not _is_export(file, node):
                yield f"{file.path}:{node.lineno} names {word} in a string"
            elif isinstance(node, ast.Call) and scope is file.tree and _assigns(file.tree, word):
                called = last_name(node.func)
                if called in _EVERYTHING and not (called == "vars" and node.args):
                    yield f"{file.path}:{node.lineno} reads every name of the file with {called}()"

    def _follow(self, file: _File, node: ast.AST, word: str, *, local: bool) -> str:
        """Why this use is more than an assertion's; empty when it is none. Where its value goes is looked at later."""
        child: ast.AST = node
        for up in file.above(node):
            match up:
                case ast.Assert():
                    return ""
                case ast.Call():
                    if answer := self._call(file, up, child, word):
                        return answer.removeprefix("-")
                case ast.comprehension() if child is up.iter:
                    for name in (one.id for one in ast.walk(up.target) if isinstance(one, ast.Name)):
                        self._follow_in(file, file.parents[up], name)
                case ast.NamedExpr():
                    self._spread(file, up, up.target)
                case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                    targets = up.targets if isinstance(up, ast.Assign) else [up.target]
                    if isinstance(up, ast.AnnAssign) and child is up.annotation:
                        return ""
                    if any(child is target for target in targets):
                        return ""  # LIMITS[8] = ...: the value is looked at where it comes from
                    return next((why for target in targets if (why := self._spread(file, up, target))), "")
                case ast.For() | ast.AsyncFor() if child is up.iter:
                    return self._spread(file, up, up.target)
                case ast.If():
                    return "" if self._only_complains(file, up) else f"decides by {word}"
                case ast.arguments():
                    return self._default(file, up, child, word)
                case ast.Return() if local and file.function(up) in self._entered:
                    return ""  # the call that it came in by is followed on
                case ast.Expr() | ast.Raise() | ast.Import() | ast.ImportFrom():
                    return ""
                case ast.stmt():
                    return f"uses {word} in a {type(up).__name__.lower()} statement"
                case _:
                    pass
            child = up
        return ""

    def _call(self, file: _File, call: ast.Call, child: ast.AST, word: str) -> str:
        """Empty: the value goes on through the call; ``-`` that it ends there; otherwise why it is read."""
        name, root = last_name(call.func), _first(call.func)
        if child is call.func:
            return "" if name in _METHODS else f"calls {ast.unparse(call.func)[:80]}()"
        if root in _MESSAGES:
            return "-"
        if name in _BUILT_IN or name in _METHODS or self._enters(call, child, name):
            return ""
        if _HELPER.match(name):
            return "-"
        if isinstance(child, ast.keyword) and child.arg and name[:1].isupper() and file.function(call) is None:
            self._wide.append((child.arg, file.path))  # a field of what is built: it is followed by its name
            return "-"
        return f"passes {word} to {ast.unparse(call.func)[:80]}()"

    def _enters(self, call: ast.Call, child: ast.AST, name: str) -> bool:
        """Go on inside a function of the repository, by the parameter that receives the value."""
        if not name.isidentifier():
            return False
        found = [
            (file, node)
            for file in self._holding(name)
            for node in ast.walk(file.tree)
            if isinstance(node, AnyFunction) and node.name == name
        ]
        parameters = [_parameter(node.args, call, child) for _, node in found]
        if not found or not all(parameters):
            return False
        for (file, node), parameter in zip(found, parameters, strict=True):
            self._entered.add(node)
            self._follow_in(file, node, parameter)
        return True

    def _spread(self, file: _File, at: ast.AST, target: ast.AST) -> str:
        """Follow what was assigned; why it cannot be followed, otherwise empty."""
        function = file.function(at)
        for node in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
            root = node
            while isinstance(root, ast.Subscript | ast.Starred):
                root = root.value
            if not isinstance(root, ast.Name):
                return f"stores it in {ast.unparse(node)[:80]}"
            if function is not None:
                self._follow_in(file, function, root.id)
            elif (root.id, file.path) not in self._wide:
                self._wide.append((root.id, file.path))
        return ""

    def _follow_in(self, file: _File, scope: ast.AST, name: str) -> None:
        if (scope, name) not in self._followed:
            self._followed.add((scope, name))
            self._local.append((file, scope, name))

    def _only_complains(self, file: _File, condition: ast.If) -> bool:
        """Whether all that a condition does is to fail, to note, or to compute a value, which is followed then."""
        for statement in (*condition.body, *condition.orelse):
            match statement:
                case ast.Expr(value=ast.Call(func=function)):
                    if not (last_name(function) in _COMPLAINTS or _HELPER.match(last_name(function))):
                        return False
                case ast.If():
                    if not self._only_complains(file, statement):
                        return False
                case ast.Assign(targets=targets):
                    called = {last_name(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)}
                    if not called <= _BUILT_IN | _METHODS or any(self._spread(file, statement, one) for one in targets):
                        return False
                case ast.Raise() | ast.Assert() | ast.Pass():
                    pass
                case _:
                    return False
        return True

    def _default(self, file: _File, arguments: ast.arguments, child: ast.AST, word: str) -> str:
        """A parameter's default: inside an assertion helper it is harmless."""
        function = file.parents[arguments]
        if isinstance(function, AnyFunction) and _HELPER.match(function.name):
            return ""
        return f"is handed {word} as a default"


def _first(function: ast.expr) -> str:
    while isinstance(function, ast.Attribute):
        function = function.value
    return function.id if isinstance(function, ast.Name) else ""


def _assigns(tree: ast.Module, word: str) -> bool:
    """Whether the file has a name of its own of this spelling."""
    stored = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return any(node.id == word for node in stored)


def _is_export(file: _File, node: ast.AST) -> bool:
    targets = (up.targets for up in file.above(node) if isinstance(up, ast.Assign))
    return any(isinstance(one, ast.Name) and one.id == "__all__" for names in targets for one in names)


def _parameter(arguments: ast.arguments, call: ast.Call, child: ast.AST) -> str:
    """The name under which a call's argument arrives; empty when that is not known."""
    if isinstance(child, ast.keyword):
        return child.arg if child.arg in parameters(arguments) else ""
    before = next((number for number, one in enumerate(call.args) if one is child), None)
    if before is None or any(isinstance(one, ast.Starred) for one in call.args[: before + 1]):
        return ""
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    if isinstance(call.func, ast.Attribute) and names[:1] == ["self"]:
        names = names[1:]
    return names[before] if before < len(names) else ""
