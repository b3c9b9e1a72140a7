"""The child process that asks NVML and prints one JSON object: standard library and pynvml only.

It runs by its path, so that a look costs an interpreter and no more. What NVML does not support is null; what it
fails at is an error of that GPU (``trouble``) or of the whole look (``unknown``), and neither is ever idle.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_PERMISSION = 4
"""NVML's error for what a container or a MIG slice may not see."""
SLOWED_BY = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""NVML's clock event reasons that mean slower than asked for; idle and set clocks are not among them."""


def look(nvml: Any, *, devices: bool) -> dict[str, object]:
    """All GPUs, none, or unknown. ``devices``: the machine has /dev/nvidiaN, so a missing driver is no absence."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        absent = error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        return {"presence": "none" if absent and not devices else "unknown", "reason": str(error)}
    try:
        gpus = [_one(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        driver = _text(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        return {"presence": "unknown", "reason": str(error)}
    if not gpus and devices:
        return {"presence": "unknown", "reason": "there are /dev/nvidia devices, but NVML counts none"}
    return {"presence": "present" if gpus else "none", "gpus": gpus, "driver": driver}


def _one(nvml: Any, index: int) -> dict[str, object]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    troubles: list[str] = []
    unreported: list[str] = []

    def ask(read: Callable[[], Any], *, needed: str = "") -> Any:
        """The answer, or None: a reason in ``troubles``, or its name in ``unreported`` where NVML has none."""
        try:
            return read()
        except nvml.NVMLError as error:
            if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND, NO_PERMISSION):
                troubles.append(str(error))
            elif needed:
                unreported.append(needed)
            return None

    def if_known(read: Callable[[], Any]) -> Any:
        """The answer, or None: nothing depends on it."""
        try:
            return read()
        except nvml.NVMLError:
            return None

    def whole() -> Any:
        """The memory; none where NVML reports zeros for lack of memory of its own."""
        found = nvml.nvmlDeviceGetMemoryInfo(handle)
        if found.total == 0:
            unreported.append("memory")
            return None
        return found

    memory = ask(whole, needed="memory")
    compute = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle), needed="processes")
    shared = ask(lambda: nvml.nvmlDeviceGetMPSComputeRunningProcesses(handle))
    mig = ask(lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
    rates = if_known(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    power = if_known(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    slowed = if_known(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    processes = {process.pid: process.usedGpuMemory for process in [*(compute or ()), *(shared or ())]}
    return {
        "index": index,
        "uuid": _text(nvml.nvmlDeviceGetUUID(handle)),
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_used_mib": _mib(memory.used) if memory else None,
        "memory_total_mib": _mib(memory.total) if memory else None,
        "utilization": rates.gpu if rates else None,
        "processes": [{"pid": pid, "memory_mib": _mib(used)} for pid, used in processes.items()],
        "mig": mig == 1,
        "minor": if_known(lambda: nvml.nvmlDeviceGetMinorNumber(handle)),
        "trouble": "; ".join(troubles),
        "unreported": unreported,
        "condition": {
            "temperature_c": if_known(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "power_w": None if power is None else round(power / 1000),
            "sm_clock_mhz": if_known(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "memory_clock_mhz": if_known(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            "slowed_by": None if slowed is None else [name for bit, name in SLOWED_BY.items() if slowed & bit],
        },
    }


def _mib(size: int | None) -> int | None:
    """Bytes to MiB, upwards: one byte above the limit is above the limit."""
    return None if size is None else -(-size // 2**20)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    import pynvml

    json.dump(look(pynvml, devices=any(Path("/dev").glob("nvidia[0-9]*"))), sys.stdout)
