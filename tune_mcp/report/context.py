"""The one line under each stage's heading that says what was measured, on what (rules CTX-01 to CTX-07).

Constants are read from the syntax tree of the stage's test file, then of its threshold file, through imports; a name
that is not there, or is no plain number, is ``?`` and never guessed or copied from another stage (CTX-06). The
concurrency is that of the launch: pytest's arguments win over what the test files say.
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
from tune_mcp.discover.python_files import PythonFiles, remembered
from tune_mcp.discover.source_tree import number_of
from tune_mcp.errors import Refusal
from tune_mcp.files import read_object
from tune_mcp.report.hosts import UNKNOWN, gpu_phrase
from tune_mcp.run_dir import RunDir
from tune_mcp.session.plan import LaunchSettings


@dataclass(frozen=True)
class Hardware:
    """What precheck.json says about the machine's GPUs: a phrase for context lines and the full summary."""

    phrase: str
    summary: str


def hardware(run: RunDir) -> Hardware:
    """GPU count and model from the run's precheck.json alone (CTX-03); ``CPU`` where it lists no GPU."""
    facts = read_object(run.precheck)
    gpus, summary = facts.get("gpus"), facts.get("gpu_summary")
    reported = summary if isinstance(summary, str) and summary else ""
    if phrase := gpu_phrase(gpus):
        return Hardware(phrase, reported or phrase)
    if reported.lower().startswith("no gpu") or (isinstance(gpus, list) and not reported):
        return Hardware("CPU", reported or "no GPU (CPU)")
    return Hardware(f"{UNKNOWN}× {UNKNOWN}", reported or UNKNOWN)


@dataclass
class ContextReader:
    """Resolves context lines for the stages of one run; each source file is read once."""

    repo_root: Path
    phrase: str
    repeats: int
    settings: LaunchSettings = field(default_factory=LaunchSettings)

    def __post_init__(self) -> None:
        self._files = PythonFiles(self.repo_root)

    def line(self, stage: Stage) -> str:
        """``— 2× NVIDIA H20, 2000 samples, max_tokens=32, concurrency=8, 5 runs`` (CTX-04, CTX-05).

        A test that counts no samples has none to say.
        """
        runs = f"{self.repeats} run" if self.repeats == 1 else f"{self.repeats} runs"
        if stage.is_docs:
            return f"— {self.phrase}, docs smoke, {runs}"
        samples, others = self._constants(stage)
        counted = [f"{samples} samples"] if samples else []
        return ", ".join([f"— {self.phrase}", *counted, *others, runs])

    def _constants(self, stage: Stage) -> tuple[str, list[str]]:
        samples: str | None = None
        named: dict[str, str] = {}
        for name in stage.context_vars:
            value = self._value(stage, name)
            if "SAMPLES" in name:
                samples = value if samples in (None, UNKNOWN) else samples
            elif named.get(_label(name), UNKNOWN) == UNKNOWN:
                named[_label(name)] = value
        if samples is None:
            samples = "" if stage.sample_counts == "one" else UNKNOWN
            if stage.expected_samples is not None:
                samples = str(stage.expected_samples)
        concurrency = self._concurrency(stage, named.get("concurrency"))
        if concurrency is not None:
            named["concurrency"] = concurrency
        order = sorted(named, key=lambda label: {"max_tokens": 0, "concurrency": 1}.get(label, 2))
        return samples, [f"{label}={named[label]}" for label in order]

    def _value(self, stage: Stage, name: str) -> str:
        """The constant's number, followed through imports; ``?`` where it is not found (CTX-06)."""
        for file in dict.fromkeys((stage.test, stage.threshold_path)):
            try:
                module = self._files.constants(file)
                value = self._number(stage, module, name) if module else None
            except Refusal:
                continue
            if value is not None:
                return str(value)
        return UNKNOWN

    def _concurrency(self, stage: Stage, declared: str | None) -> str | None:
        """The concurrency of a stage's launch: pytest's option, what its constants say, else None for none at all.

        ``declared`` is the value of the constant that the catalogue names. ``?`` where constants of the test file
        differ, or cannot be read.
        """
        arguments = self.settings.pytest_extra_args.get(PurePosixPath(stage.test).name, ())
        given = _option(arguments)
        if given is not None:
            return given
        if declared is not None:
            return declared
        values: set[str] = set()
        for file in dict.fromkeys((stage.test, stage.threshold_path)):
            try:
                module = self._files.constants(file)
            except Refusal:
                continue
            for name in (one for one in (module.constants if module else ()) if one.strip("_").endswith(_WORD)):
                value = self._number(stage, module, name) if module else None
                values.add(UNKNOWN if value is None else str(value))
        return None if not values else values.pop() if len(values) == 1 else UNKNOWN

    def _number(self, stage: Stage, module: ModuleConstants, name: str) -> Number | None:
        """The number that ``name`` means in ``module`` in a launch of ``stage``; None for one that is not found."""
        plain = self._files.number(module, name)
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
            value = self._files.number(module, name)
            expression = self._assigned(module.path).get(name)
            if value is None and constant.alias:
                return self._followed(env, module, constant.alias, depth - 1)
            return value if value is not None or expression is None else _from_environment(expression, env)
        origins = [entry for entry in module.imports if entry.endswith(f".{name}")]
        if len(origins) != 1 or name not in module.elsewhere:
            return None
        try:
            other = self._files.imported(origins[0].removesuffix(f".{name}"), module.path)
        except Refusal:
            return None
        return self._followed(env, other, name, depth - 1) if other else None

    @remembered
    def _assigned(self, path: str) -> Mapping[str, ast.expr]:
        """What stands right of each name that the file's own level assigns."""
        tree = self._files.tree(path)
        found: dict[str, ast.expr] = {}
        for node in tree.body if tree else ():
            if isinstance(node, ast.Assign):
                found |= {one.id: node.value for one in node.targets if isinstance(one, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[node.target.id] = node.value
        return found


def _label(name: str) -> str:
    if "MAX_TOKENS" in name or "MAX_NEW_TOKENS" in name:
        return "max_tokens"
    return "concurrency" if "CONCURRENCY" in name else name.strip("_").lower()


_OPTION = re.compile(r"--(?:[a-z0-9]+[-_])*concurrency")
_WORD = "CONCURRENCY"
_DEPTH = 6
_READERS = ("os.environ.get", "os.getenv", "environ.get", "getenv")


def _option(arguments: Sequence[str]) -> str | None:
    """``--concurrency 16`` or ``--max-concurrency=16``; the last one counts, ``?`` for one that is no number."""
    found: str | None = None
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        name, joined, value = argument.partition("=")
        if _OPTION.fullmatch(name):
            text = value if joined else following
            found = text if text.isdecimal() else UNKNOWN
    return found


def _from_environment(node: ast.expr, env: Mapping[str, str]) -> Number | None:
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
        case ast.Call(args=[ast.Constant(value=str(name)), *rest], keywords=keywords) if _dotted(node.func) in _READERS:
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


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted(value)}.{name}"
        case _:
            return ""
