"""The modules that a test needs really import, in the interpreter and the environment of a launch (ENV-18, ENV-20).

A version in the metadata proves nothing: a wheel for another CUDA, a missing system library or a half-made install
only shows when the module is loaded. So one child loads them, one after the other, against a deadline.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from packaging.utils import canonicalize_name

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.precheck import Check, check
from tune_mcp.files import read_text
from tune_mcp.precheck.subject import Subject, quoted
from tune_mcp.precheck.venv import sync

_PROGRAM = """
import importlib, json, os, sys, threading
out = open(sys.argv[1], "w", buffering=1)
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
for name in sys.argv[2:]:
    out.write(json.dumps({"begin": name}) + "\\n")
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        out.write(json.dumps({"failed": name, "error": f"{type(error).__name__}: {error}"[:400]}) + "\\n")
        continue
    cuda = getattr(getattr(module, "version", None), "cuda", None)
    facts = {"version": getattr(module, "__version__", None), "file": getattr(module, "__file__", None), "cuda": cuda}
    known = {key: str(value) for key, value in facts.items() if value is not None}
    out.write(json.dumps({"done": name, **known}) + "\\n")
out.flush()
os._exit(0)
"""


class ModuleFact(Frozen):
    """A module that was loaded: its version, its file, and for torch the CUDA that it was built for."""

    version: str | None = None
    file: str | None = None
    cuda: str | None = None


@dataclass(frozen=True)
class Imports:
    """What became of each module. ``stuck`` was being loaded at the deadline.

    ``untried`` says why there is nothing, and ``retry`` what to do then.
    """

    loaded: Mapping[str, ModuleFact] = field(default_factory=dict[str, ModuleFact])
    failed: Mapping[str, str] = field(default_factory=dict[str, str])
    stuck: str = ""
    untried: str = ""
    retry: str = ""

    def versions(self) -> dict[str, str]:
        """``torch.__version__`` and ``torch.version.cuda`` of every module that has them."""
        own = {f"{name}.__version__": fact.version for name, fact in self.loaded.items()}
        cuda = {f"{name}.version.cuda": fact.cuda for name, fact in self.loaded.items()}
        return {name: value for name, value in {**own, **cuda}.items() if value}


def wanted(subject: Subject) -> tuple[str, ...]:
    """What config asks for; without a word there, the repository's own package. Raises ``OSError``."""
    if subject.needs.imports is not None:
        return subject.needs.imports
    try:
        document = tomllib.loads(read_text(subject.repo_root / "pyproject.toml"))
    except (FileNotFoundError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return ()
    project: object = document.get("project")
    name: object = cast("dict[str, object]", project).get("name") if isinstance(project, dict) else None
    package = canonicalize_name(name).replace("-", "_") if isinstance(name, str) else ""
    return (package,) if package and (subject.repo_root / package / "__init__.py").is_file() else ()


def try_imports(subject: Subject, env: Mapping[str, str], deadline_s: float) -> Imports:
    """Load every module in a process group of its own, which does not outlive the deadline; leaves no bytecode."""
    names = wanted(subject)
    if not names or subject.venv_python is None:
        return Imports()
    # A file of its own for the answer: a site customisation may print to stdout, close it or replace it.
    with tempfile.TemporaryDirectory(prefix="tune-imports-") as folder:
        answer = Path(folder) / "answer.jsonl"
        try:
            # The child ends when its standard input does: nobody is left behind loading torch when we are killed.
            child = subprocess.Popen(
                [str(subject.venv_python), "-B", "-c", _PROGRAM, str(answer), *names],
                cwd=subject.repo_root,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return Imports(untried=f"the interpreter does not start: {error}")
        try:
            rc = child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            # Never reaped by us: a child that hangs in the kernel does not even hear SIGKILL.
            os.killpg(child.pid, signal.SIGKILL)
            rc = None
        return _read(names, answer.read_bytes() if answer.exists() else b"", late=rc is None, rc=rc)


def _read(names: tuple[str, ...], answer: bytes, late: bool, rc: int | None) -> Imports:
    """Every name has a verdict; one that the child never came to is reported as not tried, never as loaded."""
    loaded: dict[str, ModuleFact] = {}
    failed: dict[str, str] = {}
    under_way = ""
    for line in answer.splitlines():
        entry = _entry(line)
        if "begin" in entry:
            under_way = entry["begin"]
        elif "failed" in entry:
            failed[entry["failed"]], under_way = entry["error"], ""
        elif "done" in entry:
            fact = ModuleFact(version=entry.get("version"), file=entry.get("file"), cuda=entry.get("cuda"))
            loaded[entry["done"]], under_way = fact, ""
    rest = [name for name in names if name not in loaded and name not in failed]
    if late and rest:
        return Imports(loaded, failed, stuck=under_way or rest[0])
    if under_way:
        failed[under_way] = f"the interpreter died while loading it ({_death(rc)}); what comes after it was not tried"
    elif rest:
        return Imports(loaded, failed, untried=f"the interpreter ended before {rest[0]} ({_death(rc)})")
    return Imports(loaded, failed)


def _entry(line: bytes) -> dict[str, str]:
    try:
        value: object = json.loads(line)
    except ValueError:
        return {}
    entry = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    return {key: text for key, text in entry.items() if isinstance(text, str)}


def _death(rc: int | None) -> str:
    return f"signal {-rc}" if rc is not None and rc < 0 else f"exit code {rc}"


def checks(subject: Subject, imports: Imports) -> Iterator[Check]:
    """``venv.imports``: one check for all modules, because one sync of the checkout fixes them (ENV-03)."""
    python = subject.venv_python
    if python is None:
        return
    if imports.failed:
        detail = "; ".join(f"{name}: {error}" for name, error in imports.failed.items())
        yield check("venv.imports", "missing", detail, sync(subject))
    elif imports.untried:
        fix = imports.retry or f"{quoted(python)} --version"
        yield check("venv.imports", "unknown", f"not tried: {imports.untried}", fix)
    elif imports.stuck:
        detail = f"{imports.stuck} was still loading at the deadline; a first load from a cold disk takes minutes"
        yield check("venv.imports", "unknown", detail, _by_hand(subject, python, imports.stuck))
    else:
        detail = ", ".join(_shown(name, fact) for name, fact in imports.loaded.items())
        yield check("venv.imports", "ok", detail or "the model names no module to load")


def _shown(name: str, fact: ModuleFact) -> str:
    cuda = f" (CUDA {fact.cuda})" if fact.cuda else ""
    return f"{name} {fact.version}{cuda}" if fact.version else f"{name}{cuda}"


def _by_hand(subject: Subject, python: Path, name: str) -> str:
    """Loading it once by hand fills the disk's cache, and shows what it waits for."""
    root = quoted(subject.repo_root)
    return f"cd {root} && {quoted(python)} -X importtime -c {quoted(f'import {name}')}"
