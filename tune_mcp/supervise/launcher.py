"""Start a supervisor that outlives the server, the client and their process group.

A new session alone is not enough: a client that ends the whole tree of its server finds the supervisor as a
descendant. So a short launcher starts it and exits first; the supervisor then belongs to init.
The launcher is this module run as a program, with the words that the supervisor gets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp.files import FileLock, open_appending
from tune_mcp.run_dir import RunDir

if TYPE_CHECKING:  # the launcher itself needs none of it, and whoever starts a run waits for the launcher
    from tune_mcp.supervise.host_lock import HostClaim

_LAUNCHER_DEADLINE_S = 20


def start(run_dir: Path, run_lock: FileLock, host: HostClaim) -> int:
    """Detach a supervisor for ``run_dir`` that inherits all locks; returns its pid. Raises ``OSError``.

    The caller's shares of the locks may be given back afterwards: the supervisor has its own. Everything below it
    carries a new secret, by which it is known for ours should all that watches over it be killed.
    """
    whole = [run_lock.handle, *([host.host.handle] if host.host else [])]
    handles = (*whole, *(lock.handle for lock in host.locks))
    words = [*map(str, whole), *(f"{one.handle}:{lane.name}" for lane, one in zip(host.lanes, host.locks, strict=True))]
    from tune_mcp.supervise import leftovers  # the process table: nothing that a mere reader waits for

    open_appending(RunDir(run_dir).supervisor_log).close()  # refused here, not in a launcher that nobody reads
    secret = leftovers.mark(RunDir(run_dir))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tune_mcp.supervise.launcher", str(run_dir), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=handles,
        start_new_session=True,
        env={**_environment(), leftovers.MARK: secret},
        timeout=_LAUNCHER_DEADLINE_S,
        check=False,
        text=True,
    )
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        raise OSError(f"the supervisor could not be started: {done.stderr.strip()[-500:] or done.returncode}")
    return int(done.stdout)


def _environment() -> dict[str, str]:
    """This process's environment, with this copy of tune_mcp importable even where it is not installed."""
    here = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{here}:{rest}" if rest else here}


def main(argv: list[str]) -> int:
    """The launcher: start the supervisor in a session of its own, print its pid, and go."""
    run_dir, handles = Path(argv[0]), tuple(int(word.partition(":")[0]) for word in argv[1:])
    with open_appending(RunDir(run_dir).supervisor_log) as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "tune_mcp.supervise", str(run_dir), *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=handles,
            start_new_session=True,
            cwd="/",
        )
    print(child.pid, flush=True)
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # no Popen destructor, no waiting: the child must find itself without a parent
