"""``report``: write the report of a run whose gates pass."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from tune_mcp.actions import Step, ToClient, call
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.contract.report import DIRTY, ReportReply
from tune_mcp.errors import Refusal
from tune_mcp.files import read_plain
from tune_mcp.observe.worst import change_percent
from tune_mcp.report import earlier, since, wording
from tune_mcp.report.suite import CiGate
from tune_mcp.report.write import read_report, write_report
from tune_mcp.run_dir import utc_now
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.verbs import apply_recovery, equivalence, gates, pytest_outcomes, questions
from tune_mcp.verbs.apply_plan import build
from tune_mcp.verbs.equivalence import NotEquivalent
from tune_mcp.verbs.project import Project

_LOOSENING_SHOWN = 20


def report(project: Project, run_id: str) -> ReportReply:
    """Write report.md, report.json and report.html once every gate passes."""
    found = gates.gated(project, run_id)
    apply_recovery.settle(project)
    plan = build(project, found)
    model = pytest_outcomes.model_config(project, found.plan)
    facts = write_report(
        found.run,
        project.repo_root,
        found.audit,
        plan,
        utc_now(),
        model.optimisations,
        CiGate(model.ci_attempts, model.ci_false_alarms),
        partial(_same_code, project.repo_root, found.plan),
    )
    paths = (found.run.report_md, found.run.report_json, found.run.report_html)
    events.append(found.run, "reported", utc_now(), f"report written to {paths[0]}")
    counts = {wanted: sum(row.direction is wanted for row in plan.rows) for wanted in Direction}
    changed = gates.changed_files(project.repo_root, found.run, found.plan)
    notes = [f"{name} {what}" for name, what in changed.items()][: pytest_outcomes.NOTES_SHOWN]
    notes += pytest_outcomes.changed_records(found.run, found.plan)
    notes += [wording.suite_text(facts), wording.advice_text(facts)]
    unproven = filter(None, map(since.unproven_text, facts.optimisations))
    notes += list(unproven)[: pytest_outcomes.NOTES_SHOWN]
    facts = apply_recovery.refresh_report(found.run, facts, apply_recovery.in_effect(found.run))
    if facts.applied:
        notes.append(f"{len(facts.applied)} of these values are written already: see Applied changes")
    return ReportReply(
        run_id=run_id,
        calibration_git_sha=found.plan.calibration_git_sha,
        report_md=str(paths[0]),
        report_json=str(paths[1]),
        report_html=str(paths[2]),
        stages=len(found.audit.stages),
        metrics=len(plan.rows),
        tightens=counts[Direction.TIGHTENS],
        loosens=counts[Direction.LOOSENS],
        equal=counts[Direction.EQUAL],
        unknown=counts[Direction.UNKNOWN],
        first=counts[Direction.FIRST],
        loosening=tuple(questions.movement(row) for row in _loudest(plan))[:_LOOSENING_SHOWN],
        notes=tuple(notes + ([DIRTY] if found.plan.dirty else [])),
        failed_tests=plan.failed_tests,
        next=Step(
            ToClient("tell the user the report's path and the loosening metrics, then "),
            call("apply_plan", run_id=run_id),
        ),
    )


def publish(project: Project, run_id: str) -> tuple[Path, ...]:
    """Put the report that was just written into the repository, for every other clone. A person commits it."""
    run = project.run(run_id)
    facts = read_report(run)
    assert facts is not None
    return earlier.publish(project.repo_root, facts, read_plain(run.report_md))


def _same_code(repo_root: Path, plan: Plan, git_sha: str) -> bool:
    """Whether a commit is the plan's, or proven to measure the same."""
    if git_sha in plan.commits:
        return True
    try:
        equivalence.compare(repo_root, plan, git_sha, utc_now())
    except (NotEquivalent, Refusal):
        return False
    return True


def _loudest(plan: ApplyPlan) -> list[Row]:
    """The rows that loosen, the largest change first; one from zero has no percentage and stands on top."""
    rows = [row for row in plan.rows if row.direction is Direction.LOOSENS and row.current_raw is not None]
    return sorted(rows, key=lambda row: -abs(change_percent(row.current_raw or 0, row.write_value) or math.inf))
