"""Other measuring supervisors of this machine, as the process table shows them (rules GPU-14, STR-18).

The host lock is a file: it can be deleted, and ``$TUNE_LOCK_DIR`` can name another one. A supervisor cannot hide its
command line from processes of the same PID namespace, whoever owns it; what runs in another namespace is not seen.
A neighbour under the same lock folder is refused at the start; one under another folder, which somebody chose on
purpose, is recorded in the events of both runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = b"tune_mcp.supervise"


@dataclass(frozen=True)
class Neighbour:
    """A living supervisor: its pid, the directory of its run, and the folder of its host lock (None: not readable)."""

    pid: int
    run_dir: str
    lock_folder: str | None

    def __str__(self) -> str:
        return f"{self.run_dir} (process {self.pid})"


def measuring(proc: Path = Path("/proc")) -> tuple[Neighbour, ...]:
    """Every supervisor on this machine but the calling process, by pid. About 10 µs a process."""
    found: list[Neighbour] = []
    for entry in os.scandir(proc):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (Path(entry.path) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if arguments := _arguments(words):
            lock = Path(entry.path) / "fd" / os.fsdecode(arguments[2])
            found.append(Neighbour(int(entry.name), os.fsdecode(arguments[0]), _folder_of(lock)))
    return tuple(sorted(found, key=lambda one: one.pid))


def under(lock_folder: Path, found: tuple[Neighbour, ...]) -> tuple[Neighbour, ...]:
    """Those that must not measure beside a holder of the lock in ``lock_folder``."""
    return tuple(one for one in found if one.lock_folder in (None, str(lock_folder.resolve())))


def _arguments(words: list[bytes]) -> list[bytes]:
    """``RUN_DIR FD FD`` of ``python -P -m tune_mcp.supervise RUN_DIR FD FD``; nothing for other programs."""
    for at, word in enumerate(words[1:], 1):
        if word == b"-m" and words[at + 1 : at + 2] == [_PROGRAM]:
            found = words[at + 2 : at + 5]
            return found if len(found) == 3 and found[1].isdigit() and found[2].isdigit() else []
        if not word.startswith(b"-"):
            return []  # a program's own arguments begin here
    return []


def _folder_of(link: Path) -> str | None:
    """The folder of the open lock file, also when the file was deleted; None for another user's process."""
    try:
        return str(link.readlink().parent)
    except OSError:
        return None
