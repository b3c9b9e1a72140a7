"""Digests of the result files of one attempt: whoever reads them again later sees whether they are the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tune_mcp.config.stages import ONE, Stage
from tune_mcp.files import inside, sha256_file

MOST_FILES = 5000
MOST_BYTES = 1 << 30


def named_by(stages: Iterable[Stage]) -> tuple[str, ...]:
    """The files, relative to the basetemp, in which the stages' metrics and counts stand; sorted."""
    found: set[str] = set()
    for stage in stages:
        found |= {metric.json_file for metric in stage.metrics.values() if metric.json_file}
        if stage.sample_counts and stage.sample_counts != ONE:
            found |= {stage.sample_counts.total.json_file, stage.sample_counts.ok.json_file}
        if stage.observation_validity:
            found.add(stage.observation_validity.json_file)
    return tuple(sorted(found))


def digests(basetemp: Path, named: Iterable[str] = ()) -> dict[str, str]:
    """Path below the basetemp -> sha256: the files that are ``named``, then every ``*.json``, links not followed.

    At most MOST_FILES files and MOST_BYTES bytes beside the named ones; what is beyond that cannot be read again.
    """
    found: dict[str, str] = {}
    for name in named:
        try:
            path = inside(basetemp, name)
            if path.is_file():
                found[name] = sha256_file(path)
        except (OSError, ValueError):
            continue  # extraction says what is wrong with it
    left = MOST_BYTES
    for path in _json_files(basetemp):
        name = str(path.relative_to(basetemp))
        if name in found:
            continue
        try:
            name.encode()
            left -= path.stat().st_size
            if len(found) >= MOST_FILES or left < 0:
                break
            found[name] = sha256_file(path)
        except (OSError, ValueError):
            continue  # gone meanwhile, or a name that no configuration can hold
    return found


def _json_files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where) / name
            if name.endswith(".json") and path.is_file() and not path.is_symlink():
                yield path


def changed(basetemp: Path, sealed: dict[str, str], named: Iterable[str]) -> str:
    """What of the named files is not as it was sealed; empty when all are, or were not there and are not now."""
    for name in named:
        try:
            path = inside(basetemp, name)
            there = path.is_file()
            if there and name not in sealed:
                return f"{name} was not sealed with the attempt"
            if name in sealed and (not there or sha256_file(path) != sealed[name]):
                return f"{name} is not the file that was sealed"
        except (OSError, ValueError) as error:
            return f"{name}: {error}"
    return ""
