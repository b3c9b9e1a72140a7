"""Requests one after the other, by several clients at once, each timed."""

import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection


def ask(address, a, b):
    """The answer, and the seconds that it took."""
    began = time.perf_counter()
    connection = HTTPConnection(*address, timeout=10)
    connection.request("GET", f"/add?a={a}&b={b}")
    answer = int(connection.getresponse().read())
    connection.close()
    return answer, time.perf_counter() - began


def benchmark(address, requests, clients):
    """Throughput in requests per second, 95th percentile of the latency in milliseconds, and how many were answered."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = sorted(seconds for _, seconds in pool.map(lambda n: ask(address, n, n + 1), range(requests)))
    return {
        "throughput_rps": requests / (time.perf_counter() - began),
        "p95_ms": 1000 * times[int(0.95 * len(times))],
        "completed": len(times),
    }
