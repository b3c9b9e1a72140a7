"""Every dependency that the repository declares against what its interpreter has.

pyproject.toml is read as data. Versions, markers and extras mean what they mean to pip: ``packaging`` judges them, in
the environment of the project's interpreter and not in ours.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from packaging.markers import Marker, UndefinedEnvironmentName, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tune_mcp.contract.precheck import Check, check
from tune_mcp.files import read_text
from tune_mcp.precheck.subject import Subject, quoted
from tune_mcp.precheck.venv import VenvFacts, make, sync


@dataclass(frozen=True)
class Declared:
    """``[project]`` of pyproject.toml.

    ``requirements`` are the dependencies and those of the asked extras; ``unread`` lines that are no requirement and
    extras that are not there. ``name`` is the project's, canonical; ``dynamic`` that its dependencies are only known
    from the installed metadata. ``scripts`` are its console scripts. ``empty`` is why there is nothing, ``problem`` why
    nothing could be read.
    """

    requirements: tuple[Requirement, ...] = ()
    unread: tuple[str, ...] = ()
    name: str = ""
    dynamic: bool = False
    python: SpecifierSet | None = None
    scripts: tuple[str, ...] = ()
    empty: str = ""
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
        return Declared(empty="the repository has no pyproject.toml, so no dependency is declared")
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
        python=_required_python(project.get("requires-python")),
        scripts=(*_table(project.get("scripts")), *_table(poetry.get("scripts"))),
        empty="" if reader.found else "pyproject.toml declares no dependency",
    )


def _dynamic(root: Path, document: Mapping[str, object]) -> tuple[str, ...] | None:
    """The lines of the requirement files that setuptools is configured to read; None where nobody names any."""
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
    """The requirements with those versions that uv is configured to install instead of the declared ones."""
    overrides = {canonicalize_name(one.name): one for one in _requirements(map(str, lines))}
    return tuple(overrides.get(canonicalize_name(one.name), one) for one in found)


def _requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    """The lines that are requirements; others are passed over."""
    for line in lines:
        with suppress(InvalidRequirement):
            yield Requirement(line)


def _required_python(value: object) -> SpecifierSet | None:
    try:
        return SpecifierSet(value) if isinstance(value, str) else None
    except InvalidSpecifier:
        return None


def _table(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _list(value: object) -> tuple[object, ...]:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else ()


ID = "venv.dependencies"


@dataclass
class _Compared:
    """What became of each requirement that holds for this interpreter, in words."""

    absent: dict[str, str] = field(default_factory=dict[str, str])
    wrong: dict[str, str] = field(default_factory=dict[str, str])
    met: set[str] = field(default_factory=set[str])


def satisfied(specifier: SpecifierSet, version: str) -> bool:
    """Whether an installed version fits; a pre-release that is there was meant."""
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return any(spec.operator == "===" and spec.version == version for spec in specifier)


def compare(requirements: Sequence[Requirement], facts: VenvFacts) -> _Compared:
    """Each requirement once, with what the extras that it asks for need."""
    found = _Compared()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(one, "") for one in requirements]
    environment = {**{name: str(value) for name, value in default_environment().items()}, **facts.markers}
    while waiting:
        one, why = waiting.pop(0)
        if not _applies(one.marker, environment, ""):
            continue
        name = canonicalize_name(one.name)
        needed = f"{one.specifier}" if one.specifier else ""
        if name not in facts.packages:
            found.absent.setdefault(name, " ".join(filter(None, [name, needed, why])))
            continue
        version = facts.packages[name]
        if not satisfied(one.specifier, version):
            pinned = [spec.operator for spec in one.specifier] in (["=="], ["==="])
            asked = " ".join(filter(None, ["pinned" if pinned else "needs", needed, why]))
            found.wrong.setdefault(name, f"{name} {version or '(no version)'} ({asked})")
        else:
            found.met.add(name)
        extras = frozenset(map(canonicalize_name, one.extras))
        if extras and (name, extras) not in seen:
            seen.add((name, extras))
            waiting += [
                (further, f"for {one.name}[{','.join(sorted(one.extras))}]")
                for further in _of_extras(facts.requires.get(name, ()), extras, environment)
            ]
    return found


def _of_extras(lines: Sequence[str], extras: frozenset[str], environment: Mapping[str, str]) -> Iterator[Requirement]:
    """What an installed distribution declares for the extras alone, without the condition that names them."""
    for one in _requirements(lines):
        if one.marker is None or _applies(one.marker, environment, ""):
            continue
        if any(_applies(one.marker, environment, extra) for extra in extras):
            one.marker = None
            yield one


def _applies(marker: Marker | None, environment: Mapping[str, str], extra: str) -> bool:
    try:
        return marker is None or marker.evaluate({**environment, "extra": extra})
    except UndefinedEnvironmentName:
        return True


def checks(subject: Subject, declared: Declared, facts: VenvFacts) -> Iterator[Check]:
    """``venv.dependencies``: one check for what is absent, one for wrong versions, one command (ENV-03)."""
    if declared.problem:
        fix = f"git -C {quoted(subject.repo_root)} diff -- pyproject.toml"
        yield check(ID, "unknown", declared.problem, fix)
        return
    if not declared.requirements and not declared.unread and not declared.dynamic and not declared.python:
        yield check(ID, "ok", declared.empty)
        return
    if subject.venv_python is None or facts.problem:
        yield check(
            ID,
            "unknown",
            f"{len(declared.requirements)} declarations not compared: {facts.problem or 'no interpreter'}",
            f"{quoted(subject.venv_python)} --version" if subject.venv_python else make(subject),
        )
        return
    yield from _python(subject, declared, facts)
    requirements, source = _all(declared, facts)
    if requirements is None:
        detail = f"{declared.name} declares its dependencies dynamically and is not installed: none was compared"
        yield check(ID, "warn", detail, sync(subject))
        return
    found = compare(requirements, facts)
    optional = {canonicalize_name(name) for name in subject.needs.optional}
    needed = [text for name, text in found.absent.items() if name not in optional]
    spared = [text for name, text in found.absent.items() if name in optional]
    if needed:
        yield check(f"{ID}:missing", "missing", f"not installed: {', '.join(needed)}", sync(subject))
    if found.wrong:
        yield check(f"{ID}:version", "mismatch", ", ".join(found.wrong.values()), sync(subject))
    if spared:
        detail = f"not installed, and optional_dependencies of {subject.model} names them: {', '.join(spared)}"
        yield check(f"{ID}:optional", "warn", detail, sync(subject))
    if declared.unread:
        detail = f"not read: {'; '.join(declared.unread)}"
        fix = f"correct dependency_extras in models/{subject.model}/config.yaml, or pyproject.toml"
        yield check(f"{ID}:unread", "warn", detail, fix)
    if not needed and not found.wrong:
        yield check(ID, "ok", f"{len(found.met)} {source} dependencies are installed as declared")


def _all(declared: Declared, facts: VenvFacts) -> tuple[Sequence[Requirement] | None, str]:
    """The requirements, and where they come from; None where only an installation would tell."""
    if not declared.dynamic:
        return declared.requirements, "declared"
    if declared.name not in facts.requires:
        return (None, "") if declared.name not in facts.packages else (declared.requirements, "declared")
    found = [*declared.requirements, *_requirements(facts.requires[declared.name])]
    return found, f"of {declared.name}'s installed metadata"


def _python(subject: Subject, declared: Declared, facts: VenvFacts) -> Iterator[Check]:
    version = facts.versions["python"]
    if declared.python is not None and not satisfied(declared.python, version):
        detail = f"the project needs Python {declared.python}, the interpreter is {version}"
        yield check(f"{ID}:python", "mismatch", detail, make(subject))
