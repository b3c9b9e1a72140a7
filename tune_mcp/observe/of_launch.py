"""Whether the result files of an attempt are that launch's own: new plain files, written before its session ended.

Times are those of the file system that holds the files, never of this machine's clock, so a server whose clock is
wrong changes nothing.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import digest, inside

_ENOUGH_DIGITS = 8
_SHARED_DIGITS = 3
_STATX_BTIME = 0x800


def strangers(basetemp: Path, names: Iterable[str], launched_ns: int, ended_ns: int) -> dict[str, str]:
    """Name (below ``basetemp``) -> why that file is no result of this launch; files that are not there are left out."""
    found: dict[str, str] = {}
    linked = basetemp.is_symlink()
    for name in names:
        try:
            reason = "its folder is a link" if linked else _stranger(inside(basetemp, name), launched_ns, ended_ns)
        except (OSError, ValueError):
            continue  # extraction says what is wrong with it
        if reason:
            found[name] = reason
    return found


def _stranger(path: Path, launched_ns: int, ended_ns: int) -> str:
    path = path.resolve(strict=True)
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
    """When the file was made (statx), None where the file system or the C library does not tell."""
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
