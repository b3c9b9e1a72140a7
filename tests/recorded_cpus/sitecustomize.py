"""Stands for the CPU counters of the machine in every process that finds this folder on its path.

What others use of each CPU comes from ``$RECORDED_CPUS``, a JSON list of [monotonic second, cores]: from then on they
use so much. Our own processes are the real ones, and each CPU is busy with what they use besides.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def foreign_seconds(course: list[list[float]], now: float) -> float:
    """Core-seconds of others on one CPU since the first entry."""
    ends = [*(at for at, _ in course[1:]), float("inf")]
    return sum(cores * max(0.0, min(end, now) - at) for (at, cores), end in zip(course, ends, strict=True))


if "RECORDED_CPUS" in os.environ:
    from tune_mcp import procfs

    def cpus(_proc: Path = procfs.PROC) -> dict[int, procfs.CpuTicks]:
        """Every CPU with the same intruder; its own time is left out, so a busy test would look idle."""
        now = time.monotonic()
        busy = round(foreign_seconds(json.loads(Path(os.environ["RECORDED_CPUS"]).read_text()), now) * 100)
        idle = round(now * procfs.TICKS_PER_S) - busy
        return {cpu: procfs.CpuTicks(busy, 0, 0, idle, 0, 0, 0, 0) for cpu in range(os.cpu_count() or 1)}

    procfs.cpus = cpus
