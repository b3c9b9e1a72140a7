"""Drives a service with a fixed number of clients, each sending its next request when the last is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class RequestFailedError(Exception):
    """A later step was asked to use the answer of a request that has none."""


@dataclass(frozen=True)
class Reply(Generic[Answer]):
    """What became of one request: an answer, or the text of the error."""

    answer: Answer | None
    error: str | None
    latency_s: float

    def unwrap(self) -> Answer:
        """The answer. Raises RequestFailedError with the original error if there is none."""
        if self.answer is None:
            raise RequestFailedError(self.error)
        return self.answer


@dataclass(frozen=True)
class LoadResult(Generic[Answer]):
    """All replies, in the order of the requests, and the wall time of the whole."""

    replies: list[Reply[Answer]]
    wall_s: float


def run_closed_loop(
    service: Callable[[Request], Answer], requests: Sequence[Request], concurrency: int
) -> LoadResult[Answer]:
    """Send every request through `concurrency` clients. A request that raises is a failed reply, not a failed run."""

    def send(request: Request) -> Reply[Answer]:
        start = time.perf_counter()
        try:
            answer = service(request)
        except Exception as error:  # the load goes on; the summary counts it
            return Reply(None, f"{type(error).__name__}: {error}", time.perf_counter() - start)
        return Reply(answer, None, time.perf_counter() - start)

    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as clients:
        replies = list(clients.map(send, requests))
    return LoadResult(replies, time.perf_counter() - start)
