"""Where the numbers of a stage stand: what config says, else what the test's code says for certain (DSC-03 to DSC-09).

pytest names the folder of ``tmp_path`` after the test: every character that is no word character becomes ``_``, the
first 30 characters stay, and a number follows, 0 in a fresh basetemp. ``tmp_path_factory.mktemp("x")`` makes ``x0``.
What can come out in two ways (parametrised tests, loops, several folders) is not inferred at all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tune_mcp.config.fields import locate
from tune_mcp.config.metrics import Layout, MetricRules, SampleSource
from tune_mcp.config.model import FileSource, ResultSource
from tune_mcp.config.stages import ONE, Location, SampleCounts
from tune_mcp.discover.recorded import recorded
from tune_mcp.discover.source_tree import AnyFunction, is_fixture, parameters, read_tree
from tune_mcp.run_dir import RECORD_FILE

_RESULTS = re.compile(r"[\w.-]+_results\.json")
_SHARED_SCOPES = frozenset({"module", "session", "package"})
_TMP_PATH_CHARACTERS = 30

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Inferred:
    """The result file, relative to basetemp, and the layout of a known benchmark in it; ``reason`` when unknown.

    ``recordings`` are the names under which its tests record values, each with these tests.
    """

    json_file: str | None = None
    layout: Layout | None = None
    reason: str = ""
    recordings: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def metric(self, key: str) -> Location | None:
        """Where the metric stands, None when that is not known."""
        path = self.layout.paths.get(key) if self.layout else None
        return locate(path, self.json_file) if path else None

    def counts(self) -> SampleCounts | None:
        """Where the sample counts stand, None when that is not known."""
        return _counts(self.layout.sample_counts, self.json_file) if self.layout else None


def infer(data: bytes, path: str, rules: MetricRules, imports: frozenset[str]) -> Inferred:
    """Read one test file. Raises INVALID_CONFIG when it is not Python."""
    tree = read_tree(data, path).tree
    return replace(_files(tree, rules, imports), recordings=recorded(tree))


def _files(tree: ast.Module, rules: MetricRules, imports: frozenset[str]) -> Inferred:
    found = _OutputPlaces()
    for function, parametrised in _functions(tree, parametrised=_marked(tree)):
        _read(function, parametrised, found)
    if found.doubt:
        return Inferred(reason=found.doubt)
    files = {parts for parts in found.paths if parts[-1].endswith(".json")}
    if len(files) == 1:
        # The test itself writes this file, so no benchmark's layout can be assumed for what is in it.
        return Inferred(json_file="/".join(files.pop()))
    folders = found.paths - files
    if files or len(folders) != 1:
        return Inferred(reason="it names no output folder" if not found.paths else "it names several output places")
    folder = folders.pop()
    names = {text for text in _strings(tree) if _RESULTS.fullmatch(text)}
    if len(names) > 1:
        return Inferred(reason=f"it names several result files: {', '.join(sorted(names))}")
    if not names and len(folder) < 2:
        return Inferred(reason="it does not name its result file")
    # A benchmark names its file after itself, not after the folder that it is given.
    if not names and not any(re.search(rf"(?:^|[._]){re.escape(folder[-1])}(?:\.|$)", module) for module in imports):
        return Inferred(reason="it does not name its result file")
    name = names.pop() if names else f"{folder[-1]}_results.json"
    layout = next((layout for layout in rules.file.layouts if layout.fits(imports)), None)
    return Inferred("/".join((*folder, name)), layout)


def tmp_path_folder(test: str) -> str:
    """The name of a test function's ``tmp_path`` in a fresh basetemp."""
    return re.sub(r"\W", "_", test)[:_TMP_PATH_CHARACTERS] + "0"


@dataclass
class _OutputPlaces:
    """What the test files' functions name: full paths below basetemp, and the first reason to give up."""

    paths: set[Parts] = field(default_factory=set[Parts])
    roots: list[str] = field(default_factory=list[str])
    doubt: str = ""


def _functions(tree: ast.AST, parametrised: bool) -> Iterator[tuple[AnyFunction, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, parametrised or _parametrises(node.decorator_list) or _marked(node))
        elif isinstance(node, AnyFunction):
            yield node, parametrised or _parametrises(node.decorator_list)


def _marked(scope: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
        and _parametrises([node.value])
        for node in ast.iter_child_nodes(scope)
    )


def _parametrises(nodes: list[ast.expr]) -> bool:
    return any(isinstance(n, ast.Attribute) and n.attr == "parametrize" for node in nodes for n in ast.walk(node))


def _read(function: AnyFunction, parametrised: bool, found: _OutputPlaces) -> None:
    arguments = parameters(function.args)
    is_test = function.name.startswith("test")
    env: dict[str, Parts] = {}
    if "tmp_path" in arguments and is_test:
        folder = tmp_path_folder(function.name)
        if folder in found.roots:
            found.doubt = f"two tests share the folder {folder[:-1]}"
        found.roots.append(folder)
        env["tmp_path"] = (folder,)
    reader = _Expressions(env, "tmp_path_factory" in arguments)
    paths = set(reader.paths(function))
    if "tmp_path" in arguments and not is_test and not is_fixture(function):
        return
    if "tmp_path" in arguments and not is_test:
        found.doubt = f"the fixture {function.name} uses tmp_path, whose name depends on the test"
    elif paths and parametrised and "tmp_path" in arguments:
        found.doubt = f"{function.name} is parametrised"
    elif reader.made and not is_test and is_fixture(function) and not _is_shared(function):
        found.doubt = f"the fixture {function.name} may make its folder more than once"
    elif reader.repeated or (reader.made and parametrised):
        found.doubt = f"{function.name} may make its folder more than once"
    found.paths |= _outermost(paths)


def _outermost(paths: set[Parts]) -> set[Parts]:
    """Files, and folders that lie in no other folder of the set: a benchmark is given the outer one."""
    named = paths - {()}
    inner = {path for path in named for depth in range(1, len(path)) if path[:depth] in named}
    return {path for path in named if path not in inner or path[-1].endswith(".json")}


def _is_shared(function: AnyFunction) -> bool:
    calls = [node for node in function.decorator_list if isinstance(node, ast.Call)]
    keywords = {keyword.arg: keyword.value for call in calls for keyword in call.keywords}
    scope = keywords.get("scope")
    return "params" not in keywords and isinstance(scope, ast.Constant) and scope.value in _SHARED_SCOPES


class _Expressions:
    """Follows paths through one function: ``/``, ``joinpath``, ``str``, ``Path`` and plain assignments."""

    def __init__(self, env: Mapping[str, Parts], factory: bool) -> None:
        self.env = dict(env)
        self.factory = factory
        self.made = 0
        self.repeated = False

    def paths(self, function: AnyFunction) -> Iterator[Parts]:
        for statement in function.body:
            yield from self.inside(statement, looped=False)

    def inside(self, node: ast.AST, looped: bool) -> Iterator[Parts]:
        looped = looped or isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.comprehension)
        parts = self.parts(node) if isinstance(node, ast.expr) else None
        if parts is None:
            for child in ast.iter_child_nodes(node):
                yield from self.inside(child, looped)
        elif not isinstance(node, ast.Name):
            # `tmp_path / "a" / "b"` names one place, not `tmp_path / "a"` as well.
            created = any(_creates(inner) for inner in ast.walk(node))
            self.made += created
            self.repeated = self.repeated or (created and looped)
            yield parts
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            parts = self.parts(node.value)
            if parts is None:
                self.env.pop(node.targets[0].id, None)
            else:
                self.env[node.targets[0].id] = parts

    def parts(self, node: ast.expr) -> Parts | None:
        match node:
            case ast.Name(id=name):
                return self.env.get(name)
            case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=str(text))):
                return self.joined(left, [text])
            case ast.Call(func=ast.Attribute(value=ast.Name(id="tmp_path_factory"), attr=name)) if self.factory:
                return self.factory_call(node, name)
            case ast.Call(func=ast.Attribute(value=left, attr="joinpath" | "resolve" | "absolute"), args=arguments):
                texts = [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                return self.joined(left, texts) if len(texts) == len(arguments) else None
            case ast.Call(func=ast.Name(id="str" | "Path") | ast.Attribute(attr="fspath"), args=[argument]):
                return self.parts(argument)
            case _:
                return None

    def joined(self, left: ast.expr, texts: list[str]) -> Parts | None:
        root = self.parts(left)
        names = [name for text in texts for name in text.split("/")]
        return None if root is None or not all(names) or ".." in names else (*root, *names)

    def factory_call(self, node: ast.Call, name: str) -> Parts | None:
        if name == "getbasetemp":
            return ()
        numbered = [keyword.value for keyword in node.keywords if keyword.arg == "numbered"] + node.args[1:]
        match node.args, numbered:
            case [ast.Constant(value=str(text)), *_], []:
                return (f"{text}0",)
            case [ast.Constant(value=str(text)), *_], [ast.Constant(value=bool(flag))]:
                return (f"{text}0" if flag else text,)
            case _:
                return None


def _creates(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "mktemp"


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@dataclass(frozen=True)
class StageSources:
    """The places for one result tree of a test. A variant's own words beat the file's, and both beat inference."""

    levels: tuple[ResultSource, ...]
    inferred: Inferred

    @classmethod
    def of(cls, config: FileSource, variant: str | None, inferred: Inferred) -> StageSources:
        """The sources of ``variant``. Inference knows nothing of variants, so it serves files without them."""
        levels = (config.variants[variant], config) if variant else (config,)
        return cls(
            levels, Inferred(reason="it has variants", recordings=inferred.recordings) if config.variants else inferred
        )

    @property
    def json_file(self) -> str | None:
        """The configured default file."""
        return next((level.json_file for level in self.levels if level.json_file), None)

    def configured(self, metric: str) -> Location | None:
        """Where config says that a metric stands."""
        for level in self.levels:
            path = level.paths.get(metric)
            if path is not None:
                return locate(path, level.json_file or self.json_file or self.inferred.json_file)
        return None

    def metric(self, metric: str, *, recorded: bool) -> Location | None:
        """Where a metric stands, None when nobody knows: that is NEEDS_CONFIG.

        ``recorded``: the tests record its value under its name.
        """
        return (
            self.configured(metric)
            or (Location(json_file=RECORD_FILE, json_path=metric) if recorded else None)
            or self._unless_elsewhere(self.inferred.metric(metric))
        )

    def configured_counts(self, group: str) -> SampleCounts | Literal["one"] | None:
        """Where config says that a group's sample counts stand."""
        for level in self.levels:
            source = level.sample_counts_by_group.get(group, level.sample_counts)
            if source == ONE:
                return ONE
            if isinstance(source, SampleSource):
                return _counts(source, level.json_file or self.json_file or self.inferred.json_file)
        return None

    def counts(self, group: str) -> SampleCounts | Literal["one"] | None:
        """Where a group's sample counts stand, None when nobody knows."""
        found = self.inferred.counts()
        return self.configured_counts(group) or (found if found and self._unless_elsewhere(found.total) else None)

    def validity(self) -> Location | None:
        """Where the test says whether a repeat is an observation at all."""
        for level in self.levels:
            if level.observation_validity:
                return locate(level.observation_validity, level.json_file or self.json_file)
        return None

    def expected(self, group: str) -> tuple[int | str, ...]:
        """What config says about a group's number of samples."""
        return next((found for level in self.levels if (found := level.expected(group))), ())

    def conflicts(self, test: str, stages: Iterable[tuple[str, Iterable[str]]]) -> Iterator[str]:
        """A line for each place where config and code disagree; config is used (DSC-06)."""
        found: set[str] = set()
        if self.inferred.layout is None and self.json_file and self.inferred.json_file not in (None, self.json_file):
            found.add(_conflict(test, "json_file", self.json_file, str(self.inferred.json_file)))
        for group, metrics in stages:
            for metric in metrics:
                ours, theirs = self.configured(metric), self.inferred.metric(metric)
                if ours and theirs and ours != theirs:
                    found.add(_conflict(test, f"paths.{metric}", _text(ours), _text(theirs)))
            counts, other = self.configured_counts(group), self.inferred.counts()
            if counts and counts != ONE and other:
                parts = (("total", counts.total, other.total), ("ok", counts.ok, other.ok))
                found |= {_conflict(test, f"sample_counts.{k}", _text(a), _text(b)) for k, a, b in parts if a != b}
        yield from sorted(found)

    def _unless_elsewhere(self, location: Location | None) -> Location | None:
        """Inferred keys are those of the inferred file; where config names another file they mean nothing."""
        return location if location and self.json_file in (None, location.json_file) else None


def _counts(source: SampleSource, json_file: str | None) -> SampleCounts | None:
    total, ok = locate(source.total, json_file), locate(source.ok, json_file)
    return SampleCounts(total=total, ok=ok) if total and ok else None


def _text(location: Location) -> str:
    return f"{location.json_file}::{location.json_path}"


def _conflict(test: str, key: str, ours: str, theirs: str) -> str:
    return f"{test}: {key} is {ours} in config.yaml, {theirs} by the test's code; config.yaml is used"
