"""The shipped model ``tts`` on a tree with the real project's file and constant names: what discover makes of both."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.stages_yaml import load_stages
from tune_mcp.discover.aliases import expand
from tune_mcp.discover.stages import Discovery, discover

PLACES = ConfigPlaces.resolve(None, None)
TESTS = "tests/test_model"
RECOGNISER = """\
from tests.utils import QWEN3_ASR_WER_CONCURRENCY

QWEN3_ASR_CONCURRENCY = QWEN3_ASR_WER_CONCURRENCY
SEEDTTS_ASR_CORRECTNESS_SAMPLES = 7
OTHER_SAMPLES = 3
SEEDTTS_ASR_CORPUS_WER_MAX = 0.02
SEEDTTS_ASR_SAMPLE_WER_MAX = 0.9
QWEN3_ASR_THROUGHPUT_MIN = 20.5
QWEN3_ASR_LATENCY_MEAN_MAX_S = 1.5
QWEN3_ASR_LATENCY_P95_MAX_S = 2.5
QWEN3_ASR_RTF_MEAN_MAX = 0.2
QWEN3_ASR_RTF_P95_MAX = 0.3
"""
CLONING = """\
SEEDTTS_EN_FULLSET_SAMPLES = 1088
STREAMING_BENCHMARK_MAX_SAMPLES: int | None = {streaming}
TTS_SIMILARITY_MAX_SAMPLES = 12
"""
PRESET = """\
{0}_VC_WER_MAX_CORPUS = 0.012
{0}_VC_WER_MAX_PER_SAMPLE = 0.5
{0}_VC_STREAM_WER_MAX_CORPUS = 0.011
{0}_VC_STREAM_WER_MAX_PER_SAMPLE = 0.5
{0}_VC_SIMILARITY_MEAN_MIN = 66.9
{0}_VC_UTMOS_MEAN_REFERENCE = 4.15
{0}_VC_UTMOS_THRESHOLD = apply_mos_slack({0}_VC_UTMOS_MEAN_REFERENCE)
_{0}_VC_NON_STREAM_P95 = {{16: {{"throughput_qps": 14.7, "latency_mean_s": 0.9, "rtf_mean": 0.23}}}}
_{0}_VC_STREAM_P95 = {{16: {{"throughput_qps": 14.8, "latency_mean_s": 0.9, "rtf_mean": 0.23}}}}
"""
CONSISTENCY = "TTS_CONSISTENCY_CONCURRENCY = 16\nTTS_CONSISTENCY_WER_MAX_CORPUS = 0.1\n"


def discovered(root: Path, streaming: str = "None") -> Discovery:
    files = {
        "tests/utils.py": "QWEN3_ASR_WER_CONCURRENCY = 32\n",
        f"{TESTS}/test_qwen3_asr_ci.py": RECOGNISER,
        f"{TESTS}/test_tts_ci.py": CLONING.format(streaming=streaming),
        f"{TESTS}/tts_ci_config.py": PRESET.format("HIGGS") + PRESET.format("MOSS"),
        f"{TESTS}/test_tts_consistency_artifacts.py": CONSISTENCY,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return discover(PLACES.model("tts"), PLACES.metric_rules("tts"), root, None, datetime.now(UTC))


@pytest.mark.rule("SES-17", "TTS-02", "TTS-10", "STG-07")
def test_all_of_it_is_the_recogniser_and_every_preset_and_the_consistency_job_is_no_stage(tmp_path: Path) -> None:
    found = discovered(tmp_path)
    stages = found.stages

    assert expand(["ALL"], stages) == tuple(load_stages(PLACES.config_path("tts").with_name("stages.yaml")))
    assert {stage.test for stage in stages.values()} == {f"{TESTS}/test_qwen3_asr_ci.py", f"{TESTS}/test_tts_ci.py"}
    assert (found.needs_config, found.collisions, found.unrecognised) == ([], [], [])
    # The suite of this test has no threshold for tokens, and the shipped config knows where one would be measured.
    assert [line.partition(",")[0] for line in found.problems] == [
        "metric_sources.test_tts_ci.py.paths names output_tok_per_req_s"
    ]


@pytest.mark.rule("TTS-03", "SMP-03", "SMP-10", "TTS-04")
def test_the_recogniser_has_symbols_and_samples_of_its_own(tmp_path: Path) -> None:
    stages = discovered(tmp_path).stages
    wer, speed = stages["qwen3_asr_wer"], stages["qwen3_asr_speed"]

    assert {key: metric.source for key, metric in wer.metrics.items()} == {
        "corpus_wer": "SEEDTTS_ASR_CORPUS_WER_MAX", "per_sample_wer_max": "SEEDTTS_ASR_SAMPLE_WER_MAX"
    }  # fmt: skip
    assert [metric.source for metric in speed.metrics.values()] == [
        "QWEN3_ASR_THROUGHPUT_MIN", "QWEN3_ASR_LATENCY_MEAN_MAX_S", "QWEN3_ASR_LATENCY_P95_MAX_S",
        "QWEN3_ASR_RTF_MEAN_MAX", "QWEN3_ASR_RTF_P95_MAX",
    ]  # fmt: skip
    for stage in (wer, speed):
        assert stage.expected_samples == 7
        assert stage.context_vars == ("SEEDTTS_ASR_CORRECTNESS_SAMPLES", "QWEN3_ASR_CONCURRENCY")
        counts = stage.sample_counts
        assert counts and (counts.total.json_path, counts.ok.json_path) == (
            "summary.total_samples",
            "summary.evaluated",
        )


@pytest.mark.rule("TTS-01", "TTS-05", "TTS-06", "TTS-08")
@pytest.mark.parametrize("preset", ["higgs", "moss"])
def test_each_preset_has_the_same_six_stages_with_its_own_symbols_and_no_cap_of_single_samples(
    tmp_path: Path, preset: str
) -> None:
    stages = discovered(tmp_path).stages
    own, name = f"tts_{preset}_", preset.upper()
    found = {
        (key.removeprefix(own), metric): one.source
        for key, stage in stages.items()
        if key.startswith(own)
        for metric, one in stage.metrics.items()
    }

    assert found == {
        ("nonstream_wer", "corpus_wer"): f"{name}_VC_WER_MAX_CORPUS",
        ("stream_wer", "corpus_wer"): f"{name}_VC_STREAM_WER_MAX_CORPUS",
        ("nonstream_similarity", "similarity_mean"): f"{name}_VC_SIMILARITY_MEAN_MIN",
        ("nonstream_utmos", "utmos_mean"): f"{name}_VC_UTMOS_MEAN_REFERENCE",
        **{
            (f"{mode}_speed", key): f"_{name}_VC_{table}_P95['{key}']"
            for mode, table in (("nonstream", "NON_STREAM"), ("stream", "STREAM"))
            for key in ("throughput_qps", "latency_mean_s", "rtf_mean")
        },
    }


@pytest.mark.rule("SMP-04", "SMP-05")
@pytest.mark.parametrize(("streaming", "streamed"), [("None", 1088), ("40", 40)])
def test_the_full_set_is_run_unless_a_constant_limits_the_stream_and_similarity_has_its_own(
    tmp_path: Path, streaming: str, streamed: int
) -> None:
    stages = discovered(tmp_path, streaming).stages

    assert {
        key.removeprefix("tts_moss_"): stage.expected_samples for key, stage in stages.items() if "_moss_" in key
    } == {
        "nonstream_wer": 1088, "nonstream_similarity": 12, "nonstream_utmos": 1088, "nonstream_speed": 1088,
        "stream_wer": streamed, "stream_speed": streamed,
    }  # fmt: skip
