"""What each test asserts about each threshold of a run, beside the values that its repeats had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tune_mcp.apply.locating import Concurrency, Files, Located, locate
from tune_mcp.config.stages import MetricKey, Number
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.discover.assertions import Gate, Unread, UnreadKind
from tune_mcp.discover.constants import NumberLiteral
from tune_mcp.discover.places import split_source
from tune_mcp.discover.source_tree import number_in
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.session.plan import Plan

Before = Mapping[MetricKey, Number | None]
"""(stage key, metric key) -> the threshold that the run was measured with, where an apply has changed it since; None
where there was none."""


@dataclass(frozen=True)
class ThresholdReading:
    """What is known about the assertion on one threshold, for one stage of one test.

    ``present`` is the threshold that each repeat was measured with, None when there was none or it is not known;
    ``values`` are those of the repeats that count; both by repeat from 1. ``tests`` are those that assert it, or may.
    Of a threshold without a value ``asked_at`` are the lines of the test file that ask for it, ``keys`` the ways that a
    KeyError may name its missing key.
    """

    located: Located
    test_key: str
    read: Gate | Unread
    tests: frozenset[str]
    values: Mapping[int, Number]
    present: Mapping[int, Number | None]
    asked_at: frozenset[int] = frozenset()
    keys: frozenset[str] = frozenset()

    def fails(self, repeat: int) -> bool:
        """Whether, by the reading, that repeat fails the threshold that it was measured with."""
        value, present = self.values.get(repeat), self.present.get(repeat)
        if not isinstance(self.read, Gate) or present is None or value is None:
            return False
        return not self.read.passes(value, present)

    def may_fail(self, repeat: int) -> bool:
        """Whether a failure of its test in that repeat may be this threshold's although no reading says so."""
        if isinstance(self.read, Unread):
            return self.read.kind is not UnreadKind.NOT_ASSERTED
        return self.present.get(repeat) is None


def read(
    files: Files, audited: Audit, before: Before, tests: Iterable[str] | None = None
) -> dict[MetricKey, ThresholdReading]:
    """The readings by (stage key, metric key), of all tests of the run or of those test keys."""
    wanted = None if tests is None else frozenset(tests)
    return {
        (stage.stage.key, metric): _one(files, audited.plan, stage, metric, before)
        for stage in audited.stages
        if not stage.stage.is_docs and (wanted is None or stage.stage.test_key in wanted)
        for metric in stage.stage.metrics
    }


def by_test(readings: Iterable[ThresholdReading]) -> dict[str, list[ThresholdReading]]:
    """The readings of each test key."""
    found: dict[str, list[ThresholdReading]] = {}
    for one in readings:
        found.setdefault(one.test_key, []).append(one)
    return found


def _one(files: Files, plan: Plan, audited: AuditedStage, metric: str, before: Before) -> ThresholdReading:
    stage, source = audited.stage, audited.stage.metrics[metric].source
    thresholds = files.module(stage.threshold_path)
    concurrency = Concurrency(files.module(stage.test), thresholds)
    located = locate(source, stage, thresholds, concurrency, plan)
    symbol, subkey = split_source(source)
    place, at = located.place, located.load
    found = files.assertions.gate(
        stage.test, stage.threshold_path, source, at, {**plan.settings.env, **stage.extra_env}
    )
    asserting = (
        found if isinstance(found, Gate) else files.assertions.reading_tests(stage.test, stage.threshold_path, source)
    )
    now = place.value if isinstance(place, NumberLiteral) else None
    known = (stage.key, metric) in before or place is not None
    name = source if subkey is None else f"{symbol}[{at}]['{subkey}']"
    present = _present(plan, audited, name, before.get((stage.key, metric), now))
    without = known and None in present.values()
    return ThresholdReading(
        located=located,
        test_key=stage.test_key,
        read=found,
        tests=frozenset(asserting.tests),
        values=_values(audited, metric),
        present=present,
        asked_at=files.lines_with(stage.test, source) if without else frozenset(),
        keys=frozenset({repr(subkey), repr(at)}) if without else frozenset(),
    )


def _present(plan: Plan, audited: AuditedStage, name: str, at_head: Number | None) -> dict[int, Number | None]:
    """The threshold that each repeat was measured with: commits that measure the same may write it differently."""
    changed = {
        commit.git_sha: literal
        for commit in plan.equivalents
        for literal in commit.literals
        if (literal.file, literal.source) == (audited.stage.threshold_path, name)
    }
    original = next((number_in(one.old) for one in changed.values()), at_head)
    shas = {repeat: cell.stored.content.git_sha for repeat, cell in enumerate(audited.cells, 1) if cell.stored}
    return {repeat: number_in(changed[sha].new) if sha in changed else original for repeat, sha in shas.items()}


def _values(audited: AuditedStage, metric: str) -> dict[int, Number]:
    return {
        repeat: value
        for repeat, cell in enumerate(audited.cells, 1)
        if cell.stored and cell.cell is Cell.STRICT and (value := cell.stored.content.metrics.get(metric)) is not None
    }
