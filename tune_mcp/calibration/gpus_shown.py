"""The GPUs of a run, as ``status`` shows them."""

from __future__ import annotations

from tune_mcp.config.stages import Frozen
from tune_mcp.gpus import Gpu, memory_text
from tune_mcp.session.gpus_seen import GpusSeen


class GpuEntry(Frozen):
    """One GPU as the run last saw it: memory in MiB, utilisation in percent, whether it was free for a launch.

    None where NVML did not tell.
    """

    index: int
    name: str
    memory_used_mib: int | None
    memory_total_mib: int | None
    utilization: int | None
    free: bool

    @classmethod
    def of(cls, gpu: Gpu) -> GpuEntry:
        """The entry of a reading."""
        return cls(
            index=gpu.index,
            name=gpu.name,
            memory_used_mib=gpu.memory_used_mib,
            memory_total_mib=gpu.memory_total_mib,
            utilization=gpu.utilization,
            free=gpu.free,
        )

    def line(self) -> str:
        """``GPU 0 17000/97871 MiB busy``."""
        return f"GPU {self.index} {self.memory} {'free' if self.free else 'busy'}"

    @property
    def memory(self) -> str:
        """What it uses of what it has."""
        return memory_text(self.memory_used_mib, self.memory_total_mib)


def entries(seen: GpusSeen | None) -> tuple[GpuEntry, ...]:
    """One entry a GPU; none when nobody has looked."""
    return tuple(GpuEntry.of(gpu) for gpu in seen.reading.gpus) if seen else ()
