"""Console scripts that the suite starts are in the interpreter's ``bin``: being importable is not enough."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from tune_mcp.contract.precheck import Check
from tune_mcp.files import open_plain
from tune_mcp.precheck.declared import read_declared
from tune_mcp.precheck.started import Started, started
from tune_mcp.precheck.subject import Subject
from tune_mcp.precheck.venv import VenvFacts, sync

_SHEBANG = re.compile(rb"#!\s*(/\S*python[\d.]*)\s*\n")


@dataclass(frozen=True)
class Wanted:
    """What the tests start, and the console scripts that the repository itself declares; ``problem`` when not read."""

    found: Started = field(default_factory=Started)
    problem: str = ""


def read_wanted(subject: Subject) -> Wanted:
    """Read what the selected tests reach. Raises ``OSError``."""
    declared = read_declared(subject).scripts
    tests = sorted({stage.test for stage in subject.stages})
    return Wanted(started(subject.repo_root, tests, {*declared, *subject.needs.scripts}))


def checks(subject: Subject, wanted: Wanted, facts: VenvFacts) -> Iterator[Check]:
    """``venv.scripts:<name>`` for each that is not there, and ``venv.tools`` for commands of the system.

    The repository's own scripts count where its tests reach code that starts them, so do those that an installed
    distribution declares; those of ``console_scripts`` always. A command of the system may be optional, so its absence
    is a warning.
    """
    if subject.venv_python is None:
        return  # venv.python tells
    if wanted.problem:
        fix = "timeout 10 df -h"
        yield Check(id="venv.scripts", status="unknown", detail=f"test files: {wanted.problem}", fix=fix)
        return
    folder, found = subject.venv_python.parent, wanted.found
    installed = {name: place for name, place in found.tools.items() if name in facts.scripts}
    asked = dict.fromkeys(subject.needs.scripts, f"console_scripts of {subject.model}") | found.ours | installed
    gaps = [gap for name, place in asked.items() if (gap := _gap(subject, folder, name, place))]
    yield from gaps
    if asked and not gaps:
        yield Check(id="venv.scripts", status="ok", detail=f"{', '.join(asked)} in {folder}")
    path = f"{folder}:{_path(subject)}"
    absent = {name: place for name, place in found.tools.items() if name not in asked and not which(name, path=path)}
    if absent:
        yield Check(
            id="venv.tools",
            status="warn",
            detail=f"not on the PATH of a launch: {', '.join(f'{name} ({place})' for name, place in absent.items())}",
            fix=f"install {', '.join(absent)} on this machine where the tests cannot do without",
        )


def _path(subject: Subject) -> str:
    return subject.needs.env.get("PATH", os.environ.get("PATH", os.defpath))


def _gap(subject: Subject, folder: Path, name: str, place: str) -> Check | None:
    script = folder / name
    ident, by = f"venv.scripts:{name}", f"; started by {place}"
    if not script.is_file():
        leads = " (a link that leads nowhere)" if script.is_symlink() else ""
        elsewhere = which(name, path=_path(subject))
        other = f"; a launch would start that of another environment, {elsewhere}" if elsewhere else ""
        return Check(id=ident, status="missing", detail=f"not in {folder}{leads}{by}{other}", fix=sync(subject))
    if not os.access(script, os.X_OK):
        fix = f"chmod +x {shlex.quote(str(script))}"
        return Check(id=ident, status="mismatch", detail=f"{script} cannot be executed{by}", fix=fix)
    with open_plain(script) as file:
        match = _SHEBANG.match(file.read(400))
    if match and not (python := Path(os.fsdecode(match[1]))).exists():
        detail = f"{script} is for {python}, which is not there{by}"
        return Check(id=ident, status="mismatch", detail=detail, fix=sync(subject))
    return None
