"""``apply --undo``: take an apply back, for a person at a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tune_mcp.apply import transaction
from tune_mcp.calibration import answered, applying
from tune_mcp.calibration.project import Project
from tune_mcp.calibration.reply import Reply
from tune_mcp.errors import Code, Refusal
from tune_mcp.report.facts import AppliedRow
from tune_mcp.report.write import read_report_digest, record_applied
from tune_mcp.session import events
from tune_mcp.supervise.loop import utc_now

_ROWS: TypeAdapter[tuple[AppliedRow, ...]] = TypeAdapter(tuple[AppliedRow, ...])


class UndoReply(Reply):
    """An apply that was taken back."""

    run_id: str
    plan_id: str
    files: tuple[str, ...]

    def lines(self) -> Iterable[str]:
        """The files that are as before."""
        yield f"plan {self.plan_id} of {self.run_id} is undone: {', '.join(self.files) or 'nothing had been written'}"


def undo(project: Project, run_id: str, plan_id: str) -> UndoReply:
    """Put the files before an apply back, all or none (command line only). Raises what ``transaction.undo`` raises."""
    run = project.run(run_id)
    plan = project.plan(run)
    if not re.fullmatch(r"[0-9a-f]{16}", plan_id):
        raise Refusal(
            Code.INVALID_ARGUMENT, "APL-24", f"{plan_id!r} is no plan id", "take one from the run's apply folder"
        )
    folder = run.apply_folder(plan_id)
    with applying.one_applier(project):
        journal = transaction.undo(folder, project.repo_root, utc_now)
    answered.clear(run, plan_id)
    events.append(run, "undone", utc_now(), f"plan {plan_id} taken back")
    applying.refresh_hashes(project, plan.model, {file.after_sha256: file.before_sha256 for file in journal.files})
    if read_report_digest(run) is not None:
        record_applied(run, _applied_before(folder))
    return UndoReply(
        run_id=run_id,
        plan_id=plan_id,
        files=tuple(file.path for file in journal.files),
        next=f"call apply_plan with run_id={run_id} to decide again",
    )


def _applied_before(folder: Path) -> tuple[AppliedRow, ...]:
    """What the report listed before this apply; nothing when that is not on record."""
    try:
        return _ROWS.validate_json((folder / applying.APPLIED_BEFORE).read_bytes())
    except (OSError, ValidationError):
        return ()
