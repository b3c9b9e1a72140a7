"""Where one launch runs: GPUs that are free, and CPUs that others leave alone where the host profile asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from tune_mcp.supervise.gpu.gate import HOLD_S
from tune_mcp.supervise.gpu.use import GpuUse
from tune_mcp.supervise.job import Blocked
from tune_mcp.supervise.pinning import cpus_of, unavailable
from tune_mcp.supervise.quiet.look import our_root
from tune_mcp.supervise.quiet.monitor import WAIT_LIMIT_S, Monitor, not_quiet


def place(gpus: GpuUse, wait: Callable[[float], None]) -> Monitor | Blocked:
    """Grant GPUs and lane, and wait for quiet; the lane's monitor, or why nothing may be launched.

    GPUs are looked at again where that wait took a while: nothing holds others off them meanwhile.
    """
    quiet, until = gpus.job.placement.quiet, time.monotonic() + WAIT_LIMIT_S

    def waiting(why: str) -> None:
        gpus.say(f"waiting for quiet: {why}")
        gpus.phase(f"waiting_for_quiet: {why}")

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
