"""A disk that fails at one chosen call, in a child process: a crash before or behind it, half a write, or an error.

The child is forked with every function wrapped that Python offers for changing a file system, so a crash is a real end
of a real process: no ``except`` and no ``finally`` runs, and the kernel gives the locks back.
"""

from __future__ import annotations

import builtins
import fcntl
import gc
import io
import os
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

Fault = Literal["crash", "torn"] | int
"""Die before the call (which is behind the one before it), die with half of the bytes written, or this errno."""

DIED, DONE, REFUSED, FAILED = 9, 0, 2, 3
_CALLS = (
    "open", "replace", "rename", "link", "symlink", "mkdir", "rmdir", "unlink", "remove", "fsync", "fdatasync",
    "fchmod", "chmod", "fchown", "chown", "utime", "ftruncate", "truncate", "pwrite", "write",
)  # fmt: skip


class _Disk:
    """Counts the calls; the one with number ``step`` meets ``fault``."""

    def __init__(self, step: int, fault: Fault) -> None:
        self.step = step
        self.fault = fault
        self.calls = 0

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if real.__name__ == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return real(*arguments, **options)  # to read: nothing is changed
            self.calls += 1
            if self.calls != self.step:
                return real(*arguments, **options)
            if isinstance(self.fault, int):
                raise OSError(self.fault, os.strerror(self.fault))
            if self.fault == "torn" and real.__name__ in ("write", "pwrite"):
                data = arguments[1]
                real(arguments[0], data[: len(data) // 2], *arguments[2:])
            os._exit(DIED)

        return call

    def fdopen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Streams on a descriptor write unbuffered, through the wrapped ``os.write``."""

        def opened(handle: int, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            return _Stream(handle) if mode == "wb" else real(handle, mode, *arguments, **options)

        return opened

    def install(self) -> None:
        # A process that dies loses nothing that was written, so nothing needs to reach the platter here.
        os.fsync = _synced
        for name in _CALLS:
            setattr(os, name, self.wrap(getattr(os, name)))
        replaced = [(os, "fdopen", self.fdopen(os.fdopen)), (fcntl, "flock", self.wrap(fcntl.flock))]
        replaced += [(module, "open", _no_writing(module.open)) for module in (builtins, io)]
        for module, name, wrapped in replaced:
            setattr(module, name, wrapped)


class _Stream(io.RawIOBase):
    """What ``os.fdopen(handle, "wb")`` gives here."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def fileno(self) -> int:
        return self.handle

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return os.write(self.handle, bytes(data))

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.handle)


def _synced(handle: int) -> None:
    """An fsync that takes no time."""


def _no_writing(real: Callable[..., Any]) -> Callable[..., Any]:
    """A file that is written past the wrapped calls would escape the faults."""

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        # A child process is written to through a pipe.
        pipe = isinstance(file, int) and stat.S_ISFIFO(os.fstat(file).st_mode)
        if set(mode) & set("wax+") and not pipe:
            os.write(2, f"{file} is opened with mode {mode}, past the faulty disk\n".encode())
            os._exit(FAILED)
        return real(file, mode, *arguments, **options)

    return opened


def run(act: Callable[[], object], step: int, fault: Fault, log: Path) -> int:
    """Do ``act`` in a child whose call number ``step`` fails; DIED, DONE, REFUSED (an error or a refusal), FAILED."""
    child = os.fork()
    if child == 0:
        _child(act, _Disk(step, fault), log)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def calls_of(act: Callable[[], object], log: Path) -> int:
    """How many calls ``act`` has when nothing fails; it is done for real, in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        disk, say = _Disk(0, 0), os.write
        _child(act, disk, log, lambda: say(writer, str(disk.calls).encode()))
    os.close(writer)
    with os.fdopen(reader) as stream:
        told = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DONE, log.read_text()
    return int(told)


def _child(act: Callable[[], object], disk: _Disk, log: Path, at_end: Callable[[], object] = lambda: None) -> None:
    gc.disable()  # it would touch, and so copy, every page of the parent
    end, say = os._exit, os.write
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.dup2(handle, 2)
        disk.install()
        act()
        at_end()
        end(DONE)
    except OSError:
        say(handle, traceback.format_exc().encode())
        end(REFUSED)
    except BaseException:
        say(handle, traceback.format_exc().encode())
        end(FAILED)
