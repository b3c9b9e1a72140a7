"""What the repository declares of its environment: pyproject.toml read as data, nothing installed is looked at."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from tune_mcp.files import read_text
from tune_mcp.precheck.subject import Subject


@dataclass(frozen=True)
class Declared:
    """``[project]`` of pyproject.toml.

    ``requirements`` are the dependencies and those of the asked extras; ``unread`` lines that are no requirement and
    extras that are not there. ``name`` is the project's, canonical; ``dynamic`` that its dependencies are only known
    from the installed metadata. ``scripts`` are its console scripts. ``said`` explains why there is
    nothing, ``problem`` why nothing could be read.
    """

    requirements: tuple[Requirement, ...] = ()
    unread: tuple[str, ...] = ()
    name: str = ""
    dynamic: bool = False
    python: SpecifierSet | None = None
    scripts: tuple[str, ...] = ()
    said: str = ""
    problem: str = ""

    def exact(self) -> dict[str, str]:
        """Canonical package name -> version of what is pinned for every platform; recorded in precheck.json."""
        return {
            canonicalize_name(one.name): spec.version
            for one in self.requirements
            if one.marker is None and len(one.specifier) == 1
            for spec in one.specifier
            if spec.operator in ("==", "===")
        }


@dataclass
class _Reader:
    extras: Mapping[str, tuple[object, ...]]
    groups: Mapping[str, tuple[object, ...]]
    name: str
    found: list[Requirement] = field(default_factory=list[Requirement])
    unread: list[str] = field(default_factory=list[str])
    seen: set[str] = field(default_factory=set[str])

    def lines(self, lines: tuple[object, ...]) -> None:
        for line in lines:
            if isinstance(line, dict):
                group: object = cast("dict[str, object]", line).get("include-group")
                self.extra(str(group))
                continue
            try:
                requirement = Requirement(line if isinstance(line, str) else "")
            except InvalidRequirement:
                self.unread.append(str(line))
                continue
            if self.name and canonicalize_name(requirement.name) == self.name:
                for extra in requirement.extras:  # "omni[audio]" in an extra of omni itself
                    self.extra(extra)
            else:
                self.found.append(requirement)

    def extra(self, name: str) -> None:
        key = canonicalize_name(name)
        if key in self.seen:
            return
        self.seen.add(key)
        lines = self.extras.get(key, self.groups.get(key))
        if lines is None:
            self.unread.append(f"no extra or dependency group {name}")
        else:
            self.lines(lines)


def read_declared(subject: Subject) -> Declared:
    """The declarations of the checkout; a repository without pyproject.toml has none. Raises ``OSError``."""
    path = subject.repo_root / "pyproject.toml"
    try:
        document = tomllib.loads(read_text(path))
    except FileNotFoundError:
        return Declared(said="the repository has no pyproject.toml, so no dependency is declared")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Declared(problem=f"{path} cannot be read: {error}")
    project = _table(document.get("project"))
    poetry = _table(_table(document.get("tool")).get("poetry"))
    name = project.get("name", poetry.get("name"))
    reader = _Reader(
        {canonicalize_name(key): _list(value) for key, value in _table(project.get("optional-dependencies")).items()},
        {canonicalize_name(key): _list(value) for key, value in _table(document.get("dependency-groups")).items()},
        canonicalize_name(name) if isinstance(name, str) else "",
    )
    lines = _list(project.get("dependencies"))
    dynamic = "dependencies" in _list(project.get("dynamic")) or bool("dependencies" in poetry and not lines)
    if dynamic and (from_files := _dynamic(subject.repo_root, document)) is not None:
        lines, dynamic = from_files, False
    reader.lines(lines)
    for extra in subject.needs.extras:
        reader.extra(extra)
    tools = _table(_table(document.get("tool")).get("uv"))
    return Declared(
        requirements=_overridden(reader.found, _list(tools.get("override-dependencies"))),
        unread=tuple(reader.unread),
        name=reader.name,
        dynamic=dynamic,
        python=_python(project.get("requires-python")),
        scripts=(*_table(project.get("scripts")), *_table(poetry.get("scripts"))),
        said="" if reader.found else "pyproject.toml declares no dependency",
    )


def _dynamic(root: Path, document: Mapping[str, object]) -> tuple[str, ...] | None:
    """The lines of the requirement files that setuptools is told to read; None where nobody names any."""
    tools = _table(_table(_table(document.get("tool")).get("setuptools")).get("dynamic"))
    named: object = _table(tools.get("dependencies")).get("file")
    files = (named,) if isinstance(named, str) else _list(named)
    if not files:
        return None
    try:
        text = [line for file in files for line in read_text(root / str(file)).splitlines()]
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    lines = (line.partition(" #")[0].strip() for line in text)
    return tuple(line for line in lines if line and not line.startswith(("#", "-")))


def _overridden(found: list[Requirement], lines: tuple[object, ...]) -> tuple[Requirement, ...]:
    """Where uv is told to override a version, that one is installed and not the declared one."""
    overrides: dict[str, Requirement] = {}
    for line in lines:
        try:
            one = Requirement(str(line))
        except InvalidRequirement:
            continue
        overrides[canonicalize_name(one.name)] = one
    return tuple(overrides.get(canonicalize_name(one.name), one) for one in found)


def _python(value: object) -> SpecifierSet | None:
    try:
        return SpecifierSet(value) if isinstance(value, str) else None
    except InvalidSpecifier:
        return None


def _table(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _list(value: object) -> tuple[object, ...]:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else ()
