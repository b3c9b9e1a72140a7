"""The one reader of ``/proc``: who a process is, what it runs, which files it has open. Linux only.

Nothing here raises for a process that has ended or belongs to somebody else: what cannot be seen is None or empty.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_PF_EXITING = 0x4
_PF_FORKNOEXEC = 0x40
_CHILD_ENDED = 1 << (signal.SIGCHLD - 1)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Identity = tuple[int, int]
"""pid and start time in clock ticks since boot: what no later process of this boot has again."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table. ``cpu_ticks`` is its own time and that of the children that it has waited for.

    ``reaped_ticks`` is the part of those children. ``ignores_children``: what its children use is added up nowhere.
    """

    pid: int
    state: str
    cpu_ticks: int
    start_ticks: int = 0
    parent: int = 0
    session: int = 0
    flags: int = 0
    name: str = ""
    reaped_ticks: int = 0
    ignores_children: bool = False

    @property
    def identity(self) -> Identity:
        """The process beyond doubt, on this boot."""
        return self.pid, self.start_ticks

    @property
    def alive(self) -> bool:
        """Whether the process has not ended; a zombie has."""
        return self.state not in "ZX"

    @property
    def exiting(self) -> bool:
        """Whether the process runs none of its own code any more."""
        return not self.alive or bool(self.flags & _PF_EXITING)

    @property
    def forked_only(self) -> bool:
        """Whether it is still a copy of its parent, command line and all, and has not started a program."""
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
        reaped_ticks=int(words[13]) + int(words[14]),
        start_ticks=int(words[19]),
        ignores_children=bool(int(words[30]) & _CHILD_ENDED),
    )


def pids(proc: Path = PROC) -> Iterator[int]:
    """Every process that can be seen from here."""
    with os.scandir(proc) as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def processes() -> Iterator[Process]:
    """The whole process table; one that ends meanwhile is left out."""
    for pid in pids():
        if found := process(pid):
            yield found


class CpuTicks(NamedTuple):
    """What one CPU has done since boot, in clock ticks. Guests are part of ``user`` and not counted again."""

    user: int
    nice: int
    system: int
    idle: int
    iowait: int
    irq: int
    softirq: int
    steal: int


def cpus(proc: Path = PROC) -> dict[int, CpuTicks]:
    """Every CPU that is on line; empty where that cannot be read or is no kernel's own file."""
    found: dict[int, CpuTicks] = {}
    with suppress(OSError, ValueError, TypeError):
        if (proc / "stat").stat().st_dev != proc.stat().st_dev:  # a container's file with numbers of its own
            return {}
        for line in _read(proc / "stat").split(b"\n")[1:]:
            if not line.startswith(b"cpu"):
                break
            name, *numbers = line.split()
            found[int(name[3:])] = CpuTicks(*map(int, numbers[:8]))
    return found


def pressure(resource: str, proc: Path = PROC) -> tuple[float, float] | None:
    """Seconds since boot in which some, and in which all, processes waited for ``memory``, ``io`` or ``cpu``.

    None where the kernel does not count that.
    """
    totals = [int(word[6:]) / 1e6 for word in _read(proc / "pressure" / resource).split() if word.startswith(b"total=")]
    return (totals[0], totals[1]) if len(totals) == 2 else None


def oom_kills(proc: Path = PROC, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has ended for lack of memory: in our cgroup, else on the machine; 0 if unknown."""
    own = next((line[3:] for line in _read(proc / "self" / "cgroup").splitlines() if line.startswith(b"0::")), b"/")
    events = cgroups / own.decode(errors="replace").lstrip("/") / "memory.events"
    with suppress(ValueError):
        for path in (events, proc / "vmstat"):
            if count := _line(path, b"oom_kill"):
                return int(count[0])
    return 0


def cpu_seconds(pid: int) -> float | None:
    """What the process itself has used, to the nanosecond, with its threads that ended; None when it is gone."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None


def allowed_cpus(pid: int, *, threads: bool = False) -> frozenset[int] | None:
    """The CPUs that its main thread (all its threads together) may run on; None when it is gone."""
    try:
        tids = [int(one.name) for one in (PROC / str(pid) / "task").iterdir()] if threads else (pid,)
        return frozenset[int]().union(*map(os.sched_getaffinity, tids))
    except OSError:
        return None


def start_ticks(pid: int) -> int | None:
    """Start time of a living process; None when there is none, or it is dead and not yet reaped."""
    found = process(pid)
    return found.start_ticks if found and found.alive else None


def ancestors() -> set[int]:
    """The pid of this process and of every one above it that can be seen from here."""
    pid = os.getpid()
    found = {pid}
    while (seen := process(pid)) and seen.parent > 0:
        pid = seen.parent
        found.add(pid)
    return found


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
    return _line(PROC / str(pid) / "status", b"Uid:")[:1] == [str(os.getuid()).encode()]


def is_first_of_namespace(pid: int) -> bool:
    """Whether the process is the first, number 1, of a PID namespace below ours."""
    pids = _line(PROC / str(pid) / "status", b"NSpid:")
    return len(pids) > 1 and pids[-1] == b"1"


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
    flags = _line(PROC / str(pid) / "fdinfo" / handle, b"flags:") or [b"0"]
    return int(flags[0], 8) & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


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


def _line(path: Path, name: bytes) -> list[bytes]:
    """The words after ``name`` in the line that begins with it; empty where there is none."""
    return next((line.split()[1:] for line in _read(path).splitlines() if line.startswith(name)), list[bytes]())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
