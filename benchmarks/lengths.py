"""How long the tests of the real suite take, in seconds of one launch on its two GPUs.

MMMU, MMSU and voice cloning are medians of five published launches of the calibration of 22 May 2026 (pull request
517). The others are start (70 s) plus published samples / published throughput plus scoring, so that the whole has the
published order of magnitude: 5 to 10 minutes a stage when the suite was planned, 42 minutes for five repeats of the
speech models.
"""

from __future__ import annotations

LENGTHS_S = {
    "test_qwen3_omni_mmmu_ci": 115.5,
    "test_qwen3_omni_mmmu_talker_ci": 172.0,
    "test_qwen3_omni_mmsu_ci": 100.2,
    "test_qwen3_omni_mmsu_talker_ci": 196.0,
    "test_qwen3_omni_tts_ci": 120.3,
    "test_qwen3_omni_videomme_ci": 231.0,
    "test_qwen3_omni_videomme_talker_ci": 204.0,
    "test_qwen3_omni_videoamme_ci": 187.0,
    "test_qwen3_omni_videoamme_talker_tp2_ci": 322.0,
    "test_tts_nonstream_ci__higgs": 142.0,
    "test_tts_stream_ci__higgs": 96.0,
    "test_tts_nonstream_ci__moss": 151.0,
    "test_tts_stream_ci__moss": 107.0,
    "test_asr_seedtts_ci": 84.0,
}
"""Test key -> seconds of a usual launch."""
FIRST = 1.7
"""The first launch of a test finds cold caches: 164 s against 100, 228 s against 120."""
SPREAD = 0.03
"""Standard deviation between launches, relative."""
