"""A recorded NVML for tests: ``Recorded`` writes what the probe's process will read (see ``recorded_nvml/``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tune_mcp.files import write_json

GIB = 2**30
H20: dict[str, Any] = {
    "name": "NVIDIA H20", "used": 4 * 2**20, "total": 97871 * 2**20, "processes": [], "mps": [], "mig": {"error": 3},
    "utilization": 0, "power_mw": 72_400, "temperature": 31, "clocks": [345, 2619], "slowed": 1,
}  # fmt: skip
"""An idle GPU: 4 MiB, no process, no MIG, idle clocks."""
TROUBLE = {"error": 999}
LOST = {"error": 15}
NOT_FOUND = {"error": 6}


class Recorded:
    """What NVML answers from now on; ``asked`` are the pids of the probes that were started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gpus: list[dict[str, Any]] = []

    def machine(self, *changes: dict[str, Any], **whole: object) -> None:
        """One H20 for each argument, changed by it; ``behaviour`` and ``init`` are of the whole library."""
        self.gpus = [H20 | {"uuid": f"GPU-{n}", "minor": n} | change for n, change in enumerate(changes)]
        self.say(**whole)

    def say(self, **whole: object) -> None:
        """The same GPUs, and something about the library."""
        write_json(self.path, {"gpus": self.gpus, **whole})

    def change(self, index: int, **facts: object) -> None:
        """One GPU is otherwise from now on."""
        self.gpus[index] |= facts
        self.say()

    @property
    def asked(self) -> list[int]:
        """The pids of all probes so far."""
        log = Path(f"{self.path}.asked")
        return [int(line) for line in log.read_text().split()] if log.exists() else []


@contextmanager
def recorded(path: Path) -> Iterator[Recorded]:
    """Inside, every process that is started finds the recorded NVML instead of the real one."""
    here = str(Path(__file__).with_name("recorded_nvml"))
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    with mock.patch.dict(os.environ, {"PYTHONPATH": paths, "RECORDED_NVML": str(path)}):
        yield Recorded(path)
