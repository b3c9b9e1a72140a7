"""The variables of a launch, checked: the cache folders of the CI layout, and what the script of CI sets.

That script is read, never run: plain ``export NAME=value`` lines with ``$X``, ``${X}`` and ``${X:-default}`` are
understood, whatever else it does is left to it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tune_mcp.config.fields import of_one_person
from tune_mcp.contract.precheck import Check, check
from tune_mcp.files import read_text
from tune_mcp.precheck.subject import SLICE, Subject, quoted
from tune_mcp.words import number_of

BELOW_SLICE = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")
CALIBRATION_SLICE = Path("/github/home/calibration")
"""The slice of the calibration host; a fresh container does not have it, and nothing that runs there makes it."""

Writable = Callable[[Path], bool]


def writable(folder: Path) -> bool:
    """Whether this process may make something in ``folder``."""
    return os.access(folder, os.W_OK | os.X_OK)


def layout_checks(
    subject: Subject, may_write: Writable = writable, made_once: Path = CALIBRATION_SLICE
) -> Iterator[Check]:
    """``env.layout``: one failed check a variable, of every launch of the selection; none where no launch has one."""
    launches = [(subject.needs.env, "auto_env")]
    launches += [({**subject.needs.env, **stage.extra_env}, "extra_env") for stage in subject.stages if stage.extra_env]
    named = dict.fromkeys(f"{name}={env[name]}" for env, _ in launches for name in (SLICE, *BELOW_SLICE) if name in env)
    if not named:
        return
    failed: dict[tuple[str, str], Check] = {}
    for env, key in launches:
        for one in _failed(subject, env, key, may_write, made_once):
            failed.setdefault((one.id, one.detail), one)  # what auto_env sets is reported once, for auto_env
    yield from failed.values()
    if not failed:
        yield check("env.layout", "ok", ", ".join(named))


def _failed(
    subject: Subject, env: Mapping[str, str], key: str, may_write: Writable, made_once: Path
) -> Iterator[Check]:
    for name in (SLICE, *BELOW_SLICE):
        if name in env:
            yield from _folder(name, Path(env[name]), may_write, made_once)
    yield from _misplaced(env, f"under {key} of models/{subject.model}/config.yaml")
    if "HOME" in env and not Path(env["HOME"]).is_dir():
        yield _missing("HOME", Path(env["HOME"]))


def _folder(name: str, path: Path, may_write: Writable, made_once: Path) -> Iterator[Check]:
    if path.is_dir():
        if not may_write(path):
            yield _locked(name, path, path)
        return
    if path.exists() or path.is_symlink():
        yield check(
            f"env.layout:{name}",
            "mismatch",
            f"{name}={path} is no folder",
            f"mv {quoted(path)} {quoted(str(path) + '.old')}",
        )
        return
    if path == made_once:
        yield _missing(name, path)
        return
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir() or not may_write(parent):
        yield _locked(name, path, parent)


def _misplaced(env: Mapping[str, str], edit: str) -> Iterator[Check]:
    """Caches outside the slice are somebody else's: cold or stale, and never wiped by us."""
    if SLICE not in env:
        return
    root = Path(os.path.normpath(env[SLICE]))
    if not root.is_absolute() or len(root.parts) == 1:
        yield check(
            f"env.layout:{SLICE}",
            "mismatch",
            f"{SLICE}={env[SLICE]} is no slice",
            f"set {SLICE} {edit} to a folder of its own",
        )
        return
    expected = {"XDG_CACHE_HOME": root / ".cache", "TORCHINDUCTOR_CACHE_DIR": root / ".torchinductor"}
    for name in BELOW_SLICE:
        if name in env and not Path(os.path.normpath(env[name])).is_relative_to(root):
            yield check(
                f"env.layout:{name}",
                "mismatch",
                f"{name}={env[name]} is not below {SLICE}={root}; expected {expected[name]}",
                f"set {name}: {expected[name]} {edit}",
            )


def _missing(name: str, path: Path) -> Check:
    return check(f"env.layout:{name}", "missing", f"{name}={path} does not exist", f"mkdir -p {quoted(path)}")


def _locked(name: str, path: Path, holder: Path) -> Check:
    return check(
        f"env.layout:{name}",
        "missing",
        f"{name}={path} cannot be written: no right to write in {holder}",
        f"chmod u+rwx {quoted(holder)}",
    )


OURS = frozenset({"CUDA_VISIBLE_DEVICES"})
"""Decided anew for every launch (ENV-15)."""
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
USE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?\})")
"""A use of a variable in a text: its name, or its name in braces and what stands there where it is not set."""


def ci_env_checks(subject: Subject) -> Iterator[Check]:
    """``env.ci``, for a model that names the script. What a host profile says counts as agreed (HST-04)."""
    name = subject.needs.ci_env_file
    if name is None:
        return
    path = subject.repo_root / name
    if not path.is_file():
        edit = f"correct ci_env_file in models/{subject.model}/config.yaml"
        yield check("env.ci", "missing", f"there is no {name} in this tree", edit)
        return
    env = subject.needs.env
    agreed = OURS.union(subject.needs.profile.env() if subject.needs.profile else ())
    expected = read_ci_env(read_text(path, errors="replace"), env)
    asked = {key: value for key, value in expected.items() if key not in agreed and not of_one_person(key, value)}
    other = [f"{key} is not set, CI has {value}" for key, value in asked.items() if key not in env]
    other += [f"{key}={env[key]}, CI has {value}" for key, value in asked.items() if key in env and env[key] != value]
    yield check(
        "env.ci",
        "mismatch" if other else "ok",
        "; ".join(other) if other else f"{number_of(len(expected), 'variable')} as in {name}",
        f"put them under auto_env of models/{subject.model}/config.yaml as in {quoted(path)}",
    )


def read_ci_env(script: str, env: Mapping[str, str]) -> dict[str, str]:
    """What the script sets when it is sourced under ``env``: ``${X:-default}`` is what ``env`` has, where it has it."""
    found: dict[str, str] = {}
    for line in script.splitlines():
        match = _LINE.fullmatch(line)
        value = _value(match[2], {**env, **found}) if match else None
        if match and value is not None:
            found[match[1]] = value
    return found


def _value(text: str, known: Mapping[str, str]) -> str | None:
    """The plain value of an assignment; None for one that only a shell can work out."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None
    if len(words) > 1 or "$(" in text or "`" in text:
        return None
    return substituted(words[0], known) if words else ""


def substituted(text: str, env: Mapping[str, str]) -> str:
    """``$X``, ``${X}`` and ``${X:-default}`` as a shell has them; the default may use variables itself."""
    return USE.sub(lambda use: env.get(use[1] or use[2]) or substituted(use[3] or "", env), text)
