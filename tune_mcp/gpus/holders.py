"""Who holds a busy GPU: named for people, never signalled.

NVML gives pids of the host. Inside a container such a pid may be nobody, or another process; memory may be held by a
process that NVML does not list at all. So the open files under /proc are looked at too (/dev/nvidiaN).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tune_mcp import procfs
from tune_mcp.gpus import MEMORY_LIMIT_MIB, UNREPORTED, Gpu
from tune_mcp.procfs import PROC

_STUCK = {"D": "in uninterruptible sleep", "Z": "a zombie", "X": "dead"}


@dataclass(frozen=True)
class GpuHolder:
    """One process on a GPU. ``stuck`` is why no signal ends it, ``elsewhere`` that it is not among our pids."""

    pid: int
    command: str = ""
    memory_mib: int | None = None
    stuck: str = ""
    elsewhere: bool = False

    def __str__(self) -> str:
        memory = f" ({self.memory_mib} MiB)" if self.memory_mib is not None else ""
        if self.elsewhere:
            return f"pid {self.pid} of another pid namespace{memory}"
        stuck = f", {self.stuck}: host recovery needed" if self.stuck else ""
        return f"pid {self.pid} {self.command}{memory}{stuck}"


def holders(gpu: Gpu, proc: Path = PROC) -> tuple[GpuHolder, ...]:
    """NVML's compute processes; where none of them can be seen from here, those that have the device open."""
    named = tuple(_named(gpu, process.pid, process.memory_mib, proc) for process in gpu.processes)
    if any(not holder.elsewhere for holder in named):
        return named
    return (*named, *(_holder(pid, None, proc) for pid in sorted(procfs.pids(proc)) if _opens(pid, gpu, proc)))


def describe(gpu: Gpu, proc: Path = PROC) -> str:
    """``GPU 0: 17000/97871 MiB, held by pid 12 python server.py (16500 MiB)``."""
    return f"GPU {gpu.index}: {use_of(gpu, proc)}"


def use_of(gpu: Gpu, proc: Path = PROC) -> str:
    """Who holds the GPU and how much of it, or why that is not known."""
    if gpu.trouble:
        return gpu.trouble
    found = holders(gpu, proc)
    held = f", held by {', '.join(map(str, found))}" if found else ""
    if gpu.unreported:
        names = " and ".join(UNREPORTED[name] for name in gpu.unreported)
        return f"NVML reports no {names} for it (not supported){held}"
    if gpu.memory_used_mib is None:
        return "NVML does not report its memory"
    if not found and gpu.memory_used_mib > MEMORY_LIMIT_MIB:
        held = ", no holder visible from here (another container, or a leaked context)"
    return f"{gpu.memory}{held}"


def stuck(gpu: Gpu, proc: Path = PROC) -> bool:
    """Whether a holder is beyond every signal, so that no waiting helps."""
    return any(holder.stuck for holder in holders(gpu, proc))


def _named(gpu: Gpu, pid: int, memory_mib: int | None, proc: Path) -> GpuHolder:
    """The process of that pid here, unless there is none, or it is seen not to have the GPU open."""
    if not (proc / str(pid)).is_dir() or _opens(pid, gpu, proc) is False:
        return GpuHolder(pid, memory_mib=memory_mib, elsewhere=True)
    return _holder(pid, memory_mib, proc)


def _holder(pid: int, memory_mib: int | None, proc: Path) -> GpuHolder:
    found = procfs.process(pid, proc)
    if found is None:
        return GpuHolder(pid, "gone meanwhile", memory_mib)
    if found.state in _STUCK:
        # Its command line would be read from its memory, which can hang as it does.
        return GpuHolder(pid, found.name, memory_mib, _STUCK[found.state])
    return GpuHolder(pid, " ".join(procfs.words(pid, proc)).strip()[:120] or found.name, memory_mib)


def _opens(pid: int, gpu: Gpu, proc: Path) -> bool | None:
    """Whether the process has the GPU's device open; None where its open files cannot be seen (a zombie has none)."""
    found = procfs.open_files(pid, proc) if gpu.minor is not None else None
    return f"/dev/nvidia{gpu.minor}" in found.values() if found else None
