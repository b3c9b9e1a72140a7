"""The gate before every launch: GPUs that are really free, and stay free (rules GPU-01 to GPU-06, GPU-15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tune_mcp.gpus import MEMORY_LIMIT_MIB, Gpu, GpuReader, GpuReading, Presence

WAIT_LIMIT_S = 600.0
HOLD_S = 3.0
LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Grant:
    """The GPUs a launch may use; ``refused`` says why there are none."""

    gpus: tuple[Gpu, ...] = ()
    refused: str = ""


def wait_for_gpus(
    needed: int,
    read: GpuReader,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
    waiting: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> Grant:
    """Wait until ``needed`` GPUs are free twice, ``HOLD_S`` apart; at most ``WAIT_LIMIT_S``. Unknown never launches.

    ``waiting`` hears why, once for each new reason. A stage that needs no GPU is granted none at once.
    """
    if needed == 0:
        return Grant()
    end, said = clock() + WAIT_LIMIT_S, ""
    while True:
        grant = _twice(needed, read, sleep)
        if grant.gpus:
            return grant
        if grant.refused != said:
            said = grant.refused
            waiting(said)
        if cancelled() or clock() >= end:
            return grant
        sleep(LOOK_EVERY_S)


def _twice(needed: int, read: GpuReader, sleep: Callable[[float], None]) -> Grant:
    first = _choose(needed, read)
    if not first.gpus:
        return first
    sleep(HOLD_S)
    again = {gpu.uuid for gpu in _free(read())}
    if all(gpu.uuid in again for gpu in first.gpus):
        return first
    return Grant(refused=f"a chosen GPU did not stay free for {HOLD_S:g} s")


def _choose(needed: int, read: GpuReader) -> Grant:
    reading = read()
    if reading.presence is not Presence.PRESENT:
        return Grant(refused=f"{needed} GPU(s) needed, but GPUs are {reading.summary()}")
    free = _free(reading)
    if len(free) >= needed:
        return Grant(tuple(free[:needed]))
    busy = "; ".join(
        f"GPU {gpu.index}: {gpu.memory_used_mib} MiB, pids {list(gpu.pids) or 'none visible'}"
        for gpu in reading.gpus
        if gpu not in free
    )
    return Grant(refused=f"{needed} GPU(s) at or below {MEMORY_LIMIT_MIB} MiB needed, {len(free)} free ({busy})")


def _free(reading: GpuReading) -> list[Gpu]:
    return [gpu for gpu in reading.gpus if gpu.free and not gpu.mig]
