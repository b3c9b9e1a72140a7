"""Waits that end early: a signal or a readable file wakes them at once, so that nothing has to look every moment.

A busy look costs a core that is being measured, and a lazy one costs a part of its interval at every launch.
"""

from __future__ import annotations

import os
import select
import signal
import time
from types import FrameType


class Wakeup:
    """One place to wait for everything from outside. For the main thread of a process that is ours alone.

    A child's end always wakes. ``received`` are the ``signals`` that came so far; they never end the process.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.received: set[signal.Signals] = set()
        self._reader, writer = os.pipe()
        for end in (self._reader, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in signals:
            signal.signal(number, self._note)
        self._poll = select.poll()
        self.watch(self._reader)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received.add(signal.Signals(number))

    def watch(self, handle: int) -> None:
        """Wake when ``handle`` is readable or at its end, until it is forgotten."""
        self._poll.register(handle, select.POLLIN)

    def forget(self, handle: int) -> None:
        """Watch it no more."""
        self._poll.unregister(handle)

    def wait(self, seconds: float) -> frozenset[int]:
        """Wait for anything, at most ``seconds``; returns the watched handles that have something to read."""
        ready = {handle for handle, _ in self._poll.poll(max(0.0, seconds) * 1000)}
        if self._reader in ready:
            ready.remove(self._reader)
            os.read(self._reader, 4096)
        return frozenset(ready)


class Orders:
    """What a runner is asked to do: job files on standard input, and to end (SIGTERM, or the end of that input).

    The end of standard input means that whoever gave the job is gone. Called, it returns whether the runner is to end.
    Without ``listening`` that input is not read: an engine's job outlives who gave it.
    """

    def __init__(self, *, listening: bool = True) -> None:
        self._wakeup = Wakeup(signal.SIGTERM)
        if listening:
            self._wakeup.watch(0)
        self._given = b""
        self.input_ended = False
        self.began_ns = time.time_ns()
        """When this runner began to take jobs."""

    def __call__(self) -> bool:
        """Whether somebody asked for the end, as of now."""
        self.look(0)
        return self._over()

    def _over(self) -> bool:
        return self.input_ended or signal.SIGTERM in self._wakeup.received

    def look(self, seconds: float) -> None:
        """Wait for anything at all: an order, a child's end; at most ``seconds``."""
        if 0 in self._wakeup.wait(seconds):
            data = os.read(0, 4096)
            self._given += data
            if not data:
                self.input_ended = True
                self._wakeup.forget(0)

    def wait(self, seconds: float) -> None:
        """Sleep that long, or until the runner is to end; a child's end cuts nothing short."""
        end = time.monotonic() + seconds
        while not self._over() and (left := end - time.monotonic()) > 0:
            self.look(left)

    def next_job(self) -> str | None:
        """The next job file (each is ended by NUL), None when the runner is to end."""
        while b"\0" not in self._given and not self._over():
            self.look(3600)
        if self._over():
            return None
        path, _, self._given = self._given.partition(b"\0")
        return os.fsdecode(path)
