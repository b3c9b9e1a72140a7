"""Questions about videos, answered in speech by a model whose thinker is split over two GPUs."""

import pytest

from benchmarks.serving import stop_server
from tests.test_model import talker
from tests.utils import apply_slack, apply_wer_slack, wait_for_gpu_memory_release

CONCURRENCY = 16
MAX_SAMPLES = 10

VIDEOAMME_TALKER_TP2_THINKER_TEXT_MIN_ACCURACY = 0.4
VIDEOAMME_TALKER_TP2_WER_BELOW_50_CORPUS_MAX = 0.0191
VIDEOAMME_TALKER_TP2_WER_BELOW_50_CORPUS_THRESHOLD = apply_wer_slack(VIDEOAMME_TALKER_TP2_WER_BELOW_50_CORPUS_MAX)
VIDEOAMME_TALKER_TP2_N_ABOVE_50_MAX = 0
_VIDEOAMME_TALKER_TP2_AUDIO_P95 = {
    16: {
        "throughput_qps": 0.071,
        "output_tok_per_req_s": 0.3,
        "latency_mean_s": 141.5,
        "rtf_mean": 41.2,
    },
}
VIDEOAMME_TALKER_TP2_THRESHOLDS = apply_slack(_VIDEOAMME_TALKER_TP2_AUDIO_P95)
# Pinned by hand: the reference above does not move this limit.
VIDEOAMME_TALKER_TP2_THRESHOLDS[16]["latency_mean_s_max"] = 155


@pytest.fixture(scope="module")
def talker_eval_artifacts(qwen3_omni_talker_server_tp2, tmp_path_factory):
    _, port, _ = qwen3_omni_talker_server_tp2
    level = {"accuracy": 0.6, "qps": 0.073, "tokens": 0.31, "latency": 140.1}
    return talker.answered(port, tmp_path_factory, "videoamme", MAX_SAMPLES, **level)


@pytest.fixture(scope="module")
def wer_eval_artifacts(qwen3_omni_talker_server_tp2, talker_eval_artifacts):
    stop_server(qwen3_omni_talker_server_tp2[0])
    wait_for_gpu_memory_release()
    return talker_eval_artifacts


def test_thinker_tp2_actually_applied(qwen3_omni_talker_server_tp2):
    text = qwen3_omni_talker_server_tp2[2].read_text()
    assert "tp_rank=0/2" in text and "tp_rank=1/2" in text


def test_videoamme_talker_tp2_accuracy_and_speed(talker_eval_artifacts):
    _, results = talker_eval_artifacts
    minimum = VIDEOAMME_TALKER_TP2_THINKER_TEXT_MIN_ACCURACY
    talker.assert_answers(results, minimum, VIDEOAMME_TALKER_TP2_THRESHOLDS, CONCURRENCY)


def test_videoamme_talker_tp2_wer(wer_eval_artifacts, qwen3_asr_wer_router):
    folder, _ = wer_eval_artifacts
    told = talker.heard(qwen3_asr_wer_router.port, folder, "videoamme", MAX_SAMPLES, 0.012)
    talker.assert_speech(
        told, VIDEOAMME_TALKER_TP2_WER_BELOW_50_CORPUS_THRESHOLD, VIDEOAMME_TALKER_TP2_N_ABOVE_50_MAX
    )
