"""Tests on a real NVIDIA GPU: they run by themselves where NVML sees one, and say why they do not where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tune_mcp.gpus import GpuReading, Presence, read_gpus


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ask NVML once, and only when a test of this folder was collected."""
    here = Path(__file__).parent
    ours = [item for item in items if item.path.is_relative_to(here)]
    if ours and (reason := why_not(read_gpus())):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


def why_not(reading: GpuReading) -> str:
    """Why nothing can be tried on this machine; empty where a free GPU is at hand."""
    if reading.presence is not Presence.PRESENT:
        return f"needs an NVIDIA GPU; this machine: {reading.summary()}"
    if not free(reading):
        return f"needs a free GPU; this machine has {reading.summary()}, and none is idle and whole"
    return ""


def free(reading: GpuReading) -> list[str]:
    """UUIDs of the GPUs that a launch could have at this look."""
    return [gpu.uuid for gpu in reading.usable(allow_mig=False) if gpu.free]


@pytest.fixture
def free_gpus() -> Callable[[], list[str]]:
    """Looks again at each call."""
    return lambda: free(read_gpus())
