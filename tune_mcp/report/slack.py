"""The slack between a calibrated reference and the limit that a test asserts, read from the syntax tree (note A9).

Only shapes that leave no doubt are understood: ``assert x <= REF``, ``REF * SLACK`` and ``REF - 0.02`` inside an
assert or as a constant, ``f(REF)`` where ``f`` only multiplies or adds, and ``apply_slack(_P95, HIGHER, LOWER)``.
One use of the symbol that is anything else makes the slack unknown: None, never a guess.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tune_mcp.config.stages import WorstOp
from tune_mcp.discover.source_tree import number_of, parsed
from tune_mcp.errors import Refusal
from tune_mcp.files import inside, read_plain

_HOW_LONG = 90
_BY_CONCURRENCY = "apply_slack"


@dataclass(frozen=True)
class Slack:
    """limit = reference * factor + offset; ``how`` is the place and the code that says so."""

    factor: float
    offset: float
    how: str

    def limit(self, reference: int | float) -> float:
        """The limit that CI asserts for a reference."""
        return reference * self.factor + self.offset


class _Unclear(Exception):
    """A use of the symbol that this module does not understand."""


@dataclass
class _File:
    """One parsed file: parents of every node, and what its top level binds."""

    name: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict[ast.AST, ast.AST])
    imports: dict[str, tuple[str, int, str]] = field(default_factory=dict[str, tuple[str, int, str]])
    values: dict[str, ast.expr | None] = field(default_factory=dict[str, "ast.expr | None"])
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict[str, ast.FunctionDef])

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            self.parents.update((child, node) for child in ast.iter_child_nodes(node))
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = (node.module or "", node.level, alias.name)
            elif isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
        for node in self.tree.body:
            target = _target(node)
            if target is not None and isinstance(node, ast.Assign | ast.AnnAssign):
                self.values[target] = None if target in self.values else node.value


@dataclass
class SlackReader:
    """Reads the files of one repository, each once."""

    repo_root: Path
    _files: dict[str, _File | None] = field(default_factory=dict[str, "_File | None"])

    def find(
        self, files: Sequence[str], symbol: str, subkey: str | None, worst: WorstOp, defined_in: str
    ) -> Slack | None:
        """The slack on ``symbol`` (and ``subkey``) over all its uses in ``files``; None unless all agree."""
        found: list[Slack] = []
        try:
            for name in dict.fromkeys(files):
                file = self._file(name)
                if file is None:
                    return None
                found += self._uses(file, self._local_names(file, symbol, defined_in), subkey, worst)
        except (_Unclear, RecursionError, ZeroDivisionError, OverflowError):
            return None
        kinds = {(round(slack.factor, 12), round(slack.offset, 12)) for slack in found}
        return found[0] if len(kinds) == 1 else None

    def _file(self, name: str) -> _File | None:
        if name not in self._files:
            try:
                self._files[name] = _File(name, parsed(read_plain(inside(self.repo_root, name)), name))
            except (OSError, ValueError, SyntaxError, Refusal):
                self._files[name] = None
        return self._files[name]

    def _local_names(self, file: _File, symbol: str, defined_in: str) -> list[str]:
        if file.name == defined_in:
            return [symbol]
        return [name for name, (_, _, original) in file.imports.items() if original == symbol]

    def _uses(self, file: _File, names: list[str], subkey: str | None, worst: WorstOp) -> Iterator[Slack]:
        seen: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for node in _loads(file, name):
                place = _climb(file, node, subkey)
                if place is None:
                    continue
                parent = file.parents[place]
                alias = _target(parent) if getattr(parent, "value", None) is place else None
                if alias is not None:
                    waiting.append(alias)
                else:
                    yield self._one(file, place, parent, subkey, worst)

    def _one(self, file: _File, node: ast.AST, parent: ast.AST, subkey: str | None, worst: WorstOp) -> Slack:
        if isinstance(parent, ast.Compare):
            self._asserted(file, node)
            return Slack(1.0, 0.0, _how(file, parent))
        if isinstance(parent, ast.BinOp):
            factor, offset = self._arithmetic(file, parent, node)
        elif isinstance(parent, ast.Call) and parent.args and parent.args[0] is node:
            factor, offset = self._call(file, parent, subkey, worst)
        else:
            raise _Unclear
        self._lands(file, parent, subkey)
        return Slack(factor, offset, _how(file, parent))

    def _arithmetic(self, file: _File, parent: ast.BinOp, node: ast.AST) -> tuple[float, float]:
        other = self._number(file, parent.right if parent.left is node else parent.left)
        match parent.op:
            case ast.Mult():
                return other, 0.0
            case ast.Div() if parent.left is node:
                return 1 / other, 0.0
            case ast.Add():
                return 1.0, other
            case ast.Sub() if parent.left is node:
                return 1.0, -other
            case _:
                raise _Unclear

    def _call(self, file: _File, call: ast.Call, subkey: str | None, worst: WorstOp) -> tuple[float, float]:
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name == _BY_CONCURRENCY and subkey is not None:
            if call.keywords or len(call.args) != 3:
                raise _Unclear
            return self._number(file, call.args[1 if worst == "min" else 2]), 0.0
        home, function = self._function(file, name)
        parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        body = [step for step in function.body if not _is_docstring(step)]
        if len(body) != 1 or not isinstance(body[0], ast.Return) or not isinstance(body[0].value, ast.BinOp):
            raise _Unclear
        step = body[0].value
        first = next((side for side in (step.left, step.right) if _is_name(side, parameters[0].arg)), None)
        if first is None:
            raise _Unclear
        other = step.right if first is step.left else step.left
        bound = self._arguments(file, home, call, function)
        if isinstance(other, ast.Name) and other.id in bound:
            where, value = bound[other.id]
            other_file, other = where, value
        else:
            other_file = home
        filled = (
            ast.BinOp(left=first, op=step.op, right=other)
            if first is step.left
            else ast.BinOp(left=other, op=step.op, right=first)
        )
        return self._arithmetic(other_file, filled, first)

    def _arguments(
        self, file: _File, home: _File, call: ast.Call, function: ast.FunctionDef
    ) -> dict[str, tuple[_File, ast.expr]]:
        """What each parameter is bound to, and the file in which that expression stands."""
        arguments = function.args
        positional = [*arguments.posonlyargs, *arguments.args]
        if arguments.vararg or arguments.kwarg or any(isinstance(one, ast.Starred) for one in call.args):
            raise _Unclear
        bound: dict[str, tuple[_File, ast.expr]] = {}
        for parameter, default in zip(reversed(positional), reversed(arguments.defaults), strict=False):
            bound[parameter.arg] = (home, default)
        for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default is not None:
                bound[parameter.arg] = (home, default)
        bound.update((parameter.arg, (file, value)) for parameter, value in zip(positional, call.args, strict=False))
        for keyword in call.keywords:
            if keyword.arg is None:
                raise _Unclear
            bound[keyword.arg] = (file, keyword.value)
        return bound

    def _function(self, file: _File, name: str) -> tuple[_File, ast.FunctionDef]:
        if name in file.functions:
            return file, file.functions[name]
        home, original = self._imported(file, name)
        if original not in home.functions:
            raise _Unclear
        return home, home.functions[original]

    def _imported(self, file: _File, name: str) -> tuple[_File, str]:
        if name not in file.imports:
            raise _Unclear
        module, level, original = file.imports[name]
        folder = PurePosixPath(file.name).parent
        bases = [folder, *folder.parents] if not level else [[folder, *folder.parents][level - 1]]
        tail = PurePosixPath(*module.split(".")) if module else PurePosixPath()
        for base in reversed(bases):
            for candidate in (base / f"{tail}.py", base / tail / "__init__.py"):
                found = self._file(str(candidate))
                if found is not None:
                    return found, original
        raise _Unclear

    def _number(self, file: _File, node: ast.expr) -> float:
        plain = number_of(node)
        if plain is not None:
            return float(plain)
        if isinstance(node, ast.BinOp):
            left, right = self._number(file, node.left), self._number(file, node.right)
            match node.op:
                case ast.Add():
                    return left + right
                case ast.Sub():
                    return left - right
                case ast.Mult():
                    return left * right
                case ast.Div():
                    return left / right
                case _:
                    raise _Unclear
        if isinstance(node, ast.Name):
            value = file.values.get(node.id)
            if value is not None:
                return self._number(file, value)
            if node.id in file.imports and node.id not in file.values:
                home, original = self._imported(file, node.id)
                return self._number(home, ast.Name(id=original, ctx=ast.Load()))
        raise _Unclear

    def _lands(self, file: _File, node: ast.AST, subkey: str | None) -> None:
        """The slackened value is asserted, or becomes a constant that no further arithmetic changes."""
        parent = file.parents[node]
        if isinstance(parent, ast.Call) and _is_name(parent.func, "round") and parent.args[0] is node:
            return self._lands(file, parent, subkey)
        if isinstance(parent, ast.Compare):
            return self._asserted(file, node)
        target = _target(parent)
        if target is None or not isinstance(parent, ast.Assign | ast.AnnAssign):
            raise _Unclear
        for use in _loads(file, target):
            place = _climb(file, use, subkey)
            if place is not None and isinstance(file.parents[place], ast.BinOp):
                raise _Unclear
        return None

    def _asserted(self, file: _File, node: ast.AST) -> None:
        compare = file.parents[node]
        if not isinstance(compare, ast.Compare) or len(compare.ops) != 1:
            raise _Unclear
        if not isinstance(compare.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            raise _Unclear
        if not isinstance(file.parents[compare], ast.Assert):
            raise _Unclear


def _loads(file: _File, name: str) -> list[ast.Name]:
    return [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
    ]


def _climb(file: _File, node: ast.AST, subkey: str | None) -> ast.AST | None:
    """From the name up through its subscripts; None when they select another metric."""
    parent = file.parents[node]
    while isinstance(parent, ast.Subscript) and parent.value is node:
        key = parent.slice.value if isinstance(parent.slice, ast.Constant) else None
        if isinstance(key, str) and key != subkey:
            return None
        node, parent = parent, file.parents[parent]
    return node


def _target(node: ast.AST) -> str | None:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else None


def _is_docstring(step: ast.stmt) -> bool:
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _how(file: _File, node: ast.AST) -> str:
    text = ast.unparse(node)
    shortened = text if len(text) <= _HOW_LONG else f"{text[: _HOW_LONG - 1]}…"
    return f"{file.name}:{getattr(node, 'lineno', 0)}: {shortened}"
