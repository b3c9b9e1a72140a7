"""Questions about pictures, answered in speech."""

import pytest

from tests.test_model import talker
from tests.utils import apply_slack, apply_wer_slack, wait_for_gpu_memory_release

MAX_SAMPLES = 20
CONCURRENCY = 16

MMMU_AUDIO_MIN_ACCURACY = 0.7
MMMU_AUDIO_WER_BELOW_50_CORPUS_MAX = 0.2705
MMMU_AUDIO_WER_BELOW_50_CORPUS_THRESHOLD = apply_wer_slack(MMMU_AUDIO_WER_BELOW_50_CORPUS_MAX)
MMMU_AUDIO_N_ABOVE_50_MAX = 4
_MMMU_AUDIO_P95 = {
    16: {
        "throughput_qps": 0.612,
        "output_tok_per_req_s": 8,
        "latency_mean_s": 15.75,
        "rtf_mean": 4.7,
    },
}
MMMU_AUDIO_THRESHOLDS = apply_slack(_MMMU_AUDIO_P95)


@pytest.fixture(scope="module")
def talker_eval_artifacts(qwen3_omni_router_server, tmp_path_factory):
    port = qwen3_omni_router_server.port
    level = {"accuracy": 0.8, "qps": 0.63, "tokens": 8.2, "latency": 15.5}
    return talker.answered(port, tmp_path_factory, "mmmu", MAX_SAMPLES, **level)


@pytest.fixture(scope="module")
def wer_eval_artifacts(qwen3_omni_router_server, talker_eval_artifacts):
    qwen3_omni_router_server.stop()
    wait_for_gpu_memory_release()
    return talker_eval_artifacts


def test_mmmu_talker_accuracy_and_speed(talker_eval_artifacts):
    _, results = talker_eval_artifacts
    talker.assert_answers(results, MMMU_AUDIO_MIN_ACCURACY, MMMU_AUDIO_THRESHOLDS, CONCURRENCY)


def test_mmmu_talker_wer(wer_eval_artifacts, qwen3_asr_wer_router):
    folder, _ = wer_eval_artifacts
    told = talker.heard(qwen3_asr_wer_router.port, folder, "mmmu", MAX_SAMPLES, 0.21)
    talker.assert_speech(told, MMMU_AUDIO_WER_BELOW_50_CORPUS_THRESHOLD, MMMU_AUDIO_N_ABOVE_50_MAX)
