"""What a run and its earlier reports know of noise, from rows as an apply plan has them."""

from __future__ import annotations

import pytest
from speech_run import VALUES

from tune_mcp.report import noise
from tune_mcp.report.earlier import EarlierMetric, EarlierReport, EarlierStage
from tune_mcp.report.statistics import PRIORS


def earlier(gpus: str = "2× NVIDIA H20", sha: str = "a" * 40, factor: float = 1.0, copies: int = 1) -> EarlierReport:
    stages = [
        EarlierStage(
            key=stage,
            group=stage.partition("_")[2],
            test_key="t",
            metrics=(
                EarlierMetric(
                    key=metric, worst_op="max", values=tuple(value * factor for value in row), worst_raw=max(row)
                ),
            ),
        )
        for (stage, metric), row in VALUES.items()
    ]
    return EarlierReport(
        run_id=f"2026{factor}",
        model="speech-v1",
        calibration_git_sha=sha,
        generated_at="t",
        repeats=5,
        gpu_summary=gpus,
        environment={},
        stages=tuple(stages * copies),
    )


def read(case, *reports: EarlierReport, same=lambda sha: True):
    return noise.read(case.audit, case.applied.rows, reports, "2× NVIDIA H20", same)


def test_families_come_from_the_groups_and_the_priors_from_the_history_below_six(case) -> None:
    found = read(case)
    assert (
        found.families[("tts_utmos", "utmos_mean")] == found.families[("tts_similarity", "similarity_mean")] == "score"
    )
    assert found.families[("tts_speed", "rtf_mean")] == "speed"
    assert dict(found.priors) == {family: PRIORS[family] for family in ("speed", "wer", "accuracy", "score")}


def test_only_speed_has_slow_runs(case) -> None:
    found = read(case)
    for key, family in found.families.items():
        chance = found.chance(key, None if family == "speed" else found.series[key].values[0] * 3)
        assert family == "speed" or chance.noise == chance.with_slow
    latency = found.chance(("asr_speed", "latency_mean_s"), 0.6)
    assert latency.with_slow > latency.noise


def test_a_shift_is_seen_only_in_reports_of_the_same_code_on_the_same_gpus(case) -> None:
    six = earlier(factor=1.2, copies=2)
    assert read(case, six).shifts["speed"] == pytest.approx(0.129, rel=0.2)
    assert read(case, six, same=lambda sha: sha != "a" * 40).shifts["speed"] is None
    assert read(case, earlier(gpus="1× NVIDIA H100", factor=1.2, copies=2)).shifts["speed"] is None
    assert read(case).shifts["speed"] is None
    shifted, still = read(case, six), read(case)
    key = ("asr_speed", "latency_mean_s")
    assert shifted.chance(key, 0.6).noise > still.chance(key, 0.6).noise


def test_slow_runs_are_looked_for_in_every_repeat_of_the_tests_that_measure_speed_and_in_no_other(case) -> None:
    def repeats(*reports: EarlierReport) -> int:
        return read(case, *reports).slow_runs.repeats

    speed = {stage for stage, _ in VALUES if stage.endswith("_speed")}
    tests = {case.plan.catalogue[stage].test_key for stage in speed}
    assert repeats() == 5 * len(tests)
    assert repeats(earlier()) == repeats() + 5


def test_a_repeat_is_slow_by_its_speed_and_by_nothing_else(workshop, values) -> None:
    values[("asr_speed", "latency_mean_s")] = (0.3, 0.301, 0.9, 0.3, 0.302)
    values[("tts_wer", "corpus_wer")] = (0.05, 0.01, 0.011, 0.01, 0.0102)
    found = read(workshop.make(values=values)).slow_runs
    values[("asr_speed", "latency_mean_s")] = (0.3, 0.301, 0.302, 0.3, 0.302)
    assert found.slow == read(workshop.make(values=values, stamp="20260424T050000Z")).slow_runs.slow + 1


def test_a_value_is_known_to_the_last_digit_that_is_shown(case) -> None:
    for key, one in read(case).series.items():
        display = case.plan.catalogue[key[0]].metrics[key[1]].display
        assert one.resolution * display.scale == pytest.approx(10.0**-display.digits)


def test_reports_that_do_not_measure_the_same_metrics_are_not_counted(case) -> None:
    other = earlier().model_copy(update={"stages": ()})
    assert read(case, other).slow_runs.earlier == 0
    assert read(case, earlier()).slow_runs.earlier == 1


def test_whole_numbers_without_decimals_are_counts(workshop, values) -> None:
    from speech_run import SHAPES

    shape = SHAPES["tts_wer"]["corpus_wer"]
    SHAPES["tts_wer"]["corpus_wer"] = (*shape[:2], "Failed requests", 1, 0)
    try:
        values[("tts_wer", "corpus_wer")] = (0, 0, 1, 0, 0)
        found = read(workshop.make(values=values))
        key = ("tts_wer", "corpus_wer")
        assert (found.families[key], found.series[key].step) == ("count", 1.0)
        assert found.chance(key, 3).noise == pytest.approx(0.000382879, rel=1e-6)
        values[("tts_wer", "corpus_wer")] = (0.0, 0.5, 1, 0, 0)
        other = read(workshop.make(values=values, stamp="20260424T050000Z"))
        assert other.families[key] == "wer"
    finally:
        SHAPES["tts_wer"]["corpus_wer"] = shape


def test_an_error_rate_of_zeros_moves_by_one_sample(workshop, values) -> None:
    values[("tts_wer", "corpus_wer")] = (0.0,) * 5
    found = read(workshop.make(values=values))
    assert found.series[("tts_wer", "corpus_wer")].step == pytest.approx(1 / 200)
