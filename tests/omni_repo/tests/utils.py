"""Shared by the CI tests: limits from references, checks that are collected, and the recogniser's servers."""

from dataclasses import dataclass, field

import pytest

from benchmarks import serving
from benchmarks.asr import DEFAULT_ASR_TRANSCRIBE_CONCURRENCY, QWEN3_ASR_MODEL_PATH

wait_for_gpu_memory_release = serving.wait_for_gpu_memory_release
QWEN3_ASR_WER_CONCURRENCY = DEFAULT_ASR_TRANSCRIBE_CONCURRENCY


@dataclass
class MetricCheckCollector:
    """All that is wrong is said at once, at the end."""

    label: str
    failures: list[str] = field(default_factory=list)

    def fail(self, message):
        self.failures.append(message)

    def check(self, condition, message):
        if not condition:
            self.fail(message)

    def assert_all(self):
        if self.failures:
            lines = [f"{number}. {failure}" for number, failure in enumerate(self.failures, 1)]
            raise AssertionError("\n".join([f"{self.label} failed {len(lines)} check(s):", *lines]))


def apply_slack(p95: dict, slack_higher: float = 0.875, slack_lower: float = 1.125) -> dict:
    """Limits for each concurrency: more is better for throughput, less for latency."""
    limits = {}
    for concurrency, reference in p95.items():
        limit = {
            "throughput_qps_min": round(reference["throughput_qps"] * slack_higher, 2),
            "latency_mean_s_max": round(reference["latency_mean_s"] * slack_lower, 1),
        }
        if "output_tok_per_req_s" in reference:
            limit["output_tok_per_req_s_min"] = round(reference["output_tok_per_req_s"] * slack_higher, 1)
        if "rtf_mean" in reference:
            limit["rtf_mean_max"] = round(reference["rtf_mean"] * slack_lower, 2)
        limits[concurrency] = limit
    return limits


def apply_wer_slack(reference: float, slack: float = 1.25) -> float:
    """The most words that may be wrong."""
    return round(reference * slack, 4)


def apply_mos_slack(reference: float, slack: float = 0.97) -> float:
    """The least opinion score."""
    return round(reference * slack, 4)


def assert_speed_thresholds(summary, thresholds, concurrency, *, collector):
    """Each limit that there is for this concurrency."""
    limits = thresholds[concurrency]
    for key in ("throughput_qps", "output_tok_per_req_s"):
        if f"{key}_min" in limits:
            value = summary.get(key)
            collector.check(value is not None and value >= limits[f"{key}_min"], f"{key} {value} at {concurrency}")
    for key in ("latency_mean_s", "rtf_mean"):
        if f"{key}_max" in limits:
            value = summary.get(key)
            collector.check(value is not None and value <= limits[f"{key}_max"], f"{key} {value} at {concurrency}")


def assert_wer_partitioned(results, *, max_wer_below_50_corpus, max_n_above_50, collector):
    """Samples that are mostly right by their words, the others by their number."""
    summary = results["summary"]
    collector.check(summary["evaluated"] == summary["total_samples"], f"only {summary['evaluated']} evaluated")
    wer_below_50 = summary.get("wer_below_50_corpus")
    collector.check(wer_below_50 <= max_wer_below_50_corpus, f"word errors {wer_below_50:.4f}")
    n_above_50 = summary.get("n_above_50_pct_wer")
    collector.check(n_above_50 <= max_n_above_50, f"{n_above_50} samples are mostly wrong")


@pytest.fixture
def qwen3_asr_wer_router(tmp_path_factory):
    """The recogniser, once the servers before it have left their GPUs."""
    from tests.test_model.omni_router_utils import launch_managed_router

    wait_for_gpu_memory_release()
    with launch_managed_router(tmp_path_factory, QWEN3_ASR_MODEL_PATH, QWEN3_ASR_MODEL_PATH) as router:
        yield router
