"""What other processes use of CPUs, recorded (see ``recorded_cpus``), so that a busy machine changes no test."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest


class Others:
    """What others use from now on: of every CPU, or of one alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._courses: dict[str, list[list[float]]] = {"": [[0.0, 0.0]]}
        self.use(0.0)

    @classmethod
    def recorded(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Others:
        """Every process that is started from now on reads these."""
        path = str(Path(__file__).with_name("recorded_cpus"))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")])))
        monkeypatch.setenv("RECORDED_CPUS", str(folder / "cpus.json"))
        return cls(folder / "cpus.json")

    def use(self, cores: float, cpu: int | None = None) -> None:
        """``cores`` of each CPU; of ``cpu`` alone, which has its own course from then on."""
        name = "" if cpu is None else str(cpu)
        course = self._courses.setdefault(name, [[0.0, 0.0]])
        course.append([time.monotonic(), cores])
        new = self._path.with_name("next")
        new.write_text(json.dumps(self._courses))
        new.rename(self._path)
