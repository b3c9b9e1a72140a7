"""After an apply, an undo, or a crash in either: everything that describes the test files is made to agree with them.

The record of an apply (``decision.json``) is written before its journal. The report's applied changes and the hashes
in stages.yaml are derived from the journals that took effect, so they can be made right again at any time; the file
``unsettled`` marks a folder from before the first write until that is done. Between the renames of a commit a reader
may see some files new and some old: the journal says ``prepared`` then, and every verb that would conclude anything
from the files refuses or settles first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.apply import transaction
from tune_mcp.apply.transaction import Journal
from tune_mcp.config.stages import Frozen, Number
from tune_mcp.config.stages_yaml import dump_stages
from tune_mcp.contract.apply import Applied, Decision, Mode, Otherwise
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock, inside, parse_json, read_plain, sha256_file, write_atomic
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events, state
from tune_mcp.verbs.gates import journals
from tune_mcp.verbs.project import Project

if TYPE_CHECKING:
    from tune_mcp.report.facts import ReportFacts

_RECORD, _UNSETTLED = "decision.json", "unsettled"


class KeptThreshold(Frozen):
    """One threshold that was left as it was, and why: a loosening that a person declined is data too."""

    stage_key: str
    metric_key: str
    symbol: str
    current: Number | None
    proposed: Number
    direction: str
    why: str


class ApplyRecord(Frozen):
    """``decision.json``: who decided what about one plan, and what was written because of it.

    ``otherwise`` is the standing word for what the person did not name; its decisions are among ``decisions``.
    ``failures_agreed`` are test failures without a threshold as their reason that a person accepted.
    ``order`` counts the applies of a run: a value that is written twice has its first old value from the earlier one.
    """

    schema_version: int = 1
    order: int
    mode: Mode
    decided_by: str
    decided_at: str
    decisions: tuple[Decision, ...]
    otherwise: Otherwise | None = None
    failures_agreed: tuple[str, ...] = ()
    applied: tuple[Applied, ...]
    kept: tuple[KeptThreshold, ...]


def write_record(folder: Path, record: ApplyRecord) -> None:
    """Write the decision of an apply, before anything else of it."""
    folder.mkdir(parents=True, exist_ok=True)
    record.to_file(folder / _RECORD)


def in_effect(run: RunDir) -> list[ApplyRecord]:
    """Every apply of the run that was carried out and not taken back, in order. Raises PLAN_TAMPERED."""
    found = [_record(folder) for folder, journal in journals(run) if journal.state == "committed"]
    return sorted(found, key=lambda record: record.order)


def _record(folder: Path) -> ApplyRecord:
    try:
        return ApplyRecord.model_validate(parse_json(read_plain(folder / _RECORD)))
    except (OSError, ValueError, ValidationError) as error:
        raise Refusal(
            Code.PLAN_TAMPERED,
            "APL-24",
            f"{folder / _RECORD} is not what apply wrote: {error}",
            "put the file back as it was",
        ) from error


def interrupted(project: Project) -> list[RunDir]:
    """The runs with an apply that is going on now or was cut off before all its files were written."""
    runs = run_dir.list_runs(project.repo_root)
    return [run for run in runs if any(journal.state == "prepared" for _, journal in journals(run))]


def settle(project: Project) -> list[str]:
    """Finish or roll back whatever a crash left of an apply or an undo, in any run of the repository.

    Returns what was done, for people. Raises RUN_ACTIVE while another process applies, THRESHOLD_CHANGED for a file
    that somebody changed in between, OUTSIDE_REPO and PLAN_TAMPERED.
    """
    open_ones = [
        (run, folder.parent)
        for run in run_dir.list_runs(project.repo_root)
        for folder in sorted(run.applies.glob(f"*/{_UNSETTLED}"))
    ]
    if not open_ones:
        return []
    with applying_alone(project):
        return [
            problem for run, folder in open_ones for problem in _settle(project, run, folder, Settlement()).problems
        ]


@contextlib.contextmanager
def applying_alone(project: Project) -> Generator[None]:
    """One apply, undo or recovery of a repository at a time, whichever run it is of. Raises RUN_ACTIVE."""
    lock = FileLock.take(run_dir.apply_lock(project.repo_root), {"pid": os.getpid()})
    if lock is None:
        raise Refusal(Code.RUN_ACTIVE, "APL-24", "another process applies thresholds in this repository", "try again")
    try:
        yield
    finally:
        lock.release()


@dataclass
class Settlement:
    """What a change of test files left: report and applies in effect after it, stages.yaml, and what is out of date."""

    problems: list[str] = field(default_factory=list)
    catalogue_written: bool = False
    report: ReportFacts | None = None
    records: Sequence[ApplyRecord] = ()


@contextlib.contextmanager
def changing(project: Project, run: RunDir, folder: Path, report: ReportFacts | None = None) -> Generator[Settlement]:
    """Around a change of test files: alone, while nothing is measured, and settled at its end, also after a failure.

    ``report`` is the run's report where the caller has read it. Raises RUN_ACTIVE.
    """
    settled = Settlement(report=report)
    with applying_alone(project):
        demand_idle(project)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / _UNSETTLED, b"")
        try:
            yield settled
        except BaseException:
            # What cannot be settled now keeps its mark, and the next start does it.
            with contextlib.suppress(OSError, Refusal):
                _settle(project, run, folder, settled)
            raise
        _settle(project, run, folder, settled)


def demand_idle(project: Project) -> None:
    """Raises RUN_ACTIVE while any run of the repository works: a test file that changes under it makes its hours
    worthless, so nobody is asked about one either (ASK-11)."""
    for run in run_dir.list_runs(project.repo_root):
        if state.conclude(run).active:
            raise Refusal(
                Code.RUN_ACTIVE,
                ("APL-24", "STR-18"),
                f"{run.run_id} is measuring this repository: its test files stay as they are until it has ended",
                Step(call("status", run_id=run.run_id, wait_s=45), " until it is terminal, then try again"),
                {"run_id": run.run_id},
            )


def _settle(project: Project, run: RunDir, folder: Path, settled: Settlement) -> Settlement:
    from tune_mcp.report.write import read_report  # start_run settles too and has no use for the templates

    before = transaction.read_journal(folder)
    journal = transaction.recover(folder, project.repo_root, utc_now)
    again = False
    if before is not None and journal is not None and before.state == "prepared":
        done = {"committed": "finished", "rolled_back": "rolled back"}[journal.state]
        settled.problems.append(f"an apply that was cut off is {done} (plan {folder.name})")
        events.append(run, "settled", utc_now(), settled.problems[-1])
    if journal is not None:
        again = _refresh_catalogue(project, run, journal, settled)
        settled.records = in_effect(run)
        report = settled.report or read_report(run)
        settled.report = report and refresh_report(run, report, settled.records)
    if not again:
        (folder / _UNSETTLED).unlink(missing_ok=True)
    return settled


def refresh_report(run: RunDir, report: ReportFacts, records: Sequence[ApplyRecord]) -> ReportFacts:
    """The report with the applied changes of ``records``, written where they are other ones than it has.

    A value that was written twice has its first old value and its last new one.
    """
    from tune_mcp.observe.worst import direction_text
    from tune_mcp.report.write import record_applied

    rows: dict[tuple[str, str], Applied] = {}
    for one in (applied for record in records for applied in record.applied):
        place = (one.stage_key, one.symbol)
        old = rows[place].old if place in rows else one.old
        change = direction_text(one.worst_op, old, one.new, first=True)
        rows[place] = one.model_copy(update={"old": old, "direction": change})
    changed = tuple(row for row in rows.values() if row.old != row.new)
    return report if report.applied == changed else record_applied(run, changed, report)


def _refresh_catalogue(project: Project, run: RunDir, journal: Journal, settled: Settlement) -> bool:
    """Give stages.yaml the present digest of each file whose other digest it holds (DSC-02).

    Returns whether it is tried again: a disk that does not read it now may do so later.
    """
    ours = {
        sha: {file.before_sha256, file.after_sha256}
        for file in journal.files
        for sha in (file.before_sha256, file.after_sha256)
    }
    model = project.plan(run).model

    def present(name: str, known: str | None) -> str | None:
        path = inside(project.repo_root, name)
        now = sha256_file(path) if known in ours and path.is_file() else known
        return now if known in ours and now in ours[known] else known

    try:
        table = project.places.stages(model)
    except Refusal as refusal:
        # Nothing of the apply depends on it: whoever needs the catalogue next learns that it is stale.
        again = isinstance(refusal.__cause__, OSError)
        repair = f"{'report' if again else 'discover'} brings it up to date"
        settled.problems.append(f"stages.yaml of {model} was not refreshed: {refusal.message}; {repair}")
        return again
    fresh = {
        key: stage.model_copy(
            update={
                "test_file_sha256": present(stage.test, stage.test_file_sha256),
                "threshold_file_sha256": present(stage.threshold_path, stage.threshold_file_sha256),
            }
        )
        for key, stage in table.items()
    }
    if fresh != table:
        path = project.places.stages_path_for_writing(model, project.repo_root)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, dump_stages(fresh))
        settled.catalogue_written = True
    return False
