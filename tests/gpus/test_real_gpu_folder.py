"""``tests/gpu`` runs by itself where there is an idle GPU, and says why not where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nvml
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("gpus", "whole", "said"),
    [
        ([], {"init": {"error": 12}}, "needs an NVIDIA GPU; this machine: "),
        ([{"mig": 1}], {}, "needs a free GPU; this machine has 1× NVIDIA H20, and none is idle and whole"),
        ([{}], {}, "1 passed"),
    ],
)
def test_the_folder_asks_nvml_and_gives_its_reason(
    tmp_path: Path, gpus: list[dict[str, Any]], whole: dict[str, Any], said: str
) -> None:
    with nvml.recorded(tmp_path / "nvml.json") as machine:
        machine.machine(*gpus, **whole)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-rs", "tests/gpu", "-k", "nvml_tells", "--basetemp", tmp_path / "base"],
            cwd=ROOT,
            env={**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert said in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
