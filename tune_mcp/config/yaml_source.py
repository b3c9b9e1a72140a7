"""A YAML file as checked data that remembers where each key stands (rule MOD-02).

Every mistake in a file is reported at once, each as ``<file>:<line>: <key.path>: what is wrong``, so that a person
fixes them in one pass. The reader is stricter than YAML: duplicate keys, merge keys, dates and other tags are
refused, because each of them has silently turned a configured value into another one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.files import read_plain
from tune_mcp.words import listed

Yaml: TypeAlias = "str | int | float | bool | tuple[Yaml, ...] | dict[str, Yaml] | None"
KeyPath: TypeAlias = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

OWN_CHECK = "tune_"
"""Opens the type of the errors that our own checks raise: their message says all, also what was given."""

_MAX_NODES = 200_000
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Problem:
    """One mistake: the line, the dotted key, what is wrong with it, and the rule that asks for better."""

    line: int
    key: str
    what: str
    rule: str = "MOD-02"


if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:
    # libyaml's parser is ten times as fast; some builds of pyyaml lack it.
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """The safe loader without dates: a time in our files is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass
class YamlSource:
    """The mapping of one file, the line of every key path, the problems found so far, what a refusal says to do."""

    path: Path
    data: dict[str, Yaml]
    lines: dict[KeyPath, int]
    problems: list[Problem] = field(default_factory=list[Problem])
    remedy: str = ""

    def check(self, model: type[Model], value: Yaml, prefix: KeyPath = ()) -> Model | None:
        """``value`` (found at ``prefix``) as ``model``; None after noting every problem of it."""
        try:
            return model.model_validate(value, strict=True)
        except ValidationError as error:
            self.problems += self._explain(model, error.errors(include_url=False), prefix)
            return None

    def note(self, prefix: KeyPath, what: str, rule: str = "MOD-02") -> None:
        """Add a problem of the key at ``prefix`` that no schema can see."""
        self.problems.append(Problem(self.line(prefix), dotted(prefix), what, rule))

    def line(self, path: KeyPath) -> int:
        """The line of the deepest part of ``path`` that the file has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def refusal(self) -> Refusal:
        """One refusal for all problems, in the order of the file."""
        problems = sorted(set(self.problems), key=lambda problem: (problem.line, problem.key))
        first = problems[0]
        others = listed([f"line {one.line}: {one.key}: {one.what}" for one in problems[1:]])
        rules = tuple(dict.fromkeys(problem.rule for problem in problems))
        details: dict[str, Json] = {
            "file": str(self.path),
            "line": first.line,
            "key": first.key,
            "problems": [{"line": p.line, "key": p.key, "what": p.what} for p in problems],
        }
        message = f"{self.path}:{first.line}: {first.key}: {first.what}" + (f"; {others}" if others else "")
        return Refusal(
            Code.INVALID_CONFIG, rules, message, self.remedy or f"correct {self.path} and call again", details
        )

    def _explain(self, model: type[BaseModel], errors: list[ErrorDetails], prefix: KeyPath) -> Iterator[Problem]:
        found: dict[KeyPath, list[tuple[str, str]]] = {}
        for error in errors:
            path = prefix + error["loc"]
            # A union names its members in the location; the file knows no such key.
            if error["type"] != "missing":
                while path and path not in self.lines:
                    path = path[:-1]
            found.setdefault(path, []).append(_what(model, error))
        for path, whats in found.items():
            text = " or ".join(dict.fromkeys(what for what, _ in whats))
            yield Problem(self.line(path), dotted(path), text, whats[0][1])


def dotted(path: KeyPath) -> str:
    """``("a", "b", 0)`` -> ``a.b.0``; the whole file is ``(top)``."""
    return ".".join(str(step) for step in path) or "(top)"


def read_yaml(path: Path, remedy: str = "") -> YamlSource:
    """Read ``path``; ``remedy`` is what a refusal of it says to do.

    Raises INVALID_CONFIG for a file that is no plain YAML mapping with string keys.
    """
    source = YamlSource(path, {}, {(): 1}, remedy=remedy)
    try:
        data = read_plain(path)
    except OSError as error:
        source.problems.append(Problem(1, "(top)", f"it cannot be read: {error.strerror}"))
        raise source.refusal() from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        source.problems.append(Problem(line, "(top)", "the file is not UTF-8"))
        raise source.refusal() from error
    try:
        found = _parsed(text)
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        what = (error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)) or "cannot be read"
        source.problems.append(Problem(mark.line + 1 if mark else 1, "(top)", f"not YAML: {what}"))
        raise source.refusal() from error
    source = replace(found, path=path, problems=[*found.problems], remedy=remedy)
    if source.problems:
        raise source.refusal()
    return source


@lru_cache(maxsize=64)
def _parsed(text: str) -> YamlSource:
    """The source without its path. Kept, since every verb reads the same few files; nobody changes data or lines."""
    source = YamlSource(Path(), {}, {(): 1})
    node = _Loader(text).get_single_node()
    value: Yaml = {} if node is None else _Walk(source).value(node, ())
    if isinstance(value, dict):
        source.data = value
    else:
        source.note((), "the file must be a mapping of keys to values")
    return source


class _Walk:
    """Turns nodes into plain values, noting lines and what we do not take."""

    def __init__(self, source: YamlSource) -> None:
        self.source = source
        self.seen = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Yaml:
        self.seen += 1
        # An alias may stand for a whole tree, in itself or doubled at every level; both end here.
        if self.seen > _MAX_NODES or len(path) > 40:
            raise yaml.YAMLError("the file is too large or too deep")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = cast("list[yaml.Node]", node.value)
            for index, item in enumerate(items):
                self.source.lines.setdefault((*path, index), item.start_mark.line + 1)
            return tuple(self.value(item, (*path, index)) for index, item in enumerate(items))
        return self.scalar(node.tag.removeprefix(_TAG), str(cast(object, node.value)), path)

    def scalar(self, tag: str, text: str, path: KeyPath) -> Yaml:
        match tag:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() in ("yes", "true", "on")
            # YAML 1.1 reads 010 as 8, 1:30 as 90 and 1_0 as 10; nobody means that in these files.
            case "int" if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
                return int(text)
            case "float" if re.fullmatch(r"[-+]?[0-9]*\.[0-9]*([eE][-+]?[0-9]+)?", text):
                return float(text)
            case _:
                what = "is not supported" if tag not in ("int", "float") else "is no plain number"
                self.source.note(path, f"{text or tag} {what}; put it in quotes or write a plain value")
                return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Yaml]:
        found: dict[str, Yaml] = {}
        for key, item in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            line = key.start_mark.line + 1
            if key.tag != f"{_TAG}str":
                text = str(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                what = f"the key {text} is not a string; put it in quotes or write it out"
                self.source.problems.append(Problem(line, dotted(path), what))
                continue
            name = str(cast(object, key.value))
            here = (*path, name)
            if name in found:
                what = f"duplicate key (first on line {self.source.lines[here]})"
                self.source.problems.append(Problem(line, dotted(here), what))
                continue
            self.source.lines.setdefault(here, line)
            found[name] = self.value(item, here)
        return found


def _what(model: type[BaseModel], error: ErrorDetails) -> tuple[str, str]:
    rule = str(error.get("ctx", {}).get("rule", "MOD-02"))
    match error["type"]:
        case "missing":
            return "is missing", rule
        case "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), _keys_at(model, error["loc"][:-1]), 3, 0.5)
            return "unknown key" + (f"; did you mean {' or '.join(near)}?" if near else ""), rule
        case "value_error":
            return error["msg"].removeprefix("Value error, "), rule
        case kind if kind.startswith(OWN_CHECK):
            return error["msg"], rule
        case _:
            given = repr(cast(object, error["input"]))
            got = "" if isinstance(error["input"], dict | tuple) or len(given) > 60 else f", not {given}"
            message = error["msg"].replace("valid tuple", "list").replace("valid dictionary", "mapping")
            return message[:1].lower() + message[1:] + got, rule


def _keys_at(model: type[BaseModel], location: KeyPath) -> list[str]:
    """The keys that ``model`` knows at ``location``."""
    at: list[object] = [model]
    for step in location:
        at = [inner for kind in at for inner in _inside(kind, step)] or at
    return [name for kind in at if isinstance(kind, type) and issubclass(kind, BaseModel) for name in kind.model_fields]


def _inside(kind: object, step: str | int) -> list[object]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found = cast("Mapping[object, object]", kind.model_fields).get(step)
        return _members(getattr(found, "annotation", None))
    arguments = cast("tuple[object, ...]", get_args(kind))
    if get_origin(kind) is dict:
        return _members(arguments[1])
    return _members(arguments[0]) if get_origin(kind) is tuple else []


def _members(kind: object) -> list[object]:
    arguments = cast("tuple[object, ...]", get_args(kind))
    if get_origin(kind) is Annotated:
        return _members(arguments[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for argument in arguments for inner in _members(argument)]
    return [kind]
