"""Lanes of a host: GPUs and CPUs that belong together, and what others may use of them, as a host profile names it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tune_mcp.config.fields import ConfigModel, Env, Name, wrong
from tune_mcp.config.stages import Frozen

CPU_SET_VARIABLE = "OMNI_CI_CPUSET"
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def parse_cpus(text: str) -> tuple[int, ...]:
    """The CPUs of a list as ``taskset -c`` takes it (``2-15,66-79``), sorted. Raises ``ValueError``."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{text!r} is no list of CPUs such as 0-3,8")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))


def cpu_list(cpus: Iterable[int]) -> str:
    """A list of CPUs as ``taskset -c`` takes it: ``0-3,8``."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1][1:] = [cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)


def _checked_cpus(text: str) -> str:
    try:
        parse_cpus(text)
    except ValueError as error:
        raise wrong(str(error)) from error
    return text


def _numbers(value: object) -> object:
    """``6,7`` is the list of both."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(int(part) if part.isdigit() else part for part in parts)
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


CpuList = Annotated[str, AfterValidator(_checked_cpus)]
Indices = Annotated[tuple[Annotated[int, Field(ge=0, le=1023)], ...], BeforeValidator(_numbers)]
"""Physical GPU indices, as ``nvidia-smi -L`` counts them: a list, or one string with commas."""


class Lane(ConfigModel):
    """One launch at a time runs here: on these GPUs (by physical index; none for tests without) and these CPUs.

    ``env`` are variables that launches here get besides: a port, a cache root.
    """

    name: Name
    gpus: Indices = ()
    cpus: CpuList | None = None
    env: Env = Field(default_factory=dict)

    @model_validator(mode="after")
    def _holds_something(self) -> Lane:
        if not self.gpus and self.cpus is None:
            raise wrong("a lane needs gpus, cpus, or both", "HST-04")
        return self

    def text(self) -> str:
        """``pair-a (GPUs 0,1; CPUs 2-15)``."""
        gpus = f"GPUs {','.join(map(str, self.gpus))}" if self.gpus else "no GPU"
        return f"{self.name} ({gpus}; {f'CPUs {self.cpus}' if self.cpus else 'any CPU'})"


FOREIGN_CORES = 0.10
"""The instrument resolves 0.02; what a machine does all the time sets the limit."""
WINDOW_S = 30.0


class Quiet(ConfigModel):
    """More than ``foreign_cores`` on a lane's CPUs for ``window_s`` seconds disturbs what is measured there."""

    foreign_cores: Annotated[float, Field(gt=0, le=1024, allow_inf_nan=False)] = FOREIGN_CORES
    window_s: Annotated[float, Field(ge=2, le=3600, allow_inf_nan=False)] = WINDOW_S

    @property
    def step_s(self) -> float:
        """How often to look: a sixth of the window, between half a second and five."""
        return min(5.0, max(0.5, self.window_s / 6))


class Placement(Frozen):
    """Where on a host a launch may run.

    ``include`` are the only GPUs that may be used, None for all; ``exclude`` those that never are. With ``lanes`` a
    launch gets the GPUs and the CPUs of one of them, and reads its CPUs in ``cpu_set_variable``. ``quiet`` is what
    others may use of those.
    """

    include: Indices | None = None
    exclude: Indices = ()
    lanes: tuple[Lane, ...] = ()
    cpu_set_variable: str = CPU_SET_VARIABLE
    quiet: Quiet | None = None

    def allows(self, index: int) -> bool:
        """Whether a launch may be granted the GPU with this physical index."""
        return index not in self.exclude and (self.include is None or index in self.include)

    def usable_lanes(self) -> tuple[Lane, ...]:
        """The lanes whose GPUs may all be used."""
        return tuple(lane for lane in self.lanes if all(map(self.allows, lane.gpus)))

    def on(self, lane: Lane | None) -> Placement:
        """The placement with one lane alone; unchanged for None."""
        return self if lane is None else self.model_copy(update={"lanes": (lane,)})

    def lanes_for(self, gpus: int) -> tuple[Lane, ...]:
        """Lanes with enough GPUs for a launch, in their order, as many CPUs in each as in the first.

        A repeat on fewer CPUs is another measurement. A launch without GPUs goes to a lane without, where there is one.
        """
        fitting = [lane for lane in self.usable_lanes() if len(lane.gpus) >= gpus]
        if gpus == 0:
            fitting = [lane for lane in fitting if not lane.gpus] or fitting
        return tuple(lane for lane in fitting if _cpu_count(lane) == _cpu_count(fitting[0]))

    def cpus_for(self, gpus: int) -> int | None:
        """How many CPUs a launch with so many GPUs gets; None where it may run on any."""
        return next(map(_cpu_count, self.lanes_for(gpus)), None)


def choose(
    placement: Placement, needs: Collection[int], count: int, lanes: Sequence[Lane], busy: Collection[int] = ()
) -> tuple[Lane, ...]:
    """Lanes for ``count`` launches at once (0: as many as there are), of those in ``lanes``; none where too few are.

    ``needs`` are the numbers of GPUs that launches want. Lanes with ``busy`` GPUs come last.
    """
    found: list[Lane] = []
    for gpus in sorted({*needs}, reverse=True):
        fitting = placement.lanes_for(gpus)
        wanted = min(count or len(fitting), len(fitting))
        free = sorted((lane for lane in fitting if lane in lanes), key=lambda lane: not {*lane.gpus}.isdisjoint(busy))
        # A lane that another need has taken already serves this one too.
        chosen = sorted(free, key=lambda lane: lane not in found)[:wanted]
        if len(chosen) < max(wanted, 1):
            return ()
        found += [lane for lane in chosen if lane not in found]
    return tuple(lane for lane in placement.lanes if lane in found)


def most_at_once(placement: Placement, needs: Collection[int]) -> int:
    """How many launches of one kind the lanes allow at the same time."""
    return max((len(placement.lanes_for(gpus)) for gpus in needs), default=0)


def overlap(one: Lane, other: Lane) -> bool:
    """Whether both cannot be used at the same time: a GPU or a CPU is in both."""
    cpus = {*parse_cpus(one.cpus)} & {*parse_cpus(other.cpus)} if one.cpus and other.cpus else set[int]()
    return bool({*one.gpus} & {*other.gpus} or cpus or one == other)


def _cpu_count(lane: Lane) -> int | None:
    return len(parse_cpus(lane.cpus)) if lane.cpus else None


def of_groups(groups: dict[str, str]) -> tuple[Lane, ...]:
    """Lanes written as ``{"0,1": "2-15,66-79"}``. Raises ``ValueError``."""
    found: list[Lane] = []
    for gpus, cpus in groups.items():
        indices = [part.strip() for part in gpus.split(",")]
        if not all(part.isdigit() for part in indices):
            raise ValueError(f"{gpus!r} is no list of GPUs such as 0,1")
        found.append(Lane(name=f"gpus-{'-'.join(indices)}", gpus=tuple(map(int, indices)), cpus=cpus))
    return tuple(found)


def problem(lanes: Sequence[Lane]) -> str:
    """Why these lanes are ambiguous, empty when they are not: a name, a GPU or a CPU in two of them."""
    for number, lane in enumerate(lanes):
        for other in lanes[:number]:
            if lane.name == other.name:
                return f"two lanes are named {lane.name}"
            if both := sorted(set(lane.gpus) & set(other.gpus)):
                return f"GPU {both[0]} is in lane {other.name} and in lane {lane.name}"
            if lane.cpus and other.cpus and (both := sorted({*parse_cpus(lane.cpus)} & {*parse_cpus(other.cpus)})):
                return f"CPU {both[0]} is in lane {other.name} and in lane {lane.name}"
    return ""
