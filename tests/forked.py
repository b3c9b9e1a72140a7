"""Launchers, supervisors and runners as forks of the test process, which has imported everything already.

They are processes of their own as ever: in their own sessions, with inherited locks, pipes that close and signals that
arrive, and the launcher goes first. Only no interpreter starts anew, which is most of what a short run costs. What
reads a program's start in /proc (its environment, or whether it ever became another program) sees a fork.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

MODULES = ("tune_mcp.supervise.launcher", "tune_mcp.supervise", "tune_mcp.supervise.runner")


class Popen(subprocess.Popen[Any]):
    """``python -P -m`` one of the ``MODULES`` is a fork; every other program starts as ever."""

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *rest: Any
    ) -> None:
        start = [sys.executable, "-P", "-m"]
        if not isinstance(args, list) or args[:3] != start or args[3] not in MODULES:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        pipes = rest[3:9]
        self.pid = os.fork()
        if self.pid == 0:
            _be(args[3], args[4:], (pipes[0], pipes[3], pipes[5]), pass_fds, cwd, env)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def _be(
    module: str,
    words: Sequence[str],
    streams: Sequence[int],
    kept: Sequence[int],
    cwd: str | None,
    env: Mapping[str, str] | None,
) -> NoReturn:
    """Be that program in this fork, with what a program that is started has and nothing else of its parent's."""
    code = 1
    try:
        os.setsid()
        gc.freeze()  # no file object of the parent's is ever collected: by then its number is another file's
        for number, stream in enumerate(streams):
            if stream >= 0:
                os.dup2(stream, number)
        for handle in [int(name) for name in os.listdir("/proc/self/fd")]:
            if handle > 2 and handle not in kept:
                with suppress(OSError):  # that of the folder
                    os.close(handle)
        os.chdir(cwd or ".")
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        signal.set_wakeup_fd(-1)
        for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        sys.argv = [module, *words]
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
            if (site := Path(folder, "sitecustomize.py")).is_file():
                runpy.run_path(str(site))
                break
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
