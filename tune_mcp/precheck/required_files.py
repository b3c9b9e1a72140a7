"""Files that tests load from outside a hub cache, as the model's ``required_files`` name them: there, and whole.

A loader that finds one missing downloads it in the middle of a measurement, or fails after the model was loaded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from tune_mcp.config.model import RequiredFile
from tune_mcp.contract.precheck import Check
from tune_mcp.precheck.subject import Subject

_USE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?\})")
_SETTINGS = ("HOME", "HF_HOME", "HF_ENDPOINT", "HF_HUB_DISABLE_XET")


def checks(subject: Subject) -> Iterator[Check]:
    """``files:<name>``, one for each file; a file that cannot be looked at is unknown."""
    for wanted in subject.needs.files:
        named = expanded(wanted.path, environment(subject))
        path = Path(named)
        name = f"files:{path.name}"
        if not path.is_absolute():
            edit = f"correct required_files in models/{subject.model}/config.yaml"
            detail = f"{wanted.path} is {named!r} under this launch's variables, which is no absolute path"
            yield Check(id=name, status="mismatch", detail=detail, fix=edit)
            continue
        try:
            gap = _gap(path, wanted.min_bytes)
        except OSError as error:
            fix = f"ls -la {shlex.quote(str(path.parent))}"
            yield Check(id=name, status="unknown", detail=f"{path} cannot be read: {error}", fix=fix)
            continue
        yield Check(
            id=name,
            status="missing" if gap else "ok",
            detail=f"{path} {gap}" if gap else str(path),
            fix=_fix(subject, wanted, path) if gap else "",
        )


def environment(subject: Subject) -> Mapping[str, str]:
    """The variables that a launch has as far as paths follow from them."""
    return {"HOME": str(Path.home()), **subject.needs.env}


def expanded(text: str, env: Mapping[str, str]) -> str:
    """``$X``, ``${X}``, ``${X:-default}`` (the default may use variables itself) and a leading ``~``."""
    if text == "~" or text.startswith("~/"):
        text = "$HOME" + text[1:]

    def value(use: re.Match[str]) -> str:
        return env.get(use[1] or use[2]) or expanded(use[3] or "", env)

    return _USE.sub(value, text)


def _gap(path: Path, minimum: int) -> str:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "leads nowhere" if path.is_symlink() else "is not there"
    if not path.is_file():
        return "is no file"
    return f"has {status.st_size} bytes, a whole one at least {minimum}" if status.st_size < minimum else ""


def _fix(subject: Subject, wanted: RequiredFile, path: Path) -> str:
    if not wanted.fetch:
        return f"put the file at {shlex.quote(str(path))}, as the tests' own documentation tells"
    command = wanted.fetch.replace("{python}", shlex.quote(str(subject.venv_python or "python")))
    command = command.replace("{repo}", shlex.quote(str(subject.repo_root)))
    env = environment(subject)
    named = [name for name in (*_SETTINGS, *_names(wanted.path)) if name in subject.needs.env]
    settings = " ".join(f"{name}={shlex.quote(env[name])}" for name in dict.fromkeys(named))
    return f"cd {shlex.quote(str(subject.repo_root))} && {settings + ' ' if settings else ''}{command.strip()}"


def _names(text: str) -> Iterator[str]:
    for use in _USE.finditer(text):
        yield use[1] or use[2]
        yield from _names(use[3] or "")
