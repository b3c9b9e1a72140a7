"""Sentences that more than one rendering says, so that they say the same (RPT-07, PRF-05; notes A22, A23, D80)."""

from __future__ import annotations

from collections.abc import Sequence

from tune_mcp.observe.worst import Direction, direction
from tune_mcp.report.facts import MetricFacts, PreviousFacts, ReportFacts, SlackFacts, StageFacts
from tune_mcp.report.figures import chance_text, direction_text, percent, plain

Pairs = Sequence[tuple[StageFacts, MetricFacts]]
_SAID = {
    Direction.LOOSENS: ("would loosen", "would loosen"),
    Direction.TIGHTENS: ("would tighten", "would tighten"),
    Direction.EQUAL: ("stays", "stay"),
    Direction.UNKNOWN: ("is unknown", "are unknown"),
}


def conclusion(metrics: Pairs, previous: PreviousFacts | None) -> list[str]:
    """What one metric group says, in a few sentences."""
    if len(metrics) == 1:
        stage, metric = metrics[0]
        told = "; ".join(remarks(metric))
        said = [f"{metric.label} of {stage.key}: {metric.direction_text}{f' ({told})' if told else ''}."]
        old = previous.worst.get(f"{stage.key}/{metric.key}") if previous else None
        return said if old is None else [*said, f"Against the last calibration: {moved_text(metric, old)}."]
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
    if previous is not None:
        said.append(_since(metrics, previous))
    return said


def _since(metrics: Pairs, previous: PreviousFacts) -> str:
    counts = {"better": 0, "worse": 0, "within the spread": 0}
    for stage, metric in metrics:
        old = previous.worst.get(f"{stage.key}/{metric.key}")
        if old is not None:
            counts[since_text(metric, old)] += 1
    told = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "nothing comparable"
    return f"Against the last calibration: {told}."


def since_text(metric: MetricFacts, old: int | float) -> str:
    """``better``, ``worse`` or ``within the spread``: the worst of N against the last calibration's."""
    if abs(metric.worst_raw - old) <= metric.spread.spread:
        return "within the spread"
    return "better" if direction(metric.worst_op, old, metric.worst_raw) is Direction.TIGHTENS else "worse"


def remarks(metric: MetricFacts) -> list[str]:
    """What a reviewer should know before writing the value, the most telling first."""
    found = [metric.reason] if metric.direction is Direction.UNKNOWN else []
    if metric.present_misses:
        found.append(f"{metric.present_misses} of {len(metric.values)} repeats fail CI's present limit")
    if metric.one_sample:
        found.append("moves by one sample")
    elif metric.within_noise:
        found.append("within the spread of the repeats")
    exact = metric.slack is not None and metric.slack.factor == 1 and metric.slack.offset == 0
    if exact and metric.direction is Direction.TIGHTENS and metric.spread.spread:
        found.append("no slack in the file: a tighter value makes CI flaky")
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
    if chance.basis == "student-t" and any(flag.kind == "bistable" for flag in metric.flags):
        return "Student's t with the file's slack; it assumes one mode and two are seen"
    return {
        "student-t": "Student's t over the repeats, with the file's slack",
        "distribution-free": "no room beyond the worst: 1/(N+1) for any distribution",
        "slack unknown": "slack unknown: 1/(N+1), as if there were none",
        "no spread seen": f"no spread seen; up to {chance_text(chance.bound)} cannot be excluded",
    }[chance.basis]


def chance_label(metric: MetricFacts) -> str:
    """The chance of failing with what a reader must know to take it right."""
    note = {"no spread seen": " (no spread seen)", "slack unknown": " (slack unknown)"}.get(metric.chance.basis, "")
    return f"{chance_text(metric.chance.estimate)}{note}"


def changed_text(facts: ReportFacts) -> str:
    """Which measured files are no longer as planned, and that an apply is one reason."""
    told = ", ".join(facts.changed_files)
    return f"{told}{'; the applied changes are listed in this report' if facts.applied else ''}"


def coverage_text(facts: ReportFacts) -> str:
    """What the worst of N is, and what it is not (D80)."""
    return (
        f"The worst of {facts.repeats} covers the true 95th percentile with a probability of "
        f"{percent(facts.coverage_p95)}, so it is not a P95, whatever a constant is called. "
        f"{facts.repeats_for_p95} repeats would cover it with 95 %."
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
        text += f" {suite.unknown_slack} of them enter with 1/(N+1) because the slack in the file could not be read."
    if suite.no_spread:
        text += f" {suite.no_spread} enter with 0 because all repeats were identical."
    return text


def previous_text(previous: PreviousFacts, facts: ReportFacts) -> str:
    """Which calibration this one is compared with, and how to see what changed in between."""
    same = previous.calibration_git_sha == facts.calibration_git_sha
    span = f"{previous.calibration_git_sha[:12]}..{facts.calibration_git_sha[:12]}"
    return "the commit is the same" if same else f"commits in between: git log --oneline {span}"


def moved_text(metric: MetricFacts, old: int | float) -> str:
    """The worst value against the last calibration's: better or worse by how much, or within the spread."""
    if old == metric.worst_raw:
        return "the same"
    change = direction_text(metric.worst_op, old, metric.worst_raw).partition("(")[2].rstrip(")")
    return f"{since_text(metric, old)} ({change})"


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
    return told
