"""An NVML that replays what a file says, in place of the real binding: first on the probe's path, so that the probe's
own process runs. The file ($RECORDED_NVML) is read anew at each start; see ``tests/nvml.py``, which writes it.

A value of ``{"error": N}`` raises NVML's error N, as the real binding does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_GPU_IS_LOST = 15
NVML_TEMPERATURE_GPU = 0
NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
_NAMES = {3: "Not Supported", 4: "Insufficient Permissions", 6: "Not Found", 9: "Driver Not Loaded",
          12: "NVML Shared Library Not Found",
          13: "Function Not Found", 15: "GPU is lost", 999: "Unknown Error"}  # fmt: skip
_recorded: dict[str, Any] = {}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(_NAMES[value])
        self.value = value


def _told(value: Any) -> Any:
    if isinstance(value, dict) and "error" in value:
        raise NVMLError(value["error"])
    return value


def nvmlInit() -> None:
    _recorded.update(json.loads(Path(os.environ["RECORDED_NVML"]).read_text()))
    asked = Path(os.environ["RECORDED_NVML"] + ".asked")
    with asked.open("a") as log:
        log.write(f"{os.getpid()}\n")
    match _recorded.get("behaviour"):
        case "hang":
            time.sleep(3600)
        case "crash":
            os.abort()
        case "garbage":
            sys.stdout.write("\x00[Not Found]\n")
        case "exit":
            sys.exit(0)
    _told(_recorded.get("init"))


def nvmlDeviceGetCount() -> int:
    return len(_recorded["gpus"])


def nvmlSystemGetDriverVersion() -> str:
    return "580.65.06"


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    return _told(_recorded["gpus"][index])


def nvmlDeviceGetUUID(gpu: dict[str, Any]) -> str:
    return gpu["uuid"]


def nvmlDeviceGetName(gpu: dict[str, Any]) -> bytes:
    return gpu["name"].encode()


def nvmlDeviceGetMemoryInfo(gpu: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(used=_told(gpu["used"]), total=gpu["total"])


def nvmlDeviceGetComputeRunningProcesses(gpu: dict[str, Any]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in _told(gpu["processes"])]


def nvmlDeviceGetMPSComputeRunningProcesses(gpu: dict[str, Any]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in _told(gpu["mps"])]


def nvmlDeviceGetMigMode(gpu: dict[str, Any]) -> list[int]:
    return [_told(gpu["mig"]), 0]


def nvmlDeviceGetMinorNumber(gpu: dict[str, Any]) -> int:
    return _told(gpu["minor"])


def nvmlDeviceGetUtilizationRates(gpu: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(gpu=_told(gpu["utilization"]), memory=0)


def nvmlDeviceGetPowerUsage(gpu: dict[str, Any]) -> int:
    return _told(gpu["power_mw"])


def nvmlDeviceGetTemperature(gpu: dict[str, Any], sensor: int) -> int:
    assert sensor == NVML_TEMPERATURE_GPU
    return _told(gpu["temperature"])


def nvmlDeviceGetClockInfo(gpu: dict[str, Any], clock: int) -> int:
    return _told(gpu["clocks"])[0 if clock == NVML_CLOCK_SM else 1]


def nvmlDeviceGetCurrentClocksThrottleReasons(gpu: dict[str, Any]) -> int:
    return _told(gpu["slowed"])
