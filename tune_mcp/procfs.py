"""The one reader of ``/proc``: who a process is, what it runs, which files it has open. Linux only.

Nothing here raises for a process that has ended or belongs to somebody else: what cannot be seen is None or empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_PF_EXITING = 0x4
_PF_FORKNOEXEC = 0x40

Identity = tuple[int, int]
"""pid and start time in clock ticks since boot: what no later process of this boot has again."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table. ``cpu_ticks`` is its own time and that of the children that it has waited for."""

    pid: int
    state: str
    cpu_ticks: int
    start_ticks: int = 0
    parent: int = 0
    session: int = 0
    flags: int = 0
    name: str = ""

    @property
    def identity(self) -> Identity:
        """The process beyond doubt, on this boot."""
        return self.pid, self.start_ticks

    @property
    def alive(self) -> bool:
        """A zombie has ended, whoever has not reaped it yet."""
        return self.state not in "ZX"

    @property
    def exiting(self) -> bool:
        """It runs none of its own code any more."""
        return not self.alive or bool(self.flags & _PF_EXITING)

    @property
    def forked_only(self) -> bool:
        """It is a copy of its parent, command line and all: it has not started a program of its own."""
        return bool(self.flags & _PF_FORKNOEXEC)


def process(pid: int, proc: Path = PROC) -> Process | None:
    """One process, a zombie too; None when there is none."""
    before, _, after = _read(proc / str(pid) / "stat").rpartition(b")")
    words = after.split()
    if not words:
        return None
    return Process(
        pid=pid,
        name=before.partition(b"(")[2].decode(errors="replace"),
        state=words[0].decode(),
        parent=int(words[1]),
        session=int(words[3]),
        flags=int(words[6]),
        cpu_ticks=sum(map(int, words[11:15])),
        start_ticks=int(words[19]),
    )


def pids(proc: Path = PROC) -> Iterator[int]:
    """Every process that can be seen from here."""
    with os.scandir(proc) as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def processes(proc: Path = PROC) -> Iterator[Process]:
    """The whole process table; one that ends meanwhile is left out."""
    for pid in pids(proc):
        if found := process(pid, proc):
            yield found


def start_ticks(pid: int) -> int | None:
    """Start time of a living process; None when there is none, or it is dead and not yet reaped."""
    found = process(pid)
    return found.start_ticks if found and found.alive else None


def words(pid: int, proc: Path = PROC) -> tuple[str, ...]:
    """The command line; empty for a kernel thread and a process that has ended."""
    line = _read(proc / str(pid) / "cmdline")
    return tuple(line.decode(errors="replace").removesuffix("\0").split("\0")) if line else ()


def command(pid: int, proc: Path = PROC) -> str:
    """The command line for messages, or the kernel's name where there is none; empty when the process is gone."""
    return " ".join(words(pid, proc)).strip() or _read(proc / str(pid) / "comm").decode(errors="replace").strip()


def environ(pid: int) -> frozenset[bytes]:
    """``NAME=value`` of the environment that the process was started with; empty where it may not be read."""
    return frozenset(_read(PROC / str(pid) / "environ").split(b"\0"))


def is_ours(pid: int) -> bool:
    """Whether the process runs for our own user, by its real user id."""
    line = next((one for one in _read(PROC / str(pid) / "status").splitlines() if one.startswith(b"Uid:")), b"")
    return line.split()[1:2] == [str(os.getuid()).encode()]


def open_files(pid: int | str, proc: Path = PROC) -> dict[str, str] | None:
    """Handle -> what it is: a path, ``pipe:[4711]``. None where that may not be seen, or the process is gone."""
    found: dict[str, str] = {}
    try:
        for handle in (proc / str(pid) / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found[handle.name] = str(handle.readlink())
    except OSError:
        return None
    return found


def is_written(pid: int, handle: str) -> bool:
    """Whether an open handle of a process is open for writing."""
    lines = _read(PROC / str(pid) / "fdinfo" / handle).splitlines()
    flags = next((line.split()[1] for line in lines if line.startswith(b"flags:")), b"0")
    return int(flags, 8) & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


def place_of_command_line() -> tuple[int, int] | None:
    """First address and end of this process's own command line in its memory; None where that cannot be read."""
    facts = _read(PROC / "self" / "stat").rpartition(b")")[2].split()
    return (int(facts[45]), int(facts[46])) if len(facts) > 46 else None


def boot_id() -> str:
    """Identity of this boot of the machine. Raises ``OSError``."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def pid_namespace() -> str:
    """``pid:[4026531836]``: in which namespace our pids mean something. Raises ``OSError``."""
    return str((PROC / "self/ns/pid").readlink())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
