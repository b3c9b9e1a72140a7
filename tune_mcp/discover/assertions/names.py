"""Which tests of a file read a constant: a walk over names, through functions, fixtures, classes and imports.

What a name means is taken widely: everything that may bind or change it counts. A test that the walk does not reach
does not read the constant, unless names are made at run time, which is said.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tune_mcp.discover.assertions.outside import ANYTHING, container_changed, set_by
from tune_mcp.discover.python_files import PythonFiles, remembered
from tune_mcp.discover.source_tree import AnyFunction, imports_in, last_name, parameters, root_name

_DYNAMIC = frozenset({"globals", "vars", "exec", "eval", "locals"})
_BUILTINS = frozenset(dir(builtins))
_SETUP = frozenset({
    "setUp", "setUpClass", "setup_method", "setup_class", "tearDown", "tearDownClass", "teardown_method",
    "teardown_class", "asyncSetUp", "__init__",
})  # fmt: skip
QualifiedName = tuple[str, str]
"""A file and a name in it."""
QualifiedNames = frozenset[QualifiedName]


@dataclass(frozen=True)
class TestNode:
    """A test of a file: its name below it, its function and its class; ``path`` is the file of the function."""

    __test__ = False
    name: str
    function: AnyFunction
    owner: ast.ClassDef | None
    path: str


@dataclass(frozen=True)
class Import:
    """A name bound by an import: the file, and the name in it (None: the module itself)."""

    path: str
    name: str | None


@dataclass
class Names:
    """What the top level of one file binds, and every statement that binds or changes each name."""

    statements: dict[str, list[ast.AST]] = field(default_factory=dict[str, "list[ast.AST]"])
    imports: dict[str, list[Import]] = field(default_factory=dict[str, "list[Import]"])
    stars: list[str] = field(default_factory=list[str])
    unseen: bool = False
    """Whether the top level binds names that are made at run time."""


@dataclass
class NameReader:
    """Answers for one repository; each file is walked once."""

    files: PythonFiles

    @remembered
    def tests(self, path: str) -> list[TestNode]:
        """The tests that pytest collects from a file, as far as its text says."""
        tree = self.files.tree(path)
        found: list[TestNode] = []
        for node in _top(tree.body if tree else ()):
            if isinstance(node, AnyFunction) and node.name.startswith("test"):
                found.append(TestNode(node.name, node, None, path))
            elif isinstance(node, ast.ClassDef) and _is_test_class(node):
                found += [
                    TestNode(f"{node.name}::{method.name}", method, node, where)
                    for where, owner in self.ancestry(path, node)
                    for method in owner.body
                    if isinstance(method, AnyFunction) and method.name.startswith("test")
                ]
        for name, origins in self.names(path).imports.items():
            if name.startswith("test"):
                found += [
                    TestNode(name, node, None, origin.path)
                    for origin in origins
                    for node in self.names(origin.path).statements.get(origin.name or "", ())
                    if isinstance(node, AnyFunction)
                ]
        return list({test.name: test for test in found}.values())

    @remembered
    def reached(self, path: str, test: TestNode) -> QualifiedNames:
        """Every (file, name) that a test may read; the name ``*`` stands for all names of a file."""
        start: list[tuple[str, ast.AST]] = [(test.path, test.function)]
        if test.owner is not None:
            start += [(where, part) for where, owner in self.ancestry(path, test.owner) for part in class_parts(owner)]
        start += [part for name in parameters(test.function.args) for part in self._fixtures(path, name)]
        start += list(self._fixtures(path, None))
        start += [(path, node) for node in self.names(path).statements.get("pytestmark", ())]
        return self._closure(path, start)

    def hooked(self, path: str) -> QualifiedNames:
        """Every (file, name) that pytest's hooks of a test file and its conftests may read."""
        hooks = [
            (where, node)
            for where in (path, *self.files.conftests(path))
            for name, nodes in self.names(where).statements.items()
            if name.startswith("pytest_")
            for node in nodes
        ]
        return self._closure(path, hooks)

    @remembered
    def set_anew(self, path: str) -> dict[str, str]:
        """Names that a test file, its conftests or what these import set from outside or by a string, and where.

        ``[key]`` stands for a key of a dict that is set so, ``*`` for a name that is made at run time.
        """
        files = [path, *self.files.conftests(path)]
        files += [origin.path for one in files for found in self.names(one).imports.values() for origin in found]
        return {
            name: f"{where}:{getattr(node, 'lineno', 0)}"
            for where in reversed(dict.fromkeys(files))
            for node in ast.walk(self.files.tree(where) or ast.Module([], []))
            for name in set_by(node)
        }

    @remembered
    def closure(self, path: str, node: ast.AST) -> QualifiedNames:
        """Every (file, name) that a piece of code of a file may read."""
        return self._closure(path, [(path, node)])

    def _closure(self, path: str, start: list[tuple[str, ast.AST]]) -> QualifiedNames:
        seen: set[QualifiedName] = set()
        walked: set[tuple[str, ast.AST]] = set()
        waiting = list(start)
        while waiting:
            where, node = waiting.pop()
            if (where, node) in walked:
                continue
            walked.add((where, node))
            for name in self._mentioned(where, node):
                if name not in seen:
                    seen.add(name)
                    waiting += self._binding(*name)
            for fixture in self._fixtures_asked(node):
                waiting += self._fixtures(path, fixture)
        return frozenset(seen)

    @remembered
    def names(self, path: str) -> Names:
        """The names of a file."""
        names, tree = Names(), self.files.tree(path)
        if tree is not None:
            self._collect(path, tree, names)
        return names

    def _collect(self, path: str, tree: ast.Module, names: Names) -> None:
        for node in _top(tree.body):
            for one in imports_in([node]):
                origin = self.files.resolve(path, one.module, one.level)
                if one.name == "*":
                    names.stars += [origin] if origin else []
                    continue
                entry = names.imports.setdefault(one.bound, [])
                entry += [Import(origin, one.name)] if origin else []
                if one.name is not None and (module := self.files.resolve(path, one.inner, one.level)):
                    entry.append(Import(module, None))
            names.unseen = names.unseen or _binds_unseen(node)
            for name in _changed(node):
                names.statements.setdefault(name, []).append(node)
        for node in ast.walk(tree):
            if isinstance(node, AnyFunction):
                for inner in ast.walk(node):
                    changed = set(inner.names) if isinstance(inner, ast.Global) else {container_changed(inner)} - {""}
                    for name in changed:
                        names.statements.setdefault(name, []).append(node)
                    if isinstance(inner, ast.Import | ast.ImportFrom):
                        # An import inside a function binds a name there; taken as if it were the file's own.
                        self._collect(path, ast.Module(body=[inner], type_ignores=[]), names)

    def _binding(self, path: str, name: str) -> list[tuple[str, ast.AST]]:
        """What to walk for a name: the statements that bind or change it, and what calls a function that changes it."""
        known = self.names(path).statements
        found = known.get(name, [])
        calling = [call for one in found if isinstance(one, AnyFunction) for call in known.get(one.name, ())]
        return [(path, node) for node in (*found, *calling)]

    @remembered
    def _mentioned(self, path: str, node: ast.AST) -> tuple[QualifiedName, ...]:
        return tuple(dict.fromkeys(self._mentions(path, node)))

    def _mentions(self, path: str, node: ast.AST) -> Iterator[QualifiedName]:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                yield from self.meaning(path, inner.id)
                if inner.id in _DYNAMIC:
                    yield from self._made_at_run_time(path)
            elif isinstance(inner, ast.Attribute):
                yield from self._member(path, inner)
                if inner.attr == "__dict__" or ast.unparse(inner) == "sys.modules":
                    yield from self._made_at_run_time(path)
            elif isinstance(inner, ast.Call) and last_name(inner.func) in ("import_module", "__import__"):
                yield from self._imported(path, inner)
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "getattr":
                for named in inner.args[1:2]:
                    name = str(named.value) if isinstance(named, ast.Constant) else ANYTHING
                    yield from ((module, name) for module in self._modules(path, inner.args[0]))

    def _imported(self, path: str, call: ast.Call) -> Iterator[QualifiedName]:
        """What an import by a string may bring: any name of that module, of any where the string is made."""
        name = call.args[0] if call.args else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            module = self.files.resolve(path, name.value.lstrip("."), len(name.value) - len(name.value.lstrip(".")))
            yield from [(module, ANYTHING)] if module else []
        else:
            yield top_folder(path), ANYTHING

    def _made_at_run_time(self, path: str) -> Iterator[QualifiedName]:
        yield path, ANYTHING
        for origins in self.names(path).imports.values():
            yield from ((origin.path, ANYTHING) for origin in origins)

    def meaning(self, path: str, name: str, depth: int = 6) -> Iterator[QualifiedName]:
        """Every (file, name) that a name of a file may mean, through imports."""
        names = self.names(path)
        yield path, name
        if depth == 0:
            return
        if name not in names.statements and name not in names.imports:
            if "__getattr__" in names.statements:
                yield path, "__getattr__"
            if names.unseen and name not in _BUILTINS:
                yield path, ANYTHING
        for origin in names.imports.get(name, ()):
            if origin.name is not None:
                yield from self.meaning(origin.path, origin.name, depth - 1)
        if name not in names.statements and name not in names.imports:
            for star in names.stars:
                yield from self.meaning(star, name, depth - 1)

    def _modules(self, path: str, node: ast.AST) -> list[str]:
        """The files that an expression may mean as a module."""
        if isinstance(node, ast.Name):
            return [origin.path for origin in self.names(path).imports.get(node.id, ()) if origin.name is None]
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            found = self.files.resolve(path, dotted, 0)
            inner = [
                self.files.resolve(module, node.attr, 1)
                for module in self._modules(path, node.value)
                if module.endswith("__init__.py")
            ]
            return [one for one in [found, *inner] if one]
        return []

    def _member(self, path: str, node: ast.Attribute) -> Iterator[QualifiedName]:
        for module in self._modules(path, node.value):
            yield from self.meaning(module, node.attr)
        # A module may go by another name: L = limits.
        for origins in self.names(path).imports.values():
            for origin in origins:
                if origin.name is None and node.attr in self.names(origin.path).statements:
                    yield origin.path, node.attr

    def ancestry(self, path: str, node: ast.ClassDef, depth: int = 6) -> Iterator[tuple[str, ast.ClassDef]]:
        """A class of a file and its bases in the repository, each with its file."""
        yield path, node
        for base in node.bases if depth else ():
            meanings = self.meaning(path, base.id) if isinstance(base, ast.Name) else (
                self._member(path, base) if isinstance(base, ast.Attribute) else ()
            )  # fmt: skip
            for where, name in meanings:
                for found in self.names(where).statements.get(name, ()):
                    if isinstance(found, ast.ClassDef) and found is not node:
                        yield from self.ancestry(where, found, depth - 1)

    def _fixtures(self, path: str, name: str | None) -> Iterator[tuple[str, ast.AST]]:
        """The fixtures of a name that a test file sees; None for those that pytest uses by itself."""
        for where in (path, *self.files.conftests(path)):
            names = self.names(where)
            for nodes in names.statements.values():
                for node in nodes:
                    if isinstance(node, AnyFunction) and _is_fixture(node, name):
                        yield where, node
            for origin in names.imports.get(name or "", ()):
                for node in self.names(origin.path).statements.get(origin.name or "", ()):
                    if isinstance(node, AnyFunction) and _is_fixture(node, name):
                        yield origin.path, node

    @remembered
    def _fixtures_asked(self, node: ast.AST) -> list[str]:
        """The fixtures that a piece of code takes as a fixture itself, or asks for by a string."""
        found = parameters(node.args) if isinstance(node, AnyFunction) and _is_fixture(node, node.name) else []
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and last_name(inner.func) in ("getfixturevalue", "usefixtures"):
                texts = (one.value for one in inner.args if isinstance(one, ast.Constant))
                found += [text for text in texts if isinstance(text, str)]
        return found


def _top(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a top level, those in its blocks too; functions and classes are not entered."""
    for node in body:
        yield node
        if not isinstance(node, AnyFunction | ast.ClassDef):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    yield from _top([child])
                elif isinstance(child, ast.ExceptHandler | ast.match_case):
                    yield from _top(child.body)


def _changed(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds or may change in place."""
    if isinstance(node, AnyFunction | ast.ClassDef):
        # A decorator may keep what it is given, as a registry does.
        called = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
        # A base may keep its subclasses; a test class is run for itself.
        bases = node.bases if isinstance(node, ast.ClassDef) and not _is_test_class(node) else []
        return {node.name, *map(root_name, (*called, *bases))} - {""}
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            found.add(inner.id)
        elif isinstance(inner, ast.Subscript | ast.Attribute) and not isinstance(inner.ctx, ast.Load):
            found.add(root_name(inner))
        elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and isinstance(node, ast.Expr):
            found.add(root_name(inner.func))
        if isinstance(inner, ast.Call) and isinstance(node, ast.Expr):
            found |= {*map(root_name, (inner.func, *inner.args))}
    return found - {""}


def top_folder(path: str) -> str:
    """The top folder that a file lies in, with its slash; code imports by a made name from there, not from others."""
    return path[: path.find("/") + 1]


def _binds_unseen(node: ast.stmt) -> bool:
    """Whether a top-level statement may bind names without naming them."""
    if isinstance(node, AnyFunction | ast.ClassDef):
        return False
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
    return any(last_name(one.func) in ("exec", "globals", "vars", "locals", "setattr") for one in calls)


def _is_test_class(node: ast.ClassDef) -> bool:
    return node.name.startswith("Test") or any(ast.unparse(base).endswith("TestCase") for base in node.bases)


def class_parts(owner: ast.ClassDef) -> Iterator[ast.AST]:
    """What a test method may use of its class: all but the other tests."""
    yield from owner.decorator_list
    for node in owner.body:
        if not isinstance(node, AnyFunction) or not node.name.startswith("test") or node.name in _SETUP:
            yield node


def _is_fixture(node: AnyFunction, name: str | None) -> bool:
    for decorator in node.decorator_list:
        text = ast.unparse(decorator)
        if "fixture" in text.partition("(")[0]:
            if name is None:
                return "autouse=True" in text
            return node.name == name or f"name={name!r}" in text
    return False
