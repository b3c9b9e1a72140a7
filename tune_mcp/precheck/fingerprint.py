"""``environment.json``: what makes numbers of two runs comparable (SCP-01, SCP-02)."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.files import digest, read_text
from tune_mcp.precheck import host_limits

if TYPE_CHECKING:
    from tune_mcp.gpus import Gpu, GpuReading
    from tune_mcp.precheck.venv import VenvFacts

_COMPARED = (
    "kernel", "cpu_model", "cpu_count", "cpu_set", "gpu_driver", "image_digest", "python", "venv_freeze_sha256",
    "launch_env", "inherited_env",
)  # fmt: skip
_CHOOSING = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "OPENBLAS_CORETYPE")
"""Variables of the caller's shell that a launch passes on and that choose which libraries are loaded."""
_CARRIED = ("PATH", "LANG", "LANGUAGE", "TZ")
"""Variables of the shell that started the run, with all LC_*: whoever resumes it, its launches get these."""
_PACKAGES = "lib*/python3*/*-packages"
_METADATA = (".dist-info", ".egg-info", ".egg-link", ".pth")
_IMAGE_FILES = ("/etc/image-digest", "/.image-digest")


class GpuIdentity(Frozen):
    """A GPU as hardware: its place in NVML's order, model, UUID, memory in MiB.

    ``unknown_accepted``: measured on, as the host profile allows, although NVML could not tell whether it was in use.
    """

    index: int | None = None
    name: str
    uuid: str
    memory_total_mib: int | None
    unknown_accepted: bool = False

    @classmethod
    def of(cls, gpu: Gpu) -> GpuIdentity:
        """What stays of a GPU from one look to the next."""
        return cls.model_validate({name: getattr(gpu, name) for name in cls.model_fields})


class Environment(Frozen):
    """The measured machine. ``launch_env`` are the variables that the plan sets, ``inherited_env`` those of the shell
    that choose libraries; nothing secret is among them. ``carried_env`` are those that every launch of the run gets as
    they were. ``limits`` are the kernel's, by name. ``venv_stamp`` changes when a package is installed.
    """

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
    inherited_env: dict[str, str] = Field(default_factory=dict)
    carried_env: dict[str, str] = Field(default_factory=dict)
    limits: dict[str, str] = Field(default_factory=dict)
    venv_stamp: str | None = None


def read_machine(reading: GpuReading, venv: VenvFacts, launch_env: dict[str, str], python: Path) -> Environment:
    """Read the machine now."""
    found = {
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "gpus": tuple(map(GpuIdentity.of, reading.gpus)),
        "gpu_driver": reading.driver,
        "versions": venv.versions,
        "launch_env": launch_env,
        "carried_env": {name: value for name, value in os.environ.items() if is_carried(name)},
        "venv_stamp": venv_stamp(python),
    }
    return Environment.model_validate({**_without_asking(), **_packages(venv), **found})


def reread_machine(planned: Environment, python: Path, ask: Callable[[], VenvFacts]) -> Environment:
    """The machine now, as far as it can have changed since ``planned``, without NVML.

    ``ask`` starts the interpreter; it is called only when a package folder changed.
    """
    stamp = venv_stamp(python)
    packages = {} if stamp == planned.venv_stamp else _packages(ask())
    driver = _loaded_driver() or planned.gpu_driver
    return planned.model_copy(
        update={**_without_asking(), **packages, "gpu_driver": driver, "venv_stamp": stamp},
    )


def _without_asking() -> dict[str, object]:
    """What neither NVML nor the project's interpreter has to be asked for."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    return {
        "hostname": this_host(),
        "kernel": platform.release(),
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count() or len(cpus),
        "cpu_set": cpus,
        "image_digest": _image_digest(),
        "inherited_env": {name: os.environ[name] for name in _CHOOSING if name in os.environ},
        "limits": host_limits.read(),
    }


def _packages(venv: VenvFacts) -> dict[str, object]:
    return {"python": venv.versions.get("python"), "venv_freeze_sha256": venv.freeze_sha256}


def this_host() -> str:
    """The name of this machine, as Slurm knows it where Slurm started us: two nodes may share a kernel's name."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def differences(planned: Environment, now: Environment, *, any_host: bool = False) -> tuple[str, ...]:
    """Why numbers of the two are not comparable, one sentence each; empty when they are.

    ``any_host``: they may be two machines of one kind, so that CPUs count by their number and GPUs by model and memory.

    A container's name, the amount of memory and versions beside the packages' are not compared; a driver that could not
    be read is not another driver. ``now`` may have fewer GPUs, never another one.
    """
    if any_host:
        planned, now = _kind(planned), _kind(now)
    found = [
        f"{name} is {_short(getattr(now, name))}, was {_short(getattr(planned, name))}"
        for name in _COMPARED
        if _differs(planned, now, name)
    ]
    known = {(gpu.uuid, gpu.name, gpu.memory_total_mib) for gpu in planned.gpus}
    others = [gpu for gpu in now.gpus if (gpu.uuid, gpu.name, gpu.memory_total_mib) not in known]
    found += [
        f"{name} is {now.limits[name]}, was {value}"
        for name, value in planned.limits.items()
        if now.limits.get(name, value) != value
    ]
    names = dict.fromkeys(f"{gpu.name} {gpu.uuid}".rstrip() for gpu in others)
    return (*found, *(f"GPU {name} is not one of the run's" for name in names))


def _kind(one: Environment) -> Environment:
    """The machine without what two hosts of one kind may differ in: serial and CPU numbers, CPUs outside its set."""
    gpus = tuple(gpu.model_copy(update={"uuid": ""}) for gpu in one.gpus)
    cpus = tuple(range(len(one.cpu_set)))
    return one.model_copy(update={"kernel": "", "cpu_count": 0, "cpu_set": cpus, "gpus": gpus})


def fingerprint(one: Environment) -> str:
    """Digest of what must be the same on every host of one calibration, as ``differences`` compares any two hosts."""
    facts = _kind(one).model_dump(mode="json", include={*_COMPARED})
    return digest({**facts, "gpus": [*sorted({f"{gpu.name} {gpu.memory_total_mib}" for gpu in one.gpus})]})


def _differs(planned: Environment, now: Environment, name: str) -> bool:
    before, after = getattr(planned, name), getattr(now, name)
    return before != after and not (name == "gpu_driver" and None in (before, after))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def is_carried(name: str) -> bool:
    """Whether a variable is taken from the shell that started the run, not from the one that resumes it."""
    return name in _CARRIED or name.startswith("LC_")


def venv_stamp(python: Path) -> str | None:
    """Digest over names and times of the installed packages' metadata: a few milliseconds, no interpreter started.

    None when no package folder is found.
    """
    folders = sorted(
        {folder.resolve() for root in _roots(python) for folder in root.glob(_PACKAGES) if folder.is_dir()}
    )
    entries = [
        (entry.path, entry.stat().st_mtime_ns)
        for folder in folders
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if entry.name.endswith(_METADATA)
    ]
    return digest([list(entry) for entry in entries]) if folders else None


def _roots(python: Path) -> Iterator[Path]:
    """Prefixes whose packages the interpreter may import: the venv's, and the system's where it shows through."""
    yield python.parent.parent
    settings = python.parent.parent / "pyvenv.cfg"
    lines = (line.partition("=") for line in read_text(settings).splitlines()) if settings.is_file() else ()
    known = {name.strip().lower(): value.strip() for name, _, value in lines}
    if not known or known.get("include-system-site-packages") == "true":
        yield Path(known["home"]).parent if "home" in known else Path("/usr")
        yield Path("/usr/local")


def _loaded_driver() -> str | None:
    """The version of the NVIDIA kernel module, as NVML tells it too, without asking NVML."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


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
    return from_env or next((read_text(path).strip() for path in files if path.is_file()), None)
