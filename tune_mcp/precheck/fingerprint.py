"""``environment.json``: what makes numbers of two runs comparable (SCP-01, SCP-02; note A1.1)."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from tune_mcp.config.stages import Frozen
from tune_mcp.gpus import GpuReading
from tune_mcp.precheck.venv import VenvFacts

_IMAGE_FILES = ("/etc/image-digest", "/.image-digest")


class GpuIdentity(Frozen):
    """A GPU as hardware: model, UUID, memory in MiB."""

    name: str
    uuid: str
    memory_total_mib: int | None


class Environment(Frozen):
    """The measured machine. ``launch_env`` are the variables that the plan sets; nothing secret is among them."""

    schema_version: int = 1
    hostname: str
    kernel: str
    cpu_model: str
    cpu_count: int
    cpu_set: tuple[int, ...]
    memory_mib: int
    gpus: tuple[GpuIdentity, ...]
    gpu_driver: str | None
    image_digest: str | None
    python: str | None
    venv_freeze_sha256: str | None
    versions: dict[str, str]
    launch_env: dict[str, str]


def take(reading: GpuReading, venv: VenvFacts, launch_env: dict[str, str]) -> Environment:
    """Read the machine now."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    return Environment(
        hostname=platform.node(),
        kernel=platform.release(),
        cpu_model=_cpu_model(),
        cpu_count=os.cpu_count() or len(cpus),
        cpu_set=cpus,
        memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        gpus=tuple(
            GpuIdentity(name=gpu.name, uuid=gpu.uuid, memory_total_mib=gpu.memory_total_mib) for gpu in reading.gpus
        ),
        gpu_driver=reading.driver,
        image_digest=_image_digest(),
        python=venv.versions.get("python"),
        venv_freeze_sha256=venv.freeze_sha256,
        versions=venv.versions,
        launch_env=launch_env,
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _image_digest() -> str | None:
    """Known only where the image says it itself: in a variable or a file; never guessed (SCP-01)."""
    from_env = os.environ.get("TUNE_IMAGE_DIGEST")
    files = (Path(name) for name in _IMAGE_FILES)
    return from_env or next((path.read_text().strip() for path in files if path.is_file()), None)
