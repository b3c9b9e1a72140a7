"""One look at the machine: what every CPU has done since boot, and what our own processes have used of it.

Nothing foreign has to be seen for it to count, so processes that live for milliseconds, or in another container, count
too: foreign time is what the CPUs did less what we did. Our own tree is everything below the supervisor, so servers
that detach themselves and other lanes of the same run are ours.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from enum import Enum

from tune_mcp import procfs
from tune_mcp.procfs import TICKS_PER_S, CpuTicks, Identity, Process
from tune_mcp.supervise.neighbours import is_supervisor
from tune_mcp.supervise.process_tree import descendants

_MATTERS_S = 0.02
_AGAIN = 3


class Where(Enum):
    """Where a process may run: only on the lane's CPUs, only beside them, or nobody can say."""

    INSIDE = 1
    OUTSIDE = 2
    MIXED = 3


@dataclass(frozen=True, slots=True)
class Member:
    """A process of ours: its parent's pid, seconds of its own and of the children that it has waited for.

    ``ignores_children``: what those used that ended is in no sum.
    """

    parent: int
    own_s: float
    reaped_s: float
    where: Where
    ignores_children: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Everything at one moment (monotonic seconds); ``others`` are the ticks of each process that is not ours."""

    at: float
    cpus: dict[int, CpuTicks]
    tree: dict[Identity, Member]
    others: dict[Identity, int]
    memory: tuple[float, float] | None
    io: tuple[float, float] | None


@dataclass
class Looker:
    """Takes looks for the CPUs of one lane. ``root`` is the topmost process of ours."""

    lane: frozenset[int]
    root: int
    cost_s: float = 0.0
    """Processor time of all looks so far."""
    _where: dict[Identity, Where] = field(default_factory=dict[Identity, Where])
    _last: Look | None = None

    def look(self) -> Look:
        """One look; where the tree changed in the middle of it, another one, at most three times."""
        began = time.thread_time()
        found = self._look()
        for _ in range(_AGAIN):
            if self._whole(found):
                break
            found = self._look()
        self._where = {identity: member.where for identity, member in found.tree.items()}
        self._last = found
        self.cost_s += time.thread_time() - began
        return found

    def _look(self) -> Look:
        table = list(procfs.processes())
        tree = self._tree(table)
        others = {one.identity: one.cpu_ticks for one in table if one.identity not in tree}
        return Look(time.monotonic(), procfs.cpus(), tree, others, procfs.pressure("memory"), procfs.pressure("io"))

    def _tree(self, table: list[Process]) -> dict[Identity, Member]:
        members = descendants(self.root, table)
        members |= {one.identity: one for one in table if one.pid == self.root}
        return {identity: self._member(one) for identity, one in members.items()}

    def _member(self, one: Process) -> Member:
        own = procfs.cpu_seconds(one.pid)
        if own is None:
            own = (one.cpu_ticks - one.reaped_ticks) / TICKS_PER_S
        before = self._last.tree.get(one.identity) if self._last else None
        busy = own - (before.own_s if before else 0.0) > _MATTERS_S
        where, known = self._class(one, busy), self._where.get(one.identity)
        if known is not None and known is not where:
            where = Where.MIXED  # it moved once, and nobody saw when: it stays that way
        return Member(one.parent, own, one.reaped_ticks / TICKS_PER_S, where, one.ignores_children)

    def _class(self, one: Process, busy: bool) -> Where:
        """By its threads where they used anything: a main thread says little of a server's workers."""
        allowed = procfs.allowed_cpus(one.pid, threads=busy)
        if allowed is None:  # it ended this moment
            return self._where.get(one.identity, Where.MIXED)
        return Where.INSIDE if allowed <= self.lane else Where.MIXED if allowed & self.lane else Where.OUTSIDE

    def _whole(self, found: Look) -> bool:
        """Whether no member was counted twice or not at all: one that ends between the reading of it and its parent."""
        for (pid, _), member in found.tree.items():
            if member.own_s + member.reaped_s > _MATTERS_S and procfs.cpu_seconds(pid) is None:
                return False
        if self._last is None:
            return True
        grown = _total(found.tree) - _total(self._last.tree)
        return -0.05 <= grown <= len(found.cpus) * (found.at - self._last.at) * 1.05 + 0.1


def _total(tree: dict[Identity, Member]) -> float:
    return sum(member.own_s + member.reaped_s for member in tree.values())


def our_root() -> int:
    """The topmost process of ours: this runner's supervisor, or the runner itself where an engine started it."""
    parent = os.getppid()
    return parent if is_supervisor(procfs.words(parent)) else os.getpid()
