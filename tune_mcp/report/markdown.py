"""report.md, the canonical record of a calibration: complete as raw text, readable on a forge (RPT-01 to RPT-09)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tune_mcp.observe.worst import Direction
from tune_mcp.report.facts import AppliedRow, MetricFacts, ReportFacts, StageFacts
from tune_mcp.report.figures import chance_text, direction_text, percent, plain, shown_text

_SPEED = "speed"


def render(facts: ReportFacts) -> str:
    """The whole file, one trailing newline."""
    parts = [
        _head(facts),
        _summary(facts),
        _matrix(facts),
        *(_stage(stage) for stage in facts.stages),
        _certainty(facts),
        _previous(facts),
        _superseded(facts),
        _applied(facts.applied),
        _provenance(facts),
    ]
    return "\n\n".join("\n".join(part).rstrip() for part in map(list, parts) if part) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' for _ in head)}|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def _head(facts: ReportFacts) -> list[str]:
    lines = [
        f"# Calibration report — {facts.model}",
        "",
        f"**Calibration commit:** `{facts.calibration_git_sha}`",
        "",
        f"Strict worst of {facts.repeats} over {len(facts.stages)} stages, run `{facts.run_id}`, {facts.gpu_summary}.",
    ]
    if facts.dirty:
        lines += ["", f"> **Dirty tree:** {facts.dirty_note}."]
    if facts.changed_files:
        lines += ["", f"> **Changed since the run:** {', '.join(f'`{name}`' for name in facts.changed_files)}."]
    return lines


def _summary(facts: ReportFacts) -> list[str]:
    lines = ["## Conclusions", ""]
    for label, metrics in _by_group(facts):
        moves = {way: [m for _, m in metrics if m.direction is way] for way in Direction}
        said = [f"{len(found)} {way}" for way, found in moves.items() if found]
        lines.append(f"- **{label}**: {', '.join(said)} ({len(metrics)} metrics).")
    loosening = [(s, m) for s, m in facts.loudest_first() if m.direction is Direction.LOOSENS]
    lines += ["", f"### Loosens CI ({len(loosening)})", ""]
    if loosening:
        lines += _moves(loosening)
    else:
        lines.append("Nothing would loosen.")
    others = [(s, m) for s, m in facts.loudest_first() if m.direction is not Direction.LOOSENS]
    if others:
        lines += ["", f"### Tightens, stays, or unknown ({len(others)})", "", *_moves(others)]
    return lines


def _by_group(facts: ReportFacts) -> list[tuple[str, list[tuple[StageFacts, MetricFacts]]]]:
    """Quality groups first, speed last, each apart (RPT-07, PRF-05)."""
    groups: dict[str, list[tuple[StageFacts, MetricFacts]]] = {}
    labels: dict[str, str] = {}
    for stage, metric in facts.metrics():
        groups.setdefault(stage.group, []).append((stage, metric))
        labels[stage.group] = stage.group_label
    return [(labels[name], groups[name]) for name in sorted(groups, key=lambda name: (name == _SPEED, name))]


def _moves(rows: Sequence[tuple[StageFacts, MetricFacts]]) -> Iterator[str]:
    yield from _table(
        ("Stage", "Threshold", "Present", "Worst of N", "To write", "Effect", "Remark"),
        (
            (
                f"`{stage.key}`",
                f"`{metric.place}`",
                "?" if metric.current_raw is None else plain(metric.current_raw),
                plain(metric.worst_raw),
                plain(metric.write_value),
                f"**{metric.direction_text}**" if metric.direction is Direction.LOOSENS else metric.direction_text,
                _remark(metric),
            )
            for stage, metric in rows
        ),
    )


def _remark(metric: MetricFacts) -> str:
    remarks = [metric.reason] if metric.direction is Direction.UNKNOWN else []
    if metric.within_noise:
        remarks.append("within the spread of the repeats")
    if metric.one_sample:
        remarks.append("one sample explains it")
    return "; ".join(remarks)


def _matrix(facts: ReportFacts) -> list[str]:
    return ["## Strict audit", "", "```", facts.strict_text, "```"]


def _stage(stage: StageFacts) -> list[str]:
    title = f" — {stage.title}" if stage.title else ""
    lines = [f"## `{stage.key}`{title}", "", stage.context, ""]
    if stage.docs:
        return [*lines, "No thresholds: this stage is run and counted, nothing is written."]
    repeats = range(len(stage.cells))
    rows = [
        [
            f"run {k + 1} {stage.cells[k].glyph}",
            *(shown_text(metric.values[k], metric.scale, metric.digits) for metric in stage.metrics),
            stage.samples[k],
            "—" if stage.durations_s[k] is None else f"{stage.durations_s[k]:.1f} s",
        ]
        for k in repeats
    ]
    rows.append(
        [
            f"**worst of {len(stage.cells)}**",
            *(f"**{shown_text(m.worst_raw, m.scale, m.digits)}**" for m in stage.metrics),
            "",
            "",
        ]
    )
    head = ["", *(f"{metric.label} ({metric.worst_op})" for metric in stage.metrics), "samples", "pytest"]
    lines += _table(head, rows)
    lines.append("")
    lines += _table(
        ("Metric", "Threshold", "Worst raw", "To write", "Present", "Effect", "Median", "Spread", "CV"),
        (
            (
                metric.key,
                f"`{metric.place}` in `{metric.file}`",
                plain(metric.worst_raw),
                plain(metric.write_value),
                "?" if metric.current_raw is None else plain(metric.current_raw),
                metric.direction_text,
                shown_text(metric.spread.median, metric.scale, metric.digits),
                percent(metric.spread.spread_relative),
                percent(metric.spread.cv),
            )
            for metric in stage.metrics
        ),
    )
    notes = [f"- {metric.label}: {flag.text}." for metric in stage.metrics for flag in metric.flags]
    notes += [
        f"- {metric.label}: one sample moves it by {metric.quantum:.4g}." for metric in stage.metrics if metric.quantum
    ]
    return [*lines, *([""] if notes else []), *notes]


def _certainty(facts: ReportFacts) -> list[str]:
    suite = facts.suite
    lines = [
        f"## What {facts.repeats} repeats can carry",
        "",
        f"- The worst of {facts.repeats} covers the true 95th percentile with a chance of "
        f"{percent(facts.coverage_p95)}; it is a worst of {facts.repeats}, not a P95. "
        f"{facts.repeats_for_p95} repeats would cover it with 95 %.",
        f"- Chance that at least one proposed threshold fails one clean CI run: {chance_text(suite.grouped)} "
        f"({suite.groups} independent gates; {chance_text(suite.independent)} if all {suite.gates} were independent).",
    ]
    if suite.unknown_slack:
        bound = f"1/{facts.repeats + 1}"
        lines.append(f"- {suite.unknown_slack} metric(s) with a slack that could not be read count with {bound} each.")
    risky = sorted(
        ((s, m) for s, m in facts.metrics() if m.chance.estimate > 0), key=lambda pair: -pair[1].chance.estimate
    )[:10]
    if risky:
        lines += ["", "Most likely to fail a clean run:", ""]
        lines += _table(
            ("Stage", "Metric", "Chance", "Basis", "Slack"),
            (
                (
                    f"`{stage.key}`",
                    metric.key,
                    chance_text(metric.chance.estimate),
                    metric.chance.basis,
                    metric.slack.how if metric.slack else "unknown",
                )
                for stage, metric in risky
            ),
        )
    return lines


def _previous(facts: ReportFacts) -> list[str]:
    before = facts.previous
    if before is None:
        return []
    lines = [
        "## Against the last calibration",
        "",
        f"`{before.run_id}` calibrated `{before.calibration_git_sha}` with {before.repeats} repeats.",
    ]
    if not before.comparable:
        lines += ["", f"> **Not comparable:** {'; '.join(before.differences)}."]
    rows = [
        (
            f"`{stage.key}`",
            metric.key,
            plain(old),
            plain(metric.worst_raw),
            direction_text(metric.worst_op, old, metric.worst_raw),
        )
        for stage, metric in facts.metrics()
        if (old := before.worst.get(f"{stage.key}/{metric.key}")) is not None
    ]
    lines += ["", *_table(("Stage", "Metric", "Worst then", "Worst now", "Change"), rows)] if rows else []
    return lines


def _superseded(facts: ReportFacts) -> list[str]:
    if not facts.superseded and not facts.incidents:
        return []
    lines = ["## Superseded repeats and incidents", ""]
    lines += [
        f"- {one.t} {one.where}{f' run {one.repeat}' if one.repeat else ''}: {one.reason}" for one in facts.superseded
    ]
    lines += [f"- {event.t} {event.kind}: {event.text}" for event in facts.incidents]
    return lines


def _applied(rows: Sequence[AppliedRow]) -> list[str]:
    """APL-18 to APL-22; no section when nothing was written."""
    if not rows:
        return []
    table = _table(
        ("Stage", "Metric", "Old", "New", "Direction"),
        (
            (row.stage, row.metric, plain(row.old), plain(row.new), direction_text(row.worst_op, row.old, row.new))
            for row in rows
        ),
    )
    return ["## Applied changes", "", *table]


def _provenance(facts: ReportFacts) -> list[str]:
    versions = " · ".join(f"{name} {version}" for name, version in facts.versions.items())
    return [
        "## Provenance",
        "",
        f"- Model: {facts.model}",
        f"- Calibration commit: `{facts.calibration_git_sha}`",
        f"- Branch: {facts.git_branch} ({facts.dirty_note})",
        f"- Calibration: {facts.started_at} to {facts.finished_at}",
        f"- Run directory: `{facts.run_dir}`",
        f"- Venv Python: `{facts.venv_python}` (from {facts.venv_source})",
        f"- Host profile: {facts.host or 'none'}",
        f"- Versions: {versions or '?'}",
        f"- GPU: {facts.gpu_summary}",
        f"- Environment: {facts.environment_note}",
        f"- tune-mcp {facts.tune_version} measured, {facts.report_version} reported",
        f"- Report generated: {facts.generated_at}",
        f"- Artifacts digest: `{facts.artifacts_digest}`",
    ]
