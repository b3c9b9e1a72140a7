"""Speech under mixed load: plain and streamed requests, two kinds of web socket, batches, and long texts."""

import json
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bound:
    workload: str
    metric: str
    statistic: str
    limit: float | None


UPPER = (
    Bound("speech_normal", "latency_s", "p95", most(SERVING_MIXED_SPEECH_NORMAL_LATENCY_P95_S_REF)),
    Bound("speech_normal", "rtf", "p95", most(SERVING_MIXED_SPEECH_NORMAL_RTF_P95_REF)),
    Bound("rest_stream", "ttfa_s", "p95", most(SERVING_MIXED_REST_STREAM_TTFA_P95_S_REF)),
    Bound("rest_stream", "inter_chunk_s", "p95", most(SERVING_MIXED_REST_STREAM_INTER_CHUNK_P95_S_REF)),
    Bound("batch_32_all_valid", "latency_s", "p95", most(SERVING_MIXED_BATCH32_LATENCY_P95_S_REF)),
    Bound("ws_normal", "ttfa_s", "p95", most(SERVING_MIXED_WS_NORMAL_TTFA_P95_S_REF)),
    Bound("ws_stream_audio", "inter_chunk_s", "p95", most(SERVING_MIXED_WS_STREAM_INTER_CHUNK_P95_S_REF)),
)
LOWER = (
    Bound("long_prefill_decode", "completion_tokens", "min", least(SERVING_MIXED_LONG_COMPLETION_TOKENS_MIN_REF)),
    Bound("long_prefill_decode", "output_tok_per_req_s", "", least(SERVING_MIXED_LONG_OUTPUT_TOK_PER_REQ_S_REF)),
)


def value_of(summary, bound):
    value = summary.get(bound.metric)
    if not bound.statistic:
        return float(value) if isinstance(value, (int, float)) else None
    value = value.get(bound.statistic) if isinstance(value, dict) else None
    return float(value) if isinstance(value, (int, float)) else None


def check_load(report, checks):
    summaries = report.get("metrics", {}).get("by_stage_and_workload", {}).get("mixed-production", {})
    for bound in (*UPPER, *LOWER):
        summary = summaries.get(bound.workload)
        if summary is None:
            continue
        value = value_of(summary, bound)
        checks.check(value is not None, f"{bound.metric} is missing")
        if value is None or bound.limit is None:
            continue
        if bound in LOWER:
            checks.check(value >= bound.limit, f"{bound.metric} {value}")
        else:
            checks.check(value <= bound.limit, f"{bound.metric} {value}")


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
    path = folder / "benchmark/results.json"
    if path.is_file():
        try:
            report = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            checks.fail(f"no report: {error}")
        else:
            check_load(report, checks)
    verdict = {"valid": True, "threshold_assertion_failed": bool(checks.failures)}
    (folder / "benchmark_validation.json").write_text(json.dumps(verdict))
    checks.assert_all()
