"""Write report.md, report.json and report.html of a run, and keep them true after an apply (rules RPT-04, APL-18)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tune_mcp import __version__
from tune_mcp.apply.plan import ApplyPlan, artifacts
from tune_mcp.config.model import Optimisation
from tune_mcp.contract.apply import Applied
from tune_mcp.contract.precheck import Check
from tune_mcp.errors import Json
from tune_mcp.files import (
    digest,
    inside,
    read_object,
    read_text,
    sha256_file,
    write_atomic,
)
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.report import earlier, history, html, markdown
from tune_mcp.report.context import ContextReader, hardware
from tune_mcp.report.earlier import EarlierReport
from tune_mcp.report.facts import MetricFacts, ReportFacts, StageFacts, TrendFacts
from tune_mcp.report.history import uncounted
from tune_mcp.report.hosts import hosts
from tune_mcp.report.metric import describe
from tune_mcp.report.noise import SameCode
from tune_mcp.report.noise import read as read_noise
from tune_mcp.report.optimisations import search_logs
from tune_mcp.report.suite import CiGate, suite
from tune_mcp.run_dir import RunDir, iso
from tune_mcp.session.plan import Plan
from tune_mcp.words import listed, number_of

_LONGEST_ENTRY = 200


def write_report(
    run: RunDir,
    repo_root: Path,
    audited: Audit,
    applied: ApplyPlan,
    now: datetime,
    optimisations: Mapping[str, Optimisation] | None = None,
    ci: CiGate | None = None,
    same_code: SameCode | None = None,
) -> ReportFacts:
    """Write the three files, each whole; returns what they say. The caller has checked both gates.

    ``optimisations`` are what the model's config names now: they add remarks and change no number. ``ci`` is how CI
    judges, by the same config; ``same_code`` says of a commit whether it measures the same as the plan's (default: only
    the plan's own do).

    A report of the same artifacts that already records applied changes keeps them, and its tables (RPT-04).
    """
    plan = audited.plan
    if not audited.ready:
        raise ValueError(f"{plan.run_id} has not passed both gates; no report is written")
    before = earlier.read(repo_root, plan.model, plan.run_id)
    same_code = same_code or plan.commits.__contains__
    facts = _collect(run, repo_root, audited, applied, now, before, ci or CiGate(), same_code)
    named = optimisations or {}
    since = earlier.previous(repo_root, facts, named, before)
    facts = facts.model_copy(update={"previous": since, "optimisations": search_logs(run, audited, named)})
    last = read_report(run)
    if last and last.artifacts_digest == facts.artifacts_digest:
        # What stood in the files before is what a reviewer must see; the files themselves hold the new values now.
        kept = {"stages": last.stages, "suite": last.suite} if last.applied else {}
        facts = facts.model_copy(update={"applied": last.applied, **kept})
    _write(run, facts)
    return facts


def record_applied(run: RunDir, rows: Sequence[Applied], facts: ReportFacts) -> ReportFacts:
    """Put the applied changes into all three files of the report ``facts``; none removes them."""
    facts = facts.model_copy(update={"applied": tuple(rows)})
    _write(run, facts)
    return facts


def read_report(run: RunDir) -> ReportFacts | None:
    """The facts of the report on disk; None when there is none that this version can read."""
    return ReportFacts.from_file(run.report_json)


def read_whole(run: RunDir) -> ReportFacts | None:
    """The facts of the report when all three files are there, else None (POL-09)."""
    return read_report(run) if run.report_md.is_file() and run.report_html.is_file() else None


def by_hand(run: RunDir, facts: ReportFacts) -> bool:
    """Whether report.md or report.html is not what ``facts`` render to: such a text is no report (RPT-04)."""
    try:
        present = read_text(run.report_md), read_text(run.report_html)
    except (OSError, ValueError):
        return True
    return present != (markdown.render(facts), html.render(facts))


def _write(run: RunDir, facts: ReportFacts) -> None:
    # report.json last: it carries the digest that vouches for the other two.
    write_atomic(run.report_md, markdown.render(facts).encode())
    write_atomic(run.report_html, html.render(facts).encode())
    facts.to_file(run.report_json)


def report_digest(audited: Audit) -> str:
    """Digest over the plan and every artifact's bytes: a report with another one is stale (POL-09)."""
    return digest([audited.plan.model_dump(mode="json"), artifacts(audited)])


def _collect(
    run: RunDir,
    repo_root: Path,
    audited: Audit,
    applied: ApplyPlan,
    now: datetime,
    earlier: Sequence[EarlierReport],
    ci: CiGate,
    same_code: SameCode,
) -> ReportFacts:
    """All facts of one report; ``earlier`` are the model's earlier reports, the others as for ``write_report``."""
    plan, machine = audited.plan, hardware(run)
    context = ContextReader(repo_root, machine.phrase, plan.repeats, plan.settings)
    noise = read_noise(audited, applied.rows, earlier, machine.summary, same_code)
    metrics: dict[str, list[MetricFacts]] = {stage.stage.key: [] for stage in audited.stages}
    for row in applied.rows:
        metrics[row.stage_key].append(describe(row, noise))
    stages = [_stage(stage, context, plan, tuple(metrics[stage.stage.key])) for stage in audited.stages]
    precheck, environment = read_object(run.precheck), read_object(run.environment)
    machines = hosts(run, audited)
    environments = _environments(audited)
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
        environments=len(environments),
        environment_note=_environment_note(environments),
        tests_end_processes=plan.settings.tests_end_processes,
        changed_files=_changed(repo_root, plan),
        tune_version=plan.tune_version,
        report_version=__version__,
        strict_text=audited.text(),
        plan_id=applied.plan_id,
        artifacts_digest=report_digest(audited),
        stages=tuple(stages),
        suite=suite(stages, noise, ci),
        launches=history.launches(run, audited),
        incidents=history.incidents(*(part for part, _ in audited.parts(run))),
        checks=tuple(_checks(precheck.get("checks"))),
        uncounted=uncounted(run, audited),
        failed_tests=applied.failed_tests,
        unchecked=applied.unchecked,
        hosts=machines,
        sources=plan.sources,
        trends=tuple(_trends(plan.run_id, stages, earlier, machine.summary)),
    )


def _trends(
    run_id: str, stages: Sequence[StageFacts], earlier: Sequence[EarlierReport], gpu_summary: str
) -> Iterator[TrendFacts]:
    """What every metric's worst of N was before, where an earlier report from the same GPUs has it."""
    known = [
        (one.run_id, {(stage.key, metric.key): metric for stage in one.stages for metric in stage.metrics})
        for one in reversed(earlier)
        if one.gpu_summary == gpu_summary
    ]
    for stage in stages:
        for metric in stage.metrics:
            at = (stage.key, metric.key)
            past = [(run, had[at].worst_raw) for run, had in known if at in had and had[at].worst_op == metric.worst_op]
            if past:
                first = past[0][1]
                yield TrendFacts(
                    stage=stage.key,
                    metric=metric.key,
                    runs=(*(run for run, _ in past), run_id),
                    worst=(*(value for _, value in past), metric.worst_raw),
                    drift=(metric.worst_raw - first) / abs(first) if first else None,
                )


def _stage(audited: AuditedStage, context: ContextReader, plan: Plan, metrics: tuple[MetricFacts, ...]) -> StageFacts:
    stage = audited.stage
    policy = plan.groups.get(stage.group)
    contents = [cell.stored.content if cell.stored else None for cell in audited.cells]
    counts = [found.sample_counts if found else None for found in contents]
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
        cells=tuple(cell.cell for cell in audited.cells),
        samples=tuple("—" if c is None or c.total is None else f"{c.ok}/{c.total}" for c in counts),
        durations_s=tuple(found.duration_s if found else None for found in contents),
        docs=stage.is_docs,
        metrics=metrics,
        artifacts=tuple(cell.stored.sha256 if cell.stored else "" for cell in audited.cells),
    )


def _group_label(group: str) -> str:
    """``mos`` is an abbreviation, ``speed`` a word."""
    return group.upper() if len(group) <= 4 else group.replace("_", " ").capitalize()


def _checks(found: Json) -> Iterator[Check]:
    """The checks that were not plainly ok, and let the run start all the same."""
    for one in found if isinstance(found, list) else ():
        try:
            check = Check.model_validate(one)
        except ValidationError:
            check = Check(
                id="?", status="unknown", detail=f"precheck.json has an entry that cannot be read: {one}"[:300]
            )
        if check.status != "ok":
            yield check


def _dirty_note(run: RunDir, plan: Plan) -> str:
    fixed = f"fixed before it was resumed: {', '.join(plan.fixed)}" if plan.fixed else ""
    if not plan.dirty:
        return f"clean at the start; {fixed}" if fixed else "clean: the tree was exactly this commit"
    parts = [fixed] if fixed else []
    if plan.diff_sha256:
        kept = "kept in workspace.diff" if run.workspace_diff.exists() else "workspace.diff is missing"
        parts.append(f"tracked changes ({kept}, sha256 {plan.diff_sha256[:12]})")
    if plan.untracked:
        names = listed(sorted(plan.untracked), 3, ", ")
        parts.append(f"{number_of(len(plan.untracked), 'untracked file')}: {names}")
    return f"the tree held more than this commit: {'; '.join(parts) or 'what it was is not on record'}"


def _environments(audited: Audit) -> set[str]:
    """The environment digests that the counted repeats carry, of partitions their one fingerprint."""
    if audited.plan.sources:
        return {source.fingerprint for source in audited.plan.sources}
    return {
        cell.stored.content.environment_sha256
        for stage in audited.stages
        for cell in stage.cells
        if cell.stored and cell.stored.content.environment_sha256
    }


def _environment_note(found: set[str]) -> str:
    if not found:
        return "the repeats carry no environment digest"
    if len(found) == 1:
        return f"the same in every repeat (sha256 {next(iter(found))[:12]})"
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
