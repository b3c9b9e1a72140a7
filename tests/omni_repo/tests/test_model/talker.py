"""Spoken answers: the questions first, then what a recogniser hears in the answers, written into the same file."""

import json

from benchmarks import results as benchmark
from tests.utils import MetricCheckCollector, assert_speed_thresholds, assert_wer_partitioned


def answered(port, tmp_path_factory, family, count, **level):
    """The benchmark's folder and results; ``level`` is what the made-up model does."""
    folder = tmp_path_factory.mktemp(f"{family}_audio")
    results = benchmark.understand(
        port, folder, family, count=count, concurrency=16, speech=True, **level
    )  # fmt: skip
    return folder, results


def heard(port, folder, family, count, wer):
    """Word errors of the spoken answers, added to the benchmark's own file."""
    samples = [benchmark.transcription(number, wer * 3, ok) for number, ok in enumerate(benchmark.served(port, count))]
    told = {"summary": benchmark.wer_summary(samples, wer, duration=0 if family == "mmmu" else 3.4567), "per_sample": samples}
    path = folder / f"{family}_results.json"
    found = json.loads(path.read_text())
    found["wer"] = told
    path.write_text(json.dumps(found, indent=2))
    return told


def assert_answers(results, minimum, limits, concurrency):
    summary = results["summary"]
    failed = summary.get("failed", 0)
    checks = MetricCheckCollector("accuracy and speed")
    checks.check(failed == 0, f"{failed}/{summary['total_samples']} failed requests; any failure fails the test")
    accuracy = summary.get("accuracy")
    checks.check(accuracy >= minimum, f"accuracy {accuracy:.4f} < threshold {minimum}")
    assert_speed_thresholds(results["speed"], limits, concurrency, collector=checks)
    checks.assert_all()


def assert_speech(told, max_wer, max_n):
    checks = MetricCheckCollector("WER")
    assert_wer_partitioned(told, max_wer_below_50_corpus=max_wer, max_n_above_50=max_n, collector=checks)
    checks.assert_all()
