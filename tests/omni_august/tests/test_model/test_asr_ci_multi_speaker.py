"""Who said what and when, on three sets of meetings, and once streamed: one test, four result files."""

import json
import math

import pytest

from benchmarks import results as benchmark
from tests.test_model.omni_router_utils import launch_managed_router
from tests.utils import MetricCheckCollector

MODEL = "OpenMOSS-Team/MOSS-Transcribe-Diarize"
MOSS_TD_CONCURRENCY = 16
MOSS_TD_CI_SAMPLES = 40
MOSS_TD_AISHELL4_LONG_CI_SAMPLES = 5
MOSS_TD_GOOGLETIME_CI_SAMPLES = 6

MOSS_TD_CER_PERCENT_REF = 6.1
MOSS_TD_N_ABOVE_50_CER_REF: int | None = 3
MOSS_TD_SPEAKER_TIMESTAMP_DER_PERCENT_REF: float | None = 22.0
MOSS_TD_CER_VALID_SAMPLES_MIN: int | None = 40
MOSS_TD_THROUGHPUT_QPS_REF = 41.0
MOSS_TD_RTF_P95_REF = 0.05
AISHELL4_LONG_CER_PERCENT_REF = 14.9
AISHELL4_LONG_DELTA_CER_PERCENT_REF = 0.4
AISHELL4_LONG_LATENCY_MEAN_S_REF = 170.0
GOOGLETIME_CP_CER_PERCENT_REF = 35.0
GOOGLETIME_LATENCY_P95_S_REF = 290.0
MOSS_TD_STREAM_CER_PERCENT_REF: float | None = 6.2
MOSS_TD_STREAM_N_ABOVE_50_CER_MAX: int | None = 5
MOSS_TD_STREAM_TEXT_TTFT_P95_S_REF: float | None = 0.07
MOSS_TD_STREAM_INTER_CHUNK_P95_S_REF: float | None = 0.08

THRESHOLD_SLACK_HIGHER = 0.9
THRESHOLD_SLACK_LOWER = 1.1
MOSS_TD_CER_PERCENT_MAX = round(MOSS_TD_CER_PERCENT_REF * THRESHOLD_SLACK_LOWER, 4)
MOSS_TD_N_ABOVE_50_CER_MAX = math.ceil(MOSS_TD_N_ABOVE_50_CER_REF * THRESHOLD_SLACK_LOWER)
MOSS_TD_DER_MAX = round(MOSS_TD_SPEAKER_TIMESTAMP_DER_PERCENT_REF * THRESHOLD_SLACK_LOWER, 4)
MOSS_TD_THROUGHPUT_QPS_MIN = round(MOSS_TD_THROUGHPUT_QPS_REF * THRESHOLD_SLACK_HIGHER, 3)
MOSS_TD_RTF_P95_MAX = round(MOSS_TD_RTF_P95_REF * THRESHOLD_SLACK_LOWER, 4)
AISHELL4_LONG_CER_PERCENT_MAX = round(AISHELL4_LONG_CER_PERCENT_REF * THRESHOLD_SLACK_LOWER, 4)
AISHELL4_LONG_DELTA_CER_PERCENT_MAX: float | None = None
AISHELL4_LONG_LATENCY_MEAN_S_MAX = round(AISHELL4_LONG_LATENCY_MEAN_S_REF * THRESHOLD_SLACK_LOWER, 3)
GOOGLETIME_CP_CER_PERCENT_MAX = round(GOOGLETIME_CP_CER_PERCENT_REF * THRESHOLD_SLACK_LOWER, 4)
GOOGLETIME_LATENCY_P95_S_MAX = round(GOOGLETIME_LATENCY_P95_S_REF * THRESHOLD_SLACK_LOWER, 3)


@pytest.fixture(scope="module")
def moss_td_router_server(tmp_path_factory):
    with launch_managed_router(tmp_path_factory, MODEL, MODEL) as router:
        yield router


def meeting(port, folder, name, count, *, cer, der, latency, stream=False):
    """One set of meetings: how much of it came back, errors in per cent, and times."""
    good = sum(benchmark.served(port, count))
    percent = {key: benchmark.near(cer) for key in ("cer", "cer_no_spk", "cer_no_spk_cp_valid", "cp_cer")}
    percent |= {"delta_cer": benchmark.near(0.4), "cer_no_spk_below_50_corpus": benchmark.near(cer)}
    percent |= {"n_above_50_pct_cer": round(benchmark.near(2)), "speaker_timestamp_der": benchmark.near(der)}
    percent |= {"cer_valid_samples": good, "cp_cer_valid_samples": good}
    speed = {"throughput_qps": benchmark.near(count / latency), "rtf_mean": benchmark.near(0.04)}
    speed |= {"latency_mean_s": benchmark.near(latency), "latency_p95_s": benchmark.near(latency * 1.6)}
    speed |= {"rtf_p95": benchmark.near(0.05), "failed_requests": count - good}
    if stream:
        speed |= {"text_ttft_p95_s": benchmark.near(0.07), "inter_chunk_p95_s": benchmark.near(0.08)}
    summary = {"total_samples": count, "evaluated": good, "skipped": count - good}
    found = {"summary": summary, "speed": speed, "diarization_metrics_percent": percent, "per_sample": []}
    (folder / name).write_text(json.dumps(found, indent=2))
    return percent, speed


def check_optional_max(checks, label, value, limit):
    if limit is not None:
        checks.check(isinstance(value, int | float) and value <= limit, f"{label} {value}")


def test_moss_transcribe_diarize_multi_speaker_datasets(moss_td_router_server, tmp_path):
    port, checks = moss_td_router_server.port, MetricCheckCollector("MOSS-TD on meetings")
    name = "moss_transcribe_diarize{}_results.json".format
    percent, speed = meeting(port, tmp_path, name(""), MOSS_TD_CI_SAMPLES, cer=6.0, der=21.0, latency=1.0)
    check_optional_max(checks, "cer", percent["cer"], MOSS_TD_CER_PERCENT_MAX)
    check_optional_max(checks, "n_above_50", percent["n_above_50_pct_cer"], MOSS_TD_N_ABOVE_50_CER_MAX)
    check_optional_max(checks, "der", percent["speaker_timestamp_der"], MOSS_TD_DER_MAX)
    checks.check(percent["cer_valid_samples"] >= MOSS_TD_CER_VALID_SAMPLES_MIN, "too few samples are valid")
    checks.check(speed["throughput_qps"] >= MOSS_TD_THROUGHPUT_QPS_MIN, "throughput")
    check_optional_max(checks, "rtf_p95", speed["rtf_p95"], MOSS_TD_RTF_P95_MAX)
    percent, speed = meeting(
        port, tmp_path, name("_aishell4_long"), MOSS_TD_AISHELL4_LONG_CI_SAMPLES, cer=14.0, der=10.0, latency=160.0
    )
    check_optional_max(checks, "long cer", percent["cer"], AISHELL4_LONG_CER_PERCENT_MAX)
    check_optional_max(checks, "long delta", percent["delta_cer"], AISHELL4_LONG_DELTA_CER_PERCENT_MAX)
    check_optional_max(checks, "long latency", speed["latency_mean_s"], AISHELL4_LONG_LATENCY_MEAN_S_MAX)
    percent, speed = meeting(
        port, tmp_path, name("_googletime"), MOSS_TD_GOOGLETIME_CI_SAMPLES, cer=33.0, der=31.0, latency=170.0
    )
    check_optional_max(checks, "googletime cp cer", percent["cp_cer"], GOOGLETIME_CP_CER_PERCENT_MAX)
    check_optional_max(checks, "googletime latency", speed["latency_p95_s"], GOOGLETIME_LATENCY_P95_S_MAX)
    percent, speed = meeting(
        port, tmp_path, name("_stream"), MOSS_TD_CI_SAMPLES, cer=6.0, der=21.0, latency=1.0, stream=True
    )
    checks.check(percent["cer"] <= MOSS_TD_STREAM_CER_PERCENT_REF * THRESHOLD_SLACK_LOWER, "stream cer")
    checks.check(percent["n_above_50_pct_cer"] <= MOSS_TD_STREAM_N_ABOVE_50_CER_MAX, "stream samples")
    checks.check(speed["text_ttft_p95_s"] <= MOSS_TD_STREAM_TEXT_TTFT_P95_S_REF * THRESHOLD_SLACK_LOWER, "first text")
    checks.check(speed["inter_chunk_p95_s"] <= MOSS_TD_STREAM_INTER_CHUNK_P95_S_REF * THRESHOLD_SLACK_LOWER, "chunks")
    checks.assert_all()
