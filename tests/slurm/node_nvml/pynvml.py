"""NVML on a fake node: the recorded one, with the GPUs of this node that the job's devices cgroup lets it open.

Outside a job there is no driver. ``nvml-<node>.json`` beside slurm.conf says what is recorded; each GPU has its device.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NODE = os.environ.get("SLURMD_NODENAME", "")
_FOLDER = Path(os.environ.get("SLURM_CONF", "/nowhere/slurm.conf")).parent
os.environ["RECORDED_NVML"] = str(_FOLDER / f"nvml-{_NODE}.json")
_REPLAYED = Path(__file__).parents[2] / "recorded_nvml" / "pynvml.py"
exec(compile(_REPLAYED.read_bytes(), str(_REPLAYED), "exec"))
_init = nvmlInit  # noqa: F821


def _mine(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        return error.errno != errno.EPERM
    return True


def nvmlInit() -> None:
    if not _NODE:
        raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND)  # noqa: F821
    _init()
    _recorded["gpus"] = [gpu for gpu in _recorded["gpus"] if _mine(gpu["device"])]  # noqa: F821
