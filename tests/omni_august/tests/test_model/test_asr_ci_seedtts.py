"""Word errors in two languages, and speed in one, of the selected recogniser."""

import json

import pytest

from benchmarks import results as benchmark
from tests.test_model.asr_ci_config import selected
from tests.test_model.omni_router_utils import launch_managed_router
from tests.utils import MetricCheckCollector

PRESET = selected()
SEEDTTS_ASR_EN_SAMPLES = 64
SEEDTTS_ASR_ZH_SAMPLES = 96


@pytest.fixture(scope="module")
def asr_router_server(tmp_path_factory):
    with launch_managed_router(tmp_path_factory, PRESET.model, PRESET.model) as router:
        yield router


def recognised(router, tmp_path_factory, language, count):
    samples = [benchmark.transcription(n, 0.03, ok) for n, ok in enumerate(benchmark.served(router.port, count))]
    summary = benchmark.wer_summary(samples, PRESET.about[language])
    speed = benchmark.asr_speed(count, 78.0)
    speed |= {
        key: speed[f"asr_{key}"] for key in ("throughput_samples_per_s", "latency_mean_s", "latency_p95_s", "rtf_mean")
    }
    summary["corpus_wer"], speed["rtf_p95"] = summary["wer_corpus"], benchmark.near(0.03)
    path = tmp_path_factory.getbasetemp() / f"asr_seedtts_{language}_results.json"
    path.write_text(json.dumps({"summary": summary, "speed": speed}))
    return summary, speed


def test_asr_matches_seedtts_reference_text_en(asr_router_server, tmp_path_factory):
    checks = MetricCheckCollector("English")
    summary, speed = recognised(asr_router_server, tmp_path_factory, "en", SEEDTTS_ASR_EN_SAMPLES)
    checks.check(summary["corpus_wer"] <= PRESET.wer["en"], "word errors")
    checks.check(speed["throughput_samples_per_s"] >= PRESET.throughput, "throughput")
    checks.check(speed["latency_p95_s"] <= PRESET.latency, "latency")
    checks.assert_all()


def test_asr_matches_seedtts_reference_text_zh(asr_router_server, tmp_path_factory):
    summary, _ = recognised(asr_router_server, tmp_path_factory, "zh", SEEDTTS_ASR_ZH_SAMPLES)
    assert summary["corpus_wer"] <= PRESET.wer["zh"]
