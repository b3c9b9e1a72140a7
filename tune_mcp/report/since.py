"""Sentences about the last calibration: what changed since, better or worse, and what became of an expected gain.

Accuracy, WER and speed are reported separately, per stage (RPT-07, PRF-01 to PRF-05).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from tune_mcp.contract.apply_plan import Direction
from tune_mcp.observe.worst import direction, direction_text
from tune_mcp.report.facts import (
    MetricFacts,
    OptimisationFacts,
    PreviousFacts,
    ReportFacts,
    SeenFacts,
    StageFacts,
)
from tune_mcp.session.provenance import ChangedFile
from tune_mcp.words import listed, number_of

Pairs = Sequence[tuple[StageFacts, MetricFacts]]
_LOOK_AT = "check the config and its way through server args, runners, schedulers and stage factories before applying"
_OTHER_WORK = "other work (preprocessing, long prefill, audio synthesis, ASR, video decoding)"


class Move(StrEnum):
    """How the worst of N of a metric moved since the last calibration."""

    BETTER = "better"
    WORSE = "worse"
    WITHIN = "within the spread"


def previous_text(previous: PreviousFacts, facts: ReportFacts) -> str:
    """Which calibration this one is compared with, and how to see what changed in between."""
    same = previous.calibration_git_sha == facts.calibration_git_sha
    span = f"{previous.calibration_git_sha[:12]}..{facts.calibration_git_sha[:12]}"
    return "the commit is the same" if same else f"commits in between: git log --oneline {span}"


def range_text(previous: PreviousFacts) -> str:
    """How much changed since the last calibration, and what of it is performance-sensitive by config (PRF-02)."""
    if previous.changes is None:
        return "What changed since then is unknown: this repository does not have both commits."
    if not previous.commits and not previous.files:
        return "Nothing was committed in between."
    text = f"{number_of(previous.commits, 'commit')} in between, {number_of(previous.files, 'file')} changed"
    return f"{text}; {len(previous.sensitive) or 'none'} of them under the globs of an optimisation in config."


def file_text(file: ChangedFile, previous: PreviousFacts) -> str:
    """``a.py (+10 −3): cuda_graph``."""
    lines = "binary" if file.added is None or file.removed is None else f"+{file.added} −{file.removed}"
    names = ", ".join(previous.sensitive.get(file.path, ()))
    return f"{file.path} ({lines}){f': {names}' if names else ''}"


def moved_text(metric: MetricFacts, old: int | float) -> str:
    """The worst value against the last calibration's: better or worse by how much, or within the spread."""
    if old == metric.worst_raw:
        return "the same"
    change = direction_text(metric.worst_op, old, metric.worst_raw).partition("(")[2].rstrip(")")
    return f"{_move(metric, old)} ({change})"


def _move(metric: MetricFacts, old: int | float) -> Move:
    if abs(metric.worst_raw - old) <= metric.spread.spread:
        return Move.WITHIN
    tightens = direction(metric.worst_op, old, metric.worst_raw) is Direction.TIGHTENS
    return Move.BETTER if tightens else Move.WORSE


def _moves(metrics: Pairs, facts: ReportFacts) -> Counter[Move]:
    """How many of the worst values moved which way since the last calibration."""
    return Counter(
        _move(metric, old) for stage, metric in metrics if (old := facts.worst_before(stage, metric)) is not None
    )


def group_text(metrics: Pairs, facts: ReportFacts) -> str:
    """How many of a group's worst values moved which way."""
    counts = _moves(metrics, facts)
    text = ", ".join(f"{counts[move]} {move}" for move in Move if counts[move]) or "nothing comparable"
    return f"Against the last calibration: {text}."


def gain_text(stage: StageFacts, facts: ReportFacts) -> str:
    """What became of the gain that a speed stage should show since the last calibration (RPT-07, PRF-04, PRF-05)."""
    unproven = facts.unproven(stage)
    shown = [one for one in facts.expected(stage) if one.name not in unproven]
    moved = _moves([(stage, metric) for metric in stage.metrics], facts)
    better, worse = moved[Move.BETTER], moved[Move.WORSE]
    way = f"{better} of {len(stage.metrics)} better, {worse} worse" if facts.previous else "nothing to compare with"
    if unproven:
        return f"{way}; {', '.join(unproven)} configured but in no log: {_LOOK_AT}"
    if not shown:
        return f"{way}; no optimisation of this test changed" if facts.previous else way
    names = ", ".join(_named(one, stage, facts.repeats) for one in shown)
    if better > worse:
        return f"{way}: as expected of {names}"
    return f"{way}: no gain although {names} changed; dominated by {_OTHER_WORK}, or not reached: a person must check"


def unproven_text(one: OptimisationFacts) -> str:
    """A sentence where no log of some tests shows an optimisation; else empty (PRF-03, PRF-04)."""
    without = [seen.test for seen in one.tests if not seen.repeats] if one.evidence else []
    if not without:
        return ""
    return f"{one.name} is configured but in no log of {listed(without, 3, ', ')}: {_LOOK_AT}"


def _named(one: OptimisationFacts, stage: StageFacts, repeats: int) -> str:
    """The optimisation's name, and what is missing from its proof."""
    if one.evidence is None:
        return f"{one.name} (not proven to have run)"
    seen = sum(len(seen.repeats) for seen in one.tests if seen.test == stage.test_key)
    return one.name if seen == repeats else f"{one.name} (seen in {seen} of {repeats} repeats only)"


def seen_text(seen: SeenFacts, repeats: int) -> str:
    """In how many repeats' logs of one test an optimisation shows, and where first."""
    without = [str(repeat) for repeat in range(1, repeats + 1) if repeat not in seen.repeats]
    text = f"{len(seen.repeats)} of {repeats} repeats" if seen.repeats else "never"
    text += f", not in {', '.join(without)}" if seen.repeats and without else ""
    unread = f"; repeat {', '.join(map(str, seen.unread))}: log gone or too long to read whole" if seen.unread else ""
    return f"{text}{unread}"
