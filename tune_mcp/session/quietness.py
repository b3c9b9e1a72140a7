"""What was measured of the machine beside a launch, as the sealed attempt keeps it. None is "not measured", never 0."""

from __future__ import annotations

from pydantic import Field

from tune_mcp.config.stages import Frozen


class GpuRange(Frozen):
    """One GPU in ``looks`` looks while pytest ran: lowest and highest clock (MHz), the highest °C and W, and in how
    many looks each reason held its clocks down."""

    index: int
    looks: int
    sm_clock_mhz: tuple[int, int] | None = None
    memory_clock_mhz: tuple[int, int] | None = None
    temperature_c: int | None = None
    power_w: int | None = None
    slowed_by: dict[str, int] | None = None


class Quietness(Frozen):
    """The machine while pytest ran, on ``cpus`` (sorted), over ``measured_s`` seconds.

    ``foreign_cores`` is what others certainly used on average, ``foreign_at_most`` what they may have; ``peak_cores``
    the busiest step; ``window_cores`` the busiest stretch of a whole window. ``stolen_cores`` went to other machines
    of the hypervisor. ``memory_wait`` and ``io_wait`` are the share of the time in which something waited for memory
    or the disk: mean and busiest step. ``steps`` is the course: seconds, certain and possible foreign cores.
    ``others`` are the processes seen above the limit, with the core-seconds that they used. ``unmeasured`` says why
    something is missing; ``cost`` is the share of one core that the measuring took.
    """

    cpus: tuple[int, ...]
    measured_s: float
    foreign_cores: float | None = None
    foreign_at_most: float | None = None
    peak_cores: float | None = None
    window_cores: float | None = None
    stolen_cores: float | None = None
    memory_wait: tuple[float, float] | None = None
    io_wait: tuple[float, float] | None = None
    gpus: tuple[GpuRange, ...] = ()
    others: dict[str, float] = Field(default_factory=dict)
    steps: tuple[tuple[float, float | None, float | None], ...] = ()
    unmeasured: str = ""
    cost: float | None = None
