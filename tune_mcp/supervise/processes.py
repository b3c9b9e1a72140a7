"""Process trees that belong to us: kept visible by a subreaper, stopped by a ladder, and nobody else's touched.

A killed pytest leaves servers and spawn workers behind, some in sessions of their own. With the subreaper flag every
orphan below us comes back as our child, whatever name or session it took, so "ours" is a fact of the process table
and never a guess from a name (rules GPU-16, GPU-20).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from tune_mcp import procfs
from tune_mcp.procfs import Identity, Process
from tune_mcp.run_dir import iso, utc_now
from tune_mcp.supervise.process_tree import read_tree

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Orphans below this process become its children instead of init's. Linux only; raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def plain_command_line(*words: str) -> None:
    """Show ``words`` as this process's command line, as far as they fit in the place of the present one.

    A test suite that ends processes by their command line (``pkill -9 -f``) must not find the supervisor by the name
    of a repository or a run. Where /proc cannot be read nothing is changed.
    """
    start, end = procfs.place_of_command_line() or (0, 0)
    if 0 < start < end:
        shown = b"".join(word.encode() + b"\0" for word in words)[: end - start - 1]
        ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def say(text: str) -> None:
    """One line with the time on standard error, which whoever started this process keeps."""
    print(f"{iso(utc_now())} {text}", file=sys.stderr, flush=True)


def default_signals() -> None:
    """Undo an inherited SIG_IGN and signal mask, so that a child can be interrupted (``cmd &`` ignores INT)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(name, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def descendants(spared: Collection[int] = ()) -> list[Process]:
    """Every living process below this one, but not ``spared`` ones and what is below those."""
    return [one for one in read_tree(spared=spared).values() if one.alive]


def describe(process: Process) -> str:
    """``1234 python -m server``: for messages, never for identity."""
    return f"{process.pid} {procfs.command(process.pid)[:120] or process.name}"


def below(pid: int) -> tuple[str, ...]:
    """The living processes below ``pid``, for messages."""
    return tuple(describe(one) for one in read_tree(pid).values() if one.alive)


def send(process: Process, sign: signal.Signals) -> bool:
    """Signal this very process; False where it has ended, whoever has its pid by now."""
    now = procfs.process(process.pid)
    if now is None or now.identity != process.identity:
        return False
    try:
        os.kill(process.pid, sign)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@dataclass(frozen=True)
class Grace:
    """How long each rung of the ladder may take, in seconds. Teardown of a model server can take minutes."""

    interrupt_s: float = 30.0
    terminate_s: float = 10.0
    kill_s: float = 10.0


AFTER_THE_SESSION = Grace(interrupt_s=5.0, terminate_s=5.0)
"""When pytest has nothing left to tear down."""


@dataclass
class StopLadder:
    """SIGINT to pytest, wait, SIGTERM to the tree, wait, SIGKILL to the tree until nothing is left.

    ``log`` gets one sentence for each step. ``tick_s`` is how often the wait looks. ``alive`` says what is ours (all
    that is below this process), ``sent`` which signals the main process got from us. ``spared`` are children that
    others wait for.
    """

    log: Callable[[str], None] = say
    grace: Grace = field(default_factory=Grace)
    tick_s: float = 0.1
    alive: Callable[[], list[Process]] = descendants
    sent: list[str] = field(default_factory=list[str])
    spared: Collection[int] = ()

    def interrupt(self, main: subprocess.Popen[bytes]) -> None:
        """Ask pytest to end by itself, so that fixtures are torn down."""
        if main.poll() is None:
            self._say(f"SIGINT to pytest {main.pid}, then up to {self.grace.interrupt_s:g} s for its teardown")
            self.sent.append(signal.SIGINT.name)
            main.send_signal(signal.SIGINT)
            self._until(lambda: main.poll() is not None, self.grace.interrupt_s)

    def await_orphan(self, main: Process, *, interrupt: bool) -> None:
        """The same for a pytest that is not our child; without ``interrupt`` when somebody else has asked it."""
        self._say(f"{'SIGINT to' if interrupt else 'waiting for'} {describe(main)}, up to {self.grace.interrupt_s:g} s")
        if interrupt:
            send(main, signal.SIGINT)
        self._until(lambda: all(one.identity != main.identity for one in self.alive()), self.grace.interrupt_s)

    def drain(self, main: subprocess.Popen[bytes] | None = None) -> tuple[str, ...]:
        """End what is left of the attempt; return what had to be ended. Never touches another process."""
        left = self.alive()
        named = tuple(describe(process) for process in left)
        for sign, limit in ((signal.SIGTERM, self.grace.terminate_s), (signal.SIGKILL, self.grace.kill_s)):
            if not left:
                break
            self._say(f"{sign.name} to {len(left)} process(es) of this attempt: {', '.join(named[:3])}")
            self._end(sign, limit, main)
            left = self.alive()
        if left:
            self._say(f"{len(left)} process(es) outlive SIGKILL: {', '.join(describe(process) for process in left)}")
        return named

    def _say(self, text: str) -> None:
        with suppress(OSError):  # a full disk keeps nobody from being ended
            self.log(text)

    def _end(self, sign: signal.Signals, limit: float, main: subprocess.Popen[bytes] | None) -> None:
        sent: set[Identity] = set()

        def gone() -> bool:
            alive = self.alive()
            for process in alive:
                if process.identity not in sent and send(process, sign):
                    sent.add(process.identity)
                    if main is not None and process.pid == main.pid:
                        self.sent.append(sign.name)
            if main is not None:
                main.poll()
            reap({*self.spared, main.pid} if main else self.spared)
            return not alive

        self._until(gone, limit)

    def _until(self, done: Callable[[], bool], limit: float) -> None:
        end = time.monotonic() + limit
        while not done() and time.monotonic() < end:
            time.sleep(self.tick_s)


def reap(keep: Collection[int]) -> None:
    """Collect adopted zombies; the exit status of those in ``keep`` belongs to their Popen and stays untouched."""
    for one in procfs.processes():
        if one.parent == os.getpid() and one.state == "Z" and one.pid not in keep:
            with suppress(ChildProcessError):
                os.waitpid(one.pid, os.WNOHANG)
