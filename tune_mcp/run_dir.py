"""The only place that knows the names inside a run directory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tune_mcp.actions import Step, call
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import new_folder, write_atomic

RUNS_FOLDER = ".tune-runs"
IGNORE_FILE = ".gitignore"
IGNORE_ALL = b"*\n"
_RUN_ID = re.compile(r"\d{8}T\d{6}Z_[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
ATTEMPT = re.compile(r"run([1-9]\d*)_a([1-9]\d*)")
"""The name of an attempt's folder: repeat and number of the attempt."""
ATTEMPT_KEY = re.compile(r"tune\.(?P<run>.+)\.(?P<test>[^.]+)\.r(?P<repeat>[1-9]\d{0,5})\.a(?P<attempt>[1-9]\d{0,5})")
"""What ``attempt_key`` makes."""
_LOG = re.compile(r"run([1-9]\d{0,8})\.log")
RECORD_FILE = "tune_record.json"
"""Where the guard plugin leaves what tests record by name, below basetemp: one key a name."""
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


class _Inside:
    """A path with a fixed name in the run directory."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunDir, owner: type[RunDir]) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunDir:
    """Paths of one run. ``test`` is a test key: the test file's stem, with ``__<preset>`` where it has presets."""

    path: Path

    plan = _Inside("plan.json")
    next_plan = _Inside("plan.next.json")
    """The plan that replaces plan.json once the ledger names it."""
    precheck = _Inside("precheck.json")
    environment = _Inside("environment.json")
    loaded = _Inside("loaded.json")
    """What the launches so far loaded from outside git's view."""
    gpus = _Inside("gpus.json")
    events = _Inside("events.jsonl")
    run_log = _Inside("run.log")
    supervisor = _Inside("supervisor.json")
    supervisor_lock = _Inside("supervisor.lock")
    supervisor_log = _Inside("supervisor.log")
    marks = _Inside("supervisor.marks")
    """One secret a line, of every start of the supervisor."""
    reserve = _Inside("supervisor.reserve")
    """Space kept back for the last records on a full disk, while the supervisor lives."""
    sealing = _Inside("sealing.lock")
    """Locked while an attempt is compared with those sealed before it, and sealed."""
    stop_request = _Inside("stop.json")
    watched = _Inside("watched")
    """Empty; its time is that of the last poll."""
    workspace_diff = _Inside("workspace.diff")
    report_md = _Inside("report.md")
    report_json = _Inside("report.json")
    report_html = _Inside("report.html")
    dashboard = _Inside("dashboard.html")
    purged = _Inside("purged")
    applies = _Inside("apply")

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def repo_root(self) -> Path:
        return self.path.parent.parent

    def source(self, run_id: str) -> RunDir:
        """The whole run directory of one partition that a merged run was made of."""
        return RunDir(self.path / "_sources" / run_id)

    def apply_folder(self, plan_id: str) -> Path:
        return self.applies / plan_id

    def observation(self, stage_key: str, repeat: int) -> Path:
        return self.path / stage_key / f"run{repeat}.json"

    def test_folder(self, test: str) -> Path:
        return self.path / "_pytest" / test

    def log(self, test: str, repeat: int) -> Path:
        """A link to the log of the attempt that counts, or of the newest one; the same holds for the next two."""
        return self.test_folder(test) / f"run{repeat}.log"

    def basetemp(self, test: str, repeat: int) -> Path:
        return self.test_folder(test) / f"basetemp_run{repeat}"

    def guard_record(self, test: str, repeat: int) -> Path:
        return self.test_folder(test) / f"guard_run{repeat}.jsonl"

    def usual(self, test: str, repeat: int) -> tuple[Path, Path, Path]:
        """Log, basetemp and guard record of the repeat."""
        return self.log(test, repeat), self.basetemp(test, repeat), self.guard_record(test, repeat)

    def attempt(self, test: str, repeat: int, attempt: int) -> Path:
        """Folder of one attempt: its job, its sealed result, and what it left when a later attempt followed."""
        return self.test_folder(test) / "attempts" / f"run{repeat}_a{attempt}"

    def point(self, test: str, repeat: int, attempt: int) -> None:
        """Let log, basetemp and guard record of the repeat be those of this attempt, which lie in its own folder.

        What an older version wrote there itself stays.
        """
        folder = self.attempt(test, repeat, attempt)
        for usual in self.usual(test, repeat):
            if usual.exists() and not usual.is_symlink():
                continue
            usual.parent.mkdir(parents=True, exist_ok=True)
            new = usual.with_name(f".{usual.name}.new")
            new.unlink(missing_ok=True)
            new.symlink_to(Path("attempts") / folder.name / usual.name)
            new.replace(usual)

    def attempt_key(self, test: str, repeat: int | str, attempt: int | str) -> str:
        """``tune.<run>.<test>.r<k>.a<attempt>``: the identity of an attempt under every executor."""
        return f"tune.{self.run_id}.{test}.r{repeat}.a{attempt}"

    def attempts(self, test: str, repeat: int) -> list[tuple[int, Path]]:
        """Every attempt at the repeat that left a folder, by its number; what else lies there is passed over."""
        return list(attempt_folders(self.test_folder(test) / "attempts", repeat).items())

    def logs(self) -> Iterator[tuple[str, int, Path]]:
        """Every pytest log: its test, its repeat and its path; a file of another name is no log."""
        for path in self.path.glob("_pytest/*/run*.log"):
            if (name := _LOG.fullmatch(path.name)) and path.is_file():
                yield path.parent.name, int(name[1]), path

    def trees(self) -> Iterator[Path]:
        """The process records of every attempt, purged ones too."""
        yield from self.path.glob("_pytest/*/attempts/*/tree.json")
        yield from self.path.glob("purged/*/*/tree.json")


def attempt_folders(folder: Path, repeat: int) -> dict[int, Path]:
    """Number -> own folder of every attempt at the repeat below ``folder``, in order; another name is passed over."""
    named = ((ATTEMPT.fullmatch(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return dict(sorted((int(name[2]), path) for name, path in named if name and int(name[1]) == repeat))


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def utc_stamp(moment: datetime) -> str:
    """``20260423T050000Z`` (rule SES-14)."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def iso(moment: datetime) -> str:
    """``2026-04-23T05:00:00Z``, the form of every time in our files."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(label: str, now: datetime) -> str:
    """``20260423T050000Z_<label>``. Raises INVALID_ARGUMENT for a label that is no part of a folder's name."""
    if LABEL.fullmatch(label):
        return f"{utc_stamp(now)}_{label}"
    raise Refusal(
        Code.INVALID_ARGUMENT,
        "SES-02",
        f"label {label!r} does not fit a folder name",
        "use letters, digits, '.', '_' and '-', at most 60, the first a letter or digit",
        {"argument": "label"},
    )


def runs_folder(repo_root: Path) -> Path:
    """The folder of all runs of a repository, made where it is missing; git never sees what is in it."""
    runs = repo_root / RUNS_FOLDER
    runs.mkdir(exist_ok=True)
    if not (runs / IGNORE_FILE).exists():
        write_atomic(runs / IGNORE_FILE, IGNORE_ALL)
    return runs


def create(repo_root: Path, label: str, now: datetime) -> RunDir:
    """Make a new, empty run directory; an existing one is never taken (rules SES-01, SES-02, SES-14, SES-15)."""
    stem = new_id(label, now)
    runs = runs_folder(repo_root)
    try:
        path = new_folder(runs, (stem, *(f"{stem}-{number}" for number in range(2, 100))))
    except FileExistsError as error:
        problem = f"99 runs named {stem} exist already"
        raise Refusal(Code.PLAN_EXISTS, "SES-04", problem, "start again in a second") from error
    # Its own, because the folder above is shared: whatever somebody wrote there, this run is never committed.
    write_atomic(path / IGNORE_FILE, IGNORE_ALL)
    return RunDir(path)


def find(repo_root: Path, run_id: str) -> RunDir:
    """The run named ``run_id``; refuses paths and unknown names (rule SES-06)."""
    path = repo_root / RUNS_FOLDER / run_id
    if _RUN_ID.fullmatch(run_id) and (path / "plan.json").is_file():
        return RunDir(path)
    known = [run.run_id for run in list_runs(repo_root)][:5]
    raise Refusal(
        Code.UNKNOWN_RUN,
        "SES-06",
        f"there is no run {run_id!r} under {repo_root / RUNS_FOLDER}",
        f"name one of: {', '.join(known)}" if known else Step(call("start_run"), " to make one"),
        {"run_id": run_id, "known": list(known)},
    )


def apply_lock(repo_root: Path) -> Path:
    """The lock that one apply of a repository holds, whichever run it is of."""
    return repo_root / RUNS_FOLDER / "apply.lock"


def list_runs(repo_root: Path) -> list[RunDir]:
    """All runs of a repository that have a plan, newest first."""
    runs = repo_root / RUNS_FOLDER
    if not runs.is_dir():
        return []
    found = [path for path in runs.iterdir() if _RUN_ID.fullmatch(path.name) and (path / "plan.json").is_file()]
    return [RunDir(path) for path in sorted(found, key=lambda path: path.name, reverse=True)]
