"""CI of the synthesiser: intelligibility, opinion score, voice and speed at two concurrent requests.

The reference constants below are rewritten by calibration (worst of N runs). Do not build slack
into them: the tests add it.
"""

from __future__ import annotations

import pytest

from speechkit.benchmarks import run_tts_benchmark
from speechkit.results import Summary, figure
from speechkit.slack import apply_score_slack, apply_slack, apply_wer_slack, assert_speed

# Scope of the sample: not a threshold.
CONCURRENCY = 2
NUM_SAMPLES = 24

# What the recogniser makes of the speech, as a fraction of all words. The noise is new in each run.
TTS_WER_MAX_CORPUS = 0.1

TTS_MOS_MEAN_MIN = 4.10  # DNSMOS P.808, 1 to 5; hoped for rather than measured
TTS_SIMILARITY_MEAN_MIN = 0.850  # cosine to the enrolled voice

# Speed by concurrency. A sentence takes some 20 ms, so on a busy runner the scheduler decides.
SLACK_HIGHER = 0.1
SLACK_LOWER = 10.0

_TTS_P95 = {
    2: {
        "throughput_qps": 20.0,
        "latency_mean_s": 0.1,
        "latency_p95_s": 0.20,  # the tail is the scheduler's, not the model's
        # latency / length of the audio
        "rtf_mean": 4e-2,
    },
}
TTS_THRESHOLDS = apply_slack(_TTS_P95, SLACK_HIGHER, SLACK_LOWER)


@pytest.fixture(scope="module")
def tts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Summary]:
    """One benchmark run; its files are written before anything is asserted."""
    return run_tts_benchmark(tmp_path_factory.mktemp("tts"), NUM_SAMPLES, CONCURRENCY)


def test_tts_complete(tts: dict[str, Summary]) -> None:
    assert tts["speed"]["completed_requests"] == NUM_SAMPLES
    for kind in ("wer", "mos", "similarity"):
        assert tts[kind]["evaluated"] == NUM_SAMPLES, kind


def test_tts_wer(tts: dict[str, Summary]) -> None:
    assert figure(tts["wer"], "wer_corpus") <= apply_wer_slack(TTS_WER_MAX_CORPUS)


def test_tts_mos(tts: dict[str, Summary]) -> None:
    assert figure(tts["mos"], "mos_mean") >= apply_score_slack(TTS_MOS_MEAN_MIN)


def test_tts_similarity(tts: dict[str, Summary]) -> None:
    assert figure(tts["similarity"], "similarity_mean") >= apply_score_slack(TTS_SIMILARITY_MEAN_MIN)


def test_tts_speed(tts: dict[str, Summary]) -> None:
    assert_speed(tts["speed"], TTS_THRESHOLDS[CONCURRENCY])
