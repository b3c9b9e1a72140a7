"""The CPUs of a launch: those of its lane, for pytest and all that it starts."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from tune_mcp.config.lanes import Lane, parse_cpus
from tune_mcp.errors import Code
from tune_mcp.supervise.job import Blocked


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
