"""Every dependency that the repository declares against what its interpreter has (SCP-02, ENV-08).

Versions, markers and extras mean what they mean to pip: ``packaging`` judges them, in the environment of the project's
interpreter and not in ours.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.markers import Marker, UndefinedEnvironmentName, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tune_mcp.contract.precheck import Check
from tune_mcp.precheck.declared import Declared
from tune_mcp.precheck.subject import Subject
from tune_mcp.precheck.venv import VenvFacts, make, sync

ID = "venv.dependencies"


@dataclass
class _Found:
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


def compare(requirements: Sequence[Requirement], facts: VenvFacts) -> _Found:
    """Each requirement once, with what the extras that it asks for need."""
    found = _Found()
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
            asked = " ".join(filter(None, ["pinned" if _pinned(one) else "needs", needed, why]))
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


def _pinned(requirement: Requirement) -> bool:
    return [spec.operator for spec in requirement.specifier] in (["=="], ["==="])


def _of_extras(lines: Sequence[str], extras: frozenset[str], environment: Mapping[str, str]) -> Iterator[Requirement]:
    """What an installed distribution declares for the extras alone, without the condition that names them."""
    for line in lines:
        try:
            one = Requirement(line)
        except InvalidRequirement:
            continue
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
    """``venv.dependencies``: one gap for what is absent, one for wrong versions, one command (ENV-03)."""
    if declared.problem:
        fix = f"git -C {shlex.quote(str(subject.repo_root))} diff -- pyproject.toml"
        yield Check(id=ID, status="unknown", detail=declared.problem, fix=fix)
        return
    if not declared.requirements and not declared.unread and not declared.dynamic and not declared.python:
        yield Check(id=ID, status="ok", detail=declared.said)
        return
    if subject.venv_python is None or facts.problem:
        yield Check(
            id=ID,
            status="unknown",
            detail=f"{len(declared.requirements)} declarations not compared: {facts.problem or 'no interpreter'}",
            fix=f"{shlex.quote(str(subject.venv_python))} --version" if subject.venv_python else make(subject),
        )
        return
    yield from _python(subject, declared, facts)
    requirements, source = _all(declared, facts)
    if requirements is None:
        detail = f"{declared.name} declares its dependencies dynamically and is not installed: none was compared"
        yield Check(id=ID, status="warn", detail=detail, fix=sync(subject))
        return
    found = compare(requirements, facts)
    optional = {canonicalize_name(name) for name in subject.needs.optional}
    needed = [text for name, text in found.absent.items() if name not in optional]
    spared = [text for name, text in found.absent.items() if name in optional]
    if needed:
        yield Check(
            id=f"{ID}:missing", status="missing", detail=f"not installed: {', '.join(needed)}", fix=sync(subject)
        )
    if found.wrong:
        yield Check(id=f"{ID}:version", status="mismatch", detail=", ".join(found.wrong.values()), fix=sync(subject))
    if spared:
        detail = f"not installed, and optional_dependencies of {subject.model} names them: {', '.join(spared)}"
        yield Check(id=f"{ID}:optional", status="warn", detail=detail, fix=sync(subject))
    if declared.unread:
        detail = f"not read: {'; '.join(declared.unread)}"
        fix = f"correct dependency_extras in models/{subject.model}/config.yaml, or pyproject.toml"
        yield Check(id=f"{ID}:unread", status="warn", detail=detail, fix=fix)
    if not needed and not found.wrong:
        yield Check(id=ID, status="ok", detail=f"{len(found.met)} {source} dependencies are installed as declared")


def _all(declared: Declared, facts: VenvFacts) -> tuple[Sequence[Requirement] | None, str]:
    """The requirements, and where they come from; None where only an installation would tell."""
    if not declared.dynamic:
        return declared.requirements, "declared"
    if declared.name not in facts.requires:
        return (None, "") if declared.name not in facts.packages else (declared.requirements, "declared")
    found: list[Requirement] = list(declared.requirements)
    for line in facts.requires[declared.name]:
        try:
            found.append(Requirement(line))
        except InvalidRequirement:
            continue
    return found, f"of {declared.name}'s installed metadata"


def _python(subject: Subject, declared: Declared, facts: VenvFacts) -> Iterator[Check]:
    version = facts.versions["python"]
    if declared.python is not None and not satisfied(declared.python, version):
        detail = f"the project needs Python {declared.python}, the interpreter is {version}"
        yield Check(id=f"{ID}:python", status="mismatch", detail=detail, fix=make(subject))
