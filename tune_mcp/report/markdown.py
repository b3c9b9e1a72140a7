"""report.md, the canonical record of a calibration: complete as raw text, readable on a forge (RPT-01 to RPT-09)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tune_mcp.contract.apply_plan import Direction
from tune_mcp.report import apart, since, wording
from tune_mcp.report.earlier import embedded
from tune_mcp.report.facts import MetricFacts, ReportFacts, StageFacts
from tune_mcp.report.figures import (
    brief,
    chance_text,
    chances_text,
    old_text,
    percent,
    plain,
    shown_text,
)
from tune_mcp.words import number_of


def render(facts: ReportFacts) -> str:
    """The whole file, one trailing newline."""
    parts = [
        _head(facts),
        _summary(facts),
        ["## Strict audit", "", "```text", facts.strict_text, "```"],
        _hosts(facts),
        *(_stage(stage) for stage in facts.stages),
        _certainty(facts),
        _previous(facts),
        _trends(facts),
        _optimisations(facts),
        _attempts(facts),
        _applied(facts),
        _provenance(facts),
        [embedded(facts)],
    ]
    return "\n\n".join("\n".join(part).rstrip() for part in parts if part) + "\n"


def _one_line(text: str) -> str:
    """Text of unknown origin as one line that cannot become a tag or a table cell's end."""
    return " ".join(text.split()).replace("<", "&lt;").replace("{{", "{ {")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> Iterator[str]:
    """A table; the columns in ``right`` are aligned to the right."""
    aligned = set(right)
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if column in aligned else '---' for column in range(len(head)))}|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def _effect(metric: MetricFacts) -> str:
    return f"**{metric.direction_text}**" if metric.direction is Direction.LOOSENS else metric.direction_text


def _head(facts: ReportFacts) -> list[str]:
    thresholds = len(facts.metrics())
    lines = [
        f"# Calibration report — {facts.model}",
        "",
        f"**Calibration commit:** `{facts.calibration_git_sha}`",
        "",
        f"Strict worst of {facts.repeats}: {number_of(len(facts.stages), 'stage')}, "
        f"{number_of(thresholds, 'threshold')}, run `{facts.run_id}`, {facts.gpu_summary}. "
        f"Ready: every stage has {facts.repeats} of {facts.repeats} strict "
        "repeats, all on this commit.",
    ]
    for headline, sentence in wording.notes(facts):
        lines += ["", f"> **{headline}:** {_one_line(sentence)}"]
    return lines


def _summary(facts: ReportFacts) -> list[str]:
    lines = ["## Conclusions", ""]
    for label, metrics in facts.by_group():
        lines.append(f"- **{label}** — {' '.join(wording.conclusion(metrics, facts))}")
    rows = facts.loudest_first()
    loosening = [pair for pair in rows if pair[1].direction is Direction.LOOSENS]
    others = [pair for pair in rows if pair[1].direction is not Direction.LOOSENS]
    lines += ["", f"### ⚠ Loosens CI ({len(loosening)})" if loosening else "### Loosens CI (0)", ""]
    lines += _moves(facts, loosening) if loosening else ["Nothing would loosen."]
    if others:
        title = "First baseline, tightens, stays" if facts.count(Direction.FIRST) else "Tightens, stays"
        lines += ["", f"### {title}, or is unknown ({len(others)})", "", *_moves(facts, others)]
    if rows:
        note = "≈ is rounded for reading; the table of its stage has the number in full, as it would be written."
        lines += ["", note]
    return lines


def _moves(facts: ReportFacts, rows: since.Pairs) -> Iterator[str]:
    yield from table(
        ("Stage", "Threshold", "Present", "Worst of N", "Proposed", "Effect on CI", "Remark"),
        (
            (
                f"`{stage.key}`",
                f"`{metric.place}`",
                wording.present_text(metric, brief),
                brief(metric.worst_raw),
                wording.proposed_text(metric, brief),
                _effect(metric),
                _one_line("; ".join(wording.remarks(stage, metric, facts))),
            )
            for stage, metric in rows
        ),
        right=(2, 3, 4),
    )


def _hosts(facts: ReportFacts) -> list[str]:
    rows = (
        (
            f"`{_one_line(one.host)}`",
            _one_line(one.gpus),
            one.driver or "—",
            f"`{one.fingerprint[:12]}`" if one.fingerprint else "—",
            ", ".join(f"{key} {count}" for key, count in one.repeats.items()) or "none",
            _one_line("; ".join([*one.apart, *(f"quarantined: {attempt}" for attempt in one.quarantined)])) or "—",
        )
        for one in facts.hosts
    )
    head = ("Host", "GPUs", "Driver", "Fingerprint", "Repeats that count", "Remark")
    return ["## Hosts", "", *table(head, rows)]


def _stage(stage: StageFacts) -> list[str]:
    title = f" — {_one_line(stage.title)}" if stage.title else ""
    lines = [f"## Stage `{stage.key}`{title}", "", stage.context, ""]
    repeats = range(len(stage.cells))
    rows = [
        [
            f"{k + 1} {stage.cells[k].value}",
            *(shown_text(metric.values[k], metric.scale, metric.digits) for metric in stage.metrics),
            stage.samples[k],
            "—" if (seconds := stage.durations_s[k]) is None else f"{seconds:.1f}",
            f"`{stage.artifacts[k][:12]}`" if stage.artifacts else "—",
        ]
        for k in repeats
    ]
    head = ["Repeat", *(metric.label for metric in stage.metrics), "Samples", "pytest (s)", "run{k}.json"]
    if stage.docs:
        return [*lines, *table(head, rows), "", "A docs stage: run and counted, it has no thresholds."]
    worst = (f"**{shown_text(one.worst_raw, one.scale, one.digits)}**" for one in stage.metrics)
    rows.append([f"**worst of {len(stage.cells)}**", *worst, "", "", ""])
    lines += table(head, rows, right=range(1, len(head)))
    lines += ["", *_worst_rows(stage), "", *_statistics(stage)]
    notes = [f"- {metric.label}: {metric.flag.text}." for metric in stage.metrics if metric.flag]
    notes += [
        f"- {metric.label}: one sample moves it by {shown_text(metric.quantum, metric.scale, metric.digits + 2)}."
        for metric in stage.metrics
        if metric.quantum
    ]
    return [*lines, *([""] if notes else []), *notes]


def _worst_rows(stage: StageFacts) -> Iterator[str]:
    yield from table(
        ("Worst of N", "Threshold", "Bound", "Worst, raw", "Proposed", "Present", "Effect on CI", "Mode smart"),
        (
            (
                metric.key,
                f"`{metric.file}`: `{metric.place}`",
                metric.worst_op,
                plain(metric.worst_raw),
                wording.proposed_text(metric),
                wording.present_text(metric),
                _effect(metric),
                f"{metric.decision}: {_one_line(metric.reason)}",
            )
            for metric in stage.metrics
        ),
        right=(3, 4, 5),
    )


def _statistics(stage: StageFacts) -> Iterator[str]:
    yield from table(
        ("Statistics", "Median", "Min", "Max", "Spread", "CV", "Slack in the file", "Clean run fails", "as it stands"),
        (
            (
                metric.key,
                *(
                    shown_text(value, metric.scale, metric.digits)
                    for value in (metric.spread.median, metric.spread.minimum, metric.spread.maximum)
                ),
                percent(metric.spread.spread_relative),
                percent(metric.spread.cv),
                wording.slack_text(metric),
                wording.chance_label(metric),
                "?" if metric.chance_present is None else chances_text(metric.chance_present),
            )
            for metric in stage.metrics
        ),
        right=range(1, 9),
    )


def _certainty(facts: ReportFacts) -> list[str]:
    lines = [
        f"## What {facts.repeats} repeats can carry",
        "",
        f"- {wording.coverage_text(facts)}",
        f"- {wording.suite_text(facts)}",
        f"- {wording.advice_text(facts)}",
        "- Spread is (max - min) / median. A flag is a remark: no value was dropped or changed because of one.",
    ]
    risky = sorted(facts.suite.gates, key=lambda gate: -gate.chance.with_slow)[:10]
    if risky:
        lines += ["", "Most likely to miss a limit in a clean run, one line a test:", ""]
        lines += table(
            ("Test", "From the spread", "With slow runs", "Decided by", "Slack it needs", "or repeats"),
            (
                (
                    f"`{gate.test}`",
                    chance_text(gate.chance.noise),
                    chance_text(gate.chance.with_slow),
                    f"{gate.stage}/{gate.metric}",
                    "—" if gate.slack is None else f"{percent(gate.slack)} ({gate.noisy})",
                    "—" if gate.repeats is None else str(gate.repeats),
                )
                for gate in risky
            ),
            right=(1, 2, 5),
        )
    return lines


def _trends(facts: ReportFacts) -> list[str]:
    rows = (
        (f"`{one.stage}`", one.metric, ", ".join(map(brief, one.worst)), wording.trend_text(one))
        for one in facts.trends
    )
    head = ("Stage", "Metric", "Worst of N, oldest first", "Change in all")
    return ["## Over the calibrations", "", *table(head, rows)] if facts.trends else []


def _previous(facts: ReportFacts) -> list[str]:
    before = facts.previous
    if before is None:
        return ["## Against the last calibration", "", "There is no earlier report of this model in this repository."]
    lines = [
        "## Against the last calibration",
        "",
        f"Run `{before.run_id}`, commit `{before.calibration_git_sha}`, {before.repeats} repeats; "
        f"{since.previous_text(before, facts)}. {since.range_text(before)}",
    ]
    rows = [
        (f"`{stage.key}`", metric.key, plain(old), plain(metric.worst_raw), since.moved_text(metric, old))
        for stage, metric in facts.metrics()
        if (old := facts.worst_before(stage, metric)) is not None
    ]
    if rows:
        lines += ["", *table(("Stage", "Metric", "Worst then", "Worst now", "Change"), rows, right=(2, 3))]
    if before.changes and before.changes.files:
        lines += ["", "Files:", "", *(f"- {_one_line(since.file_text(file, before))}" for file in before.changes.files)]
        lines += _more(before.files - len(before.changes.files))
    if before.changes and before.changes.commits:
        lines += ["", "Commits, the newest first:", ""]
        lines += [f"- `{one.sha[:12]}` {one.day} {_one_line(one.subject)}" for one in before.changes.commits]
        lines += _more(before.commits - len(before.changes.commits))
    return lines


def _more(left: int) -> list[str]:
    return [f"- … and {left} more"] if left else []


def _optimisations(facts: ReportFacts) -> list[str]:
    speed = [stage for stage in facts.stages if stage.group == "speed"]
    if not facts.optimisations:
        return []
    lines = ["## Optimisations", "", "What config names, and what the logs of the counted repeats show.", ""]
    lines += table(
        ("Optimisation", "Evidence looked for", "Test", "Seen in", "First"),
        (
            (
                one.name,
                f"`{_one_line(one.evidence)}`" if one.evidence else "none in config: it cannot be proven from a log",
                f"`{seen.test}`",
                since.seen_text(seen, facts.repeats) if one.evidence else "—",
                f"`{seen.place}`" if seen.place else "—",
            )
            for one in facts.optimisations
            for seen in one.tests
        ),
    )
    return [*lines, "", *(f"- `{stage.key}`: {since.gain_text(stage, facts)}." for stage in speed)]


def _attempts(facts: ReportFacts) -> list[str]:
    lines = ["## Superseded repeats and incidents", "", wording.launches_text(facts)]
    if facts.uncounted:
        lines += ["", "Not counted, with every value that can still be read:", ""]
        lines += table(
            ("When", "Test", "Repeat", "Attempt", "How", "Values", "By", "Why", "Where"),
            (
                (
                    one.t,
                    f"`{one.test}`",
                    str(one.repeat),
                    "—" if one.attempt is None else str(one.attempt),
                    one.how,
                    wording.uncounted_values(one),
                    _one_line(one.who),
                    _one_line(one.reason),
                    f"`{one.where}`" if one.where else "nothing is left",
                )
                for one in facts.uncounted
            ),
        )
    if facts.incidents:
        lines += ["", "Incidents:", ""]
    lines += [f"- {event.t} {event.kind}: {_one_line(event.text)}" for event in facts.incidents]
    return lines


def _applied(facts: ReportFacts) -> list[str]:
    """What ``apply`` wrote, right before the provenance (APL-18 to APL-22); nothing where it wrote nothing."""
    cells = ((row.stage_key, row.symbol, old_text(row.old), plain(row.new), row.direction) for row in facts.applied)
    changes = table(("Stage", "Metric", "Old", "New", "Direction"), cells)
    return ["## Applied changes", "", *changes] if facts.applied else []


def _provenance(facts: ReportFacts) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return [
        "## Provenance",
        "",
        f"- Model: {facts.model}",
        f"- Commit: `{facts.calibration_git_sha}`",
        f"- Branch: {_one_line(facts.git_branch)}",
        f"- Dirty: {'yes' if facts.dirty else 'no'} ({_one_line(facts.dirty_note)})",
        f"- Started: {facts.started_at}",
        f"- Finished: {facts.finished_at}",
        f"- Venv Python: `{facts.venv_python}` (from {facts.venv_source})",
        f"- Versions: {_one_line(versions) or '?'}",
        f"- GPU: {facts.gpu_summary}",
        f"- Host profile: {facts.host or 'none'}",
        *(f"- {line}" for line in apart.lanes(facts.launches)),
        f"- Environment: {facts.environment_note}",
        *(
            [f"- Processes that the tests end: {_one_line(facts.tests_end_processes)}"]
            if facts.tests_end_processes
            else []
        ),
        *(f"- Precheck, {one.status}: {one.id} — {_one_line(one.detail)}" for one in facts.checks),
        f"- tune-mcp: {facts.tune_version} measured, {facts.report_version} reported",
        f"- Run directory: `{facts.run_dir}`",
        f"- Report generated: {facts.generated_at}",
        f"- Report digest: `{facts.artifacts_digest}` (over the plan and every run artifact)",
    ]
