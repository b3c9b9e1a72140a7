"""The checkpoints of speaker similarity: both there, whole, and marked as complete (PRE-06)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from tune_mcp.contract.precheck import Check
from tune_mcp.files import read_text
from tune_mcp.precheck.subject import Subject

VARIABLE = "SEEDTTS_SIM_CACHE_DIR"
MARKER = ".complete"
CHECKPOINTS = ("wavlm_large.pt", "wavlm_large_finetune.pth")
MINIMUM_BYTES = 100 * 2**20
"""Both checkpoints are about ten times this; the project's own loader refuses less, too."""
_MODULE = "benchmarks.metrics.speaker_similarity_assets"


def checks(subject: Subject) -> Iterator[Check]:
    """``speaker_sim.assets``, where the selected tests need them or, if config does not say, the folder is named."""
    named = subject.needs.env.get(VARIABLE)
    if subject.needs.speaker_sim is False or (not named and not subject.needs.speaker_sim):
        return
    if not named:
        what = f"the tests need the checkpoints of speaker similarity, and nothing names their folder, {VARIABLE}"
        fix = "set physical.speaker_sim in the host profile"
        yield Check(id="speaker_sim.assets", status="missing", detail=what, fix=fix)
        return
    folder = Path(named)
    gaps = list(_gaps(folder))
    token = (step := subject.needs.bootstrap()) and step.hf_token
    yield Check(
        id="speaker_sim.assets",
        status="missing" if gaps else "ok",
        detail=f"{folder}: {', '.join(gaps)}{f' ({token})' if token else ''}"
        if gaps
        else f"{' and '.join(CHECKPOINTS)} in {folder}",
        fix=_fix(subject, folder) if gaps else "",
    )


def _gaps(folder: Path) -> Iterator[str]:
    """What is wrong in the folder. Raises ``OSError`` for one that cannot be read."""
    marker = folder / MARKER
    if not marker.is_file():
        yield f"no {MARKER}"
    recorded = _sizes(marker)
    for name in CHECKPOINTS:
        path = folder / name
        if not path.is_file():
            yield f"no {name}"
            continue
        size = path.stat().st_size
        if size < MINIMUM_BYTES:
            yield f"{name} has {size} bytes, fewer than {MINIMUM_BYTES}"
        elif size != recorded.get(name, size):
            yield f"{name} has {size} bytes, but {MARKER} recorded {recorded[name]}"


def _sizes(marker: Path) -> dict[str, int]:
    """The sizes that the marker recorded; an empty or older marker records none."""
    try:
        value: object = json.loads(read_text(marker))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return {}
    files: object = cast("dict[str, object]", value).get("files") if isinstance(value, dict) else None
    sizes: dict[str, int] = {}
    for name, entry in cast("dict[str, object]", files).items() if isinstance(files, dict) else ():
        size: object = cast("dict[str, object]", entry).get("size") if isinstance(entry, dict) else None
        if isinstance(size, int):
            sizes[name] = size
    return sizes


def _fix(subject: Subject, folder: Path) -> str:
    """The host's own command; without one the project's loader, where this checkout has it."""
    step = subject.needs.bootstrap()
    if step is not None:
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in step.env.items())
        command = step.command.strip()
        return f"env {settings} bash -c {shlex.quote(command)}" if settings else command
    if (subject.repo_root / Path(*_MODULE.split("."))).with_suffix(".py").is_file() and subject.venv_python:
        endpoint = subject.needs.env.get("HF_ENDPOINT")
        variables = {VARIABLE: str(folder)} | ({"HF_ENDPOINT": endpoint} if endpoint else {})
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        python = shlex.quote(str(subject.venv_python))
        return f"cd {shlex.quote(str(subject.repo_root))} && {settings} {python} -m {_MODULE} --warm-cache"
    return f"put {MARKER}, {' and '.join(CHECKPOINTS)} into {folder}, or name speaker_similarity_bootstrap in the host"
