"""The recogniser on the whole English set: word errors and speed."""

import json

import pytest

from benchmarks import results as benchmark
from benchmarks.asr import QWEN3_ASR_MODEL_PATH
from tests.test_model.omni_router_utils import assert_workers_served, launch_managed_router
from tests.utils import QWEN3_ASR_WER_CONCURRENCY, MetricCheckCollector, apply_wer_slack

QWEN3_ASR_CONCURRENCY = QWEN3_ASR_WER_CONCURRENCY
SEEDTTS_ASR_CORRECTNESS_SAMPLES = 1088

SEEDTTS_ASR_CORPUS_WER_MAX = 0.0142
SEEDTTS_ASR_SAMPLE_WER_MAX = 0.31
QWEN3_ASR_THROUGHPUT_MIN = 70.51
QWEN3_ASR_LATENCY_MEAN_MAX_S = 0.0561
QWEN3_ASR_LATENCY_P95_MAX_S = 0.0703125
QWEN3_ASR_RTF_MEAN_MAX = 0.0211
QWEN3_ASR_RTF_P95_MAX = 0.0345

THRESHOLD_SLACK_HIGHER = 0.9
THRESHOLD_SLACK_LOWER = 1.1
SEEDTTS_ASR_CORPUS_WER_THRESHOLD = apply_wer_slack(SEEDTTS_ASR_CORPUS_WER_MAX, THRESHOLD_SLACK_LOWER)
SEEDTTS_ASR_SAMPLE_WER_THRESHOLD = apply_wer_slack(SEEDTTS_ASR_SAMPLE_WER_MAX, THRESHOLD_SLACK_LOWER)
QWEN3_ASR_THROUGHPUT_THRESHOLD = round(QWEN3_ASR_THROUGHPUT_MIN * THRESHOLD_SLACK_HIGHER, 3)
QWEN3_ASR_LATENCY_MEAN_THRESHOLD_S = round(QWEN3_ASR_LATENCY_MEAN_MAX_S * THRESHOLD_SLACK_LOWER, 3)
QWEN3_ASR_LATENCY_P95_THRESHOLD_S = round(QWEN3_ASR_LATENCY_P95_MAX_S * THRESHOLD_SLACK_LOWER, 3)
QWEN3_ASR_RTF_MEAN_THRESHOLD = round(QWEN3_ASR_RTF_MEAN_MAX * THRESHOLD_SLACK_LOWER, 4)
QWEN3_ASR_RTF_P95_THRESHOLD = round(QWEN3_ASR_RTF_P95_MAX * THRESHOLD_SLACK_LOWER, 4)


@pytest.fixture(scope="module")
def qwen3_asr_router_server(tmp_path_factory):
    with launch_managed_router(tmp_path_factory, QWEN3_ASR_MODEL_PATH, QWEN3_ASR_MODEL_PATH) as router:
        yield router


def test_qwen3_asr_matches_seedtts_reference_text(qwen3_asr_router_server, tmp_path_factory):
    count = SEEDTTS_ASR_CORRECTNESS_SAMPLES
    benchmark.stage_audio("seedtts_en_", count // 32)
    good = benchmark.served(qwen3_asr_router_server.port, count)
    samples = [benchmark.transcription(number, 0.03, ok) for number, ok in enumerate(good)]
    summary = benchmark.wer_summary(samples, 0.0135)
    summary["corpus_wer"] = summary["wer_corpus"]
    speed = benchmark.asr_speed(count, 78.0)
    speed["asr_rtf_p95"] = benchmark.near(0.03)
    named = ("throughput_samples_per_s", "latency_mean_s", "latency_median_s", "latency_p95_s", "latency_p99_s")
    speed |= {key: speed[f"asr_{key}"] for key in (*named, "rtf_mean", "rtf_median", "rtf_p95")}
    path = tmp_path_factory.getbasetemp() / "qwen3_asr_results.json"
    path.write_text(json.dumps({"summary": summary, "speed": speed}, indent=2))

    checks = MetricCheckCollector("Qwen3-ASR correctness and speed")
    corpus_wer = summary["corpus_wer"]
    throughput_samples_per_s = speed["throughput_samples_per_s"]
    latency_mean_s = speed["latency_mean_s"]
    latency_p95_s = speed["latency_p95_s"]
    rtf_mean = speed["rtf_mean"]
    rtf_p95 = speed["rtf_p95"]
    bad = [one["id"] for one in samples if one["wer"] > SEEDTTS_ASR_SAMPLE_WER_THRESHOLD]
    checks.check(corpus_wer <= SEEDTTS_ASR_CORPUS_WER_THRESHOLD, f"corpus WER {corpus_wer:.4f}")
    checks.check(not bad, f"samples with many word errors: {bad}")
    checks.check(throughput_samples_per_s >= QWEN3_ASR_THROUGHPUT_THRESHOLD, f"{throughput_samples_per_s:.3f} samples/s")
    checks.check(latency_mean_s <= QWEN3_ASR_LATENCY_MEAN_THRESHOLD_S, f"mean latency {latency_mean_s:.3f}s")
    checks.check(latency_p95_s <= QWEN3_ASR_LATENCY_P95_THRESHOLD_S, f"p95 latency {latency_p95_s:.3f}s")
    checks.check(rtf_mean <= QWEN3_ASR_RTF_MEAN_THRESHOLD, f"mean RTF {rtf_mean:.4f}")
    checks.check(rtf_p95 <= QWEN3_ASR_RTF_P95_THRESHOLD, f"p95 RTF {rtf_p95:.4f}")
    assert_workers_served(qwen3_asr_router_server, checks)
    checks.assert_all()
