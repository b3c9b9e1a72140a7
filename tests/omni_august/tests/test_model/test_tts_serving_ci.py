"""Speech under mixed load: plain and streamed requests, two kinds of web socket, batches, and long texts."""

import json

import pytest

from benchmarks import results as benchmark
from tests.test_model.omni_router_utils import launch_managed_router
from tests.utils import MetricCheckCollector

MODEL = "bosonai/higgs-tts-3-4b"
SERVING_MIXED_SPEECH_NORMAL_LATENCY_P95_S_REF: float | None = 0.9
SERVING_MIXED_SPEECH_NORMAL_RTF_P95_REF: float | None = 0.2
SERVING_MIXED_REST_STREAM_TTFA_P95_S_REF: float | None = 0.2
SERVING_MIXED_REST_STREAM_INTER_CHUNK_P95_S_REF: float | None = 0.5
SERVING_MIXED_BATCH32_LATENCY_P95_S_REF: float | None = 9.0
SERVING_MIXED_WS_NORMAL_TTFA_P95_S_REF: float | None = 1.1
SERVING_MIXED_WS_STREAM_INTER_CHUNK_P95_S_REF: float | None = 0.6
SERVING_MIXED_LONG_COMPLETION_TOKENS_MIN_REF: float | None = 95.0
SERVING_MIXED_LONG_OUTPUT_TOK_PER_REQ_S_REF: float | None = 205.0
WORKLOADS = {
    "speech_normal": ("rtf", {"latency_s": 0.9, "rtf": 0.2}),
    "rest_stream": ("inter_chunk_s", {"ttfa_s": 0.2, "inter_chunk_s": 0.5, "latency_s": 0.7, "rtf": 0.15}),
    "batch_32_all_valid": ("latency_s", {"latency_s": 9.0}),
    "ws_normal": ("ttfa_s", {"ttfa_s": 1.1, "latency_s": 1.1}),
    "ws_stream_audio": ("inter_chunk_s", {"ttfa_s": 0.2, "inter_chunk_s": 0.6, "latency_s": 8.0, "rtf": 0.12}),
    "long_prefill_decode": ("generation_metrics_complete", {"latency_s": 10.0}),
}
REQUESTS = 32


def most(reference):
    return None if reference is None else round(reference * 1.25, 6)


def least(reference):
    return None if reference is None else round(reference * 0.75, 6)


@pytest.fixture(scope="module")
def serving_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tts-serving-ci")
    with launch_managed_router(tmp_path_factory, MODEL, MODEL) as router:
        yield router, folder


def test_tts_serving_stress(serving_run):
    router, folder = serving_run
    measured = {}
    for name, (counted, values) in WORKLOADS.items():
        good = sum(benchmark.served(router.port, REQUESTS))
        measured[name] = {key: {"p95": benchmark.near(value)} for key, value in values.items()}
        measured[name] |= {"successful_request_count": good, "metric_sample_counts": {counted: good}}
    measured["long_prefill_decode"] |= {
        "prompt_tokens": {"min": 681.0},
        "completion_tokens": {"min": benchmark.near(96)},
    }
    measured["long_prefill_decode"] |= {"audio_duration_s": {"min": 3.5}, "output_tok_per_req_s": benchmark.near(206)}
    (folder / "benchmark").mkdir()
    results = {"metrics": {"by_stage_and_workload": {"mixed-production": measured}}}
    (folder / "benchmark/results.json").write_text(json.dumps(results))
    checks = MetricCheckCollector("serving")
    normal, rest, long = measured["speech_normal"], measured["rest_stream"], measured["long_prefill_decode"]
    checks.check(normal["latency_s"]["p95"] <= most(SERVING_MIXED_SPEECH_NORMAL_LATENCY_P95_S_REF), "latency")
    checks.check(normal["rtf"]["p95"] <= most(SERVING_MIXED_SPEECH_NORMAL_RTF_P95_REF), "rtf")
    checks.check(rest["ttfa_s"]["p95"] <= most(SERVING_MIXED_REST_STREAM_TTFA_P95_S_REF), "first audio")
    checks.check(rest["inter_chunk_s"]["p95"] <= most(SERVING_MIXED_REST_STREAM_INTER_CHUNK_P95_S_REF), "chunks")
    batch, stream = measured["batch_32_all_valid"], measured["ws_stream_audio"]
    checks.check(batch["latency_s"]["p95"] <= most(SERVING_MIXED_BATCH32_LATENCY_P95_S_REF), "batch")
    checks.check(measured["ws_normal"]["ttfa_s"]["p95"] <= most(SERVING_MIXED_WS_NORMAL_TTFA_P95_S_REF), "socket")
    checks.check(stream["inter_chunk_s"]["p95"] <= most(SERVING_MIXED_WS_STREAM_INTER_CHUNK_P95_S_REF), "socket chunks")
    checks.check(long["completion_tokens"]["min"] >= least(SERVING_MIXED_LONG_COMPLETION_TOKENS_MIN_REF), "tokens")
    checks.check(long["output_tok_per_req_s"] >= least(SERVING_MIXED_LONG_OUTPUT_TOK_PER_REQ_S_REF), "rate")
    verdict = {"valid": True, "threshold_assertion_failed": bool(checks.failures)}
    (folder / "benchmark_validation.json").write_text(json.dumps(verdict))
    checks.assert_all()
