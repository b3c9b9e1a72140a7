"""The GPUs of a run, as ``status`` shows them."""

from __future__ import annotations

from tune_mcp.contract.status import GpuEntry
from tune_mcp.gpus import Gpu
from tune_mcp.session.gpus_seen import GpusSeen


def entries(seen: GpusSeen | None) -> tuple[GpuEntry, ...]:
    """One entry a GPU; none when nobody has looked."""
    return tuple(_entry(gpu) for gpu in seen.reading.gpus) if seen else ()


def _entry(gpu: Gpu) -> GpuEntry:
    return GpuEntry(
        index=gpu.index,
        name=gpu.name,
        memory_used_mib=gpu.memory_used_mib,
        memory_total_mib=gpu.memory_total_mib,
        utilization=gpu.utilization,
        free=gpu.free,
    )
