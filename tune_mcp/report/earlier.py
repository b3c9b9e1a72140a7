"""Earlier reports of the same model in this repository, and what changed since the last one (PRF-01, PRF-02).

Run directories stay on the machine that measured: their report.json counts. Another clone has the report.md that was
committed below docs/calibration, which carries the same facts as one line of JSON in an HTML comment. Only the fields
below are read and all others passed over, so that a report of another version still counts; a report.md without that
line is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tune_mcp.config.model import Optimisation
from tune_mcp.config.stages import Number, WorstOp
from tune_mcp.files import parse_json, read_plain, write_atomic
from tune_mcp.report.facts import PreviousFacts, ReportFacts
from tune_mcp.run_dir import list_runs
from tune_mcp.session import provenance
from tune_mcp.session.provenance import CommitRange

FOLDER = "docs/calibration"
HISTORY = "history.jsonl"
"""In ``FOLDER``: one calibration a line, as a person published them."""
_MOST_REPORTS = 20
_OPEN, _CLOSE = "<!-- tune-mcp: ", " -->"


def published_place(run_id: str) -> str:
    """Where a run's whole report.md is published, relative to the repository (VCS-03)."""
    return f"{FOLDER}/{run_id}.md"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, defer_build=True)


class EarlierMetric(_Read):
    """One metric's raw repeats, in order, and their worst."""

    key: str
    worst_op: WorstOp
    values: tuple[Number, ...]
    worst_raw: Number


class EarlierStage(_Read):
    """One stage: its group, the test that fed it, and its metrics."""

    key: str
    group: str
    test_key: str
    metrics: tuple[EarlierMetric, ...]


class EarlierReport(_Read):
    """One calibration that was reported before; ``environment`` is None where it was published without it."""

    run_id: str
    model: str
    calibration_git_sha: str
    generated_at: str
    repeats: int
    gpu_summary: str
    environment: dict[str, str] | None = None
    stages: tuple[EarlierStage, ...]


def embedded(facts: ReportFacts) -> str:
    """The line of report.md that ``published`` reads; host name, paths and variables of the machine are not in it."""
    from json import dumps

    public = EarlierReport.model_validate({**facts.model_dump(mode="json"), "environment": None})
    text = dumps(public.model_dump(mode="json", exclude_none=True), separators=(",", ":"), sort_keys=True)
    for sign, escaped in (("--", "-\\u002d"), ("<", "\\u003c"), (">", "\\u003e")):
        text = text.replace(sign, escaped)  # these are only ever within a string: no comment ends there
    return f"{_OPEN}{text}{_CLOSE}"


def publish(repo_root: Path, facts: ReportFacts, report_md: bytes) -> tuple[Path, Path]:
    """Put a report into the repository: its text, and its line in the history, which replaces one of the same run."""
    text, history = repo_root / published_place(facts.run_id), repo_root / FOLDER / HISTORY
    text.parent.mkdir(parents=True, exist_ok=True)
    lines = read_plain(history).splitlines() if history.exists() else []
    kept = [line for line in lines if (one := _parsed(line)) is None or one.run_id != facts.run_id]
    own = embedded(facts).removeprefix(_OPEN).removesuffix(_CLOSE).encode()
    write_atomic(text, report_md)
    write_atomic(history, b"".join(line + b"\n" for line in [*kept, own]))
    return text, history


def published(report_md: bytes) -> EarlierReport | None:
    """The calibration that a report.md records; None for a text without that line."""
    last = report_md.rstrip().rpartition(b"\n")[2]
    if not last.startswith(_OPEN.encode()) or not last.endswith(_CLOSE.encode()):
        return None
    return _parsed(last.removeprefix(_OPEN.encode()).removesuffix(_CLOSE.encode()))


def _parsed(data: bytes) -> EarlierReport | None:
    try:
        return EarlierReport.model_validate(parse_json(data))
    except (ValueError, ValidationError):
        return None


def read(repo_root: Path, model: str, before: str) -> tuple[EarlierReport, ...]:
    """The model's reports before run id ``before``, newest first, at most twenty; its own before its published copy."""
    found: dict[str, EarlierReport] = {}
    for one in (*_of_runs(repo_root, model, before), *_published(repo_root)):
        if one.model == model and one.run_id < before:
            found.setdefault(one.run_id, one)
    return tuple(found[run_id] for run_id in sorted(found, reverse=True)[:_MOST_REPORTS])


def _of_runs(repo_root: Path, model: str, before: str) -> Iterator[EarlierReport]:
    counted = 0
    for run in list_runs(repo_root):
        if counted == _MOST_REPORTS:
            return
        if run.run_id >= before or not run.report_json.is_file():
            continue
        try:
            one = _parsed(read_plain(run.report_json))
        except OSError:
            continue
        if one is not None and one.model == model:
            counted += 1
            yield one


def _published(repo_root: Path) -> Iterator[EarlierReport]:
    with suppress(OSError):
        lines = read_plain(repo_root / FOLDER / HISTORY).splitlines()
        yield from (one for one in map(_parsed, lines) if one is not None)
    for path in sorted((repo_root / FOLDER).glob("*.md")):
        try:
            one = published(read_plain(path))
        except OSError:
            continue
        if one is not None:
            yield one


_MOST_NAMED = 8
_MOST_COMMITS = 20
_MOST_FILES = 40


def previous(
    repo_root: Path, facts: ReportFacts, optimisations: Mapping[str, Optimisation], earlier: Sequence[EarlierReport]
) -> PreviousFacts | None:
    """The newest of the model's ``earlier`` reports (newest first), and what changed since; None when there is none."""
    if not earlier:
        return None
    last = earlier[0]
    differences = _differences(last, facts)
    found = PreviousFacts(
        run_id=last.run_id,
        calibration_git_sha=last.calibration_git_sha,
        generated_at=last.generated_at,
        repeats=last.repeats,
        comparable=not differences,
        differences=differences,
        worst={f"{stage.key}/{metric.key}": metric.worst_raw for stage in last.stages for metric in stage.metrics},
    )
    return _with_changes(found, repo_root, facts.calibration_git_sha, optimisations)


def _with_changes(
    previous: PreviousFacts, repo_root: Path, now: str, optimisations: Mapping[str, Optimisation]
) -> PreviousFacts:
    """Add what git has between the two commits, files that an optimisation names first."""
    then = previous.calibration_git_sha
    found = provenance.between(repo_root, then, now)
    if found is None:
        return previous
    sensitive: dict[str, tuple[str, ...]] = {}
    for name, one in optimisations.items():
        for file in provenance.changed(repo_root, then, now, one.files) if one.files else ():
            sensitive[file.path] = (*sensitive.get(file.path, ()), name)
    files = sorted(found.files, key=lambda file: file.path not in sensitive)
    changes = {
        "changes": CommitRange(found.commits[:_MOST_COMMITS], tuple(files[:_MOST_FILES])),
        "commits": len(found.commits),
        "files": len(files),
        "sensitive": sensitive,
    }
    return previous.model_copy(update=changes)


def _differences(last: EarlierReport, facts: ReportFacts) -> tuple[str, ...]:
    """What was not the same when the two were measured, one clause each."""
    gpus = [] if last.gpu_summary == facts.gpu_summary else [f"GPUs: {last.gpu_summary} then"]
    if last.environment is None:
        return (*gpus, "the environment of a published report is not on record")
    then, now = last.environment, facts.environment
    changed = [key for key in sorted(set(then) | set(now)) if then.get(key) != now.get(key)]
    listed = [f"{key}: {then.get(key, 'none')} then, {now.get(key, 'none')} now" for key in changed[:_MOST_NAMED]]
    more = [f"and {len(changed) - _MOST_NAMED} more"] if len(changed) > _MOST_NAMED else []
    return (*gpus, *listed, *more)
