"""Sentences that more than one rendering shows, so that all show the same (RPT-07, PRF-05)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from tune_mcp.config.stages import Number
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.contract.report import Cause
from tune_mcp.observe.observation import AttemptVerdict
from tune_mcp.report import since
from tune_mcp.report.facts import (
    MetricFacts,
    ReportFacts,
    StageFacts,
    TrendFacts,
    Uncounted,
    UncountedFacts,
    UncountedValue,
)
from tune_mcp.report.figures import chance_text, chances_text, percent, plain
from tune_mcp.report.shape import FlagKind
from tune_mcp.report.since import Pairs
from tune_mcp.report.statistics import UNSEEN, coverage, repeats_for
from tune_mcp.words import listed, number_of

_TESTS_NAMED = 5
_IS_RED = "CI is red wherever it fails, whatever is written."
_MAY_STAY_RED = "What is no threshold's stays red in CI, whatever is written: see its log."
_STAYS_RED: dict[Cause, str] = {Cause.UNCLEAR: _MAY_STAY_RED, Cause.MISSED_TOO: _MAY_STAY_RED}
_APART = "No repeat is left out for that: look at the machine, or measure its repeats again on another one."
_TAKEN_OUT = (Uncounted.PURGED, Uncounted.REPLACED)
_COUNTED = {
    Direction.LOOSENS: ("would loosen", "would loosen"),
    Direction.TIGHTENS: ("would tighten", "would tighten"),
    Direction.FIRST: ("would get its first baseline", "would get their first baseline"),
    Direction.EQUAL: ("stays", "stay"),
    Direction.UNKNOWN: ("is unknown", "are unknown"),
}


def conclusion(metrics: Pairs, facts: ReportFacts) -> list[str]:
    """The conclusion about one metric group, in a few sentences."""
    counts = [
        f"{number} {words[number != 1]}"
        for way, words in _COUNTED.items()
        if (number := sum(metric.direction is way for _, metric in metrics))
    ]
    sentences = [f"{number_of(len(metrics), 'threshold')}: {', '.join(counts)}."]
    moving = [pair for pair in metrics if pair[1].direction in (Direction.LOOSENS, Direction.TIGHTENS)]
    if moving:
        stage, metric = max(moving, key=lambda pair: abs(pair[1].change_percent or 0.0))
        sentences.append(f"The largest move: {metric.label} of {stage.key} {metric.direction_text}.")
    noise = sum(metric.within_noise for _, metric in moving)
    if noise:
        sentences.append(f"{noise} of {len(moving)} changes lie within the spread of the repeats.")
    failing = sum(bool(metric.present_misses) for _, metric in metrics)
    if failing:
        sentences.append(f"{failing} {'fails' if failing == 1 else 'fail'} CI's present limit in at least one repeat.")
    split = sum(metric.flag is not None and metric.flag.kind is FlagKind.BISTABLE for _, metric in metrics)
    if split:
        sentences.append(f"{split} {'has' if split == 1 else 'have'} two modes: calibrating to either is a decision.")
    sentences += _unproven(metrics, facts)
    if facts.previous is not None:
        sentences.append(since.group_text(metrics, facts))
    return sentences


def _unproven(metrics: Pairs, facts: ReportFacts) -> list[str]:
    tests = dict.fromkeys(stage.test_key for stage, _ in metrics if stage.group == "speed")
    found = {
        one.name: ", ".join(seen.test for seen in one.tests if seen.test in tests and not seen.repeats)
        for one in facts.optimisations
        if one.evidence
    }
    missing = ", ".join(f"{name} ({where})" for name, where in found.items() if where)
    return [f"Configured, but in no log: {missing}."] if missing else []


def remarks(stage: StageFacts, metric: MetricFacts, facts: ReportFacts) -> list[str]:
    """List what a reviewer should know before the value is written, the most telling first."""
    repeated = bool(metric.unread) and metric.unread in metric.reason
    found = [metric.reason] if metric.direction in (Direction.UNKNOWN, Direction.FIRST) and not repeated else []
    if metric.direction is Direction.LOOSENS and stage.group == "speed" and (unproven := facts.unproven(stage)):
        found.append(f"{', '.join(unproven)} never shows in a log of this test: look into that first")
    if metric.unread:
        found.append(metric.unread if metric.unasserted else f"limit unknown: {metric.unread}")
    if metric.present_misses:
        verb = "fails" if metric.present_misses == 1 else "fail"
        found.append(f"{metric.present_misses} of {len(metric.values)} repeats {verb} CI's present limit")
    if metric.worst_op == "max" and metric.write_value == 0 and metric.limit_proposed == 0:
        found.append("0 × slack is no slack: any value above 0 fails CI")
    if metric.one_sample:
        found.append("moves by one sample")
    elif metric.within_noise:
        found.append("within the spread of the repeats")
    exact = metric.limit_proposed == metric.write_value
    if exact and metric.direction is Direction.TIGHTENS and metric.spread.spread:
        found.append("no slack in the file: a tighter value makes CI flaky")
    found += metric.doubts
    return found + ([metric.flag.text] if metric.flag else [])


def present_text(metric: MetricFacts, number: Callable[[Number], str] = plain) -> str:
    """The number in the file: ``none`` where there is none yet, ``?`` where it is not known."""
    if metric.current_raw is not None:
        return number(metric.current_raw)
    return "none" if metric.direction is Direction.FIRST else "?"


def proposed_text(metric: MetricFacts, number: Callable[[Number], str] = plain) -> str:
    """The number to write; ``—`` where nothing is ever written."""
    return "—" if metric.direction is Direction.UNKNOWN else number(metric.write_value)


def slack_text(metric: MetricFacts) -> str:
    """How far the proposed limit lies beyond the proposed value: ``+12.5 %``, ``−0.02``, ``none``, ``unknown``.

    ``—`` where nothing asserts the value, so that there is no limit.
    """
    limit, value = metric.limit_proposed, metric.write_value
    if limit is None:
        return "—" if metric.unasserted else "unknown"
    if limit == value:
        return "none"
    slack = limit - value
    size = f"{plain(round(100 * abs(slack / value), 2))} %" if value else plain(abs(slack))
    return f"{'+' if slack > 0 else '−'}{size}"


def chance_label(metric: MetricFacts) -> str:
    """The chance of failing with what a reader must know to take it right."""
    unseen = " (no spread seen)" if metric.spread.n > 1 and not metric.spread.spread else ""
    note = f" ({limit_missing(metric)})" if metric.limit_proposed is None else unseen
    return f"{chances_text(metric.chance)}{note}"


def limit_missing(metric: MetricFacts) -> str:
    """Why no limit is shown, in a few words: nothing asserts the value, or its assertion could not be read."""
    return "nothing asserts it" if metric.unasserted else "slack unknown"


def notes(facts: ReportFacts) -> list[tuple[str, str]]:
    """What a reader must know before any number: (headline, sentence), the gravest first."""
    found: list[tuple[str, str]] = []
    for one in facts.failed_tests:
        accepted = f" Accepted: {one.allowed}." if one.allowed else f" {_STAYS_RED.get(one.cause, _IS_RED)}"
        found.append((one.headline, f"{one.text}.{accepted}"))
    if facts.sources:
        runs = "; ".join(f"{one.run_id} on {one.host} ({', '.join(one.stages)})" for one in facts.sources)
        what = f"{len(facts.sources)} partitions of one plan, each measured by a run of its own: {runs}."
        found.append(("Merged run", what))
    for host in facts.hosts:
        if host.apart:
            found.append((f"Host {host.host} stands apart", f"{'; '.join(host.apart)}. {_APART}"))
    if several := _hosts_without_overlap(facts):
        found.append(("Hosts", several))
    if facts.dirty:
        found.append(("Dirty tree", f"{facts.dirty_note}."))
    if facts.repeats == 1:
        found.append(("One repeat", "it shows no spread at all: a smoke run, no calibration."))
    if facts.environments > 1:
        found.append(("Environment", f"{facts.environment_note}: their values are not comparable."))
    if worse := worse_text(facts):
        found.append(("Worse values that do not count", worse))
    if facts.changed_files:
        changes = "; the applied changes are listed in this report" if facts.applied else ""
        found.append(("Changed since the run was planned", f"{', '.join(facts.changed_files)}{changes}."))
    if facts.applied:
        written = "thresholds have been written" if len(facts.applied) > 1 else "threshold has been written"
        present = {(stage.key, metric.place): metric.current_raw for stage, metric in facts.metrics()}
        before = all(present.get((row.stage_key, row.symbol), row.old) == row.old for row in facts.applied)
        when = "as they were before" if before else "as they are now"
        found.append(("Applied", f"{len(facts.applied)} {written}; the tables show the files {when}."))
    if drifted := [one for one in facts.trends if one.drifted]:
        named = [f"{one.stage}/{one.metric} {trend_text(one)}" for one in drifted]
        found.append(("References that drifted", f"{listed(named)}. Each step alone may look small."))
    if facts.previous and facts.previous.differences:
        found.append(("Conditions of the last calibration", f"{'; '.join(facts.previous.differences)}."))
    if facts.unchecked and facts.metrics():
        what = "no repeat has a record of which tests passed, so no reading of an assertion was checked against it."
        found.append(("Assertions", what))
    return found


def trend_text(trend: TrendFacts) -> str:
    """``+12.3 % over 5 calibrations``."""
    moved = "n/a" if trend.drift is None else f"{trend.drift * 100:+.1f} %"
    return f"{moved} over {len(trend.runs)} calibrations"


def _hosts_without_overlap(facts: ReportFacts) -> str:
    """A sentence where several hosts measured and no stage on two of them; else empty."""
    keys = [key for host in facts.hosts for key, count in host.repeats.items() if count]
    if len([host for host in facts.hosts if host.repeats]) < 2 or len(keys) > len(set(keys)):
        return ""
    return "no stage was measured on more than one host, so whether the hosts differ cannot be seen here."


def worse_text(facts: ReportFacts) -> str:
    """The values that were measured, do not count, and are worse than what is proposed; empty when there are none."""
    worse = [
        f"{value.stage}/{value.metric} {plain(value.value)} against {_worst(value)} ({one.test} repeat {one.repeat}, "
        f"{one.reason})"
        for one in facts.uncounted
        for value in one.values
        if value.worse
    ]
    return f"{listed(worse, 6)}. Each is in the table of what does not count." if worse else ""


def coverage_text(facts: ReportFacts) -> str:
    """What the worst of N is, and what it is not."""
    return (
        f"The worst of {facts.repeats} covers the true 95th percentile with a probability of "
        f"{percent(coverage(facts.repeats))}, so it is not a P95, whatever a constant is called. "
        f"{repeats_for(0.5)} repeats would cover it with 50 %, {repeats_for(0.95)} with 95 %."
    )


def suite_text(facts: ReportFacts) -> str:
    """How often a clean run of the whole suite misses a limit with the proposed values: noise, slow runs, attempts."""
    suite = facts.suite
    if not suite.gates:
        return "There are no thresholds, so nothing can fail."
    tests = number_of(len(suite.gates), "test")
    seen = f"With all proposed values written, a clean run of the suite ({tests}, each one gate) "
    seen += f"would miss a limit in about {chance_text(suite.chance.noise)} of cases from the spread seen here"
    parts = [seen]
    if suite.counted_repeats:
        earlier = f" and in {number_of(suite.earlier_reports, 'earlier report')}" if suite.earlier_reports else ""
        noise, with_slow = chance_text(suite.chance.noise), chance_text(suite.chance.with_slow)
        parts[0] += (
            f", {with_slow if with_slow != noise else 'and no more'} if slow runs come as often as in earlier "
            f"calibrations ({suite.slow_repeats} of {suite.counted_repeats} test repeats here{earlier})"
        )
    if suite.attempts > 1:
        parts.append(
            f"CI repeats a failing test up to {suite.attempts} times; only a cause that lasts through all attempts "
            f"fails it: {chances_text(suite.every_attempt)} at least, if the attempts were independent"
        )
    if suite.shift is None:
        parts.append("Shifts between days cannot be seen in one calibration")
    elif suite.shift:
        parts.append(f"Calibrations of unchanged code differed by {percent(suite.shift)} (one sd), which is included")
    else:
        parts.append("Earlier calibrations of unchanged code differed by no more than the repeats do")
    unasserted = sum(metric.unasserted for _, metric in facts.metrics())
    as_worst = "as if the worst value were the limit"
    if unread := suite.unknown_slack - unasserted:
        parts.append(f"{_metrics(unread)} {as_worst}: the slack could not be read")
    if unasserted:
        parts.append(f"{_metrics(unasserted)} {as_worst}: nothing asserts {'it' if unasserted == 1 else 'them'}")
    if suite.unchanged:
        most = chance_text(UNSEEN / (facts.repeats + 1))
        parts.append(f"{_metrics(suite.unchanged)} without any spread seen: up to {most} each is possible, not 0")
    if suite.present is not None:
        parts.append(f"With the thresholds as they stand in the files it is {chances_text(suite.present)}")
    return f"{'. '.join(parts)}."


def _metrics(number: int) -> str:
    return f"{number_of(number, 'metric')} {'enters' if number == 1 else 'enter'}"


def advice_text(facts: ReportFacts) -> str:
    """What would bring the suite's false alarms down to the wished rate: slack, or more repeats of which tests."""
    suite = facts.suite
    wished = f"{percent(suite.false_alarms, 0)} false alarms of the suite"
    short = [gate for gate in suite.gates if gate.slack is not None or gate.repeats is not None]
    parts = [
        f"At most {wished}{f' in {suite.attempts} attempts' if suite.attempts > 1 else ''} means a chance of "
        f"{chance_text(suite.wished)} for each test and attempt"
    ]
    if not short:
        parts.append("Noise alone stays within that" if suite.gates else "")
    more = {gate.test: gate.repeats - facts.repeats for gate in short if gate.repeats}
    if more:
        named = list(more.items())[:_TESTS_NAMED]
        tests = ", ".join(f"{test} {count} more ({count + facts.repeats} in all)" for test, count in named)
        left = f" and {number_of(len(more) - len(named), 'test')}" if len(more) > len(named) else ""
        parts.append(
            f"With the slack as it is, more repeats would be enough, in a new run of these tests: {tests}{left}"
        )
    never = [gate for gate in short if not gate.repeats]
    if never:
        parts.append(f"No number of repeats up to 60 is enough for {number_of(len(never), 'test')}: more slack is")
    slow = suite.every_attempt.with_slow > suite.false_alarms >= suite.every_attempt.noise
    if slow:
        parts.append("Slow runs alone exceed it: more repeats do not help, a second attempt or much more slack does")
    return f"{'. '.join(filter(None, parts))}."


def launches_text(facts: ReportFacts) -> str:
    """How many launches it took, and how many did not count."""
    launches, again = len(facts.launches), sum(one.superseded for one in facts.launches)
    if not launches:
        return "The artifacts carry no history of attempts."
    text = f"{number_of(launches, 'launch', 'launches')} of pytest: {launches - again} kept"
    text += f", {again} tried again" if again else ""
    disturbed = sum(one.attempt.verdict is AttemptVerdict.DISTURBED for one in facts.launches)
    text += f", {disturbed} of them because others used its CPUs." if disturbed else "."
    text += _foreign(facts)
    taken = {(one.test, one.repeat, one.t) for one in facts.uncounted if one.how in _TAKEN_OUT}
    if taken:
        was = "repeat was" if len(taken) == 1 else "repeats were"
        text += f" Besides these, {len(taken)} {was} set aside and measured again."
    return text


def _foreign(facts: ReportFacts) -> str:
    """What other processes used of the launches' CPUs, where that was measured; a sentence to go on with."""
    kept = [
        one
        for one in facts.launches
        if one.attempt.verdict is AttemptVerdict.KEPT and one.attempt.foreign_cores is not None
    ]
    if not kept:
        return ""
    most = max(kept, key=lambda one: one.attempt.foreign_cores or 0.0)
    usual = median(one.attempt.foreign_cores or 0.0 for one in kept)
    return (
        f" While those that count ran, other processes used {usual:.2f} cores of their CPUs (median), at most "
        f"{most.attempt.foreign_cores or 0.0:.2f} ({most.test} repeat {most.repeat})."
    )


def uncounted_values(one: UncountedFacts) -> str:
    """Every value of an attempt that does not count, those worse than what does and suspects marked."""
    return ", ".join(map(_uncounted_value, one.values)) or "nothing can be read"


def _uncounted_value(one: UncountedValue) -> str:
    marks = [f"worse than {_worst(one)}"] if one.worse else []
    if one.suspect:
        marks.append(f"suspected defect: those that count are {', '.join(map(plain, one.counted))}")
    marked = f" ({'; '.join(marks)})" if marks else ""
    return f"{one.stage}/{one.metric} {plain(one.value)}{marked}"


def _worst(one: UncountedValue) -> str:
    """The worst of the values that count, of which ``one`` is worse."""
    return plain(min(one.counted, key=lambda value: abs(value - one.value)))
