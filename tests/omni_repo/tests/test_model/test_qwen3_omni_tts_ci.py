"""Voice cloning by the omni model, not streamed."""

import pytest

from benchmarks import results as benchmark
from tests.test_model.omni_router_utils import assert_workers_served
from tests.utils import (
    MetricCheckCollector,
    apply_mos_slack,
    apply_slack,
    apply_wer_slack,
    assert_speed_thresholds,
    assert_wer_partitioned,
    wait_for_gpu_memory_release,
)

CONCURRENCY = 16
MAX_SAMPLES = 50

VC_WER_BELOW_50_CORPUS_MAX = 0.0225
VC_WER_BELOW_50_CORPUS_THRESHOLD = apply_wer_slack(VC_WER_BELOW_50_CORPUS_MAX)
VC_N_ABOVE_50_MAX = 2
VC_SIMILARITY_MEAN_MIN = 60.0  # a placeholder that nothing asserts
VC_UTMOS_MEAN_REFERENCE = 4.1
VC_UTMOS_MEAN_MIN = apply_mos_slack(VC_UTMOS_MEAN_REFERENCE)
_VC_NON_STREAM_P95 = {
    16: {
        "throughput_qps": 5.6,
        "output_tok_per_req_s": 5.4,
        "latency_mean_s": 2.7,
        "rtf_mean": 0.81,
    },
}
QWEN3_OMNI_SEEDTTS_RTF_MEAN_MAX = 0.9
VC_NON_STREAM_THRESHOLDS = apply_slack(_VC_NON_STREAM_P95)
VC_NON_STREAM_THRESHOLDS[CONCURRENCY]["rtf_mean_max"] = min(
    VC_NON_STREAM_THRESHOLDS[CONCURRENCY]["rtf_mean_max"],
    QWEN3_OMNI_SEEDTTS_RTF_MEAN_MAX,
)
CONFIG = {
    "speaker": "Chelsie", "max_samples": MAX_SAMPLES, "max_new_tokens": 256, "warmup": 1, "max_concurrency": CONCURRENCY,
}  # fmt: skip


@pytest.fixture(scope="module")
def speed_artifacts(qwen3_omni_router_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vc_nonstream")
    results = benchmark.synthesise(
        qwen3_omni_router_server.port, folder, "qwen3-omni", {"voice_clone": True, "lang": "en", **CONFIG},
        count=MAX_SAMPLES, qps=5.7, tokens=5.5, latency=2.6,
    )  # fmt: skip
    return folder, results["summary"]


@pytest.fixture(scope="module")
def wer_audio_dir(qwen3_omni_router_server, speed_artifacts):
    qwen3_omni_router_server.stop()
    wait_for_gpu_memory_release()
    return speed_artifacts[0]


def test_voice_cloning_non_streaming(qwen3_omni_router_server, speed_artifacts):
    checks = MetricCheckCollector("Qwen3-Omni voice-cloning speed")
    assert_workers_served(qwen3_omni_router_server, checks)
    assert_speed_thresholds(speed_artifacts[1], VC_NON_STREAM_THRESHOLDS, CONCURRENCY, collector=checks)
    checks.assert_all()


def test_voice_cloning_wer(wer_audio_dir, qwen3_asr_wer_router):
    port = qwen3_asr_wer_router.port
    told = {"speaker": "Chelsie", "voice_clone": False}
    results = benchmark.transcribe(port, wer_audio_dir, "qwen3-omni", told, count=MAX_SAMPLES, wer=0.02)
    checks = MetricCheckCollector("Qwen3-Omni voice-cloning WER")
    assert_wer_partitioned(
        results,
        max_wer_below_50_corpus=VC_WER_BELOW_50_CORPUS_THRESHOLD,
        max_n_above_50=VC_N_ABOVE_50_MAX,
        collector=checks,
    )
    checks.assert_all()


def test_voice_cloning_similarity(wer_audio_dir):
    results = benchmark.similarity(wer_audio_dir, "qwen3-omni", count=MAX_SAMPLES, mean=3.1)
    assert results["summary"].get("speaker_similarity_mean") is not None


def test_voice_cloning_utmos(wer_audio_dir):
    results = benchmark.utmos(wer_audio_dir, "qwen3-omni", count=MAX_SAMPLES, mean=4.2)
    checks = MetricCheckCollector("Qwen3-Omni voice-cloning UTMOS")
    mean = results["summary"].get("utmos_mean")
    checks.check(mean >= VC_UTMOS_MEAN_MIN, f"utmos_mean {mean:.4f}")
    checks.assert_all()
