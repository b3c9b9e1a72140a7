from __future__ import annotations

from itertools import pairwise

import pytest

from tune_mcp.report.html import strip


@pytest.fixture
def metrics(case):
    return {(stage.key, metric.key): metric for stage, metric in case.report().metrics()}


def test_everything_drawn_lies_on_the_picture(metrics) -> None:
    for metric in metrics.values():
        picture = strip(metric)
        assert all(0 <= dot.x <= 100 and 0 < dot.y < picture.base for dot in picture.dots)
        assert all(0 <= line.x <= 100 for line in picture.lines)


def test_order_on_the_picture_is_order_of_the_values(metrics) -> None:
    for metric in metrics.values():
        by_value = sorted(zip(metric.values, strip(metric).dots, strict=True), key=lambda pair: pair[0])
        places = [dot.x for _, dot in by_value]
        assert places == sorted(places)


def test_a_threshold_far_away_becomes_a_note_and_does_not_squeeze_the_repeats(metrics) -> None:
    metric = metrics[("tts_speed", "throughput_qps")].model_copy(update={"current_raw": 0.5, "limit_present": 0.45})
    picture = strip(metric)
    assert max(dot.x for dot in picture.dots) - min(dot.x for dot in picture.dots) > 20
    notes = [label.text for label in picture.labels if label.row == "top"]
    assert notes == ["◂ present 0.500, CI limit now 0.450"]


def test_words_of_one_row_never_overlap(metrics) -> None:
    for metric in metrics.values():
        for row in ("top", "bottom"):
            spans = []
            for label in (one for one in strip(metric).labels if one.row == row):
                width = len(label.text) * 5.9 / 330 * 100
                left = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
                spans.append((left, left + width))
            spans.sort()
            assert all(one[1] <= two[0] for one, two in pairwise(spans))


def test_identical_repeats_still_give_a_picture(metrics) -> None:
    metric = metrics[("asr_speed", "latency_mean_s")]
    for value in (0.0, 0.5):
        flat = metric.model_copy(update={"values": (value,) * 5, "write_value": value, "current_raw": None,
                                         "limit_present": None, "limit_proposed": None,
                                         "spread": metric.spread.model_copy(update={"median": value})})  # fmt: skip
        assert {dot.x for dot in strip(flat).dots} == {50.0}


def test_the_failing_zone_lies_on_the_bad_side(metrics) -> None:
    low, high = metrics[("tts_similarity", "similarity_mean")], metrics[("tts_speed", "latency_p95_s")]
    assert strip(low).fail[0] == 0.0
    assert sum(strip(high).fail) == pytest.approx(100)
