"""A PID namespace of its own for one pytest: ``python own_pids.py PROGRAM NAME ARGUMENT...``.

A suite that ends processes by name (``pkill -9 -f``) finds those of its own lane and no others. Here the processes stay
below the runner, which sees, stops and ends them as ever. Three processes stand for the program: this one, which
passes signals on and ends as the program does; the first of the namespace, which collects orphans and ends with the
last of them, and whose end is that of all; and the program.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import NoReturn

_NEW_PIDS = 0x20000000
_NEW_MOUNTS = 0x00020000
_PRIVATE = 0x40000 | 0x4000
"""MS_PRIVATE with MS_REC: what is mounted there is seen nowhere else."""
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_CANNOT_START = 127


def command(program: str, argv: Sequence[str]) -> list[str]:
    """How ``program`` is started in a namespace of its own, with ``argv`` as its command line."""
    return [sys.executable, "-P", "-S", __file__, program, *argv]


@cache
def possible() -> bool:
    """Whether this process may make such a namespace, with a /proc that shows it; tried once."""
    import subprocess

    look = "import os; raise SystemExit(len([pid for pid in os.listdir('/proc') if pid.isdigit()]) > 3)"
    with suppress(OSError, subprocess.TimeoutExpired):
        argv = command(sys.executable, ["python", "-S", "-c", look])
        return subprocess.run(argv, capture_output=True, timeout=30, check=False).returncode == 0
    return False


def main(argv: list[str]) -> int:
    """Run the program and end as it does, by its exit code or by its signal."""
    libc = ctypes.CDLL(None, use_errno=True)
    _done(libc.unshare(_NEW_PIDS | _NEW_MOUNTS), "unshare")
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(reader)
        _be_the_first(libc, argv, writer)
    os.close(writer)
    _pass_on_to(first)
    line = b""
    while not line.endswith(b"\n") and (data := os.read(reader, 64)):
        line += data
    code, _, left = line.decode().strip().partition(" ")
    if not left:  # it ends at once, and nobody shall take it for something that the program left
        os.waitpid(first, 0)
    if not code.lstrip("-").isdigit():
        return _CANNOT_START
    if int(code) < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -int(code) != signal.SIGKILL:
            signal.signal(-int(code), signal.SIG_DFL)
        os.kill(os.getpid(), -int(code))
    return int(code)


def _be_the_first(libc: ctypes.CDLL, argv: list[str], writer: int) -> NoReturn:
    """Show the namespace its own /proc, start the program, collect every orphan; end when nothing lives here."""
    code: int | None = None
    try:
        _done(libc.mount(None, b"/", None, _PRIVATE, None), "mount /")
        _done(libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount /proc")
        program = os.fork()
        if program == 0:
            os.close(writer)
            os.setsid()
            os.execv(argv[0], argv[1:])
        _pass_on_to(program)
        while True:
            pid, status = os.waitpid(-1, 0 if code is None else os.WNOHANG)
            if pid == program:
                code = os.waitstatus_to_exitcode(status)
            elif pid == 0:  # the program has ended, and processes of it live on
                break
        os.write(writer, f"{code} left\n".encode())
        os.close(writer)
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        with suppress(OSError):
            os.write(writer, f"{code}\n".encode())
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error}\n".encode())
        os._exit(_CANNOT_START)


def _pass_on_to(pid: int) -> None:
    def send(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in _PASSED_ON:
        signal.signal(number, send)


def _done(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
