"""The recognisers of the SeedTTS test, one of them for each run, and their thresholds."""

import os
from dataclasses import dataclass

from tests.utils import apply_wer_slack

SLACK_HIGHER = 0.9
SLACK_LOWER = 1.1
FUN_ASR_EN_CORPUS_WER_MAX = 0.0175
FUN_ASR_ZH_CORPUS_WER_MAX = 0.0145
FUN_ASR_THROUGHPUT_MIN = 70.0
FUN_ASR_LATENCY_P95_MAX_S = 0.07
QWEN3_ASR_EN_CORPUS_WER_MAX = 0.0125
QWEN3_ASR_ZH_CORPUS_WER_MAX = 0.0065
QWEN3_ASR_THROUGHPUT_MIN = 72.0
QWEN3_ASR_LATENCY_P95_MAX_S = 0.07


@dataclass(frozen=True)
class Preset:
    """What one recogniser is held to."""

    model: str
    wer: dict
    throughput: float
    latency: float
    about: dict


PRESETS = {
    "fun": Preset(
        model="FunAudioLLM/Fun-ASR-Nano-2512-hf",
        wer={
            "en": apply_wer_slack(FUN_ASR_EN_CORPUS_WER_MAX, SLACK_LOWER),
            "zh": apply_wer_slack(FUN_ASR_ZH_CORPUS_WER_MAX, SLACK_LOWER),
        },
        throughput=round(FUN_ASR_THROUGHPUT_MIN * SLACK_HIGHER, 3),
        latency=round(FUN_ASR_LATENCY_P95_MAX_S * SLACK_LOWER, 3),
        about={"en": 0.017, "zh": 0.014},
    ),
    "qwen3": Preset(
        model="Qwen/Qwen3-ASR-1.7B",
        wer={
            "en": apply_wer_slack(QWEN3_ASR_EN_CORPUS_WER_MAX, SLACK_LOWER),
            "zh": apply_wer_slack(QWEN3_ASR_ZH_CORPUS_WER_MAX, SLACK_LOWER),
        },
        throughput=round(QWEN3_ASR_THROUGHPUT_MIN * SLACK_HIGHER, 3),
        latency=round(QWEN3_ASR_LATENCY_P95_MAX_S * SLACK_LOWER, 3),
        about={"en": 0.012, "zh": 0.0062},
    ),
}  # fmt: skip


def selected():
    """The preset that the environment names."""
    return PRESETS[os.environ.get("ASR_CI_MODEL", "qwen3")]
