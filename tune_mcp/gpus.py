"""What NVML says about the GPUs, read in a process of its own with a deadline (NVML can hang in the kernel).

The answer has three values: the GPUs, none on this machine, or unknown. Unknown is never idle, and never launches.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, cast

PROBE_DEADLINE_S = 15.0
MEMORY_LIMIT_MIB = 2048
"""A GPU with more memory in use than this is not free (rule GPU-01; the limit itself still is)."""


class Presence(StrEnum):
    """Whether GPUs could be read at all."""

    PRESENT = "present"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Gpu:
    """One physical GPU: NVML index, UUID, model, memory in MiB, utilisation in percent, pids of compute processes."""

    index: int
    uuid: str
    name: str
    memory_used_mib: int
    memory_total_mib: int
    utilization: int | None
    pids: tuple[int, ...]
    mig: bool = False

    @property
    def free(self) -> bool:
        """At most 2048 MiB in use and no compute process (rule GPU-01)."""
        return self.memory_used_mib <= MEMORY_LIMIT_MIB and not self.pids


@dataclass(frozen=True)
class GpuReading:
    """One look at all GPUs; ``reason`` says why it is unknown."""

    presence: Presence
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    reason: str = ""

    def summary(self) -> str:
        """``2× NVIDIA H20``, or why there is nothing to count."""
        match self.presence:
            case Presence.NONE:
                return "no GPU (CPU only)"
            case Presence.UNKNOWN:
                return f"unknown: {self.reason}"
            case Presence.PRESENT:
                names = sorted({gpu.name for gpu in self.gpus})
                return ", ".join(f"{sum(gpu.name == name for gpu in self.gpus)}× {name}" for name in names)


class GpuReader(Protocol):
    """Anything that can take one look; tests hand in their own."""

    def __call__(self) -> GpuReading:
        """One look, with a deadline of its own."""
        ...


def read_gpus(deadline_s: float = PROBE_DEADLINE_S) -> GpuReading:
    """Ask NVML in a child process; a child that does not answer in time is left behind and the answer is unknown."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return GpuReading(Presence.NONE)
    probe = subprocess.Popen(
        [sys.executable, "-P", "-m", "tune_mcp.gpus"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        out, _ = probe.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        probe.kill()
        return GpuReading(Presence.UNKNOWN, reason=f"NVML did not answer within {deadline_s:g} s")
    try:
        return parse(out)
    except (ValueError, KeyError, TypeError) as error:
        return GpuReading(Presence.UNKNOWN, reason=f"the NVML probe gave no usable answer ({error})")


def parse(text: str) -> GpuReading:
    """The probe's JSON. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    value = cast("dict[str, object]", json.loads(text))
    if value["presence"] != Presence.PRESENT:
        return GpuReading(Presence(str(value["presence"])), reason=str(value.get("reason", "")))
    rows = cast("list[dict[str, object]]", value["gpus"])
    gpus = tuple(
        Gpu(
            index=_whole(row["index"]),
            uuid=str(row["uuid"]),
            name=str(row["name"]),
            memory_used_mib=_whole(row["memory_used_mib"]),
            memory_total_mib=_whole(row["memory_total_mib"]),
            utilization=None if row["utilization"] is None else _whole(row["utilization"]),
            pids=tuple(_whole(pid) for pid in cast("list[object]", row["pids"])),
            mig=bool(row["mig"]),
        )
        for row in rows
    )
    driver = value.get("driver")
    return GpuReading(Presence.PRESENT, gpus, driver if isinstance(driver, str) else None)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _nvml() -> Any:
    """The binding has no types of its own."""
    import pynvml

    return cast("Any", pynvml)


def _probe() -> GpuReading:
    nvml = _nvml()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        absent = {nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED}
        kind = Presence.NONE if getattr(error, "value", None) in absent else Presence.UNKNOWN
        return GpuReading(kind, reason=str(error))
    try:
        gpus = tuple(_read_one(nvml, index) for index in range(int(nvml.nvmlDeviceGetCount())))
        return GpuReading(Presence.PRESENT if gpus else Presence.NONE, gpus, str(nvml.nvmlSystemGetDriverVersion()))
    except nvml.NVMLError as error:
        return GpuReading(Presence.UNKNOWN, reason=str(error))


def _read_one(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        utilization: int | None = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError:
        utilization = None
    try:
        mig = int(nvml.nvmlDeviceGetMigMode(handle)[0]) == 1
    except nvml.NVMLError:
        mig = False
    return Gpu(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_used_mib=int(memory.used) // 2**20,
        memory_total_mib=int(memory.total) // 2**20,
        utilization=utilization,
        pids=tuple(int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)),
        mig=mig,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_probe())))
