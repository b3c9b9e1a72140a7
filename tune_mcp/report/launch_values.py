"""Numbers that a launch decides: options that pytest was given, and constants that read the environment.

``int(os.environ.get("X_CONCURRENCY", "32"))`` is what the launch sets for it, else its default; nothing is executed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from tune_mcp.config.stages import Number, Stage
from tune_mcp.discover.constants import ModuleConstants
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.discover.source_tree import number_of
from tune_mcp.errors import Refusal
from tune_mcp.session.plan import LaunchSettings

UNKNOWN = "?"
_OPTION = re.compile(r"--(?:[a-z0-9]+[-_])*concurrency")
_WORD = "CONCURRENCY"
_DEPTH = 6


@dataclass
class LaunchValues:
    """What the launches of one run were given, and what the test files make of it; each file is read once."""

    repo_root: Path
    files: PythonFiles
    settings: LaunchSettings
    _trees: dict[str, Mapping[str, ast.expr]] = field(default_factory=dict[str, Mapping[str, ast.expr]])

    def concurrency(self, stage: Stage, declared: str | None) -> str | None:
        """The concurrency of a stage's launch: pytest's option, what its constants say, else None for none at all.

        ``declared`` is the value of the constant that the catalogue names. ``?`` where constants of the test file
        differ, or cannot be read.
        """
        arguments = self.settings.pytest_extra_args.get(PurePosixPath(stage.test).name, ())
        given = option(arguments)
        if given is not None:
            return given
        if declared is not None:
            return declared
        values: set[str] = set()
        for file in dict.fromkeys((stage.test, stage.threshold_path)):
            try:
                module = self.files.constants(file)
            except Refusal:
                continue
            for name in (one for one in (module.constants if module else ()) if one.strip("_").endswith(_WORD)):
                value = self.number(stage, module, name) if module else None
                values.add(UNKNOWN if value is None else str(value))
        return None if not values else values.pop() if len(values) == 1 else UNKNOWN

    def number(self, stage: Stage, module: ModuleConstants, name: str) -> Number | None:
        """The number that ``name`` means in ``module`` in a launch of ``stage``; None for one that is not found."""
        plain = self.files.number(module, name)
        if plain is not None:
            return plain
        return self._followed({**self.settings.env, **stage.extra_env}, module, name, _DEPTH)

    def _followed(self, env: Mapping[str, str], module: ModuleConstants, name: str, depth: int) -> Number | None:
        """Through ``A = B`` and ``from file import B`` to a plain number or one that reads the environment."""
        if depth == 0:
            return None
        constant = module.constants.get(name)
        if constant is not None:
            if constant.problem is not None:
                return None
            value = self.files.number(module, name)
            expression = self._assigned(module).get(name)
            if value is None and constant.alias:
                return self._followed(env, module, constant.alias, depth - 1)
            return value if value is not None or expression is None else from_environment(expression, env)
        origins = [entry for entry in module.imports if entry.endswith(f".{name}")]
        if len(origins) != 1 or name not in module.elsewhere:
            return None
        try:
            other = self.files.imported(origins[0].removesuffix(f".{name}"), module.path)
        except Refusal:
            return None
        return self._followed(env, other, name, depth - 1) if other else None

    def _assigned(self, module: ModuleConstants) -> Mapping[str, ast.expr]:
        """What stands right of each name that the module's own level assigns."""
        if module.path not in self._trees:
            tree = self.files.tree(module.path)
            found: dict[str, ast.expr] = {}
            for node in tree.body if tree else ():
                if isinstance(node, ast.Assign):
                    found |= {one.id: node.value for one in node.targets if isinstance(one, ast.Name)}
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                    found[node.target.id] = node.value
            self._trees[module.path] = found
        return self._trees[module.path]


def option(arguments: Sequence[str]) -> str | None:
    """``--concurrency 16`` or ``--max-concurrency=16``; the last one counts, ``?`` for one that is no number."""
    found: str | None = None
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        name, joined, value = argument.partition("=")
        if _OPTION.fullmatch(name):
            text = value if joined else following
            found = text if text.isdecimal() else UNKNOWN
    return found


def from_environment(node: ast.expr, env: Mapping[str, str]) -> Number | None:
    """The number that an expression over ``os.environ`` and ``os.getenv`` has under ``env``; None for any other."""
    text = None if isinstance(node, ast.Constant | ast.UnaryOp) else _text(node, env)
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return int(value) if value.is_integer() else value


def _text(node: ast.expr, env: Mapping[str, str]) -> str | None:
    """What the expression yields, as text: a variable's value, or the default beside it."""
    match node:
        case ast.Call(func=ast.Name(id="int" | "float" | "str"), args=[inner], keywords=[]):
            return _text(inner, env)
        case ast.Call(args=[ast.Constant(value=str(name)), *rest], keywords=keywords) if _reads(node.func):
            if name in env:
                return env[name]
            default = rest[0] if rest else next((one.value for one in keywords if one.arg == "default"), None)
            return None if default is None else _text(default, env)
        case ast.Subscript(value=value, slice=ast.Constant(value=str(name))) if _dotted(value) in (
            "os.environ",
            "environ",
        ):
            return env.get(name)
        case ast.BoolOp(op=ast.Or(), values=values):
            found = (text for text in (_text(one, env) for one in values) if text)
            return next(found, None)
        case ast.Constant(value=str(text)):
            return text
        case _:
            number = number_of(node)
            return None if number is None else str(number)


def _reads(function: ast.expr) -> bool:
    return _dotted(function) in ("os.environ.get", "os.getenv", "environ.get", "getenv")


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted(value)}.{name}"
        case _:
            return ""
