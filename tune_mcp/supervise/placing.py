"""Where one launch runs: GPUs that are free, and CPUs that others leave alone where the host profile asks for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tune_mcp.config.lanes import Lane, parse_cpus
from tune_mcp.contract.status import PhaseKind
from tune_mcp.errors import Code
from tune_mcp.supervise.gpu.gate import HOLD_S
from tune_mcp.supervise.gpu.use import GpuUse
from tune_mcp.supervise.job import Blocked, enter
from tune_mcp.supervise.processes import say
from tune_mcp.supervise.quiet.look import our_root
from tune_mcp.supervise.quiet.monitor import WAIT_LIMIT_S, Monitor, not_quiet


def place(gpus: GpuUse, wait: Callable[[float], None]) -> Monitor | Blocked:
    """Grant GPUs and lane, and wait for quiet; the lane's monitor, or why nothing may be launched.

    GPUs are looked at again where that wait took a while: nothing holds others off them meanwhile.
    """
    quiet, until = gpus.job.placement.quiet, time.monotonic() + WAIT_LIMIT_S

    def waiting(why: str) -> None:
        say(f"waiting for quiet: {why}")
        enter(gpus.job, PhaseKind.WAITING_FOR_QUIET, why)

    while True:
        if blocked := gpus.acquire() or unavailable(gpus.grant.lane):
            return blocked
        monitor = Monitor.of(cpus_of(gpus.grant.lane), our_root(), quiet)
        if quiet is None:
            return monitor
        began = time.monotonic()
        if noisy := monitor.wait(until, wait, gpus.cancelled, waiting):
            return not_quiet(noisy)
        if gpus.cancelled() or not gpus.grant.gpus or time.monotonic() - began < HOLD_S:
            return monitor
        gpus.grant.release()


def cpus_of(lane: Lane | None) -> frozenset[int]:
    """The CPUs on which a launch may run: its lane's, else those of this process."""
    return frozenset(parse_cpus(lane.cpus)) if lane and lane.cpus else frozenset(os.sched_getaffinity(0))


def unavailable(lane: Lane | None) -> Blocked | None:
    """Why nothing may be launched on the lane's CPUs; None when all of them can be had.

    The kernel narrows a CPU set to what there is without a word, and a launch on fewer CPUs is another measurement.
    """
    if lane is None or lane.cpus is None:
        return None
    wanted = {*parse_cpus(lane.cpus)}
    try:
        with pinned(lane):
            got = os.sched_getaffinity(0)
        if got == wanted:
            return None
        why = f"CPUs {sorted(wanted - got)} are not available here"
    except OSError as error:
        why = str(error)
    return Blocked(
        code=Code.HOST_NOT_COMPARABLE,
        rule="SCP-02",
        reason=f"lane {lane.name} cannot have its CPUs {lane.cpus}: {why}",
        next="correct lanes in the host profile, or give this container those CPUs, then resume the run",
        retryable=False,
    )


@contextmanager
def pinned(lane: Lane | None) -> Generator[None]:
    """What this thread starts in the body runs on the lane's CPUs; the thread itself gets its own ones back.

    Raises ``OSError`` where none of the CPUs can be had.
    """
    if lane is None or lane.cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, parse_cpus(lane.cpus))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
