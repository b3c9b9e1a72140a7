"""The gate before every launch: GPUs that are really free, and stay free (rules GPU-01 to GPU-06, GPU-11, GPU-15)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tune_mcp.config.lanes import Lane, Placement
from tune_mcp.files import FileLock
from tune_mcp.gpus import MEMORY_LIMIT_MIB, Gpu, GpuReader, GpuReading, Presence
from tune_mcp.gpus.holders import describe, stuck
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.host_lock import lock_folder, read_holder
from tune_mcp.words import number_of

WAIT_LIMIT_S = 600.0
GRANTED_LIMIT_S = 30.0
"""The same where an engine granted the GPUs: another node is looked for instead."""
HOLD_S = 3.0
LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Grant:
    """The GPUs a launch may use, with their locks.

    ``lane`` is where they belong, None on a host without lanes. ``refused`` is why there are none,
    ``retryable`` whether waiting longer may help.
    """

    gpus: tuple[Gpu, ...] = ()
    lane: Lane | None = None
    locks: tuple[FileLock, ...] = ()
    refused: str = ""
    retryable: bool = True

    def release(self) -> None:
        """Give this process's share of the locks back; a pytest that lives on keeps its own."""
        for lock in self.locks:
            lock.release()


@dataclass(frozen=True)
class Shortage:
    """Why there are too few GPUs: what was seen, and who has the lock of a GPU that looks free (UUID -> whom)."""

    needed: int
    reading: GpuReading
    usable: tuple[Gpu, ...] = ()
    taken: dict[str, str] = field(default_factory=dict)
    unsteady: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What two shortages are compared by: not by a few MiB more or less."""
        busy = tuple((gpu.index, tuple(p.pid for p in gpu.processes)) for gpu in self.usable if not gpu.free)
        return (self.reading.presence, self.reading.reason, busy, tuple(self.taken.values()), self.unsteady)

    @property
    def retryable(self) -> bool:
        """Not where the machine has too few GPUs, or the driver will not let go of one without a person."""
        if self.reading.presence is Presence.UNKNOWN:
            return True
        healthy = [gpu for gpu in self.usable if gpu.free or not stuck(gpu)]
        return len(healthy) >= self.needed

    def sentence(self) -> str:
        """With every holder named."""
        if self.unsteady:
            return f"a chosen GPU did not stay free for {HOLD_S:g} s"
        if self.reading.presence is not Presence.PRESENT:
            return f"{number_of(self.needed, 'GPU')} needed, but GPUs are {self.reading.summary()}"
        split = [f"GPU {gpu.index} is split (MIG)" for gpu in self.reading.gpus if gpu not in self.usable]
        busy = [describe(gpu) for gpu in self.usable if not gpu.free]
        taken = [f"GPU {g.index}: taken by {self.taken[g.uuid]}" for g in self.usable if g.uuid in self.taken]
        free = sum(gpu.free for gpu in self.usable) - len(taken)
        why = "; ".join([*busy, *taken, *split])
        return f"{number_of(self.needed, 'GPU')} at or below {MEMORY_LIMIT_MIB} MiB needed, {free} free ({why})"


@dataclass(frozen=True)
class GpuGate:
    """Waits for GPUs. ``take`` locks one for this run or returns who has it; ``waiting`` gets each new reason once.

    ``allow_mig``: a split GPU counts like any other (rule: refused unless the host profile says so).
    """

    read: GpuReader
    take: Callable[[Gpu], FileLock | str]
    sleep: Callable[[float], None]
    clock: Callable[[], float]
    waiting: Callable[[str], None]
    cancelled: Callable[[], bool]
    allow_mig: bool = False
    placement: Placement = field(default_factory=Placement)
    limit_s: float = WAIT_LIMIT_S

    def wait(self, needed: int) -> Grant:
        """``needed`` GPUs that are free twice, ``HOLD_S`` apart; at most ``limit_s``. Unknown never launches.

        A stage that needs no GPU is granted none at once, and nobody is asked.
        """
        lanes = self.placement.lanes_for(needed)
        if needed == 0:
            return Grant(lane=next(iter(lanes), None))
        if self.placement.lanes and not lanes:
            return Grant(
                refused=f"no lane of this host has {number_of(needed, 'GPU')} that may be used", retryable=False
            )
        end, reported = self.clock() + self.limit_s, None
        while True:
            found = self._twice(needed)
            if isinstance(found, Grant):
                return found
            if found.key != reported:
                reported = found.key
                self.waiting(found.sentence())
            if self.cancelled() or self.clock() >= end:
                return Grant(refused=found.sentence(), retryable=found.retryable)
            self.sleep(LOOK_EVERY_S)

    def _twice(self, needed: int) -> Grant | Shortage:
        first = self._choose(needed)
        if isinstance(first, Shortage):
            return first
        self.sleep(HOLD_S)
        reading = self.read()
        still = {(gpu.index, gpu.uuid): gpu for gpu in self._usable(reading) if gpu.free}
        again = tuple(still[key] for gpu in first.gpus if (key := (gpu.index, gpu.uuid)) in still)
        if len(again) == needed:
            return Grant(again, first.lane, first.locks)
        first.release()
        return Shortage(needed, reading, self._usable(reading), unsteady=True)

    def _usable(self, reading: GpuReading) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in reading.usable(allow_mig=self.allow_mig) if self.placement.allows(gpu.index))

    def _choose(self, needed: int) -> Grant | Shortage:
        """GPUs of the first lane that has enough free ones; without lanes, of the machine."""
        reading = self.read()
        usable = self._usable(reading)
        if not self.placement.lanes:
            return self._lock_free(needed, reading, usable, None)
        found: Grant | Shortage = Shortage(needed, reading, usable)
        for lane in self.placement.lanes_for(needed):
            found = self._lock_free(needed, reading, tuple(gpu for gpu in usable if gpu.index in lane.gpus), lane)
            if isinstance(found, Grant):
                break
        return found

    def _lock_free(
        self, needed: int, reading: GpuReading, usable: tuple[Gpu, ...], lane: Lane | None
    ) -> Grant | Shortage:
        """Free GPUs in the order of their index, each locked; all that are needed or none."""
        gpus: list[Gpu] = []
        locks: list[FileLock] = []
        taken: dict[str, str] = {}
        for gpu in sorted(usable, key=lambda gpu: gpu.index):
            if gpu.free and len(gpus) < needed:
                got = self.take(gpu)
                if isinstance(got, FileLock):
                    gpus.append(gpu)
                    locks.append(got)
                else:
                    taken[gpu.uuid] = got
        grant = Grant(tuple(gpus), lane, tuple(locks))
        if len(gpus) == needed:
            return grant
        grant.release()
        return Shortage(needed, reading, usable, taken)


def lock_gpu(gpu: Gpu, run: RunDir) -> FileLock | str:
    """The host-wide lock of one GPU, or who has it (GPU-14). One that cannot be asked is taken: unknown is never free.

    A runner hands it to its pytest too: a GPU stays taken until the last of both is gone, whoever was killed.
    """
    facts = {"run_id": run.run_id, "run_dir": str(run.path), "repo_root": str(run.repo_root)}
    try:
        path = lock_folder() / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu.uuid)}.lock"
        lock = FileLock.take(path, facts)
    except OSError as error:
        return f"somebody unknown: its lock cannot be read ({error})"
    if lock is not None:
        return lock
    holder = read_holder(path)
    return f"run {holder.run_id} of {holder.repo_root}"
