"""``<stage_key>/run{k}.json``: one observation, as the supervisor wrote it and as a reader finds it (MET-05)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, cast

from pydantic import Field, ValidationError, field_validator

from tune_mcp.config.stages import Frozen, Number, finite_number
from tune_mcp.files import parse_foreign_json, read_plain, sha256_bytes
from tune_mcp.run_dir import RunDir

SCHEMA_VERSION = 1


class Counts(Frozen):
    """Samples that the stage should have had, and those that were good; None when unreadable."""

    total: int | None = None
    ok: int | None = None


class AttemptVerdict(StrEnum):
    """What became of an attempt. ``superseded``: an earlier one was complete, and that one counts."""

    KEPT = "kept"
    RETRIED = "retried"
    DISTURBED = "disturbed"
    NOT_STARTED = "not started"
    HALTED = "halted"
    SUPERSEDED = "superseded"


class Attempt(Frozen):
    """One launch of pytest for this repeat: how it ended and what became of it.

    ``slowed_by`` are the reasons for which a GPU's clocks were seen held down meanwhile: a note, never a judgement.
    ``lane`` is where it ran, empty on a host without lanes and where an engine chose the host;
    ``foreign_cores`` is what other processes used of its CPUs on average, None where that was not measured.
    ``host`` and ``fingerprint`` are where it ran, empty where that is not known; ``incomparable`` is how that
    machine is not of the run's kind, or no longer as it was.
    """

    attempt: int
    verdict: AttemptVerdict
    reason: str = ""
    pytest_rc: int | None = None
    started_at: str
    ended_at: str
    duration_s: float
    log: str
    log_sha256: str | None = None
    slowed_by: tuple[str, ...] = ()
    foreign_cores: float | None = None
    host: str = ""
    fingerprint: str = ""
    incomparable: str = ""
    lane: str = ""


class Failure(Frozen):
    """One phase of one test that failed: ``when`` is ``setup``, ``call`` or ``teardown``.

    ``exception`` is the qualified type name, ``assertion`` whether it is an AssertionError or a ``pytest.fail``,
    ``message`` the first line of its text, ``test_line`` the innermost line of the test's own file (0: none). All but
    the first three are empty when the guard was cut off in between.
    """

    nodeid: str
    when: str
    outcome: str = "failed"
    exception: str = ""
    assertion: bool = False
    message: str = ""
    test_line: int = 0

    @property
    def by_assert(self) -> bool:
        """Raised by an ``assert`` of the call phase, not by ``pytest.fail``, a fixture or another exception."""
        return self.when == "call" and self.assertion and not self.exception.endswith("Failed")

    def sentence(self) -> str:
        """``tests/test_x.py::test_a: RuntimeError: worker exited``."""
        return ": ".join(filter(None, (self.nodeid, self.exception, self.message)))


class Observation(Frozen):
    """One stage in one repeat. ``status`` and ``reason`` are for people; strictness never reads them as a pass."""

    schema_version: int = SCHEMA_VERSION
    status: Literal["ok", "failed"]
    reason: str = ""
    metrics: dict[str, Number | None]
    sample_counts: Counts
    duration_s: float
    attempts: int
    git_sha: str
    recorded_at: str
    pytest_rc: int | None
    pytest_log: str
    basetemp: str
    run_id: str
    environment_sha256: str | None = None
    evidence_sha256: dict[str, str] = Field(default_factory=dict)
    history: tuple[Attempt, ...] = ()


class StoredObservation(Frozen):
    """An observation as a reader finds it: the fields that every version wrote; others are passed over."""

    model_config = Frozen.model_config | {"extra": "ignore"}

    status: str
    reason: str = ""
    metrics: dict[str, Number | None]
    sample_counts: Counts
    git_sha: str | None = None
    run_id: str | None = None
    duration_s: float | None = None
    attempts: int | None = None
    pytest_rc: int | None = None
    pytest_log: str = ""
    basetemp: str = ""
    recorded_at: str = ""
    environment_sha256: str | None = None
    history: tuple[Attempt, ...] = ()

    @property
    def kept(self) -> Attempt | None:
        """The attempt that the numbers are from; None where the history names none."""
        return next((one for one in reversed(self.history) if one.verdict is AttemptVerdict.KEPT), None)

    @property
    def last_attempt(self) -> int:
        """The number of the attempt that the files are from: the one that was kept, else the last; 0 for none."""
        return self.kept.attempt if self.kept else max((one.attempt for one in self.history), default=0)

    @field_validator("metrics", mode="before")
    @classmethod
    def only_real_numbers(cls, value: object) -> object:
        """A bool, a string or an infinite number is no measurement: it reads as None."""
        if not isinstance(value, dict):
            return value
        found = cast("dict[object, object]", value)
        return {key: finite_number(item) for key, item in found.items()}

    @field_validator("sample_counts", mode="before")
    @classmethod
    def only_real_counts(cls, value: object) -> object:
        """A count is a whole number, also as a float (older runs wrote 20.0); anything else reads as None."""
        if not isinstance(value, dict):
            return {}
        found = cast("dict[str, object]", value)
        return {key: _count(found.get(key)) for key in ("total", "ok")}


def _count(item: object) -> int | None:
    value = finite_number(item)
    return int(value) if value is not None and value == int(value) and value >= 0 else None


@dataclass(frozen=True)
class Missing:
    """There is no run{k}.json."""


@dataclass(frozen=True)
class Broken:
    """There is one, but it cannot be read as an observation."""

    reason: str


@dataclass(frozen=True)
class Stored:
    """A readable observation, with the digest of the file that holds it."""

    content: StoredObservation
    sha256: str


def load(run: RunDir, stage_key: str, repeat: int) -> Stored | Missing | Broken:
    """Read one run{k}.json. Never raises: a bad file is a cell with a reason."""
    path = run.observation(stage_key, repeat)
    try:
        data = read_plain(path)
    except FileNotFoundError:
        return Missing()
    except OSError as error:
        return Broken(f"unreadable: {error.strerror}")
    try:
        value = parse_foreign_json(data)  # a NaN reads as NaN, so that the audit can name the metric that it spoils
        if not isinstance(value, dict):
            return Broken(f"not an object but {type(value).__name__}")
        return Stored(StoredObservation.model_validate(value), sha256_bytes(data))
    except ValidationError as error:
        first = error.errors()[0]
        return Broken(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
    except ValueError as error:
        return Broken(f"not JSON: {error}")


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
    ``others`` are the processes seen above the limit, with the core-seconds that they used. ``unmeasured`` is why
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
