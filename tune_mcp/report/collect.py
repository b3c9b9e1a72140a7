"""Gather everything a report says from the run directory, the audit and the apply plan; nothing is written here."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from tune_mcp import __version__
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.config.stages import Stage
from tune_mcp.errors import Json
from tune_mcp.files import digest, inside, sha256_file
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.observe.worst import Number
from tune_mcp.report import history, shape, statistics
from tune_mcp.report.context import ContextReader, hardware, read_object
from tune_mcp.report.facts import (
    CellFacts,
    ChanceFacts,
    FlagFacts,
    MetricFacts,
    ReportFacts,
    SlackFacts,
    SpreadFacts,
    StageFacts,
    SuiteFacts,
)
from tune_mcp.report.figures import change_percent, direction_text
from tune_mcp.report.slack import Slack, SlackReader
from tune_mcp.run_dir import RunDir, iso
from tune_mcp.session.plan import Plan

_LONGEST_ENTRY = 200


def report_digest(audited: Audit) -> str:
    """Digest over the plan and every artifact's bytes: a report with another one is stale (POL-09)."""
    artifacts = {
        f"{stage.stage.key}/run{repeat}": cell.stored.sha256 if cell.stored else None
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
    }
    return digest([audited.plan.model_dump(mode="json"), artifacts])


def collect(run: RunDir, repo_root: Path, plan: Plan, audited: Audit, applied: ApplyPlan, now: datetime) -> ReportFacts:
    """All facts of one report. ``audited`` has passed both gates; ``applied`` is the plan over the present files."""
    machine = hardware(run)
    context = ContextReader(repo_root, machine.phrase, plan.repeats)
    slack = SlackReader(repo_root)
    rows = {row.key: row for row in applied.rows}
    stages = [_stage(stage, context, plan, rows, slack) for stage in audited.stages]
    stages, suite = _suite(stages)
    precheck, environment = read_object(run.precheck), read_object(run.environment)
    return ReportFacts(
        run_id=plan.run_id,
        run_dir=str(run.path),
        model=plan.model,
        label=plan.label,
        repeats=plan.repeats,
        calibration_git_sha=plan.calibration_git_sha,
        git_branch=plan.git_branch,
        dirty=plan.dirty,
        dirty_note=_dirty_note(run, plan),
        started_at=plan.calibration_started_at,
        finished_at=history.finished_at(run, audited),
        generated_at=iso(now),
        venv_python=plan.venv_python,
        venv_source=plan.venv_source,
        host=plan.host,
        gpu_summary=machine.summary,
        versions=_flat(precheck.get("versions")),
        environment={key: value for key, value in _flat(environment).items() if key != "schema_version"},
        environment_note=_environment_note(audited),
        changed_files=_changed(repo_root, plan),
        tune_version=plan.tune_version,
        report_version=__version__,
        strict_text=audited.text(),
        plan_id=applied.plan_id,
        artifacts_digest=report_digest(audited),
        stages=tuple(stages),
        suite=suite,
        coverage_p95=statistics.coverage(plan.repeats),
        repeats_for_p95=statistics.repeats_for(0.95),
        attempts=history.attempts(audited),
        superseded=history.superseded(run, audited),
        incidents=history.incidents(run),
    )


def _stage(
    audited: AuditedStage,
    context: ContextReader,
    plan: Plan,
    rows: dict[tuple[str, str], Row],
    slack: SlackReader,
) -> StageFacts:
    stage = audited.stage
    policy = plan.groups.get(stage.group)
    contents = [cell.stored.content if cell.stored else None for cell in audited.cells]
    counts = [found.sample_counts if found else None for found in contents]
    totals = {count.total for count in counts if count}
    samples = totals.pop() if len(totals) == 1 else None
    return StageFacts(
        key=stage.key,
        title=stage.title,
        group=stage.group,
        group_label=(policy.label if policy else None) or _group_label(stage.group),
        test=stage.test,
        test_key=stage.test_key,
        preset=stage.calibration_preset,
        variant=stage.variant,
        context=context.line(stage),
        expected_samples=stage.expected_samples,
        cells=tuple(CellFacts(glyph=cell.cell.value, reason=cell.reason) for cell in audited.cells),
        samples=tuple("—" if c is None or c.total is None else f"{c.ok}/{c.total}" for c in counts),
        durations_s=tuple(found.duration_s if found else None for found in contents),
        docs=stage.is_docs,
        metrics=tuple(
            _metric(stage, rows[(stage.key, key)], samples, slack) for key in stage.metrics if (stage.key, key) in rows
        ),
    )


def _group_label(group: str) -> str:
    """``mos`` is an abbreviation, ``speed`` a word."""
    return group.upper() if len(group) <= 4 else group.replace("_", " ").capitalize()


def _metric(stage: Stage, row: Row, samples: int | None, reader: SlackReader) -> MetricFacts:
    worst, display = row.worst, stage.metrics[row.worst.metric_key].display
    values, current, proposed = worst.per_run_raw, row.current_raw, row.write_value
    files = (stage.threshold_path, stage.test)
    slack = reader.find(files, row.symbol, row.subkey, row.worst_op, stage.threshold_path)
    described = statistics.spread(values)
    limit = slack.limit(proposed) if slack else None
    present = slack.limit(current) if slack and current is not None else None
    step = shape.quantum(values, samples, is_share=stage.group == "accuracy")
    moved = None if current is None else abs(proposed - current)
    return MetricFacts(
        key=worst.metric_key,
        label=display.label,
        scale=display.scale,
        digits=display.digits,
        worst_op=row.worst_op,
        place=row.place,
        file=row.file,
        line=row.literal.line if row.literal else None,
        values=values,
        worst_raw=worst.worst_raw,
        worst_shown=worst.worst_rounded,
        worst_repeats=tuple(repeat for repeat, value in enumerate(values, 1) if value == worst.worst_raw),
        current_raw=current,
        write_value=proposed,
        direction=row.direction,
        direction_text=direction_text(row.worst_op, current, proposed),
        change_percent=None if current is None else change_percent(current, proposed),
        decision=row.decision,
        reason=row.reason,
        slack=None if slack is None else _slack(slack),
        limit_present=present,
        limit_proposed=limit,
        present_misses=None if present is None else _misses(values, row.worst_op == "min", present),
        spread=SpreadFacts.model_validate(asdict(described)),
        chance=ChanceFacts.model_validate(asdict(statistics.fail_chance(values, row.worst_op, limit))),
        moves_with=None,
        quantum=step,
        one_sample=bool(step and moved and moved <= step * (1 + 1e-9)),
        within_noise=bool(moved and described.spread and moved <= described.spread),
        flags=tuple(FlagFacts(kind=flag.kind, text=flag.text) for flag in shape.flags(values, row.worst_op)),
    )


def _slack(slack: Slack) -> SlackFacts:
    return SlackFacts(factor=slack.factor, offset=slack.offset, how=slack.how)


def _misses(values: tuple[Number, ...], lower_bound: bool, limit: float) -> int:
    return sum(value < limit if lower_bound else value > limit for value in values)


def _suite(stages: list[StageFacts]) -> tuple[list[StageFacts], SuiteFacts]:
    """The whole suite's chance, and every metric told which other one it moves with."""
    pairs = [(stage, metric) for stage in stages for metric in stage.metrics]
    groups = statistics.together([(stage.test_key, metric.values) for stage, metric in pairs])
    leader: dict[tuple[str, str], str] = {}
    for group in groups:
        head_stage, head = pairs[group[0]]
        for index in group[1:]:
            leader[(pairs[index][0].key, pairs[index][1].key)] = f"{head_stage.key}/{head.key}"
    chances = [metric.chance.estimate for _, metric in pairs]
    named = [
        stage.model_copy(
            update={
                "metrics": tuple(
                    metric.model_copy(update={"moves_with": leader.get((stage.key, metric.key))})
                    for metric in stage.metrics
                )
            }
        )
        for stage in stages
    ]
    return named, SuiteFacts(
        gates=len(pairs),
        groups=len(groups),
        independent=statistics.any_fails(chances),
        grouped=statistics.any_fails([max(chances[index] for index in group) for group in groups]),
        unknown_slack=sum(metric.chance.basis == "slack unknown" for _, metric in pairs),
        no_spread=sum(metric.chance.basis == "no spread seen" for _, metric in pairs),
    )


def _dirty_note(run: RunDir, plan: Plan) -> str:
    if not plan.dirty:
        return "clean: the tree was exactly this commit"
    parts: list[str] = []
    if plan.diff_sha256:
        kept = "kept in workspace.diff" if run.workspace_diff.exists() else "workspace.diff is missing"
        parts.append(f"tracked changes ({kept}, sha256 {plan.diff_sha256[:12]})")
    if plan.untracked:
        names = sorted(plan.untracked)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        parts.append(f"{len(names)} untracked file(s): {', '.join(names[:3])}{more}")
    return f"the tree held more than this commit: {'; '.join(parts) or 'see workspace.diff'}"


def _environment_note(audited: Audit) -> str:
    found = {
        cell.stored.content.environment_sha256
        for stage in audited.stages
        for cell in stage.cells
        if cell.stored and cell.stored.content.environment_sha256
    }
    if not found:
        return "the repeats carry no environment digest"
    if len(found) == 1:
        return f"the same in every repeat (sha256 {found.pop()[:12]})"
    return f"{len(found)} different environments among the repeats"


def _changed(repo_root: Path, plan: Plan) -> tuple[str, ...]:
    """Measured files whose bytes are no longer those that the plan recorded."""
    changed: list[str] = []
    for name, expected in sorted(plan.file_sha256.items()):
        try:
            same = sha256_file(inside(repo_root, name)) == expected
        except (OSError, ValueError):
            same = False
        if not same:
            changed.append(name)
    return tuple(changed)


def _flat(value: Json, prefix: str = "") -> dict[str, str]:
    """Nested JSON as dotted names and short texts, in sorted order."""
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key in sorted(value):
            found |= _flat(value[key], f"{prefix}.{key}" if prefix else key)
        return found
    if isinstance(value, list):
        if any(isinstance(item, dict | list) for item in value):
            found = {}
            for index, item in enumerate(value):
                found |= _flat(item, f"{prefix}.{index}")
            return found
        value = ", ".join("" if item is None else str(item) for item in value)
    if value is None or not prefix:
        return {}
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return {prefix: text if len(text) <= _LONGEST_ENTRY else f"{text[: _LONGEST_ENTRY - 1]}…"}
