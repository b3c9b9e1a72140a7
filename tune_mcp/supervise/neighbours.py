"""Other measuring supervisors of this machine, as the process table shows them (rules GPU-14, STR-18).

The host lock is a file: it can be deleted, and ``$TUNE_LOCK_DIR`` can name another one. A supervisor cannot hide its
command line from processes of the same PID namespace, whoever owns it; what runs in another namespace is not seen.
A neighbour under the same lock folder is refused at the start, unless both have lanes of their own; one under another
folder, which somebody chose on purpose, is recorded in the events of both runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tune_mcp import procfs
from tune_mcp.supervise.host_lock import LANE

SHOWN = ("tune-mcp", "tune_mcp.supervise")
"""What a supervisor shows as its command line once it runs."""
ELSEWHERE = (*SHOWN, "slurm")
"""The same of one whose launches a cluster places: it measures nothing here, and has no lock of this machine."""
_ITS_WORDS = 4
"""Words from ``-m`` on of the command that starts one of those: a run's directory and lock follow."""
_DELETED = " (deleted)"
_STARTED = ("-m", "tune_mcp.supervise")
"""Two words of the command that starts it."""


@dataclass(frozen=True)
class Neighbour:
    """A living supervisor: its pid, its run's directory and its host lock's folder (None: another user's process).

    ``on_lanes``: it has the locks of lanes, and none of their files was deleted.
    """

    pid: int
    run_dir: str | None
    lock_folder: str | None
    on_lanes: bool = False

    def __str__(self) -> str:
        return f"{self.run_dir or 'a run of another user'} (process {self.pid})"


def measuring(proc: Path = procfs.PROC) -> tuple[Neighbour, ...]:
    """Every supervisor on this machine but the calling process, by pid. About 10 µs a process."""
    found: list[Neighbour] = []
    for pid in procfs.pids(proc):
        if pid != os.getpid() and is_supervisor(procfs.words(pid, proc)):
            if (process := procfs.process(pid, proc)) and process.forked_only:
                continue  # a program that a supervisor is starting: it has that one's command line, not all its files
            folders = _folders_of_open_locks(pid, proc)
            if "host.lock" not in folders and not is_supervisor(procfs.words(pid, proc)):
                continue  # it ended meanwhile: an ending process loses its command line before its first file
            lanes = [name for name in folders if name.startswith(LANE)]
            intact = bool(lanes) and not any(name.endswith(_DELETED) for name in lanes)
            found.append(Neighbour(pid, folders.get("supervisor.lock"), folders.get("host.lock"), intact))
    return tuple(sorted(found, key=lambda one: one.pid))


def under(lock_folder: Path, found: tuple[Neighbour, ...], *, on_lanes: bool = False) -> tuple[Neighbour, ...]:
    """The neighbours that must not measure beside a holder of the lock in ``lock_folder``, of lanes or the host."""
    here = (one for one in found if one.lock_folder in (None, str(lock_folder.resolve())))
    return tuple(one for one in here if not (on_lanes and one.on_lanes))


def elsewhere(pid: int) -> bool:
    """Whether that process supervises a run that a cluster measures."""
    return procfs.words(pid)[: len(ELSEWHERE)] == ELSEWHERE


def is_supervisor(words: tuple[str, ...]) -> bool:
    """Whether this is the command line of a supervisor that measures here, once it runs or while it starts."""
    if words[:2] == SHOWN:
        return not any(words[2:])
    for at, word in enumerate(words[1:], 1):
        if words[at : at + 2] == _STARTED:
            return len(words) != at + _ITS_WORDS
        if not word.startswith("-"):
            return False  # a program's own arguments begin here
    return False


def _folders_of_open_locks(pid: int, proc: Path) -> dict[str, str]:
    """The folder of each open file by the file's name, also where that was deleted; nothing of another user's.

    The name of a lane's lock says that it was deleted.
    """
    targets = map(Path, (procfs.open_files(pid, proc) or {}).values())
    names = ((one.name if one.name.startswith(LANE) else one.name.removesuffix(_DELETED), one) for one in targets)
    return {name: str(target.parent) for name, target in names}
