"""A runner's job and its sealed result: the only things that pass between the supervisor and a runner."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from tune_mcp.config.lanes import Lane, Placement
from tune_mcp.config.signatures import OwnSignatures
from tune_mcp.config.stages import Frozen, Stage
from tune_mcp.contract.status import PhaseKind
from tune_mcp.files import parse_json, read_plain, read_text, sha256_file, write_atomic
from tune_mcp.gpus import Gpu
from tune_mcp.observe.extract import Extraction
from tune_mcp.observe.observation import Quietness
from tune_mcp.precheck.fingerprint import Environment
from tune_mcp.run_dir import RunDir, iso, utc_now
from tune_mcp.session.drift import Baseline
from tune_mcp.session.state import Alert
from tune_mcp.supervise.guard_record import GuardSummary
from tune_mcp.supervise.scratch import Left


class Job(Frozen):
    """One attempt at one observation: everything a runner needs, wherever it finds itself.

    ``timed`` are the keys of the stages that measure time; ``test`` is the file relative to ``repo_root``; ``gpus``
    how many to grant; ``timeout_s`` the wall-clock limit of pytest; ``tree`` what it must still be; ``plugins`` the
    pytest plugins that the venv has; ``cache_wipes`` the folders below OMNI_CI_HOME that it must find empty;
    ``lane`` is the name of the place where the attempt runs, empty on a host that has only one; ``own_pids``: its
    pytest sees no process of another lane;
    ``signatures`` what the model adds to the watchdog's; ``allow_mig`` whether a split GPU will do,
    ``placement`` which GPUs and lanes of the host may be used,
    ``accept_unknown_gpus`` whether one whose use NVML does not report; ``cleanup_command`` the project's own script
    that frees GPUs, where the host profile names one; ``assets``
    are the models and data sets whose revisions are compared. ``any_host``: an engine chose the machine, so that its
    GPUs and CPUs are compared by their kind and number, and one that does not fit is left for another.
    """

    schema_version: int = 1
    run_dir: str
    repo_root: str
    test: str
    test_key: str
    repeat: int
    attempt: int
    lane: str = ""
    own_pids: bool = False
    stages: tuple[Stage, ...]
    timed: tuple[str, ...] = ()
    tree: Baseline
    venv_python: str
    env: dict[str, str]
    pytest_extra_args: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    cache_wipes: tuple[str, ...] = ()
    signatures: OwnSignatures = Field(default_factory=OwnSignatures)
    gpus: int = 0
    allow_mig: bool = False
    placement: Placement = Field(default_factory=Placement)
    accept_unknown_gpus: bool = False
    cleanup_command: tuple[str, ...] = ()
    timeout_s: float
    assets: tuple[str, ...] = ()
    any_host: bool = False

    @property
    def key(self) -> str:
        """The attempt's identity under every executor."""
        return self.run.attempt_key(self.test_key, self.repeat, self.attempt)

    @property
    def run(self) -> RunDir:
        """The run that the job belongs to."""
        return RunDir(Path(self.run_dir))

    @property
    def folder(self) -> Path:
        """The attempt's own folder: whoever works on it writes nowhere else, so that two never write one path."""
        return self.run.attempt(self.test_key, self.repeat, self.attempt)

    @property
    def log(self) -> Path:
        """The attempt's pytest log."""
        return self.folder / self.run.log(self.test_key, self.repeat).name

    @property
    def basetemp(self) -> Path:
        """The folder below which the attempt's tests leave their results."""
        return self.folder / self.run.basetemp(self.test_key, self.repeat).name

    @property
    def guard_record(self) -> Path:
        """What the guard wrote down."""
        return self.folder / self.run.guard_record(self.test_key, self.repeat).name


class Blocked(Frozen):
    """Why pytest was not started, and what a person can do. ``retryable``: another try may find it otherwise."""

    code: str
    rule: str
    reason: str
    next: str
    retryable: bool = True


class Engine(Frozen):
    """Where an engine ran an attempt: its own id of the job, the node, the GPUs that it granted as it counts them."""

    job_id: str
    node: str
    gpus: tuple[int, ...] = ()


StoppedBy = Literal["", "cancel", "timeout", "exit", "watchdog"]
"""Who ended pytest: itself; a stop that came when its session was complete; its wall-clock limit; we, because it did
not exit after its session's end; the watchdog."""


class AttemptResult(Frozen):
    """The sealed end of an attempt; ``engine`` is where an engine ran it, None on the supervisor's own machine.

    ``pytest_rc`` is negative for a signal, None when pytest was never started. The watchdog stops it for the
    signature ``stopped_for``; ``stop_reason`` explains a stop.
    ``signals`` are those that we sent to pytest: another one came from outside. ``blocked`` is why it was not started.
    ``moved`` is what of the tree was another one before, during or after the launch; ``appeared`` are new files that
    look like a test's output, ``outputs`` files of the tree that its tests wrote and that are no part of it,
    ``inherited`` files of the repository that it read and that an earlier launch of the run wrote.
    ``rewritten`` are files that moved the tree while pytest ran, ``way_out`` what can be done about them.
    Times are UTC, ``duration_s`` is pytest alone (no waiting, no drain).
    ``clock_moved`` is by how much the wall clock was set meanwhile.
    ``environment`` is the machine as this attempt found it, ``incomparable`` how it differs from the run's;
    ``loaded_sha256`` is the digest of the record of what it loaded from outside git's view.
    The granted GPUs are described as they were just before and just after pytest; ``slowed_by`` are the reasons for
    which their clocks were seen held down. Both are notes, nothing is judged by them.
    ``quiet`` is what was measured of the machine meanwhile; ``disturbed`` is who used its CPUs too much.
    ``left_in_tmp`` is what the tests left in their TMPDIR, which was emptied.
    ``strangers`` are result files that are not this launch's, with the reason; ``signatures_of_files`` the digests of
    all fractional numbers of those that measure time: no two repeats have the same.
    ``dropped_env`` are the names of the caller's variables that pytest did not get; never their values.
    ``start_error`` is pytest's own line where it ended before it had loaded the guard; ``oom_kills`` how many processes
    the kernel ended for lack of memory meanwhile.
    """

    schema_version: int = 1
    key: str
    started_at: str
    ended_at: str
    duration_s: float = 0.0
    clock_moved: str = ""
    pytest_rc: int | None = None
    stopped_by: StoppedBy = ""
    stopped_for: str = ""
    stop_reason: str = ""
    signals: tuple[str, ...] = ()
    blocked: Blocked | None = None
    moved: str = ""
    appeared: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    inherited: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    way_out: str = ""
    incomparable: str = ""
    loaded_sha256: str | None = None
    environment: Environment | None = None
    guard: GuardSummary = GuardSummary()
    stages: dict[str, Extraction] = Field(default_factory=dict)
    signature: str = ""
    alerts: tuple[Alert, ...] = ()
    leftovers: tuple[str, ...] = ()
    left_in_tmp: Left | None = None
    gpu_uuids: tuple[str, ...] = ()
    lane: Lane | None = None
    gpus_at_start: tuple[Gpu, ...] = ()
    gpus_at_end: tuple[Gpu, ...] = ()
    slowed_by: tuple[str, ...] = ()
    quiet: Quietness | None = None
    disturbed: str = ""
    log_sha256: str | None = None
    evidence_sha256: dict[str, str] = Field(default_factory=dict)
    strangers: dict[str, str] = Field(default_factory=dict)
    signatures_of_files: dict[str, str] = Field(default_factory=dict)
    dropped_env: tuple[str, ...] = ()
    start_error: str = ""
    oom_kills: int = 0
    engine: Engine | None = None

    @property
    def known_crash(self) -> str:
        """The name of the crash signature in the log; empty when there is none. ``signature`` has its line, too."""
        return self.signature.partition(":")[0]


@dataclass(frozen=True)
class Phase:
    """What an attempt does now; ``reason`` is why it waits, empty where it does not."""

    kind: PhaseKind
    reason: str = ""

    def __str__(self) -> str:
        """``waiting_for_gpu: GPU 0 is busy``: the form in its file and in ``CurrentWork``."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind

    def write(self, attempt: Path) -> None:
        """Leave it in the attempt's folder, for the supervisor. Raises ``OSError``."""
        write_atomic(attempt / PHASE_FILE, str(self).encode(), durable=False)

    @classmethod
    def read(cls, attempt: Path) -> Phase | None:
        """The phase of the attempt in that folder; None while there is none that can be read."""
        try:
            kind, _, reason = read_text(attempt / PHASE_FILE).partition(": ")
            return cls(PhaseKind(kind), reason)
        except (OSError, ValueError):
            return None


JOB_FILE = "job.json"
RESULT_FILE = "result.json"
PHASE_FILE = "phase"
RUNNER_END_FILE = "runner_end"
"""The exit code of a runner that ended without a word, negative for a signal; written by whoever started it."""
CLAIM_FOLDER = "claimed"
LEFT_FILE = "left"
"""Written by a runner of an engine when nothing of its attempt is left to do, sealed or not."""
TOMBSTONE_FILE = "cancelled"
AttemptClaim = tuple[int, int]
"""A runner's right to an attempt, as the very folder that it made (inode and time in ns): another attempt of the same
key may follow when this one was moved aside."""
ENDED = b"ended"
"""What a runner that stays writes to standard output when it is ready for the next job."""


def report(word: bytes) -> None:
    """One line to whoever started this runner; where nobody is left to read it, standard input ends too."""
    with suppress(BrokenPipeError):
        os.write(1, word + b"\n")


def enter(job: Job, kind: PhaseKind, reason: str = "") -> None:
    """Show what the attempt does from now on: in its folder, and by a word to the supervisor."""
    Phase(kind, reason).write(job.folder)
    report(kind.encode())


def write_job(job: Job) -> Path:
    """Store the job in its attempt folder; returns the file that the runner is started with."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / JOB_FILE
    job.to_file(path)
    return path


def read_job(path: Path) -> Job:
    """Raises ``ValueError`` for anything but a whole job."""
    return Job.model_validate(parse_json(read_plain(path)))


def claim(job: Job) -> AttemptClaim | None:
    """The right to work on the attempt, for the first runner that asks when nobody cancelled it; None for others.

    An engine may start one job twice, or one that was cancelled; a folder is made once, by one of them.
    """
    if is_cancelled(job):
        return None
    try:
        (job.folder / CLAIM_FOLDER).mkdir()
    except FileExistsError:
        return None
    return claimed(job)


def claimed(job: Job) -> AttemptClaim | None:
    """The claim that stands now, None where there is none."""
    try:
        facts = (job.folder / CLAIM_FOLDER).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def cancel(job: Job) -> None:
    """The attempt's tombstone, before any engine is asked: no runner starts it, and one at work stops.

    Also where somebody took the folder away.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(job.folder / TOMBSTONE_FILE, b"")


def cancel_earlier(job: Job) -> None:
    """Attempts at the same repeat that were never sealed: an engine may still hold one of a supervisor that died."""
    for number in range(1, job.attempt):
        earlier = job.model_copy(update={"attempt": number})
        if earlier.folder.is_dir() and not is_sealed(earlier):
            cancel(earlier)


def is_cancelled(job: Job) -> bool:
    """Whether the attempt has a tombstone."""
    return (job.folder / TOMBSTONE_FILE).exists()


def is_sealed(job: Job) -> bool:
    """Whether the attempt has its result."""
    return (job.folder / RESULT_FILE).exists()


def unmeasured(job: Job, now: datetime) -> AttemptResult:
    """The result of an attempt of which nothing is known but that it was over ``now``."""
    return AttemptResult(key=job.key, started_at=iso(now), ended_at=iso(now))


def seal(job: Job, result: AttemptResult) -> None:
    """The attempt's last write: with it the folder is complete, without it the attempt never counts."""
    result.to_file(job.folder / RESULT_FILE)


def seal_unstarted(job: Job, blocked: Blocked, engine: Engine | None = None) -> bool:
    """Seal an attempt that nothing was started for; False where a runner has it, or it was cancelled.

    Raises ``OSError`` where nothing can be written; the attempt is free again then.
    """
    if not claim(job):
        return False
    try:
        seal(job, unmeasured(job, utc_now()).model_copy(update={"blocked": blocked, "engine": engine}))
    except OSError:
        (job.folder / CLAIM_FOLDER).rmdir()
        raise
    return True


def runner_end(job: Job) -> int | None:
    """The exit code of the runner that did not seal the attempt, None when nobody knows it."""
    try:
        return int(read_plain(job.folder / RUNNER_END_FILE))
    except (OSError, ValueError):
        return None


def result_sha256(job: Job) -> str | None:
    """Digest of the sealed result as it lies there; None when the attempt was not sealed."""
    path = job.folder / RESULT_FILE
    return sha256_file(path) if path.exists() else None


def parse_result(data: bytes) -> AttemptResult:
    """Raises ``ValueError`` for anything but a whole result."""
    return AttemptResult.model_validate(parse_json(data))


def read_result(job: Job) -> AttemptResult | None:
    """The sealed result, or None when the attempt was not sealed."""
    path = job.folder / RESULT_FILE
    return parse_result(read_plain(path)) if path.exists() else None
