"""Sentences that more than one rendering says, so that they say the same (RPT-07, PRF-05; notes A22, A23, D80)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tune_mcp.observe.worst import Direction
from tune_mcp.report import since
from tune_mcp.report.facts import MetricFacts, ReportFacts, SlackFacts, StageFacts
from tune_mcp.report.figures import chance_text, percent, plain
from tune_mcp.report.statistics import repeats_for

Pairs = Sequence[tuple[StageFacts, MetricFacts]]
_SAID = {
    Direction.LOOSENS: ("would loosen", "would loosen"),
    Direction.TIGHTENS: ("would tighten", "would tighten"),
    Direction.EQUAL: ("stays", "stay"),
    Direction.UNKNOWN: ("is unknown", "are unknown"),
}


def conclusion(metrics: Pairs, facts: ReportFacts) -> list[str]:
    """What one metric group says, in a few sentences."""
    previous = facts.previous
    if len(metrics) == 1:
        stage, metric = metrics[0]
        told = "; ".join(remarks(stage, metric, facts))
        said = [f"{metric.label} of {stage.key}: {metric.direction_text}{f' ({told})' if told else ''}."]
        old = previous.worst.get(f"{stage.key}/{metric.key}") if previous else None
        said += _unproven(metrics, facts)
        return said if old is None else [*said, f"Against the last calibration: {since.moved_text(metric, old)}."]
    counts = [
        f"{number} {words[number != 1]}"
        for way, words in _SAID.items()
        if (number := sum(metric.direction is way for _, metric in metrics))
    ]
    said = [f"{len(metrics)} thresholds: {', '.join(counts)}."]
    moving = [pair for pair in metrics if pair[1].direction in (Direction.LOOSENS, Direction.TIGHTENS)]
    if moving:
        stage, metric = max(moving, key=lambda pair: abs(pair[1].change_percent or 0.0))
        said.append(f"The largest move: {metric.label} of {stage.key} {metric.direction_text}.")
    noise = sum(metric.within_noise for _, metric in moving)
    if noise:
        said.append(f"{noise} of {len(moving)} changes lie within the spread of the repeats.")
    failing = sum(bool(metric.present_misses) for _, metric in metrics)
    if failing:
        said.append(f"{failing} {'fails' if failing == 1 else 'fail'} CI's present limit in at least one repeat.")
    split = sum(any(flag.kind == "bistable" for flag in metric.flags) for _, metric in metrics)
    if split:
        said.append(f"{split} {'has' if split == 1 else 'have'} two modes: calibrating to either is a decision.")
    said += _unproven(metrics, facts)
    if previous is not None:
        said.append(since.group_text(metrics, previous))
    return said


def _unproven(metrics: Pairs, facts: ReportFacts) -> list[str]:
    tests = dict.fromkeys(stage.test_key for stage, _ in metrics if stage.group == "speed")
    found = {
        one.name: ", ".join(seen.test for seen in one.tests if seen.test in tests and not seen.repeats)
        for one in facts.optimisations
        if one.evidence
    }
    told = ", ".join(f"{name} ({where})" for name, where in found.items() if where)
    return [f"Configured, but in no log: {told}."] if told else []


def remarks(stage: StageFacts, metric: MetricFacts, facts: ReportFacts) -> list[str]:
    """What a reviewer should know before writing the value, the most telling first."""
    found = [metric.reason] if metric.direction is Direction.UNKNOWN else []
    if metric.direction is Direction.LOOSENS and stage.group == "speed" and (unproven := facts.unproven(stage)):
        found.append(f"{', '.join(unproven)} never shows in a log of this test: look into that first")
    if metric.present_misses:
        verb = "fails" if metric.present_misses == 1 else "fail"
        found.append(f"{metric.present_misses} of {len(metric.values)} repeats {verb} CI's present limit")
    if metric.one_sample:
        found.append("moves by one sample")
    elif metric.within_noise:
        found.append("within the spread of the repeats")
    exact = metric.slack is not None and metric.slack.factor == 1 and metric.slack.offset == 0
    if exact and metric.direction is Direction.TIGHTENS and metric.spread.spread:
        found.append("no slack in the file: a tighter value makes CI flaky")
    if metric.loosened_in_a_row > 1:
        values = ", ".join(plain(one.value) for one in metric.past[-3:])
        found.append(f"would be the change number {metric.loosened_in_a_row} in a row that loosens (before: {values})")
    return found + [flag.text for flag in metric.flags if flag.kind not in ("identical", "trend")]


def bound_text(metric: MetricFacts) -> str:
    """``lower bound`` for min, ``upper bound`` for max."""
    return "lower bound" if metric.worst_op == "min" else "upper bound"


def slack_text(slack: SlackFacts | None) -> str:
    """``× 1.5``, ``− 0.02``, ``none`` or ``unknown``."""
    if slack is None:
        return "unknown"
    factor = f"× {plain(round(slack.factor, 6))}" if slack.factor != 1 else ""
    sign = "+" if slack.offset > 0 else "−"
    offset = f"{sign} {plain(abs(round(slack.offset, 6)))}" if slack.offset else ""
    return f"{factor} {offset}".strip() or "none"


def basis_text(metric: MetricFacts) -> str:
    """Where the chance of failing comes from, in words."""
    chance = metric.chance
    if chance.basis.startswith("student-t") and any(flag.kind == "bistable" for flag in metric.flags):
        return "Student's t with the file's slack; it assumes one mode and two are seen"
    return {
        "student-t": "Student's t over the repeats, with the file's slack",
        "student-t of logarithms": "Student's t over the repeats' logarithms, with the file's slack",
        "distribution-free": "no room beyond the worst: 1/(N+1) for any distribution",
        "slack unknown": "slack unknown: 1/(N+1), as if there were none",
        "no spread seen": f"no spread seen; up to {chance_text(chance.bound)} cannot be excluded",
    }[chance.basis]


def chance_label(metric: MetricFacts) -> str:
    """The chance of failing with what a reader must know to take it right."""
    note = {"no spread seen": " (no spread seen)", "slack unknown": " (slack unknown)"}.get(metric.chance.basis, "")
    return f"{chance_text(metric.chance.estimate)}{note}"


def notes(facts: ReportFacts) -> list[tuple[str, str]]:
    """What a reader must know before any number: (headline, sentence), the gravest first."""
    found: list[tuple[str, str]] = []
    if facts.dirty:
        found.append(("Dirty tree", f"{facts.dirty_note}."))
    if facts.repeats == 1:
        found.append(("One repeat", "it shows no spread at all: a smoke run, no calibration."))
    if "different environments" in facts.environment_note:
        found.append(("Environment", f"{facts.environment_note}: their values are not comparable."))
    if facts.changed_files:
        found.append(("Changed since the run was planned", f"{changed_text(facts)}."))
    if facts.applied:
        told = "thresholds have been written" if len(facts.applied) > 1 else "threshold has been written"
        found.append(("Applied", f"{len(facts.applied)} {told}; the tables show the files as they stood before."))
    if facts.previous and facts.previous.differences:
        found.append(("Conditions of the last calibration", f"{'; '.join(facts.previous.differences)}."))
    return found


def changed_text(facts: ReportFacts) -> str:
    """Which measured files are no longer as planned, and that an apply is one reason."""
    told = ", ".join(facts.changed_files)
    return f"{told}{'; the applied changes are listed in this report' if facts.applied else ''}"


def coverage_text(facts: ReportFacts) -> str:
    """What the worst of N is, and what it is not (D80)."""
    return (
        f"The worst of {facts.repeats} covers the true 95th percentile with a probability of "
        f"{percent(facts.coverage_p95)}, so it is not a P95, whatever a constant is called. "
        f"{repeats_for(0.5)} repeats would cover it with 50 %, {facts.repeats_for_p95} with 95 %."
    )


def suite_text(facts: ReportFacts) -> str:
    """The chance that a clean run of the whole suite fails with the proposed values (D79)."""
    suite = facts.suite
    if not suite.gates:
        return "There are no thresholds, so nothing can fail."
    text = "With all proposed values written, one clean CI run of the whole suite fails at least one of them with "
    if suite.groups < suite.gates:
        text += (
            f"a probability between {chance_text(suite.grouped)} ({suite.groups} gates, metrics that move together "
            f"counted once) and {chance_text(suite.independent)} (all {suite.gates} independent)."
        )
    else:
        text += f"a probability of about {chance_text(suite.independent)} ({suite.gates} gates)."
    if suite.unknown_slack:
        verb = "enters" if suite.unknown_slack == 1 else "enter"
        text += f" {suite.unknown_slack} of them {verb} with 1/(N+1) because the slack in the file could not be read."
    if suite.no_spread:
        verb = "enters" if suite.no_spread == 1 else "enter"
        text += f" {suite.no_spread} {verb} with 0 because all repeats were identical."
    if suite.present is not None:
        text += f" With the thresholds as they stand in the files it is {chance_text(suite.present)}."
    return text


def noise_text(facts: ReportFacts) -> str:
    """How far two halves of the same repeats lie apart: the floor under which no change means anything (A/A)."""
    shares = [
        (metric.spread.halves / abs(metric.spread.median), stage, metric)
        for stage, metric in facts.metrics()
        if metric.spread.halves is not None and metric.spread.median
    ]
    if not shares:
        return "With fewer than 4 repeats, or without thresholds, no noise floor can be told."
    most, stage, metric = max(shares, key=lambda one: one[0])
    middle = percent(median(share for share, _, _ in shares))
    return (
        f"Noise floor (A/A): the medians of the odd and of the even repeats differ by {middle} in the middle metric "
        f"and by {percent(most)} at most ({metric.label} of {stage.key}). A change as small as that means nothing."
    )


def past_text(metric: MetricFacts) -> str:
    """``0.7 (2026-03-01), 0.68 (2026-04-02)``: what stood in the file before, the oldest first."""
    return ", ".join(f"{plain(one.value)} ({one.day})" for one in metric.past)


def together_failed(facts: ReportFacts) -> list[tuple[int, list[str]]]:
    """Repeats in which several tests were tried again: (repeat, tests). The host is a likelier cause than a test."""
    failed: dict[int, set[str]] = {}
    for one in facts.attempts:
        if one.superseded:
            failed.setdefault(one.repeat, set()).add(one.test)
    return [(repeat, sorted(tests)) for repeat, tests in sorted(failed.items()) if len(tests) > 1]


def replaced_lines(facts: ReportFacts) -> list[str]:
    """What a person replaced: one line a repeat, then its values beside those that count, suspects marked."""
    lines: list[str] = []
    for one in facts.replaced:
        lines.append(
            f"{one.test} repeat {one.repeat} was complete and was replaced by {one.who}: {one.reason} ({one.t})"
        )
        for value in one.values:
            old = "?" if value.old is None else plain(value.old)
            counted = ", ".join(plain(other) for other in value.counted)
            suspect = " — suspected defect: a disturbed machine does not change answers" if value.suspect else ""
            lines.append(f"{value.stage}/{value.metric}: was {old}, counted now {counted}{suspect}")
    return lines


def attempts_text(facts: ReportFacts) -> str:
    """How many launches it took, and how many did not count."""
    launches, again = len(facts.attempts), sum(one.superseded for one in facts.attempts)
    if not launches:
        return "The artifacts carry no history of attempts."
    runs = "1 launch of pytest" if launches == 1 else f"{launches} launches of pytest"
    told = f"{runs}: {launches - again} kept{f', {again} tried again' if again else ''}."
    purged = sum(not one.reason.startswith("attempt ") for one in facts.superseded)
    if purged:
        told += (
            f" Besides these, {purged} {'repeat was' if purged == 1 else 'repeats were'} taken out and measured anew."
        )
    for repeat, tests in together_failed(facts):
        told += f" In repeat {repeat} {len(tests)} tests failed together ({', '.join(tests)}): look at the machine."
    return told
