"""Voice cloning, streamed and not: speed, word errors, likeness and naturalness of one preset."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import results as benchmark
from tests.test_model.omni_router_utils import assert_workers_served, launch_managed_router
from tests.test_model.tts_ci_config import select_tts_ci_preset
from tests.utils import MetricCheckCollector, assert_speed_thresholds, wait_for_gpu_memory_release

NAME, PRESET = select_tts_ci_preset()
SEEDTTS_EN_FULLSET_SAMPLES = 1088
STREAMING_BENCHMARK_MAX_SAMPLES: int | None = None
TTS_SIMILARITY_MAX_SAMPLES = 50
# What the two made-up models do: the second is slower, and its word errors are over its limit.
LEVEL = {"higgs": (14.2, 0.012, 0.95), "moss": (10.4, 0.027, 1.25)}[NAME]
FOLDERS: dict[str, Path] = {}
GENERATED = {"max_samples": None, "seed": None, "warmup": 1, "max_running_requests": 16, "cuda_graph_max_bs": 16}


def config(concurrency):
    """What the benchmark was told, as its result files repeat it; most of it is null."""
    unset = ("voice", "task_type", "instructions", "initial_codec_chunk_frames")
    return {
        **dict.fromkeys(unset), "voice_clone": True, "ref_format": "flat" if PRESET.flat else "references",
        "response_format": "wav", "max_new_tokens": 2048, "token_count": None if PRESET.flat else "auto",
        "concurrency": concurrency,
    }  # fmt: skip


@pytest.fixture(scope="module")
def router_server(tmp_path_factory):
    with launch_managed_router(tmp_path_factory, PRESET.model_path, PRESET.model_path) as router:
        yield router


@pytest.fixture(scope="module", autouse=True)
def cleanup_generated_audio_fixture():
    yield
    for folder in FOLDERS.values():
        shutil.rmtree(folder / "audio", ignore_errors=True)


@pytest.fixture(scope="module")
def wer_input_dirs(router_server):
    router_server.stop()
    wait_for_gpu_memory_release()
    return FOLDERS


def measured(router, folder, concurrency, limits, *, stream):
    qps, _, latency = LEVEL
    results = benchmark.synthesise(
        router.port, folder, PRESET.model_path, {**config(concurrency), **GENERATED}, qps=qps, tokens=140.0,
        count=SEEDTTS_EN_FULLSET_SAMPLES, latency=latency, stream=stream,
    )  # fmt: skip
    FOLDERS["stream" if stream else "nonstream"] = folder
    checks = MetricCheckCollector(f"TTS benchmark c{concurrency}")
    done = results["summary"]["completed_requests"]
    checks.check(done == SEEDTTS_EN_FULLSET_SAMPLES, f"generated {done}/{SEEDTTS_EN_FULLSET_SAMPLES}")
    assert_workers_served(router, checks)
    assert_speed_thresholds(results["summary"], limits, concurrency, collector=checks)
    checks.assert_all()


def assert_wer_results(results, max_corpus_wer, checks):
    wer_corpus = results["summary"].get("wer_corpus")
    if wer_corpus is None:
        checks.fail("Missing wer_corpus in WER summary")
    else:
        checks.check(wer_corpus <= max_corpus_wer, f"Corpus WER {wer_corpus:.4f} > threshold {max_corpus_wer}")


def test_voice_cloning_non_streaming(router_server, tmp_path, selected_tts_concurrency):
    folder = tmp_path / f"vc_nonstream_c{selected_tts_concurrency}"
    measured(router_server, folder, selected_tts_concurrency, PRESET.non_stream_speed, stream=False)


def test_voice_cloning_streaming(router_server, tmp_path, selected_tts_concurrency):
    folder = tmp_path / f"vc_stream_c{selected_tts_concurrency}"
    measured(router_server, folder, selected_tts_concurrency, PRESET.stream_speed, stream=True)


def test_voice_cloning_wer(wer_input_dirs, selected_tts_concurrency, qwen3_asr_wer_router):
    results = benchmark.transcribe(
        qwen3_asr_wer_router.port, wer_input_dirs["nonstream"], PRESET.model_path,
        {**config(selected_tts_concurrency), "temperature": None, "stream": False},
        count=SEEDTTS_EN_FULLSET_SAMPLES, wer=LEVEL[1],
    )  # fmt: skip
    checks = MetricCheckCollector("TTS non-streaming WER")
    assert_wer_results(results, PRESET.wer_corpus, checks)
    checks.assert_all()


def test_voice_cloning_similarity(wer_input_dirs):
    wait_for_gpu_memory_release()
    folder = wer_input_dirs["nonstream"]
    count = TTS_SIMILARITY_MAX_SAMPLES
    results = benchmark.similarity(folder, PRESET.model_path, count=count, mean=66.0, max_samples=count)
    checks = MetricCheckCollector("TTS non-streaming speaker similarity")
    mean = results["summary"].get("speaker_similarity_mean")
    checks.check(mean >= PRESET.similarity_mean_min, f"speaker_similarity_mean {mean:.4f}")
    checks.assert_all()


def test_voice_cloning_utmos(wer_input_dirs):
    folder = wer_input_dirs["nonstream"]
    results = benchmark.utmos(folder, PRESET.model_path, count=SEEDTTS_EN_FULLSET_SAMPLES, mean=4.1)
    checks = MetricCheckCollector("TTS non-streaming UTMOS")
    mean = results["summary"].get("utmos_mean")
    checks.check(mean >= PRESET.utmos_mean_min, f"utmos_mean {mean:.4f}")
    checks.assert_all()


def test_voice_cloning_streaming_wer(wer_input_dirs, selected_tts_concurrency, qwen3_asr_wer_router):
    results = benchmark.transcribe(
        qwen3_asr_wer_router.port, wer_input_dirs["stream"], PRESET.model_path,
        {**config(selected_tts_concurrency), "temperature": None, "stream": True},
        count=SEEDTTS_EN_FULLSET_SAMPLES, wer=LEVEL[1],
    )  # fmt: skip
    checks = MetricCheckCollector("TTS streaming WER")
    assert_wer_results(results, PRESET.stream_wer_corpus, checks)
    checks.assert_all()
