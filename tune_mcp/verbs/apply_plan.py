"""``apply_plan``: what an apply would write, over the files as they are now, and whether a plan still holds."""

from __future__ import annotations

from dataclasses import dataclass

from tune_mcp.actions import Step, ToClient, call
from tune_mcp.apply import plan as plans
from tune_mcp.apply.plan import ApplyPlan
from tune_mcp.config.stages import StageTable
from tune_mcp.contract.apply_plan import ApplyPlanReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_text
from tune_mcp.report.facts import ReportFacts
from tune_mcp.report.write import by_hand, read_whole, report_digest
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs import apply_recovery, gates, pull_request, pytest_outcomes, questions
from tune_mcp.verbs.gates import Evidence, demand_ours
from tune_mcp.verbs.project import Project
from tune_mcp.words import number_of

_UNCHECKED = "no repeat has a record of which tests passed, so what the assertions say could not be checked against it"


def apply_plan(project: Project, run_id: str) -> ApplyPlanReply:
    """The plan over the files as they stand now; read only. Raises the gates' refusals."""
    return plan_reply(project, *propose(project, run_id))


def plan_reply(project: Project, found: Evidence, proposal: ApplyPlan) -> ApplyPlanReply:
    """What a caller sees of a plan."""
    run_id = found.run.run_id
    rows = proposal.rows
    asks = sum(row.decision == "ask" for row in rows)
    if found.plan.legacy:
        advice = Step(
            "nothing: a run of the older script is read, never applied; ",
            call("start_run", model=found.plan.model),
            " to measure again",
        )
    elif any(row.writable for row in rows):
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
            *pytest_outcomes.changed_records(found.run, found.plan),
        ),
        decisions=() if found.plan.legacy else questions.ready(questions.open_questions(proposal, "smart", {})),
        next=advice,
    )


def _files(project: Project, found: Evidence, proposal: ApplyPlan) -> tuple[str, ...]:
    """Every file that mode full would write: the edited ones, and the catalogue that holds their digests."""
    edited = sorted({row.file for row in proposal.rows if row.writable})
    catalogue = pull_request.catalogue(project, found.plan.model)
    return (*edited, *([catalogue.name] if edited and catalogue.path.is_file() else []))


def propose(project: Project, run_id: str) -> tuple[Evidence, ApplyPlan]:
    """The gated evidence and the plan over it. Raises the gates' refusals and THRESHOLD_CHANGED."""
    report_again = call("report", run_id=run_id)
    found = gates.gated(project, run_id)
    for run in apply_recovery.interrupted(project):
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            "APL-24",
            f"an apply of {run.run_id} is at work or was cut off in the middle: files may be old and new",
            Step(report_again, ": it finishes that apply or rolls it back"),
        )
    changed = gates.changed_files(project.repo_root, found.run, found.plan)
    if changed:
        name, what = next(iter(changed.items()))
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            ("APL-24", "DSC-02"),
            f"{name} {what}",
            "put the file back, or start a new run on the tree as it is",
            {"files": {**changed}},
        )
    return found, build(project, found)


def build(project: Project, found: Evidence) -> ApplyPlan:
    """Build the plan over the files as they are now."""
    circumstances = pytest_outcomes.circumstances(project, found)
    return plans.build(project.repo_root, found.audit, catalogue(project, found), circumstances)


def catalogue(project: Project, found: Evidence) -> StageTable:
    """All stages of the model as they are now; a model that is configured no longer has those of the run."""
    if found.plan.model not in project.places.model_names():
        return found.plan.catalogue
    return project.places.stages(found.plan.model)


@dataclass(frozen=True)
class Proposal:
    """What an apply of a run would do: made once for a call, from its evidence, its report and the present files."""

    project: Project
    evidence: Evidence
    plan: ApplyPlan
    report: ReportFacts

    @property
    def run(self) -> RunDir:
        """The run that was measured."""
        return self.evidence.run


def proposal_for(project: Project, run_id: str, plan_id: str | None = None) -> Proposal:
    """The plan that holds now; ``plan_id`` is the one that was agreed to.

    Raises the gates' refusals, NOT_REPORTED, STALE_REPORT, UNRESOLVED_CONTEXT and, for another plan, STALE_PLAN.
    """
    report_again, plan_again = call("report", run_id=run_id), call("apply_plan", run_id=run_id)
    found, proposal = propose(project, run_id)
    demand_ours(project, found.plan)
    report = read_whole(found.run)
    if report is None:
        raise Refusal(
            Code.NOT_REPORTED,
            ("APL-01", "RPT-05"),
            f"{run_id} has no report that the user could have seen",
            Step(report_again, ToClient(", tell the user its path"), ", then ", plan_again),
        )
    if report.artifacts_digest != report_digest(found.audit):
        raise Refusal(
            Code.STALE_REPORT,
            ("POL-09", "APL-01"),
            "the report is older than the artifacts",
            Step(report_again, " again", ToClient(", show it"), ", then ", plan_again),
        )
    if "{{CONTEXT:" in read_text(found.run.report_md):
        raise Refusal(
            Code.UNRESOLVED_CONTEXT,
            "CTX-07",
            "report.md still has an unresolved context line",
            Step(report_again, " again"),
        )
    if by_hand(found.run, report):
        raise Refusal(
            Code.STALE_REPORT,
            "RPT-04",
            "report.md or report.html is not what the report tool wrote",
            Step(report_again, " again (it writes them again)", ToClient(", show it"), ", then ", plan_again),
        )
    if plan_id not in (None, proposal.plan_id):
        raise Refusal(
            Code.STALE_PLAN,
            ("APL-14", "APL-26"),
            f"plan {plan_id} is not the present one ({proposal.plan_id}): artifacts, files or HEAD changed",
            Step(plan_again, " and decide on its numbers"),
            {"plan_id": plan_id, "present": proposal.plan_id},
        )
    return Proposal(project, found, proposal, report)


def askable(project: Project, run_id: str, plan_id: str) -> ApplyPlan:
    """The plan, when a person's answer to it could be carried out now (ASK-11).

    Raises what ``proposal_for`` raises, and RUN_ACTIVE while any run of the repository works.
    """
    proposal = proposal_for(project, run_id, plan_id)
    apply_recovery.demand_idle(project)
    return proposal.plan
