"""The repository's exact pins against what its interpreter has: other versions are other numbers (SCP-02, ENV-08)."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from tune_mcp.contract.precheck import Check
from tune_mcp.files import read_text
from tune_mcp.precheck.subject import Subject
from tune_mcp.precheck.venv import VenvFacts, canonical, make, sync

_EXACT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?\s*===?\s*([^\s,;()]+)\s*\)?\s*(;.*)?")


@dataclass(frozen=True)
class Pins:
    """Canonical package name -> version. ``conditional`` have a marker, which only their own interpreter can judge."""

    exact: dict[str, str] = field(default_factory=dict[str, str])
    conditional: tuple[str, ...] = ()
    said: str = ""
    problem: str = ""


def read_pins(subject: Subject) -> Pins:
    """``[project] dependencies`` of pyproject.toml; a repository without one has no pins. Raises ``OSError``."""
    path = subject.repo_root / "pyproject.toml"
    try:
        document = tomllib.loads(read_text(path))
    except FileNotFoundError:
        return Pins(said="the repository has no pyproject.toml, so nothing is pinned")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Pins(problem=f"{path} cannot be read: {error}")
    project: object = document.get("project")
    found: object = cast("dict[str, object]", project).get("dependencies") if isinstance(project, dict) else None
    lines = cast("list[object]", found) if isinstance(found, list) else []
    exact: dict[str, str] = {}
    conditional: list[str] = []
    for line in lines:
        match = _EXACT.fullmatch(line) if isinstance(line, str) else None
        if match is None:
            continue
        if match[3]:
            conditional.append(match[1])
        else:
            exact[canonical(match[1])] = match[2]
    return Pins(exact, tuple(conditional), "" if exact else "pyproject.toml pins no exact version")


def same(pinned: str, installed: str) -> bool:
    """``==`` of a version: ``2.11.0`` is also ``2.11.0+cu130`` and ``2.11``; ``2.11.*`` is any ``2.11``."""
    if pinned.endswith(".*"):
        prefix = pinned[:-2]
        return installed == prefix or installed.startswith(f"{prefix}.")
    if "+" not in pinned:
        installed = installed.partition("+")[0]
    return _plain(pinned) == _plain(installed)


def _plain(version: str) -> str:
    """Without the spellings that mean the same: ``v1``, capitals, zeros at the end of the release."""
    lowered = version.lower().removeprefix("v")
    release = re.match(r"\d+(?:\.\d+)*", lowered)
    if release is None:
        return lowered
    numbers = [str(int(part)) for part in release[0].split(".")]
    while len(numbers) > 1 and numbers[-1] == "0":
        numbers.pop()
    return ".".join(numbers) + lowered[release.end() :].lstrip(".-_")


def checks(subject: Subject, pins: Pins, facts: VenvFacts) -> Iterator[Check]:
    """``venv.pins``: all drifted packages in one gap, because one sync of the checkout mends them (ENV-03)."""
    if pins.problem:
        yield Check(
            id="venv.pins",
            status="unknown",
            detail=pins.problem,
            fix=f"git -C {shlex.quote(str(subject.repo_root))} diff -- pyproject.toml",
        )
        return
    if not pins.exact:
        yield Check(id="venv.pins", status="ok", detail=pins.said)
        return
    if subject.venv_python is None or facts.problem:
        yield Check(
            id="venv.pins",
            status="unknown",
            detail=f"{len(pins.exact)} pinned version(s) not compared: {facts.problem or 'no interpreter'}",
            fix=f"{subject.venv_python} --version" if subject.venv_python else make(subject),
        )
        return
    drifted = [
        f"{name} {facts.packages.get(name, 'is not there')} (pinned {version})"
        for name, version in pins.exact.items()
        if name not in facts.packages or not same(version, facts.packages[name])
    ]
    rest = f"; not compared, because of its marker: {', '.join(pins.conditional)}" if pins.conditional else ""
    yield Check(
        id="venv.pins",
        status="mismatch" if drifted else "ok",
        detail=(", ".join(drifted) if drifted else f"{len(pins.exact)} pinned version(s) are installed") + rest,
        fix=sync(subject) if drifted else "",
    )
