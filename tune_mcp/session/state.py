"""The state of a run, and what a reader may conclude about it from files and locks alone.

Liveness has three values: held, free, unknown. Unknown is never taken for dead, and never for idle.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from tune_mcp import procfs
from tune_mcp.config.stages import Frozen
from tune_mcp.contract.status import CurrentWork
from tune_mcp.files import is_locked
from tune_mcp.gpus import GpuReader, GpuReading
from tune_mcp.run_dir import RunDir, iso, utc_now


class RunState(StrEnum):
    """States of a run. ``halted`` and ``exhausted`` wait for resume_run."""

    PRECHECKING = "prechecking"
    RUNNING = "running"
    WAITING_FOR_GPU = "waiting_for_gpu"
    WAITING_FOR_QUIET = "waiting_for_quiet"
    HALTED = "halted"
    EXHAUSTED = "exhausted"
    STOPPING = "stopping"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"

    @property
    def terminal(self) -> bool:
        """Whether the run is over and nothing can continue it."""
        return self in (RunState.FINISHED, RunState.STOPPED, RunState.FAILED, RunState.LOST)

    @property
    def at_rest(self) -> bool:
        """Whether no supervisor works on the run: it is over, or it waits for resume_run."""
        return self.terminal or self in (RunState.HALTED, RunState.EXHAUSTED)


class Liveness(StrEnum):
    """Whether the supervisor's lock is held."""

    HELD = "held"
    FREE = "free"
    UNKNOWN = "unknown"


class Owner(Frozen):
    """A process beyond doubt: a pid alone is reused, these three together are not."""

    boot_id: str
    pid: int
    start_ticks: int


class Halt(Frozen):
    """Why a run halted: a refusal-like code, the rule, what was found, and what to fix before resume_run."""

    code: str
    rule: str
    message: str
    next: str
    test: str | None = None
    repeat: int | None = None


class Alert(Frozen):
    """Trouble that was seen while pytest ran: ``name`` is its identity within an attempt, times are UTC.

    ``over`` is how it ended; empty while it is open.
    """

    name: str
    cause: str
    remedy: str
    evidence: tuple[str, ...] = ()
    since: str
    over: str = ""

    def line(self) -> str:
        """Cause and remedy in one line."""
        seen = f" [{self.evidence[0][:120]}]" if self.evidence else ""
        return f"{self.name}: {self.cause}{seen}. To do: {self.remedy}"


class SupervisorRecord(Frozen):
    """``supervisor.json``, written by the supervisor alone.

    ``others`` is what runs beside ``current`` on other lanes; ``alerts`` are the open ones of all these attempts,
    ``processes`` counts their living processes by role.
    """

    schema_version: int = 1
    state: RunState
    reason: str = ""
    owner: Owner | None = None
    heartbeat_at: float
    current: CurrentWork | None = None
    others: tuple[CurrentWork, ...] = ()
    halt: Halt | None = None
    alerts: tuple[Alert, ...] = ()
    processes: dict[str, int] = Field(default_factory=dict)
    gpu_mem_limit_mib: int = 2048

    @property
    def work(self) -> tuple[CurrentWork, ...]:
        """All attempts that run, the first lane's first."""
        return (self.current, *self.others) if self.current else ()


@dataclass(frozen=True)
class Conclusion:
    """What a reader may say about a run: its state, the last record, and whether its supervisor lives."""

    state: RunState
    record: SupervisorRecord | None
    liveness: Liveness

    @property
    def active(self) -> bool:
        """Whether a supervisor works on the run, or that cannot be ruled out."""
        return not self.state.at_rest


def owner(pid: int) -> Owner:
    """The identity of a living process. Raises ``ProcessLookupError``."""
    ticks = procfs.start_ticks(pid)
    if ticks is None:
        raise ProcessLookupError(pid)
    return Owner(boot_id=procfs.boot_id(), pid=pid, start_ticks=ticks)


def lives(process: Owner) -> bool:
    """Whether this very process is alive on this machine."""
    return process.boot_id == procfs.boot_id() and process.start_ticks == procfs.start_ticks(process.pid)


def liveness(run: RunDir) -> Liveness:
    """Whether the run's supervisor lock is held."""
    try:
        return Liveness.HELD if is_locked(run.supervisor_lock) else Liveness.FREE
    except OSError:
        return Liveness.UNKNOWN


def read_record(run: RunDir) -> SupervisorRecord | None:
    """The supervisor's last record; None when there is none or it cannot be read."""
    return SupervisorRecord.from_file(run.supervisor)


def conclude(run: RunDir) -> Conclusion:
    """Read the record and the lock together; a free lock under a working state and a dead owner mean ``lost``."""
    lock = liveness(run)
    record = read_record(run)
    if record is None:
        return Conclusion(RunState.LOST if lock is Liveness.FREE else RunState.PRECHECKING, None, lock)
    if not record.state.at_rest and lock is Liveness.FREE:
        again = read_record(run)
        record = again or record
        if not record.state.at_rest and record.owner is not None and lives(record.owner):
            return Conclusion(record.state, record, Liveness.UNKNOWN)  # somebody took its lock file away
        if not record.state.at_rest:
            return Conclusion(RunState.LOST, record, lock)
    return Conclusion(record.state, record, lock)


class GpusSeen(Frozen):
    """``gpus.json``: one look and when it was taken (UTC)."""

    schema_version: int = 1
    seen_at: str
    reading: GpuReading


def recording(run: RunDir, read: GpuReader) -> GpuReader:
    """A reader that leaves what it saw in the run: other readers take that, only precheck and a runner ask NVML.

    NVML can take seconds or hang, and a look of its own for each poll would load the machine that is being measured.
    """

    def read_and_record() -> GpuReading:
        reading = read()
        seen = GpusSeen(seen_at=iso(utc_now()), reading=reading)
        with suppress(OSError):  # a view for readers: a full disk costs the view, never the measurement
            seen.to_file(run.gpus, durable=False)
        return reading

    return read_and_record
