"""The detached process of one run: ``python -m tune_mcp.supervise <run_dir> <run lock> [<host lock> <lock:lane>...]``.

It inherits all locks, works, writes its end state, and exits; the locks go with it. A run on a cluster has no host's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection
from datetime import datetime
from functools import partial
from pathlib import Path

from tune_mcp.errors import Refusal
from tune_mcp.files import FileLock
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import plan as plans
from tune_mcp.session.state import owner
from tune_mcp.supervise import first_look, neighbours
from tune_mcp.supervise.executor import first_job
from tune_mcp.supervise.executor.local import LocalExecutor
from tune_mcp.supervise.executor.slurm import SlurmExecutor
from tune_mcp.supervise.host_lock import lane_path, lock_path
from tune_mcp.supervise.loop import Supervisor, stop_request
from tune_mcp.supervise.processes import StopLadder, become_subreaper, default_signals, descendants, plain_command_line
from tune_mcp.supervise.waiting import Wakeup

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SystemClock:
    """Real time; a signal, a child's end and a word of the runner end a sleep early."""

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup

    def now(self) -> datetime:
        """UTC."""
        return utc_now()

    def monotonic(self) -> float:
        """Seconds, for waits."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for news, at most that long."""
        self._wakeup.wait(seconds)


def main(argv: list[str]) -> int:
    """Adopt the locks, read the plan, supervise."""
    run = RunDir(Path(argv[0]))
    locks = [FileLock.inherit(run.supervisor_lock, int(argv[1]))]
    locks += [FileLock.inherit(lock_path(), int(word)) for word in argv[2:3]]
    claimed = {name: int(handle) for handle, _, name in (word.partition(":") for word in argv[3:])}
    default_signals()
    become_subreaper()
    wakeup = Wakeup(*_STOP_SIGNALS)

    def stop_asked() -> str | None:
        return stop_request(run) or ("the supervisor was ended by a signal" if wakeup.received else None)

    try:
        plan = plans.load(run, first_look.no_older_runs)
    except Refusal as refusal:
        print(refusal.text(), file=sys.stderr)
        return 1
    if plan.settings.slurm:
        # A reboot, the time limit of its own job: its jobs go on, and the next supervisor takes over.
        for one in _STOP_SIGNALS:
            signal.signal(one, signal.SIG_DFL)
    plain_command_line(*(neighbours.ELSEWHERE if plan.settings.slurm else neighbours.SHOWN))

    lanes = {lane.name: lane for lane in plan.settings.placement.lanes if lane.name in claimed}
    locks += [FileLock.inherit(lane_path(lane), claimed[name]) for name, lane in lanes.items()]

    jobs = (plan.lanes or plan.settings.slurm.jobs) if plan.settings.slurm else 1

    def company() -> list[neighbours.Neighbour]:
        return [one for one in neighbours.measuring() if not (lanes and one.on_lanes)]

    def drain(spared: Collection[int]) -> None:
        alive = partial(descendants, spared)
        StopLadder(alive=alive, spared=spared).drain()

    cluster = SlurmExecutor(run, plan.settings.slurm) if plan.settings.slurm else None
    supervisor = Supervisor(
        run_dir=run,
        plan=plan,
        executor=cluster or LocalExecutor(wakeup, drain, held=tuple(lock.handle for lock in locks[1:])),
        clock=SystemClock(wakeup),
        owner=owner(os.getpid()),
        precheck=lambda: (
            first_job.prechecked(run, plan, cluster.settings, supervisor.wait)
            if cluster
            else first_look.prechecked(run, plan)
        ),
        stop_asked=stop_asked,
        neighbours=tuple if cluster else company,
        lanes=lanes or {f"job-{number}" if jobs > 1 else "": None for number in range(1, jobs + 1)},
        at_once=min(plan.lanes or len(lanes), len(lanes)) or jobs,
    )
    return supervisor.run()  # the locks go with the process, so that a free lock means that it is gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
