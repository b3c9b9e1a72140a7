"""The benchmarks measure what they say: their large run is a strict one, and a figure over its ceiling is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")


def test_the_run_that_readers_are_timed_on_is_strict_from_end_to_end(tmp_path: Path) -> None:
    import reading

    from tune_mcp.verbs.project import Options, Project
    from tune_mcp.verbs.strict_audit import strict_audit

    run = reading.large_run(tmp_path, stages=3, repeats=2)

    assert strict_audit(Project.resolve(Options(repo=tmp_path)), run.run_id).strict_ready == "3/3"
    assert [figure.unit for figure in reading.large(run, "3 × 2")] == ["s", "s", "s", "ms"]
    assert all(figure.beside > 0 for figure in reading.huge_log(run))


@pytest.mark.rule("POL-04", "STR-15")
def test_polls_catalogue_report_plan_and_apply_are_short_as_text_and_typed() -> None:
    import characters

    over = [figure.name for figure in characters.figures() if not figure.held]

    assert over == []


def test_a_figure_over_its_ceiling_is_told_and_fails_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    from figure import Figure, show

    good, bad = (Figure(name, ours, 1.0, "s", "floor", 1.0) for name, ours in (("good", 0.5), ("bad", 1.5)))

    assert (show([good]), show([good, bad]), show([bad], markdown=True)) == (0, 1, 1)
    out = capsys.readouterr().out
    assert out.count("over") == 1 and "| bad | 1.50 s | 1.00 s (floor) | 1.50 | 1.00 |" in out


def test_ours_and_what_stands_beside_it_are_measured_in_turn_and_the_first_round_does_not_count() -> None:
    from figure import in_turn

    asked: list[str] = []

    def measured(name: str, first: float, *later: float) -> Callable[[], float]:
        values = iter((first, *later))
        return lambda: (asked.append(name), next(values))[1]

    assert in_turn(measured("ours", 99.0, 1.0, 2.0, 9.0), measured("beside", 99.0, 4.0, 5.0, 3.0), rounds=3) == [2, 4]
    assert asked == ["ours", "beside"] * 4


def test_neighbours_spoil_no_calibration_that_waits_for_them_and_measures_again() -> None:
    import quiet_simulated

    lost, kept, bias, _ = quiet_simulated.figures(10)

    assert lost.ours <= 2 and kept.ours <= 10 and bias.ours <= 1, (lost, kept, bias)


def test_a_calibration_takes_hardly_longer_than_the_shortest_time_possible() -> None:
    import makespan

    lanes = [makespan.Fleet(makespan.LENGTHS_S, makespan.REPEATS, lanes).play() for lanes in (1, 2, 4, 8)]
    hosts = makespan.fleet(64, 90).play()
    crowded = makespan.fleet(64, 6).play()

    assert hosts.crashed and hosts.lost
    assert [one for one in (*lanes, hosts, crowded) if not one.figure("").held] == []
    assert all(one.now >= one.bound_s() - 1e-6 for one in (*lanes, hosts, crowded)), "or the bound is none"


def test_the_priors_are_those_of_the_history() -> None:
    import chances

    from tune_mcp.report.statistics import PRIORS

    found = chances.priors(chances.read_history())
    for family, one in found.items():
        assert (PRIORS[family].degrees, PRIORS[family].sd) == (
            pytest.approx(one.degrees, abs=0.006),
            pytest.approx(one.sd, abs=0.00006),
        ), family
    assert PRIORS["other"] == PRIORS["wer"]


def test_the_constants_of_slow_runs_and_of_equal_values_are_those_of_the_history() -> None:
    import chances

    from tune_mcp.report import statistics

    history = chances.read_history()
    speed = [(f"{one.calibration} {one.test}", [one.series]) for one in history if one.family == "speed"]
    slow, repeats = statistics.slow_repeats(speed)
    assert slow / repeats == pytest.approx(statistics.slow_share(0, 0), abs=0.005)
    others = [
        (values[:place] + values[place + 1 :], value, one.series.sign)
        for one in history
        for values in [one.series.values]
        for place, value in enumerate(values)
        if len(values) > 1
    ]
    same = [sign * value > sign * rest[0] for rest, value, sign in others if len(set(rest)) == 1]
    assert (sum(same), len(same)) == (17, 249)


def test_predicted_chances_of_the_history_come_true_within_the_target() -> None:
    import chances

    rows = list(chances.left_out(chances.read_history()))
    assert [row.name for row in rows if row.bound] == ["all metrics", "whole suite"]
    assert all(row.held for row in rows)


def test_predicted_chances_of_simulated_truths_come_true_within_the_target() -> None:
    import chances

    rows = list(chances.simulations(chances.read_history(), 60))
    assert sum(bool(row.bound) for row in rows) == 10
    assert [row.name for row in rows if not row.held] == []
