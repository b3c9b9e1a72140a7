"""``apply_plan``: what an apply would write."""

from __future__ import annotations

from tune_mcp.actions import Step, ToClient, call
from tune_mcp.apply.plan import ApplyPlan
from tune_mcp.contract.apply_plan import ApplyPlanReply
from tune_mcp.verbs import pull_request, pytest_outcomes, questions
from tune_mcp.verbs.apply_proposal import propose
from tune_mcp.verbs.gates import Evidence
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import NOTES_SHOWN
from tune_mcp.words import number_of

_UNCHECKED = "no repeat has a record of which tests passed, so what the assertions say could not be checked against it"


def apply_plan(project: Project, run_id: str) -> ApplyPlanReply:
    """The plan over the files as they stand now; read only. Raises the gates' refusals."""
    return plan_reply(project, *propose(project, run_id))


def plan_reply(project: Project, found: Evidence, proposal: ApplyPlan) -> ApplyPlanReply:
    """What a caller sees of a plan."""
    run_id = found.run.run_id
    rows = proposal.rows
    changes = any(row.writable for row in proposal.rows)
    asks = sum(row.decision == "ask" for row in rows)
    if found.plan.legacy:
        advice = Step(
            "nothing: a run of the older script is read, never applied; ",
            call("start_run", model=found.plan.model),
            " to measure again",
        )
    elif changes:
        advice = Step(
            ToClient("let the user choose a mode (report, smart, full), then "),
            call("apply", run_id=run_id, plan_id=proposal.plan_id),
            f"; mode smart asks about {number_of(asks, 'metric')}" if asks else "",
        )
    else:
        advice = "nothing: every threshold holds the worst of N already, or cannot be located"
    return ApplyPlanReply(
        run_id=run_id,
        plan_id=proposal.plan_id,
        rows=rows,
        diff=proposal.diff(),
        dirty=found.plan.dirty,
        files_changed=_files(project, found, proposal),
        failed_tests=proposal.failed_tests,
        notes=(
            *((_UNCHECKED,) if proposal.unchecked and rows else ()),
            *pytest_outcomes.changed_records(found.run, found.plan)[:NOTES_SHOWN],
        ),
        decisions=() if found.plan.legacy else questions.ready(questions.open_questions(proposal, "smart", {})),
        next=advice,
    )


def _files(project: Project, found: Evidence, proposal: ApplyPlan) -> tuple[str, ...]:
    """Every file that mode full would write: the edited ones, and the catalogue that holds their digests."""
    edited = sorted({row.file for row in proposal.rows if row.writable and row.place_known})
    catalogue = pull_request.catalogue(project, found.plan.model)
    return (*edited, *([catalogue.name] if edited and catalogue.path.is_file() else []))
