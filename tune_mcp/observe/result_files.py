"""The result files of one attempt: their digests, and whether they are that launch's own and still the same."""

from __future__ import annotations

import ctypes
import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from tune_mcp.config.stages import ONE, Stage
from tune_mcp.errors import Json
from tune_mcp.files import digest, inside, real, sha256_file

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
            continue  # extraction reports what is wrong with it
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


_ENOUGH_DIGITS = 8
_SHARED_DIGITS = 3
_YEARS = (1.5e9, 2.5e9)
"""Seconds since 1970 of a time of day that a test writes down."""
_STATX_BTIME = 0x800


def strangers(basetemp: Path, names: Iterable[str], launched_ns: int, ended_ns: int) -> dict[str, str]:
    """Name (below ``basetemp``) -> why that file is no result of this launch; files that are not there are left out.

    Times are those of the file system that holds the files, never of this machine's clock, so a server whose clock is
    wrong changes nothing.
    """
    found: dict[str, str] = {}
    linked = basetemp.is_symlink()
    for name in names:
        try:
            reason = "its folder is a link" if linked else _stranger(inside(basetemp, name), launched_ns, ended_ns)
        except (OSError, ValueError):
            continue  # extraction reports what is wrong with it
        if reason:
            found[name] = reason
    return found


def _stranger(path: Path, launched_ns: int, ended_ns: int) -> str:
    path = real(path, strict=True)
    facts = path.stat()
    born = birth_ns(path)
    if facts.st_nlink > 1:
        return "it has a second name (a hard link)"
    if facts.st_mtime_ns < launched_ns or (born is not None and born < launched_ns):
        return "it is older than the launch"
    # The time of the last change of anything, a rename included: nobody can set it.
    if max(facts.st_mtime_ns, facts.st_ctime_ns) > ended_ns:
        return "it was written after pytest's session had ended"
    return ""


def birth_ns(path: Path) -> int | None:
    """When the file was made (statx), None where the file system or the C library does not record it."""
    buffer = ctypes.create_string_buffer(256)
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):
        return None
    if statx(-100, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
        return None
    (mask,) = struct.unpack_from("I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("qI", buffer, 80)
    return seconds * 10**9 + nanoseconds if mask & _STATX_BTIME else None


def signature(document: Json) -> str | None:
    """A digest of all fractional numbers of a result file, None when they are too few or too round to prove anything.

    The time of day is none of them: whoever writes cached numbers anew gives them a new one.
    Two honest measurements of time agree in the leading three digits at best. Every further digit of every distinct
    number would have to agree by chance, once in ten times each; with eight of them that is once in a hundred million.
    """
    numbers = sorted({number for number in _fractions(document) if math.isfinite(number)})
    digits = sum(max(0, _digits(number) - _SHARED_DIGITS) for number in numbers)
    if len(numbers) < 2 or digits < _ENOUGH_DIGITS:
        return None
    return digest([number.hex() for number in sorted(_fractions(document)) if math.isfinite(number)])


def _fractions(node: Json) -> Iterator[float]:
    if isinstance(node, float):
        if not any(unit * _YEARS[0] < node < unit * _YEARS[1] for unit in (1.0, 1e3)):
            yield node
    elif isinstance(node, dict):
        for inner in node.values():
            yield from _fractions(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _fractions(inner)


def _digits(number: float) -> int:
    mantissa = repr(abs(number)).partition("e")[0].replace(".", "")
    return len(mantissa.strip("0"))
