"""Crash a call at its n-th step on the file system: the process ends there and then, a write is torn in half."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

CHANGES = ("write", "pwrite", "fchmod", "ftruncate", "replace", "rename", "mkdir", "unlink", "rmdir")
STEPS = (*CHANGES, "open", "fsync")
"""With those that change nothing by themselves: a crash there looks as one at the next change."""
CRASHED = 77
_BROKEN = 78


def crash_at(step: int, call: Callable[[], object], steps: Sequence[str] = STEPS) -> bool:
    """Fork, make the call, end the process at its ``step``-th step (from 1); False when the call had fewer."""
    pid = os.fork()
    if pid == 0:
        gc.disable()  # it would touch, and so copy, every page of the parent
        arm(step, steps)
        try:
            call()
        except BaseException:
            traceback.print_exc()
            os._exit(_BROKEN)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, CRASHED), f"the call broke at step {step}, see its traceback"
    return code == CRASHED


def arm(step: int, steps: Sequence[str] = STEPS) -> None:
    """From now on, count every step of ``os`` that changes a file, and end at the one wanted."""
    left = step

    def number_of(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*words: Any, **named: Any) -> Any:
            nonlocal left
            if name == "open" and not words[1] & os.O_CREAT:
                return real(*words, **named)
            left -= 1
            if left == 0:
                _tear(name, words)
                os._exit(CRASHED)
            return real(*words, **named)

        return stepped

    torn_write, torn_pwrite, truncate = os.write, os.pwrite, os.ftruncate

    def _tear(name: str, words: tuple[Any, ...]) -> None:
        if name == "write":
            torn_write(words[0], words[1][: len(words[1]) // 2])
        elif name == "pwrite":
            torn_pwrite(words[0], words[1][: len(words[1]) // 2], words[2])
        elif name == "fchmod":  # what was written to the temporary file had not all reached it
            truncate(words[0], os.fstat(words[0]).st_size // 2)

    for name in steps:
        setattr(os, name, number_of(name, getattr(os, name)))
