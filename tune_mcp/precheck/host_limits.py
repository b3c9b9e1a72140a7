"""What the kernel allows this process and how it runs the CPUs: the same program is slower under other limits.

Read from /proc and /sys without a process; what a machine does not have, or does not show, is left out.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 1 << 60
"""A cgroup of the first version says "none" by a number of about that size."""
_SCHEDULERS = {os.SCHED_OTHER: "other", os.SCHED_BATCH: "batch", os.SCHED_IDLE: "idle"}
_RESOURCES = {
    "address space": resource.RLIMIT_AS,
    "data segment": resource.RLIMIT_DATA,
    "CPU time": resource.RLIMIT_CPU,
}


def read(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> dict[str, str]:
    """Name -> value, for people: nice value, scheduler, limits, cgroup, CPU frequency, huge pages."""
    cpu, policy = sys / "devices/system/cpu", os.sched_getscheduler(0)
    governors = {_text(path) for path in cpu.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    groups = list(_groups(proc / "self/cgroup", sys / "fs/cgroup"))
    found = {
        "nice value": str(os.getpriority(os.PRIO_PROCESS, 0)),
        "scheduler": _SCHEDULERS.get(policy, str(policy)),
        "CPU governor": ", ".join(sorted(governors)),
        "turbo off": _text(cpu / "intel_pstate/no_turbo"),
        "CPU boost": _text(cpu / "cpufreq/boost"),
        "transparent huge pages": _chosen(_text(sys / "kernel/mm/transparent_hugepage/enabled")),
        "NUMA balancing": _text(proc / "sys/kernel/numa_balancing"),
        "CPU quota": min(map(_quota, groups), default=""),
        "memory limit": str(min(filter(None, map(_memory, groups)), default="none")),
    }
    for name, number in _RESOURCES.items():
        soft = resource.getrlimit(number)[0]
        found[f"limit of {name}"] = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    return {name: value for name, value in found.items() if value}


def _groups(own: Path, top: Path) -> Iterator[Path]:
    """The folders of every cgroup that this process is in, each with all above it."""
    for line in _text(own).splitlines():
        names, _, path = line.partition(":")[2].partition(":")
        for controller in names.split(",") if names else ("", "unified"):
            folder = top / controller if controller else top
            inner = Path(path.lstrip("/"))
            yield from (folder / part for part in (inner, *inner.parents))


def _quota(group: Path) -> str:
    """Cores, as text of one width, so that the least one sorts first."""
    words = _text(group / "cpu.max").split() or [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    try:
        quota, period = float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return "none"
    return f"{quota / period:08.2f} cores" if quota > 0 and period > 0 else "none"


def _memory(group: Path) -> int | None:
    text = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def _chosen(text: str) -> str:
    """``madvise`` of ``always [madvise] never``."""
    return text.partition("[")[2].partition("]")[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
