"""``apply --undo``: take an apply back, for a person at a terminal."""

from __future__ import annotations

import re

from tune_mcp.actions import Step, call
from tune_mcp.apply import transaction
from tune_mcp.contract.apply import UndoReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import utc_now
from tune_mcp.session import events
from tune_mcp.verbs import answers, apply_recovery, pull_request
from tune_mcp.verbs.project import Project


def undo(project: Project, run_id: str, plan_id: str) -> UndoReply:
    """Put the files before an apply back, all or none (command line only); a second call changes nothing.

    Raises what ``transaction.undo`` raises, and RUN_ACTIVE.
    """
    run = project.run(run_id)
    if not re.fullmatch(r"[0-9a-f]{16}", plan_id):
        raise Refusal(
            Code.INVALID_ARGUMENT, "APL-24", f"{plan_id!r} is no plan id", "take one from the run's apply folder"
        )
    apply_recovery.settle(project)
    folder = run.apply_folder(plan_id)
    if transaction.read_journal(folder) is None:
        raise transaction.never_applied(folder)
    catalogue = pull_request.catalogue(project, project.plan(run).model)
    before = catalogue.sha256
    with apply_recovery.changing(project, run, folder) as outcome:
        # What was agreed to was carried out: whoever applies this plan again is asked again.
        answers.clear(run, plan_id)
        journal = transaction.undo(folder, project.repo_root, utc_now)
    events.append(run, "undone", utc_now(), f"plan {plan_id} taken back", plan_id=plan_id)
    return UndoReply(
        run_id=run_id,
        plan_id=plan_id,
        files=(*(file.path for file in journal.files), *([catalogue.name] if catalogue.sha256 != before else [])),
        warnings=tuple(outcome.problems),
        next=Step(call("apply_plan", run_id=run_id), " to decide again"),
    )
