"""Stands for the CPU counters of the machine in every process that finds this folder on its path.

What others use comes from ``$RECORDED_CPUS``, a JSON object of courses: of a CPU by its number, under "" of every other
one. A course is a list of [monotonic second, cores]: from then on they use so much. Our own processes are real, and
each CPU is busy with what they use besides.
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
        """Every CPU with its intruder; our own time is left out, so a busy test would look idle."""
        now = time.monotonic()
        courses = json.loads(Path(os.environ["RECORDED_CPUS"]).read_text())
        found: dict[int, procfs.CpuTicks] = {}
        for cpu in range(os.cpu_count() or 1):
            busy = round(foreign_seconds(courses.get(str(cpu), courses[""]), now) * 100)
            found[cpu] = procfs.CpuTicks(busy, 0, 0, round(now * procfs.TICKS_PER_S) - busy, 0, 0, 0, 0)
        return found

    procfs.cpus = cpus
