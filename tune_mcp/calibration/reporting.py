"""``report`` and ``apply_plan``: what the gated evidence says, and what it would write."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from tune_mcp.apply import plan as plans
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.calibration import equivalence, evidence, publishing, seeing, settling
from tune_mcp.calibration.equivalence import NotEquivalent
from tune_mcp.calibration.evidence import Evidence
from tune_mcp.calibration.project import Project
from tune_mcp.config.stages import StageTable
from tune_mcp.contract.reporting import DIRTY, ApplyPlanReply, FailedTestEntry, PlanRow, ReportReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.observe.worst import Direction
from tune_mcp.report import since, wording
from tune_mcp.report.figures import change_percent, direction_text
from tune_mcp.report.suite import CiGate
from tune_mcp.report.write import write_report
from tune_mcp.run_dir import utc_now
from tune_mcp.session import events
from tune_mcp.session.plan import Plan

_NOTES_SHOWN = 5
_LOOSENING_SHOWN = 20
_UNCHECKED = "no repeat has a record of which tests passed, so what the assertions say could not be checked against it"


def report(project: Project, run_id: str) -> ReportReply:
    """Write report.md, report.json and report.html once every gate passes (contract, tool 10)."""
    found = evidence.gated(project, run_id)
    settling.settle(project)
    proposal = _build(project, found)
    model = seeing.model_config(project, found.plan)
    facts = write_report(
        found.run,
        project.repo_root,
        found.plan,
        found.audit,
        proposal,
        utc_now(),
        model.optimisations,
        CiGate(model.ci_attempts, model.ci_false_alarms),
        partial(_same_code, project.repo_root, found.plan),
    )
    paths = (found.run.report_md, found.run.report_json, found.run.report_html)
    events.append(found.run, "reported", utc_now(), f"report written to {paths[0]}")
    counts = {wanted: sum(row.direction is wanted for row in proposal.rows) for wanted in Direction}
    changed = evidence.changed_files(project.repo_root, found.run, found.plan)
    notes = [f"{name} {what}" for name, what in changed.items()][:_NOTES_SHOWN]
    notes += seeing.changed_records(found.run, found.plan)[:_NOTES_SHOWN]
    notes += [wording.suite_text(facts), wording.advice_text(facts)]
    unproven = filter(None, map(since.unproven_text, facts.optimisations))
    notes += [f"{text} (PRF-03, PRF-04)" for text in unproven][:_NOTES_SHOWN]
    facts = settling.refresh_report(found.run) or facts
    if facts.applied:
        notes.append(f"{len(facts.applied)} of these values are written already: see Applied changes")
    return ReportReply(
        run_id=run_id,
        calibration_git_sha=found.plan.calibration_git_sha,
        report_md=str(paths[0]),
        report_json=str(paths[1]),
        report_html=str(paths[2]),
        stages=len(found.audit.stages),
        metrics=len(proposal.rows),
        tightens=counts[Direction.TIGHTENS],
        loosens=counts[Direction.LOOSENS],
        equal=counts[Direction.EQUAL],
        unknown=counts[Direction.UNKNOWN],
        first=counts[Direction.FIRST],
        loosening=tuple(_movement(row) for row in _loudest(proposal))[:_LOOSENING_SHOWN],
        notes=tuple(notes + ([DIRTY] if found.plan.dirty else [])),
        failed_tests=_failed(proposal),
        next=f"tell the user the report's path and the loosening metrics, then call apply_plan with run_id={run_id}",
    )


def _same_code(repo_root: Path, plan: Plan, git_sha: str) -> bool:
    """Whether a commit is the plan's, or proven to measure the same."""
    if git_sha in plan.commits:
        return True
    try:
        equivalence.compare(repo_root, plan, git_sha, utc_now())
    except (NotEquivalent, Refusal):
        return False
    return True


def _loudest(proposal: ApplyPlan) -> list[Row]:
    """The rows that loosen, the largest change first; one from zero has no percentage and stands on top."""
    rows = [row for row in proposal.rows if row.direction is Direction.LOOSENS and row.current_raw is not None]
    return sorted(rows, key=lambda row: -abs(change_percent(row.current_raw or 0, row.write_value) or math.inf))


def _movement(row: Row) -> str:
    change = direction_text(row.worst_op, row.current_raw, row.write_value)
    return f"{row.stage.key} {row.place}: {row.current_raw!r} -> {row.write_value!r}, {change}"


def apply_plan(project: Project, run_id: str) -> ApplyPlanReply:
    """The plan over the files as they stand now; read only (contract, tool 11). Raises the gates' refusals."""
    found, proposal = propose(project, run_id)
    rows = tuple(_row(row) for row in proposal.rows)
    changes = any(plans.writable(row) for row in proposal.rows)
    asks = sum(row.decision == "ask" for row in rows)
    if found.plan.legacy:
        advice = "nothing: a run of the older script is read, never applied; start_run measures anew"
    elif changes:
        advice = f"let the user choose a mode (report, smart, full), then call apply with plan_id={proposal.plan_id}"
        advice += f"; mode smart asks the user about {asks} metric(s)" if asks else ""
    else:
        advice = "nothing: every threshold holds the worst of N already, or cannot be located"
    return ApplyPlanReply(
        run_id=run_id,
        plan_id=proposal.plan_id,
        rows=rows,
        diff=proposal.diff(),
        dirty=found.plan.dirty,
        files_changed=_files(project, found, proposal),
        failed_tests=_failed(proposal),
        notes=(
            *((_UNCHECKED,) if proposal.unchecked and rows else ()),
            *seeing.changed_records(found.run, found.plan)[:_NOTES_SHOWN],
        ),
        next=advice,
    )


def _failed(proposal: ApplyPlan) -> tuple[FailedTestEntry, ...]:
    return tuple(
        FailedTestEntry(
            nodeid=one.nodeid,
            when=one.when,
            message=one.message,
            cause=str(one.cause),
            repeats=one.repeats,
            allowed=one.allowed,
            text=one.text,
        )
        for one in proposal.failed_tests
    )


def _files(project: Project, found: Evidence, proposal: ApplyPlan) -> tuple[str, ...]:
    """Every file that mode full would write: the edited ones, and the catalogue that holds their digests."""
    edited = sorted({row.file for row in proposal.rows if plans.writable(row) and row.place_known})
    catalogue = publishing.catalogue(project, found.plan.model)
    return (*edited, *([catalogue.name] if edited and catalogue.path.is_file() else []))


def _row(row: Row) -> PlanRow:
    """The row as a caller sees it."""
    return PlanRow(
        stage_key=row.stage.key,
        metric_key=row.worst.metric_key,
        stage_group=row.stage.group,
        calibration_preset=row.stage.calibration_preset,
        variant=row.stage.variant,
        file=row.file,
        source=row.worst.source,
        source_kind=row.source_kind,
        symbol=row.symbol,
        subkey=row.subkey,
        concurrency=row.concurrency,
        worst_op=row.worst_op,
        per_run_raw=row.worst.per_run_raw,
        worst_raw=row.worst.worst_raw,
        worst_rounded=row.worst.worst_rounded,
        write_value=row.write_value,
        current_raw=row.current_raw,
        direction=str(row.direction),
        decision=row.decision,
        reason=row.reason,
    )


def propose(project: Project, run_id: str) -> tuple[Evidence, ApplyPlan]:
    """The gated evidence and the plan over it. Raises the gates' refusals and THRESHOLD_CHANGED."""
    found = evidence.gated(project, run_id)
    for run in settling.interrupted(project):
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            "APL-24",
            f"an apply of {run.run_id} is at work or was cut off in the middle: files may be old and new",
            f"call report with run_id={run_id}: it finishes that apply or rolls it back",
        )
    changed = evidence.changed_files(project.repo_root, found.run, found.plan)
    if changed:
        name, what = next(iter(changed.items()))
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            ("APL-24", "DSC-02"),
            f"{name} {what}",
            "put the file back, or start a new run on the tree as it is",
            {"files": {**changed}},
        )
    return found, _build(project, found)


def _build(project: Project, found: Evidence) -> ApplyPlan:
    about = seeing.seen(project, found)
    return plans.build(project.repo_root, found.plan, found.audit, catalogue(project, found), about)


def catalogue(project: Project, found: Evidence) -> StageTable:
    """All stages of the model as they are now; a model that is configured no longer has those of the run."""
    if found.plan.model not in project.places.model_names():
        return found.plan.catalogue
    return project.places.stages(found.plan.model)
