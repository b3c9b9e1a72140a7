"""A lane whose repeats stand apart is named in the report."""

from __future__ import annotations

from tune_mcp.observe.observation import Attempt
from tune_mcp.report import lanes
from tune_mcp.report.facts import Launch


def launch(lane: str, seconds: float, test: str = "a", *, superseded: bool = False) -> Launch:
    at = "2026-04-23T05:00:00Z"
    attempt = Attempt(
        attempt=1, verdict="kept", started_at=at, ended_at=at, duration_s=seconds, log="x", lane=lane
    )  # fmt: skip
    return Launch(test=test, repeat=1, superseded=superseded, attempt=attempt)


def test_a_lane_that_is_slower_than_the_others_is_flagged_across_tests_of_any_length() -> None:
    alike = [launch(lane, base * factor, test) for test, base in (("a", 10), ("b", 300)) for lane, factor in
             (("left", 1.0), ("right", 1.01), ("left", 0.99), ("right", 1.0))]  # fmt: skip
    slow = [launch("far", base * 1.2, test) for test, base in (("a", 10), ("b", 300), ("b", 301))]

    told = lanes.lines([*alike, *slow, launch("far", 9.0, superseded=True)])

    assert [line.split(":")[0] for line in told] == ["Lane far", "Lane left", "Lane right"]
    assert ["stands apart" in line for line in told] == [True, False, False] and "3 counted" in told[0]


def test_a_run_on_one_lane_or_none_says_nothing_and_two_repeats_are_too_few_for_a_flag() -> None:
    assert lanes.lines([launch("", 1.0), launch("", 2.0)]) == [] == lanes.lines([launch("left", 1.0)])
    few = [launch("left", 10.0), launch("left", 10.0), launch("right", 20.0), launch("right", 20.0)]
    assert not any("apart" in line for line in lanes.lines(few))
