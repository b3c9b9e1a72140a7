"""``report`` and ``apply_plan``: what the gated evidence says, and what it would write."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from tune_mcp.apply import plan as plans
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.calibration import evidence, settling
from tune_mcp.calibration.evidence import Evidence
from tune_mcp.calibration.project import Project
from tune_mcp.calibration.reply import Reply
from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.model import Optimisation
from tune_mcp.config.stages import Frozen, StageTable
from tune_mcp.errors import Code, Refusal
from tune_mcp.observe.worst import Direction, Number
from tune_mcp.report import since, wording
from tune_mcp.report.figures import change_percent, direction_text
from tune_mcp.report.write import write_report
from tune_mcp.run_dir import utc_now
from tune_mcp.session import events
from tune_mcp.session.plan import Plan

_ROWS_SHOWN = 60
_NOTES_SHOWN = 5
_LOOSENING_SHOWN = 20
_DIFF_ROOM = 3500


DIRTY = "calibrated on a dirty tree: see workspace.diff and plan.json"


class ReportReply(Reply):
    """Where the report stands, and what it says in a few lines."""

    run_id: str
    calibration_git_sha: str
    report_md: str
    report_json: str
    report_html: str
    stages: int
    metrics: int
    tightens: int
    loosens: int
    equal: int
    unknown: int
    loosening: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> Iterable[str]:
        """Commit and paths first, then what would loosen."""
        yield f"Calibration commit: {self.calibration_git_sha}"
        yield f"report: {self.report_md}"
        yield f"        {self.report_html}"
        yield (
            f"{self.metrics} metrics in {self.stages} stages: {self.loosens} would loosen, {self.tightens} tighten, "
            f"{self.equal} stay, {self.unknown} unknown"
        )
        yield from (f"LOOSENS {line}" for line in self.loosening)
        if self.loosens > len(self.loosening):
            yield f"LOOSENS … and {self.loosens - len(self.loosening)} more, by less"
        yield from (f"note: {note}" for note in self.notes)


def report(project: Project, run_id: str) -> ReportReply:
    """Write report.md, report.json and report.html once every gate passes (contract, tool 10)."""
    found = evidence.gated(project, run_id)
    settling.settle(project)
    proposal = plans.build(project.repo_root, found.plan, found.audit, catalogue(project, found))
    optimisations = _optimisations(project, found.plan)
    facts = write_report(found.run, project.repo_root, found.plan, found.audit, proposal, utc_now(), optimisations)
    paths = (found.run.report_md, found.run.report_json, found.run.report_html)
    events.append(found.run, "reported", utc_now(), f"report written to {paths[0]}")
    counts = {wanted: sum(row.direction is wanted for row in proposal.rows) for wanted in Direction}
    changed = evidence.changed_files(project.repo_root, found.run, found.plan)
    notes = [f"{name} {what}" for name, what in changed.items()][:_NOTES_SHOWN]
    notes += [wording.suite_text(facts)]
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
        loosening=tuple(_movement(row) for row in _loudest(proposal))[:_LOOSENING_SHOWN],
        notes=tuple(notes + ([DIRTY] if found.plan.dirty else [])),
        next=f"tell the user the report's path and the loosening metrics, then call apply_plan with run_id={run_id}",
    )


def _optimisations(project: Project, plan: Plan) -> Mapping[str, Optimisation]:
    """What the model's config names now, read where the run read it. Raises INVALID_CONFIG or UNKNOWN_MODEL."""
    config = Path(plan.config_dir) if plan.config_dir else project.options.config
    return ConfigPlaces.resolve(project.repo_root, config).model(plan.model).optimisations


def _loudest(proposal: ApplyPlan) -> list[Row]:
    """The rows that loosen, the largest change first; one from zero has no percentage and stands on top."""
    rows = [row for row in proposal.rows if row.direction is Direction.LOOSENS and row.current_raw is not None]
    return sorted(rows, key=lambda row: -abs(change_percent(row.current_raw or 0, row.write_value) or math.inf))


def _movement(row: Row) -> str:
    change = direction_text(row.worst_op, row.current_raw, row.write_value)
    return f"{row.stage.key} {row.place}: {row.current_raw!r} -> {row.write_value!r}, {change}"


class PlanRow(Frozen):
    """One metric of the apply plan; the fields of the contract, section 2, tool 11."""

    stage_key: str
    metric_key: str
    stage_group: str
    calibration_preset: str | None
    variant: str | None
    file: str
    source: str
    source_kind: Literal["bare", "nested"]
    symbol: str
    subkey: str | None
    concurrency: int | None
    worst_op: Literal["min", "max"]
    per_run_raw: tuple[Number, ...]
    worst_raw: Number
    worst_rounded: float
    write_value: Number
    current_raw: Number | None
    direction: str
    decision: Literal["auto", "skip", "ask"]
    reason: str

    @classmethod
    def of(cls, row: Row) -> PlanRow:
        """The row as a caller sees it."""
        return cls(
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


class ApplyPlanReply(Reply):
    """What each mode would write, and the diff of mode full. Nothing is written by asking."""

    run_id: str
    plan_id: str
    rows: tuple[PlanRow, ...]
    diff: str
    dirty: bool

    def lines(self) -> Iterable[str]:
        """One line a metric, loosening ones first, then the diff as far as there is room."""
        yield f"plan_id: {self.plan_id} ({len(self.rows)} metrics)"
        if self.dirty:
            yield DIRTY
        order = {"loosens": 0, "unknown": 1, "tightens": 2, "equal": 3}
        for row in sorted(self.rows, key=lambda row: order[row.direction])[:_ROWS_SHOWN]:
            yield (
                f"  {row.decision:<4} {row.stage_key}/{row.metric_key}: {row.current_raw!r} -> {row.write_value!r} "
                f"{row.direction} [{row.file}:{row.symbol}] {row.reason}"
            )
        if len(self.rows) > _ROWS_SHOWN:
            yield f"  … and {len(self.rows) - _ROWS_SHOWN} more"
        if self.diff:
            yield self.diff if len(self.diff) <= _DIFF_ROOM else self.diff[:_DIFF_ROOM] + "\n[… the diff goes on …]"


def apply_plan(project: Project, run_id: str) -> ApplyPlanReply:
    """The plan over the files as they stand now; read only (contract, tool 11). Raises the gates' refusals."""
    found, proposal = propose(project, run_id)
    rows = tuple(PlanRow.of(row) for row in proposal.rows)
    changes = any(plans.writable(row) for row in proposal.rows)
    asks = sum(row.decision == "ask" for row in rows)
    if changes:
        advice = f"let the user choose a mode (report, smart, full), then call apply with plan_id={proposal.plan_id}"
        advice += f"; mode smart leaves {asks} loosening metric(s) to the user" if asks else ""
    else:
        advice = "nothing: every threshold holds the worst of N already, or cannot be located"
    return ApplyPlanReply(
        run_id=run_id, plan_id=proposal.plan_id, rows=rows, diff=proposal.diff(), dirty=found.plan.dirty, next=advice
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
    return found, plans.build(project.repo_root, found.plan, found.audit, catalogue(project, found))


def catalogue(project: Project, found: Evidence) -> StageTable:
    """All stages of the model as they are now; a model that is configured no longer has those of the run."""
    if found.plan.model not in project.places.model_names():
        return found.plan.catalogue
    return project.places.stages(found.plan.model)
