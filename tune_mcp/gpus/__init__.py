"""What NVML reports of the GPUs, read in a process of its own with a deadline (NVML can hang in the kernel).

The answer has three values: the GPUs, none on this machine, or unknown. Unknown is never idle, and never launches.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

PROBE_DEADLINE_S = 15.0
MEMORY_LIMIT_MIB = 2048
"""A GPU with more memory in use than this is not free (rule GPU-01; the limit itself still is)."""
Unreported = Literal["memory", "processes"]
UNREPORTED: Mapping[Unreported, str] = MappingProxyType({"memory": "memory in use", "processes": "list of processes"})
_KNOWN = ConfigDict(extra="forbid", defer_build=True)
_ABANDON_S = 1.0
Count = Annotated[int, Field(ge=0)]


class Presence(StrEnum):
    """Whether GPUs could be read at all."""

    PRESENT = "present"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, config=_KNOWN)
class GpuProcess:
    """A compute process as NVML names it: the host's pid, which another pid namespace does not know, and MiB."""

    pid: Count
    memory_mib: Count | None = None


@dataclass(frozen=True, config=_KNOWN)
class Condition:
    """What shifts a GPU's speed: °C, W, MHz, and the reasons for which its clocks are held down. None: not reported."""

    temperature_c: Count | None = None
    power_w: Count | None = None
    sm_clock_mhz: Count | None = None
    memory_clock_mhz: Count | None = None
    slowed_by: tuple[str, ...] | None = None


@dataclass(frozen=True, config=_KNOWN)
class Gpu:
    """One physical GPU: NVML index, UUID, model, memory in MiB, utilisation in percent, its compute processes.

    ``trouble`` is what could not be read of it; ``minor`` is the N of /dev/nvidiaN; ``mig`` that it is split.
    ``unreported`` is what NVML does not support for it (``memory``, ``processes``: unified memory, a MIG slice), and
    ``unknown_accepted`` that the host profile takes such a GPU for free as far as the others of its numbers say so.
    """

    index: Count
    uuid: Annotated[str, Field(min_length=1)]
    name: str
    memory_used_mib: Count | None
    memory_total_mib: Count | None
    utilization: Count | None
    processes: tuple[GpuProcess, ...] = ()
    mig: bool = False
    minor: Count | None = None
    trouble: str = ""
    condition: Condition = Field(default_factory=Condition)
    unreported: tuple[Unreported, ...] = ()
    unknown_accepted: bool = False

    @property
    def free(self) -> bool:
        """At most 2048 MiB in use and no compute process (rule GPU-01); never where that is not known for sure.

        What NVML does not support counts as unused only where the host profile accepts that.
        """
        if self.trouble or self.processes or (self.unreported and not self.unknown_accepted):
            return False
        if self.memory_used_mib is None or self.memory_total_mib is None:
            return "memory" in self.unreported
        return self.memory_used_mib <= min(MEMORY_LIMIT_MIB, self.memory_total_mib)

    def accepting_unknown(self) -> Self:
        """The same GPU where what NVML does not report of it counts as unused."""
        return replace(self, unknown_accepted=bool(self.unreported))

    @property
    def memory(self) -> str:
        """What it uses of what it has: ``17000/97871 MiB``, with ``?`` for what was not reported."""
        used, total = ("?" if mib is None else mib for mib in (self.memory_used_mib, self.memory_total_mib))
        return f"{used}/{total} MiB"

    def line(self) -> str:
        """``GPU 0 17000/97871 MiB busy``."""
        return f"GPU {self.index} {self.memory} {'free' if self.free else 'busy'}"


@dataclass(frozen=True, config=_KNOWN)
class GpuReading:
    """One look at all GPUs; ``reason`` is why it is unknown. Two GPUs never share an index or a UUID."""

    presence: Presence
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    reason: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.gpus) is not (self.presence is Presence.PRESENT):
            raise ValueError(f"{len(self.gpus)} GPUs, but {self.presence}")
        for name, values in (("index", [g.index for g in self.gpus]), ("uuid", [g.uuid for g in self.gpus])):
            if len(set(values)) != len(values):
                raise ValueError(f"two GPUs have the same {name}")
        return self

    def accepting_unknown(self, accept: bool) -> Self:
        """The same look where ``accept`` (``gpu_memory_unknown`` of the host) lets these count as unused."""
        if not accept or not any(gpu.unreported for gpu in self.gpus):
            return self
        return replace(self, gpus=tuple(gpu.accepting_unknown() for gpu in self.gpus))

    def usable(self, *, allow_mig: bool) -> tuple[Gpu, ...]:
        """The GPUs that a launch may be granted at all: whole ones, and split ones where the host profile says so."""
        return tuple(gpu for gpu in self.gpus if allow_mig or not gpu.mig)

    def summary(self) -> str:
        """``2× NVIDIA H20``, or why there is nothing to count."""
        match self.presence:
            case Presence.NONE:
                return "no GPU (CPU only)"
            case Presence.UNKNOWN:
                return f"unknown: {self.reason}"
            case Presence.PRESENT:
                names = sorted({gpu.name for gpu in self.gpus})
                counted = ", ".join(f"{sum(gpu.name == name for gpu in self.gpus)}× {name}" for name in names)
                accepted = {UNREPORTED[name] for gpu in self.gpus if gpu.unknown_accepted for name in gpu.unreported}
                unreported = " and ".join(sorted(accepted, reverse=True))
                return f"{counted} (no {unreported} from NVML, accepted by the host profile)" if unreported else counted


GpuReader = Callable[[], GpuReading]
"""Takes one look, with a deadline of its own."""


def accepting(read: GpuReader, accept: bool) -> GpuReader:
    """The reader, with GPUs whose numbers NVML does not report accepted where the host profile does."""
    return lambda: read().accepting_unknown(accept)


def parse(data: bytes) -> GpuReading:
    """The probe's JSON. Raises ``ValueError`` for anything that is not a whole answer."""
    return TypeAdapter(GpuReading).validate_json(data, strict=True)


class Probe:
    """Asks NVML in a child process, one question at a time.

    A child that does not answer in time is killed and left behind: in the kernel's uninterruptible sleep it may never
    end. Until it has, nothing else is asked, so hanging children never pile up; a thread reaps it whenever it ends.
    """

    def __init__(self, deadline_s: float = PROBE_DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._turn = threading.Lock()
        self._left_behind: threading.Thread | None = None

    def __call__(self) -> GpuReading:
        """The GPUs as they are now; never raises."""
        with self._turn:
            if self._left_behind is not None and self._left_behind.is_alive():
                return _unknown("NVML still has not answered an earlier question")
            return self._ask()

    def _ask(self) -> GpuReading:
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("nvml.py"))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            return _unknown(f"the NVML probe could not be started ({error})")
        try:
            out, err = child.communicate(timeout=self._deadline_s)
        except subprocess.TimeoutExpired:
            child.kill()
            self._left_behind = threading.Thread(target=child.wait, daemon=True)
            self._left_behind.start()
            self._left_behind.join(_ABANDON_S)
            return _unknown(f"NVML did not answer within {self._deadline_s:g} s")
        try:
            return parse(out)
        except ValidationError as error:
            reason = err.decode(errors="replace").strip().rpartition("\n")[2] or error.errors()[0]["msg"]
            return _unknown(f"the NVML probe gave no usable answer, exit code {child.returncode}: {reason[:200]}")


def _unknown(reason: str) -> GpuReading:
    return GpuReading(Presence.UNKNOWN, reason=reason)


read_gpus = Probe()
"""The process's own probe: whoever asks in this process shares it."""
