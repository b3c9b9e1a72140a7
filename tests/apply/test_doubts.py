"""What a person must see before a value is written, each reason alone, and nothing where there is none."""

from __future__ import annotations

import pytest
from apply.gates import gate

from tune_mcp.apply.doubts import DoubtKind, at_edge, fails_text, find, other_unit, other_value, passing_value
from tune_mcp.config.stages import Display, Number, Stage, StageMetric, WorstOp
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.discover.assertions import Gate, Unread, UnreadKind
from tune_mcp.observe.worst import Worst, direction

UNREAD = Unread("a helper that nobody can follow", UnreadKind.UNCLEAR)
LOW = 'assert result["acc"] >= LIMIT'
HIGH = 'assert result["wer"] <= LIMIT'


def worst(
    *values: Number, op: WorstOp = "min", group: str = "accuracy", scale: float = 1, write: Number | None = None
) -> Worst:
    raw = min(values) if op == "min" else max(values)
    metric = StageMetric(source="LIMIT", worst=op, display=Display(label="x", scale=scale))
    stage = Stage.model_construct(key="s", group=group, metrics={"m": metric})
    return Worst(stage, "m", values, raw, float(raw), raw if write is None else write)


def kinds(
    one: Worst, current: Number | None, read: Gate | Unread, contradicted: str = "", repeats: int = 3
) -> list[DoubtKind]:
    moves = Direction.FIRST if current is None else direction(one.worst_op, current, one.write_value)
    return [doubt.kind for doubt in find(one, current, moves, read, contradicted, repeats)]


def test_a_plain_tightening_that_every_repeat_passes_raises_no_doubt() -> None:
    assert kinds(worst(0.7, 0.8, 0.9), 0.5, gate(LOW)) == []
    assert kinds(worst(0.1, 0.2, 0.3, op="max"), 0.5, gate(HIGH)) == []


def test_the_smallest_and_the_largest_numbers_are_judged_like_all_others() -> None:
    assert kinds(worst(5e-324, 1e-310, op="max"), 0.5, gate(HIGH)) == []
    assert not other_unit(gate(HIGH), 5e-324)
    assert kinds(worst(3e25, 4e25), 1.0, gate("assert result['acc'] > LIMIT")) == [DoubtKind.FAILS_REPEATS]
    assert kinds(worst(-1e308, 1e308), 1e300, gate("assert result['acc'] > LIMIT"))


def test_one_repeat_is_a_smoke_run_and_two_are_none() -> None:
    assert kinds(worst(0.7), 0.5, gate(LOW), repeats=1) == [DoubtKind.SMOKE_RUN]
    assert kinds(worst(0.7, 0.7), 0.5, gate(LOW), repeats=2) == []


def test_a_contradicted_reading_is_told_once_and_not_as_unread_too() -> None:
    found = list(find(worst(0.7), 0.5, Direction.TIGHTENS, UNREAD, "pytest passed it", 3))
    assert [one.kind for one in found] == [DoubtKind.CONTRADICTED]
    assert "pytest passed it" in found[0].text


@pytest.mark.parametrize(
    ("assertion", "doubted"),
    [
        (f"{LOW}; assert result['other'] >= LIMIT", True),
        ("for key in ('acc', 'other'): assert result[key] >= LIMIT", True),
        (f"{LOW}; {LOW}", False),
        ("assert result['acc'] >= LIMIT and result['other'] >= SLACK", False),
    ],
)
def test_a_limit_of_several_values_is_not_set_by_one_of_them_alone(assertion: str, doubted: bool) -> None:
    expected = [DoubtKind.SEVERAL_VALUES] if doubted else []

    assert kinds(worst(0.7, 0.8), 0.5, gate(assertion)) == expected
    assert DoubtKind.SEVERAL_VALUES not in kinds(worst(0.4, 0.6), 0.5, gate(assertion)), "a looser one fails none"


@pytest.mark.parametrize(("current", "expected"), [(0.5, [DoubtKind.UNREAD]), (None, [DoubtKind.UNREAD]), (0.7, [])])
def test_what_tightens_or_begins_to_gate_must_have_been_read(current: float | None, expected: list[DoubtKind]) -> None:
    assert kinds(worst(0.7, 0.8), current, UNREAD) == expected


def test_a_quality_metric_may_loosen_within_its_slack_only() -> None:
    slack = gate('assert result["acc"] >= LIMIT * SLACK')
    assert kinds(worst(0.46, 0.6), 0.5, slack) == []
    assert kinds(worst(0.44, 0.6), 0.5, slack) == [DoubtKind.BEYOND_SLACK]
    assert kinds(worst(0.46, 0.6), 0.5, gate(LOW)) == [DoubtKind.BEYOND_SLACK]
    assert kinds(worst(0.46, 0.6), 0.5, UNREAD) == [DoubtKind.BEYOND_SLACK]
    assert kinds(worst(0.44, 0.6, group="speed"), 0.5, slack) == []


@pytest.mark.parametrize(
    ("assertion", "op", "values", "repeats"),
    [
        ('assert result["acc"] > LIMIT', "min", (0.7, 0.8, 0.7), "1, 3"),
        ('assert result["acc"] < LIMIT', "max", (0.1, 0.2), "2"),
        ('assert result["acc"] >= LIMIT + 0.05', "min", (0.7, 0.72, 0.9), "1, 2"),
        ('assert result["acc"] > LIMIT + 0.05', "min", (0.7, 0.72, 0.9), "1, 2"),
    ],
)
def test_repeats_that_would_fail_the_value_are_named(
    assertion: str, op: WorstOp, values: tuple[float, ...], repeats
) -> None:
    one = worst(*values, op=op)
    text = fails_text(one, gate(assertion), one.write_value)
    assert text.partition(" would not pass")[0].rpartition(": ")[2] == f"repeat{'s' * (',' in repeats)} {repeats}"
    assert ("the comparison is strict" in text) is ("+" not in assertion)
    assert DoubtKind.FAILS_REPEATS in kinds(one, 0.5, gate(assertion))
    passing = passing_value(one, gate(assertion))
    assert passing is not None and f"{passing!r} would pass" in text
    assert all(gate(assertion).passes(value, passing) for value in values)


def test_the_value_that_would_pass_is_the_nearest_short_one_and_whole_for_counts() -> None:
    assert passing_value(worst(0.81254, 0.9), gate('assert result["acc"] > LIMIT')) == 0.8125
    assert passing_value(worst(0.8125, 0.9), gate('assert result["acc"] > LIMIT')) == 0.8124
    assert passing_value(worst(7, 9, op="max"), gate('assert result["n"] < LIMIT')) == 10
    assert passing_value(worst(7, 9), gate('assert result["n"] > LIMIT')) == 6
    assert passing_value(worst(0.7), gate('assert result["acc"] >= LIMIT + 0.0005')) == 0.699
    assert passing_value(worst(3.0), gate('assert result["acc"] >= LIMIT + 1000')) is None


@pytest.mark.parametrize(
    ("op", "value", "scale", "share", "edge"),
    [
        ("max", 0, 1, False, True), ("max", 0, 1, True, True), ("max", 1, 1, True, False), ("max", -1, 1, True, False),
        ("min", 1, 1, True, True), ("min", 100, 1, True, True), ("min", 1, 100, True, True),
        ("min", 100, 100, True, False), ("min", 1, 1, False, False), ("min", 0.99, 1, True, False),
        ("min", 2, 1, True, False),
    ],
)  # fmt: skip
def test_the_best_that_a_metric_can_be(op: WorstOp, value: float, scale: float, share: bool, edge: bool) -> None:
    assert at_edge(op, value, scale, share=share) is edge


def test_a_bound_at_its_natural_edge_is_asked_unless_slack_goes_beyond_it() -> None:
    assert kinds(worst(0, 0, op="max"), 0.5, gate('assert result["n"] <= LIMIT * 1.5')) == [DoubtKind.NATURAL_EDGE]
    assert kinds(worst(0, 0, op="max"), 0.5, gate('assert result["n"] <= LIMIT + 0.02')) == []
    assert kinds(worst(1.0, 1.0), 0.5, gate(LOW)) == [DoubtKind.NATURAL_EDGE]
    assert kinds(worst(1.0, 1.0, group="speed"), 0.5, gate(LOW)) == []
    assert kinds(worst(0, 0), 0, gate(LOW)) == [DoubtKind.NATURAL_EDGE]
    texts = [one.text for one in find(worst(0.0, 0.0, op="max"), 0.5, Direction.LOOSENS, UNREAD, "", 2)]
    assert "a slack that multiplies has no effect there" in texts[0] and "All 2 repeats" in texts[0]


@pytest.mark.parametrize(
    ("limit", "conversion"),
    [
        ("LIMIT * 60", True), ("LIMIT / 60", True), ("LIMIT * 50", True),
        ("LIMIT * 49.5", False), ("LIMIT / 49", False), ("LIMIT * 10", False), ("LIMIT * 0.9", False),
        ("LIMIT / 1000", True), ("round(LIMIT, 1)", False), ("min(LIMIT, 0.2)", False), ("LIMIT + 0.02", False),
    ],
)  # fmt: skip
def test_a_large_factor_is_another_unit_and_a_slack_is_none(limit: str, conversion: bool) -> None:
    assert other_unit(gate(f'assert result["s"] <= {limit}'), 0.5) is conversion


def test_no_unit_is_judged_from_zero() -> None:
    assert not other_unit(gate('assert result["s"] <= LIMIT * 60'), 0)


PATHS = {"m": "summary.acc", "other": "wer", "twin": "tail.acc"}


@pytest.mark.parametrize(
    ("assertion", "asked"),
    [
        ('assert result["wer"] >= LIMIT', True), ('assert result.get("wer") >= LIMIT', True), (LOW, False),
        ('assert result["unknown"] >= LIMIT', False),
    ],
)  # fmt: skip
def test_a_test_that_names_another_metrics_key_is_asked(assertion: str, asked: bool) -> None:
    found = list(other_value(worst(0.7), gate(assertion), PATHS))
    assert [one.kind for one in found] == ([DoubtKind.OTHER_VALUE] if asked else [])
    assert not asked or ("summary.acc" in found[0].text and "which is other" in found[0].text)
