"""The environment of a launch against the script that CI sources: a variable that drifted is another CI (ENV-16).

The script is read, never run: plain ``export NAME=value`` lines with ``$X``, ``${X}`` and ``${X:-default}`` are
understood, whatever else it does is left to it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

from tune_mcp.config.launch_env import of_one_person
from tune_mcp.contract.precheck import Check
from tune_mcp.files import read_text
from tune_mcp.precheck.subject import Subject

OURS = frozenset({"CUDA_VISIBLE_DEVICES"})
"""Decided anew for every launch (ENV-15)."""
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_USE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^{}]*))?\})")


def checks(subject: Subject) -> Iterator[Check]:
    """``env.ci``, for a model that names the script. What a host profile says counts as agreed (HST-04)."""
    name = subject.needs.ci_env_file
    if name is None:
        return
    path = subject.repo_root / name
    if not path.is_file():
        edit = f"correct ci_env_file in models/{subject.model}/config.yaml"
        yield Check(id="env.ci", status="missing", detail=f"there is no {name} in this tree", fix=edit)
        return
    env = subject.needs.env
    agreed = OURS.union(subject.needs.profile.env() if subject.needs.profile else ())
    expected = read(read_text(path, errors="replace"), env)
    asked = {key: value for key, value in expected.items() if key not in agreed and not of_one_person(key, value)}
    gaps = [f"{key} is not set, CI has {value}" for key, value in asked.items() if key not in env]
    gaps += [f"{key}={env[key]}, CI has {value}" for key, value in asked.items() if key in env and env[key] != value]
    yield Check(
        id="env.ci",
        status="mismatch" if gaps else "ok",
        detail="; ".join(gaps) if gaps else f"{len(expected)} variable(s) as in {name}",
        fix=f"put them under auto_env of models/{subject.model}/config.yaml as in {shlex.quote(str(path))}"
        if gaps
        else "",
    )


def read(script: str, env: Mapping[str, str]) -> dict[str, str]:
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
    plain = words[0] if words else ""
    return _USE.sub(lambda use: known.get(use[1] or use[2]) or use[3] or "", plain)
