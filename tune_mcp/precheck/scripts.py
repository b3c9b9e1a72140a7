"""The commands that test files start, and whether they are in the interpreter's ``bin`` or on the PATH.

They are read from the syntax trees of everything that the tests reach in the repository: what a file imports, names as
a module (``-m package.module``) or as a script (``examples/run.py``).
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from tune_mcp.contract.precheck import Check, check
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.discover.source_tree import last_name
from tune_mcp.files import open_plain
from tune_mcp.precheck.dependencies import read_declared
from tune_mcp.precheck.subject import Subject, quoted
from tune_mcp.precheck.venv import VenvFacts, sync

_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_STARTING = frozenset(
    {"run", "Popen", "call", "check_call", "check_output", "create_subprocess_exec", "create_subprocess_shell", "which"}
)
_NAMING = frozenset({"prog", "name", "help", "description", "usage", "title", "label", "id"})
"""Keyword arguments that call something by a command's name without starting it."""
_TELLING = frozenset({"getLogger", "print", "version", "info", "warning"})
_FILES_AT_MOST = 600
_BYTES_AT_MOST = 2**20


@dataclass
class Started:
    """Command -> ``file:line`` of the first place. ``ours`` are console scripts and servers, ``tools`` the others.

    ``problem`` says why nothing was read; ``late``: because the deadline came first.
    """

    ours: dict[str, str] = field(default_factory=dict[str, str])
    tools: dict[str, str] = field(default_factory=dict[str, str])
    problem: str = ""
    late: bool = False


def read_started(subject: Subject) -> Started:
    """What the selected test files and their conftests start.

    Console scripts of the repository count wherever their name is the first word. A file that does not parse is left
    to ``discover``. Raises ``OSError``.
    """
    scripts = {*read_declared(subject).scripts, *subject.needs.scripts}
    tests = sorted({stage.test for stage in subject.stages})
    files, found = PythonFiles(subject.repo_root), Started()
    waiting = [*tests, *(path for test in tests for path in files.conftests(test))]
    seen = set(waiting)
    while waiting and len(seen) <= _FILES_AT_MOST:
        name = waiting.pop(0)
        if not files.exists(name) or (subject.repo_root / name).stat().st_size > _BYTES_AT_MOST:
            continue
        tree = files.tree(name)
        if tree is None:
            continue
        nodes = tuple(ast.walk(tree))  # once: the tests reach hundreds of files
        _look(nodes, name, scripts, found)
        for other in (*files.imported_files(name), *_mentioned(files, nodes, name)):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return found


def _look(nodes: Sequence[ast.AST], file: str, scripts: Collection[str], found: Started) -> None:
    skipped = set(_prose(nodes))
    for node in nodes:
        if isinstance(node, ast.Call) and (command := _command(node)):
            if command in scripts:
                found.ours.setdefault(command, f"{file}:{node.lineno}")
            elif last_name(node.func) != "which":  # who asks whether it is there can do without
                found.tools.setdefault(command, f"{file}:{node.lineno}")
        elif isinstance(node, ast.List | ast.Tuple) and (command := _server(node)):
            found.ours.setdefault(command, f"{file}:{node.lineno}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            first, _, rest = node.value.strip().partition(" ")
            if first in scripts and (not rest or rest.lstrip()[:1].islower() or rest.lstrip()[:1] == "-"):
                found.ours.setdefault(first, f"{file}:{node.lineno}")


def _prose(nodes: Sequence[ast.AST]) -> Iterator[int]:
    """Strings that only name or tell something: docstrings, and what argparse and loggers are called."""
    for node in nodes:
        if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg in _NAMING):
            yield id(node.value)
        elif isinstance(node, ast.Call) and last_name(node.func) in _TELLING:
            yield from (id(argument) for argument in node.args)


def _command(node: ast.Call) -> str:
    """The bare command of ``subprocess.run(["name", ...])`` or ``shutil.which("name")``; empty for anything else."""
    if last_name(node.func) not in _STARTING or not node.args:
        return ""
    first = node.args[0]
    if isinstance(first, ast.List | ast.Tuple) and first.elts:
        first = first.elts[0]
    elif last_name(node.func) not in ("which", "create_subprocess_exec"):
        return ""
    text = first.value if isinstance(first, ast.Constant) else None
    return text if isinstance(text, str) and _BARE.fullmatch(text) else ""


def _server(node: ast.List | ast.Tuple) -> str:
    """``["sgl-omni", "serve", ...]``: a server that is started by its console script, wherever the list goes."""
    words = [one.value if isinstance(one, ast.Constant) else None for one in node.elts[:2]]
    match words:
        case [str() as command, "serve"] if _BARE.fullmatch(command):
            return command
        case _:
            return ""


def _mentioned(files: PythonFiles, nodes: Sequence[ast.AST], file: str) -> Iterator[str]:
    """Files that strings name: a module, itself or its ``__main__``, or a script by its path."""
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    for text in (text for text in texts if len(text) < 200):
        if _MODULE.fullmatch(text):
            yield from filter(None, (files.resolve(file, text), files.resolve(file, f"{text}.__main__")))
        if text.endswith(".py") and not text.startswith("/") and ".." not in text:
            yield text


_SHEBANG = re.compile(rb"#!\s*(/\S*python[\d.]*)\s*\n")


def checks(subject: Subject, started: Started, facts: VenvFacts) -> Iterator[Check]:
    """``venv.scripts:<name>`` for each that is not there, and ``venv.tools`` for commands of the system.

    The repository's own scripts count where its tests reach code that starts them, so do those that an installed
    distribution declares; those of ``console_scripts`` always. A command of the system may be optional, so its absence
    is a warning.
    """
    if subject.venv_python is None:
        return  # venv.python reports it
    if started.problem:
        detail, fix = f"test files: {started.problem}", "timeout 10 df -h"
        if started.late:
            detail = f"reading the tests and the files that they import {started.problem}: this machine is busy, or "
            detail += "its disk is cold or slow"
            fix = f"uptime; tune-mcp precheck {subject.model} --repo {quoted(subject.repo_root)}"
        yield check("venv.scripts", "unknown", detail, fix)
        return
    folder = subject.venv_python.parent
    installed = {name: place for name, place in started.tools.items() if name in facts.scripts}
    asked = dict.fromkeys(subject.needs.scripts, f"console_scripts of {subject.model}") | started.ours | installed
    failed = [one for name, place in asked.items() if (one := _failed(subject, folder, name, place))]
    yield from failed
    if asked and not failed:
        yield check("venv.scripts", "ok", f"{', '.join(asked)} in {folder}")
    path = f"{folder}:{_path(subject)}"
    absent = {name: place for name, place in started.tools.items() if name not in asked and not which(name, path=path)}
    if absent:
        yield check(
            "venv.tools",
            "warn",
            f"not on the PATH of a launch: {', '.join(f'{name} ({place})' for name, place in absent.items())}",
            f"install {', '.join(absent)} on this machine where the tests cannot do without",
        )


def _path(subject: Subject) -> str:
    return subject.needs.env.get("PATH", os.environ.get("PATH", os.defpath))


def _failed(subject: Subject, folder: Path, name: str, place: str) -> Check | None:
    script = folder / name
    ident, by = f"venv.scripts:{name}", f"; started by {place}"
    if not script.is_file():
        leads = " (a link that leads nowhere)" if script.is_symlink() else ""
        elsewhere = which(name, path=_path(subject))
        other = f"; a launch would start that of another environment, {elsewhere}" if elsewhere else ""
        return check(ident, "missing", f"not in {folder}{leads}{by}{other}", sync(subject))
    if not os.access(script, os.X_OK):
        fix = f"chmod +x {quoted(script)}"
        return check(ident, "mismatch", f"{script} cannot be executed{by}", fix)
    with open_plain(script) as file:
        match = _SHEBANG.match(file.read(400))
    if match and not (python := Path(os.fsdecode(match[1]))).exists():
        detail = f"{script} is for {python}, which is not there{by}"
        return check(ident, "mismatch", detail, sync(subject))
    return None
