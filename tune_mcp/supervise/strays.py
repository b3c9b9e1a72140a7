"""Files in a run directory that tune-mcp did not write: they are ignored, and named once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tune_mcp.run_dir import ATTEMPT, RunDir

_COPIES = re.compile(r".*(~|\.(bak|orig|old|rej|swp|save|copy))|run\d+\.json", re.IGNORECASE)
"""What editors and people leave beside a file that they looked at."""
_OBSERVATION = re.compile(r"run([1-9]\d{0,2})\.json")


def strays(run: RunDir, stage_keys: Iterable[str], repeats: int) -> tuple[str, ...]:
    """Paths below the run directory that are taken for nothing, sorted: copies of editors, unknown attempts, …"""
    found = [name for name in _names(run.path) if _COPIES.fullmatch(name)]
    for key in stage_keys:
        for name in _names(run.path / key):
            planned = _OBSERVATION.fullmatch(name)
            if not _temporary(name) and not (planned and int(planned[1]) <= repeats):
                found.append(f"{key}/{name}")
    for test in _names(run.path / "_pytest"):
        attempts = run.test_folder(test) / "attempts"
        found += [f"_pytest/{test}/attempts/{name}" for name in _names(attempts) if not ATTEMPT.fullmatch(name)]
    found += [f"purged/{name}" for name in _names(run.purged) if not (run.purged / name / "purge.json").is_file()]
    return tuple(sorted(found))


def _temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (os.fsencode(entry.name).decode(errors="backslashreplace") for entry in entries)
    except OSError:
        return
