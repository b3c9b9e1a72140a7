"""Who is writing into the Hugging Face cache now: the holders of the library's file locks, by /proc/locks (ENV-29).

Nothing is locked to find out: a look must never make a download wait.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

PROC_LOCKS = Path("/proc/locks")
_HELD = re.compile(r"\d+: \w+ +\w+ +WRITE (?P<pid>-?\d+) (?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+) ")


def holders(hub: Path, folder: str, table: Path = PROC_LOCKS) -> tuple[int, ...]:
    """The processes that hold a lock of one repository; 0 stands for one outside this container.

    Raises ``OSError`` when the locks or the table cannot be read.
    """
    locks = hub / ".locks" / folder
    if not locks.is_dir():
        return ()
    files = {_identity(path.stat()) for path in locks.iterdir()}
    return tuple(sorted({pid for pid, identity in _held(table.read_text().splitlines()) if identity in files}))


def _held(lines: Iterable[str]) -> Iterable[tuple[int, tuple[int, int, int]]]:
    for line in lines:
        if found := _HELD.match(line):
            identity = (int(found["major"], 16), int(found["minor"], 16), int(found["inode"]))
            yield max(0, int(found["pid"])), identity


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return os.major(stat.st_dev), os.minor(stat.st_dev), stat.st_ino
