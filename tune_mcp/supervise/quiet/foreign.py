"""Foreign CPU time between two looks, as an interval: what is certain, and what is possible at most. Pure functions.

A tree's sum of own and reaped time loses nothing when a process is reaped, however short it lived. What a process
that may run on any CPU used is taken off the lower end alone, and so is interrupt time, which nobody can be charged
with. User and system ticks are never added up: a process that keeps in step with the clock is missing in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tune_mcp.procfs import TICKS_PER_S, CpuTicks, Identity
from tune_mcp.supervise.quiet.look import Look, Member, Where

_TOLERANCE_S = 0.02
_LEAST = 0.02


@dataclass(frozen=True, slots=True)
class ForeignUse:
    """What happened in ``seconds``: cores used by others (``low`` for certain, ``high`` at most), cores stolen by the
    hypervisor, and the share of the time in which something waited for memory and for the disk. None: not measured.
    """

    seconds: float
    low: float | None = None
    high: float | None = None
    stolen: float | None = None
    memory: float | None = None
    io: float | None = None
    unmeasured: str = ""


@dataclass(frozen=True, slots=True)
class _Ours:
    """Cores that our own processes used: on the lane only, perhaps on it, and altogether."""

    inside: float
    mixed: float
    all: float


def foreign_use(before: Look, after: Look, lane: frozenset[int], root: int) -> ForeignUse:
    """What others used of ``lane`` between two looks."""
    seconds = after.at - before.at
    memory, io = _share(before.memory, after.memory, seconds), _share(before.io, after.io, seconds)
    done = _done(before, after)
    if why := _unusable(done, lane, seconds, before, after, root):
        return ForeignUse(seconds, memory=memory, io=io, unmeasured=why)
    ours = _ours(before, after, seconds)
    busy = sum(_busy(done[cpu], seconds) for cpu in lane)
    busy_all = sum(_busy(ticks, seconds) for ticks in done.values())
    # No set of CPUs holds more foreign time than the machine, and that difference needs no attribution.
    high = max(0.0, min(busy - ours.inside, busy_all - ours.all))
    interrupts = sum(done[cpu].irq + done[cpu].softirq for cpu in lane) / TICKS_PER_S / seconds
    low = min(max(0.0, busy - ours.inside - ours.mixed - interrupts), high)
    if any(member.ignores_children for member in after.tree.values()):
        low = 0.0  # its children's time reaches nobody, and looks foreign
    stolen = sum(done[cpu].steal for cpu in lane) / TICKS_PER_S / seconds
    return ForeignUse(seconds, low, high, stolen, memory, io)


def _done(before: Look, after: Look) -> dict[int, CpuTicks]:
    """Ticks in between. A waiting CPU's may go back a little in the kernel's own books."""
    return {
        cpu: CpuTicks(*(max(0, now - then) for then, now in zip(before.cpus[cpu], ticks, strict=True)))
        for cpu, ticks in after.cpus.items()
        if cpu in before.cpus
    }


def _busy(ticks: CpuTicks, seconds: float) -> float:
    return max(0.0, 1 - (ticks.idle + ticks.iowait + ticks.steal) / TICKS_PER_S / seconds)


def _unusable(
    done: dict[int, CpuTicks], lane: frozenset[int], seconds: float, before: Look, after: Look, root: int
) -> str:
    if seconds <= 0:
        return "no time has passed"
    if away := sorted(lane - done.keys()):
        return f"/proc/stat does not show CPU {away[0]}"
    accounted = sum(sum(done[cpu]) for cpu in lane) / TICKS_PER_S / seconds / len(lane)
    if not 0.25 <= accounted <= 1.75:  # a process in step with the clock hides in user and system, made-up ones do not
        return f"/proc/stat accounts for {accounted:.2f} of the time that passed"
    roots = [{identity for identity in look.tree if identity[0] == root} for look in (before, after)]
    return "" if roots[0] and roots[0] == roots[1] else "the supervisor has ended"


def _ours(before: Look, after: Look, seconds: float) -> _Ours:
    used = _ended(before, after)
    for identity, now in after.tree.items():
        then = before.tree.get(identity, Member(0, 0.0, 0.0, now.where))
        used[now.where if then.where is now.where else Where.MIXED] += now.own_s - then.own_s
    cores = {where: used[where] / seconds for where in Where}
    return _Ours(cores[Where.INSIDE], max(0.0, cores[Where.MIXED]), sum(cores.values()))


def _ended(before: Look, after: Look) -> dict[Where, float]:
    """Seconds since the first look of processes that have ended: what their reapers have more than was seen of them.

    They ran where those of them that were seen did, else where their reaper may run.
    """
    pids = {identity[0]: identity for identity in before.tree}
    seen: dict[int, float] = {}
    places: dict[int, set[Where]] = {}
    for identity, member in before.tree.items():
        if identity in after.tree:
            continue
        heir = member.parent
        while heir in pids and pids[heir] not in after.tree:
            heir = before.tree[pids[heir]].parent
        seen[heir] = seen.get(heir, 0.0) + member.own_s + member.reaped_s
        places.setdefault(heir, set()).add(member.where)
    left = dict.fromkeys(Where, 0.0)
    doubtful = False
    for identity, now in after.tree.items():
        then = before.tree.get(identity)
        more = now.reaped_s - (then.reaped_s if then else 0.0) - seen.get(identity[0], 0.0)
        doubtful |= more < -_TOLERANCE_S  # one of them had been left by its parent, and another process reaped it
        where = places.get(identity[0], {now.where})
        left[min(where, key=lambda one: one.value) if len(where) == 1 else Where.MIXED] += more
    return dict.fromkeys(Where, 0.0) | {Where.MIXED: sum(left.values())} if doubtful else left


def _share(before: tuple[float, float] | None, after: tuple[float, float] | None, seconds: float) -> float | None:
    return None if before is None or after is None or seconds <= 0 else max(0.0, after[0] - before[0]) / seconds


def intruders(before: Look, after: Look) -> dict[Identity, float]:
    """The processes that are not ours and used at least a fiftieth of a core in between, the busiest first."""
    seconds = (after.at - before.at) * TICKS_PER_S
    cores = {one: (ticks - before.others.get(one, 0)) / seconds for one, ticks in after.others.items()}
    return dict(sorted(((k, v) for k, v in cores.items() if v >= _LEAST), key=lambda pair: -pair[1]))
