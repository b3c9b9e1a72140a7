"""Throughput and latency of the server under load."""

import pytest
from minibench.client import benchmark
from minibench.server import serving

REQUESTS = 64
CLIENTS = 4


@pytest.fixture(scope="module")
def result():
    with serving() as address:
        return benchmark(address, REQUESTS, CLIENTS)


class TestServing:
    THROUGHPUT_RPS_MIN = 1.0
    P95_MS_MAX = 10_000.0

    def test_throughput(self, result, tune_record):
        tune_record("samples_total", REQUESTS)
        tune_record("samples_ok", result["completed"])
        tune_record("throughput_rps", result["throughput_rps"])
        assert result["throughput_rps"] >= self.THROUGHPUT_RPS_MIN

    def test_latency(self, result, tune_record):
        tune_record("p95_ms", result["p95_ms"])
        assert result["p95_ms"] <= self.P95_MS_MAX
