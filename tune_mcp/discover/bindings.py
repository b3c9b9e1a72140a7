"""What binds or changes a name of a module's own scope; only what is bound once and plainly may be edited (APL-17)."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from tune_mcp.discover.source_tree import root_name

_MUTATORS = frozenset({"update", "setdefault", "pop", "popitem", "clear", "__setitem__", "__delitem__", "__ior__"})
_UNSEEN = frozenset({"exec", "globals"})
"""Calls that can bind any name without naming it; merely reading through them is refused too, the safe side."""
_ASSIGNMENT = "an assignment"
_EXPRESSION = "an assignment expression"
_HOW: Mapping[type[ast.AST], str] = {
    ast.AugAssign: "an augmented assignment",
    ast.Delete: "a del statement",
    ast.For: "a for statement",
    ast.AsyncFor: "a for statement",
    ast.With: "a with statement",
    ast.AsyncWith: "a with statement",
}
ASSIGNING = frozenset({_ASSIGNMENT, _EXPRESSION, _HOW[ast.AugAssign]})
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


@dataclass(frozen=True)
class Binding:
    """One place that binds a name: how, its value, whether under a condition, whether it is the only target."""

    line: int
    how: str
    value: ast.expr | None
    conditional: bool
    alone: bool


class ModuleScope(ast.NodeVisitor):
    """Collects everything that binds, or changes in place, a name of the module's own scope."""

    def __init__(self) -> None:
        self.bindings: dict[str, list[Binding]] = {}
        self.changed: dict[str, str] = {}
        self.aliases: dict[str, set[str]] = {}
        self.unseen: str | None = None
        self.stars: list[int] = []
        self.depth = 0
        self.how = ""

    def problem(self, name: str) -> str | None:
        """Why ``name`` may not be edited, or None."""
        bindings = self.bindings[name]
        assigned = [entry for entry in bindings if entry.how == _ASSIGNMENT]
        other = next((entry for entry in bindings if entry.how != _ASSIGNMENT), None)
        if other is not None:
            return f"bound by {other.how} on line {other.line}"
        if all(entry.conditional for entry in assigned):
            return "defined under a condition"
        if len(assigned) > 1:
            return f"assigned {len(assigned)} times"
        if not assigned[0].alone:
            return "several targets"
        for one in (name, *sorted(self.aliases.get(name, ()))):
            if one in self.changed:
                return self.changed[one]
        if self.unseen is not None:
            return self.unseen
        star = next((line for line in self.stars if line > assigned[0].line), None)
        return None if star is None else f"perhaps bound again by the star import on line {star}"

    def bind(self, name: str | None, line: int, how: str, value: ast.expr | None = None, alone: bool = False) -> None:
        if name is not None:
            self.bindings.setdefault(name, []).append(Binding(line, how, value, self.depth > 0, alone))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self.how = _HOW.get(type(node), "another statement")
        inside = isinstance(node, _BLOCKS)
        self.depth += inside
        super().visit(node)
        self.depth -= inside

    def visit_Module(self, node: ast.Module) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Global):
                for name in inner.names:
                    self.changed.setdefault(name, f"declared global on line {inner.lineno}")
            elif isinstance(inner, ast.Subscript) and not isinstance(inner.ctx, ast.Load):
                self.change(inner)
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in _MUTATORS:
                self.change(inner.func)
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id in _UNSEEN:
                self.unseen = f"perhaps bound again by {inner.func.id} on line {inner.lineno}"
            elif isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Name):
                names = {target.id for target in inner.targets if isinstance(target, ast.Name)}
                self.aliases.setdefault(inner.value.id, set()).update(names)
        self.generic_visit(node)

    def change(self, node: ast.expr) -> None:
        # Also inside functions: a local of the same name is refused needlessly, which is the safe side.
        if root := root_name(node):
            self.changed.setdefault(root, f"changed in place on line {node.lineno}")

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.bind(node.id, node.lineno, self.how)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self.how = _ASSIGNMENT
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.bind(target.id, target.lineno, _ASSIGNMENT, node.value, len(node.targets) == 1)
            else:
                self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            if isinstance(node.target, ast.Name):
                self.bind(node.target.id, node.target.lineno, _ASSIGNMENT, node.value, alone=True)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target.id, node.lineno, _EXPRESSION)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.bind(alias.asname or alias.name.partition(".")[0], node.lineno, "an import")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.stars += [node.lineno for alias in node.names if alias.name == "*"]
        for alias in node.names:
            how = f"an import from {'.' * node.level}{node.module or ''}"
            self.bind(None if alias.name == "*" else alias.asname or alias.name, node.lineno, how)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.bind(node.name, node.lineno, "an except clause")
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        self.bind(name, node.lineno, "a match pattern")
        self.generic_visit(node)

    visit_MatchStar = visit_MatchMapping = visit_MatchAs

    def visit_comprehension(self, node: ast.comprehension) -> None:
        # Its targets live in a scope of their own, but a walrus in it binds the module's name.
        for part in (node.iter, *node.ifs):
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.bind(node.name, node.lineno, "a function definition")
        for part in (*node.decorator_list, node.args, node.returns):
            if part is not None:
                self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bind(node.name, node.lineno, "a class definition")
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
