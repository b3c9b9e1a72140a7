"""A question with a deadline: a file system or a driver that hangs costs the answer, never the caller (PRE-12)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Asked(Generic[Answer]):
    """A question asked at once, in a thread of its own that the process does not wait for when it ends."""

    def __init__(self, question: Callable[[], Answer]) -> None:
        self._question = question
        self._answers: list[Answer] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._answers.append(self._question())
        except BaseException as error:  # handed to whoever asks for the answer
            self._error = error

    def answer(self, wait_s: float) -> Answer:
        """The answer, or what the question raised. Raises ``TimeoutError`` when it is not there after ``wait_s``."""
        self._thread.join(max(0.0, wait_s))
        if self._error is not None:
            raise self._error
        if not self._answers:
            raise TimeoutError(f"no answer within {wait_s:g} s")
        return self._answers[0]


class Deadline:
    """What is left of a number of seconds, shared by several waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())
