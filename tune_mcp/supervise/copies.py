"""Result files whose every number an earlier attempt had already: copied, or taken from a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import parse_json, read_plain
from tune_mcp.run_dir import ATTEMPT
from tune_mcp.supervise.job import RESULT_FILE, Job


def of_earlier(job: Job, known: Mapping[str, str]) -> dict[str, str]:
    """Name -> why: the files of this attempt whose signature another sealed attempt at the test has."""
    if not known:
        return {}
    before: dict[str, str] = {}
    for folder in sorted(_others(job)):
        try:
            value = parse_json(read_plain(folder / RESULT_FILE))
        except (OSError, ValueError):
            continue
        marks: Json = value.get("signatures_of_files") if isinstance(value, dict) else None
        for mark in marks.values() if isinstance(marks, dict) else ():
            before.setdefault(str(mark), folder.name)
    return {name: _sentence(before[mark]) for name, mark in known.items() if mark in before}


def _others(job: Job) -> Iterator[Path]:
    yield from (path for path in job.folder.parent.glob("run*_a*") if path != job.folder)
    yield from (path for path in job.run.purged.glob(f"*_{job.test_key}_run*/run*_a*"))


def _sentence(folder: str) -> str:
    name = ATTEMPT.fullmatch(folder)
    earlier = f"repeat {name[1]}, attempt {name[2]}" if name else folder
    return f"every number in it is that of {earlier}, so it was copied or cached"
