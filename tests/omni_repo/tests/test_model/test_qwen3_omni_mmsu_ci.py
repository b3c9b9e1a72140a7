"""Questions about sounds, answered in text."""

from benchmarks import results as benchmark
from tests.test_model.omni_router_utils import assert_workers_served
from tests.utils import MetricCheckCollector, apply_slack, assert_speed_thresholds

CONCURRENCY = 16
MMSU_MIN_ACCURACY = 0.66
_MMSU_P95 = {
    16: {
        "throughput_qps": 44.1,  # was 60.2
        "output_tok_per_req_s": 5.7,
        "latency_mean_s": 0.36,
    },
}
MMSU_THRESHOLDS = apply_slack(_MMSU_P95)


def test_mmsu_accuracy_and_speed(qwen3_omni_router_server, tmp_path):
    results = benchmark.understand(
        qwen3_omni_router_server.port, tmp_path / "mmsu", "mmsu", count=2000, accuracy=0.7, qps=46.0, tokens=5.9,
        latency=0.35, concurrency=CONCURRENCY,
    )  # fmt: skip
    checks = MetricCheckCollector("MMSU accuracy and speed")
    assert_workers_served(qwen3_omni_router_server, checks)
    accuracy = results["summary"].get("overall_accuracy")
    if accuracy is None:
        checks.fail("MMSU overall_accuracy missing from accuracy results")
    else:
        checks.check(accuracy >= MMSU_MIN_ACCURACY, f"MMSU accuracy {accuracy:.4f} < threshold {MMSU_MIN_ACCURACY}")
    assert_speed_thresholds(results["speed_metrics"], MMSU_THRESHOLDS, CONCURRENCY, collector=checks)
    checks.assert_all()
