"""The sealed attempts of one repeat, oldest first, wherever they lie now: in the live set or in ``purged/``.

An attempt's result counts only as it was sealed: the ledger holds the digest of its result.json. Attempts that a person
had purged are not listed; what the supervisor itself moved aside before a new pass is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import parse_json, read_plain, real, sha256_bytes, sha256_file, write_atomic
from tune_mcp.observe.observation import AttemptVerdict, Stored, load
from tune_mcp.run_dir import ATTEMPT, RunDir, attempt_folders
from tune_mcp.session import events
from tune_mcp.supervise import loaded
from tune_mcp.supervise.job import JOB_FILE, RESULT_FILE, AttemptResult, Job, parse_result, read_job, result_sha256

SUPERVISOR = "supervisor"
"""Who purged what was moved aside before a new pass; anybody else is a person with a reason."""


@dataclass(frozen=True)
class SealedAttempt:
    """One sealed attempt: ``epoch`` is the purged folder that holds it, None for the live set.

    ``home`` is the folder in which its log and basetemp lie; ``environment_sha256`` the machine on record at that time.
    """

    job: Job
    result: AttemptResult
    home: Path
    epoch: Path | None
    environment_sha256: str | None

    @property
    def log(self) -> Path:
        """The attempt's pytest log."""
        return self.home / self.job.run.log(self.job.test_key, self.job.repeat).name

    @property
    def basetemp(self) -> Path:
        """The folder below which the attempt's result files lie."""
        return self.home / self.job.run.basetemp(self.job.test_key, self.job.repeat).name


def put_on_ledger(job: Job, result: AttemptResult | None, now: datetime, *, beside: bool = False) -> None:
    """Write the digest of the sealed result: what is read again after a fix is what was sealed then.

    Its values stand beside it: whoever takes the files away does not take them out of the report. ``beside``: other
    attempts run at the same time.
    """
    if sha := result_sha256(job):
        reference, data = loaded.reference(job, result, beside=beside)
        events.append(
            job.run, "sealed", now, f"{job.test_key} run {job.repeat} attempt {job.attempt}",
            key=job.key, sha256=sha, environment=events.ledger(job.run).environment_sha256,
            values={stage: {**found.metrics} for stage, found in result.stages.items()} if result else {},
            **({"loaded": reference} if reference else {}),
        )  # fmt: skip
        with suppress(OSError):
            if data:  # the next attempt is compared with it; after a power cut it is taken from the attempt
                write_atomic(job.run.loaded, data, durable=False)


def is_on_ledger(job: Job) -> bool:
    """Whether a supervisor has taken over what this attempt sealed."""
    return (job.key, result_sha256(job)) in _seals(events.read(job.run.events, "sealed"))


def seals_and_moves(run: RunDir) -> tuple[events.Event, ...]:
    """What the ledger says of sealed attempts and of repeats that were moved."""
    return tuple(events.read(run.events, "sealed", "purged", "restored"))


def attempts(run: RunDir, test: str, repeat: int, log: Sequence[events.Event] | None = None) -> list[SealedAttempt]:
    """Every attempt that was sealed and is as it was sealed, in the order in which they were made.

    Who asks about many repeats hands in ``seals_and_moves``.
    """
    log = seals_and_moves(run) if log is None else log
    known = _seals(log)
    found: list[SealedAttempt] = []
    for epoch in (*_moved_aside(run, log, test, repeat), None):
        root = epoch or run.test_folder(test)
        found += _within(run, root, epoch, repeat, known)
    return found


def _seals(log: Iterable[events.Event]) -> dict[tuple[Json, Json], Json]:
    """Key and digest of every sealed result on the ledger -> the machine on record at that time."""
    return {
        (event.facts.get("key"), event.facts.get("sha256")): event.facts.get("environment")
        for event in log
        if event.kind == "sealed"
    }


def counted_tests(run: RunDir, test: str, stage_key: str, but: int) -> tuple[str, ...] | None:
    """The node ids that the first other repeat ran whose artifact of ``stage_key`` counts; None where there is none."""
    seals = _seals(events.read(run.events, "sealed"))
    for (key, repeat), sha in sorted(events.ledger(run).observations.items()):
        stored = load(run, key, repeat) if key == stage_key and repeat != but else None
        if not isinstance(stored, Stored) or stored.sha256 != sha or stored.content.status != "ok":
            continue
        for number in (one.attempt for one in stored.content.history if one.verdict is AttemptVerdict.KEPT):
            try:
                data = read_plain(run.attempt(test, repeat, number) / RESULT_FILE)
                result = parse_result(data)
            except (OSError, ValueError):
                continue
            if (result.key, sha256_bytes(data)) in seals and result.guard.collected:
                return result.guard.collected
    return None


def _moved_aside(run: RunDir, log: Iterable[events.Event], test: str, repeat: int) -> Iterator[Path]:
    """The folders that the supervisor moved this repeat into, and nobody brought back."""
    folders: dict[str, Path] = {}
    for event in log:
        name = event.facts.get("folder")
        if (event.facts.get("test"), event.facts.get("repeat")) != (test, repeat) or not isinstance(name, str):
            continue
        if event.kind == "purged" and event.facts.get("who") == SUPERVISOR:
            folders[name] = run.purged / Path(name).name
        elif event.kind == "restored":
            folders.pop(name, None)
    yield from (folder for folder in folders.values() if folder.is_dir())


def _within(
    run: RunDir, root: Path, epoch: Path | None, repeat: int, known: dict[tuple[Json, Json], Json]
) -> Iterator[SealedAttempt]:
    made = attempt_folders(epoch or root / "attempts", repeat)
    for number, path in made.items():
        try:
            data = read_plain(path / RESULT_FILE)
            job, result = read_job(path / JOB_FILE), parse_result(data)
            job = job.model_copy(update={"run_dir": str(run.path)})
        except (OSError, ValueError):
            continue
        seal = (job.key, sha256_bytes(data))
        if seal not in known or result.key != job.key or (job.repeat, job.attempt) != (repeat, number):
            continue
        log = f"run{repeat}.log"
        later = [home for other, home in made.items() if other >= number]
        pointed = real(root / log) == real(path) / log  # the usual names are those of this attempt
        homes = (root, *later) if pointed else (*later, root)
        home = next((home for home in homes if _is_its_log(home / log, result)), None)
        if home is not None:
            machine = known[seal]
            yield SealedAttempt(job, result, home, epoch, machine if isinstance(machine, str) else None)


def _is_its_log(path: Path, result: AttemptResult) -> bool:
    """An attempt's files lie with it, or where they were written when none came after it: its log shows which."""
    try:
        return path.is_file() and result.log_sha256 == sha256_file(path)
    except OSError:
        return False


def copied(job: Job, known: Mapping[str, str]) -> dict[str, str]:
    """Name -> why: the files of this attempt whose signature another sealed attempt at the test has."""
    if not known:
        return {}
    before: dict[str, str] = {}
    for folder in sorted(_other_attempts(job)):
        try:
            value = parse_json(read_plain(folder / RESULT_FILE))
        except (OSError, ValueError):
            continue
        marks: Json = value.get("signatures_of_files") if isinstance(value, dict) else None
        for mark in marks.values() if isinstance(marks, dict) else ():
            before.setdefault(str(mark), folder.name)
    return {name: _copied_from(before[mark]) for name, mark in known.items() if mark in before}


def _other_attempts(job: Job) -> Iterator[Path]:
    yield from (path for path in job.folder.parent.glob("run*_a*") if path != job.folder)
    yield from (path for path in job.run.purged.glob(f"*_{job.test_key}_run*/run*_a*"))


def _copied_from(folder: str) -> str:
    name = ATTEMPT.fullmatch(folder)
    earlier = f"repeat {name[1]}, attempt {name[2]}" if name else folder
    return f"every number in it is that of {earlier}, so it was copied or cached"
