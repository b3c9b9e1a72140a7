"""The GPUs: enough for the stage that needs most, and free now (GPU-13, GPU-19)."""

from __future__ import annotations

from collections.abc import Iterator

from tune_mcp.contract.precheck import Check
from tune_mcp.gpus import MEMORY_LIMIT_MIB, GpuReading, Presence
from tune_mcp.gpus.holders import describe
from tune_mcp.precheck.subject import Subject


def checks(subject: Subject, reading: GpuReading) -> Iterator[Check]:
    """``gpu.free``: how many are needed at once, and how many are free."""
    needed = max(subject.gpus_per_test.values(), default=0)
    if needed == 0:
        yield Check(id="gpu.free", status="ok", detail=f"no GPU needed; this machine has {reading.summary()}")
        return
    if reading.presence is Presence.UNKNOWN:
        yield Check(id="gpu.free", status="unknown", detail=reading.reason, fix="nvidia-smi")
        return
    usable = reading.usable(allow_mig=subject.allow_mig)
    free = [gpu for gpu in usable if gpu.free]
    if len(usable) < needed:
        split = len(reading.gpus) - len(usable)
        yield Check(
            id="gpu.free",
            status="missing",
            detail=f"{needed} GPU(s) needed, {len(usable)} here" + (f" and {split} split ones (MIG)" if split else ""),
            fix="set allow_mig: true in the host profile, or nvidia-smi -mig 0" if split else "nvidia-smi",
        )
        return
    busy = [describe(gpu) for gpu in usable if not gpu.free]
    enough = len(free) >= needed
    yield Check(
        id="gpu.free",
        status="ok" if enough else "busy",
        detail=f"{len(free)} of {len(usable)} free (at most {MEMORY_LIMIT_MIB} MiB each), {needed} needed"
        + (f"; {'; '.join(busy)}" if busy else ""),
        fix="" if enough else "nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv",
    )
