"""What a run wants of this machine: all of it, or some lanes of its host profile, so that others may have the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tune_mcp.actions import Step, call
from tune_mcp.config.host import HostProfile
from tune_mcp.config.lanes import Placement, choose, most_at_once, overlap
from tune_mcp.errors import Code, Refusal
from tune_mcp.gpus import read_gpus
from tune_mcp.session.plan import LaunchSettings, Plan
from tune_mcp.supervise import host_lock, own_pids
from tune_mcp.supervise.host_lock import HostClaim, LockHolder


@dataclass(frozen=True)
class Share:
    """``count`` launches at once (0: as many as there are lanes) that want these numbers of GPUs.

    Without lanes in ``placement`` it is the whole machine; ``why_alone`` says why it is that in spite of lanes.
    ``elsewhere``: nothing, because a cluster gives each launch a node.
    """

    placement: Placement = field(default_factory=Placement)
    needs: frozenset[int] = frozenset({0})
    count: int = 1
    why_alone: str = ""
    elsewhere: bool = False

    @classmethod
    def of(cls, plan: Plan) -> Share:
        """What the supervisor of this plan needs."""
        settings, placement = plan.settings, plan.settings.placement
        if settings.slurm:
            return cls(elsewhere=True)
        needs = frozenset(settings.gpus_per_test.get(test, 0) for test in plan.tests())
        return cls(placement, needs, plan.lanes, _alone(settings) if placement.lanes else "")

    @property
    def on_lanes(self) -> bool:
        """Whether others may measure on other lanes meanwhile."""
        return bool(self.placement.lanes) and not self.why_alone

    def take(self, holder: LockHolder) -> HostClaim | LockHolder:
        """Take the locks of the share, or tell who holds them."""
        if self.elsewhere:
            return HostClaim()
        if not self.on_lanes:
            return host_lock.take(holder)
        lanes = self.placement.usable_lanes()
        return host_lock.take_lanes(
            holder, lanes, lambda free: choose(self.placement, self.needs, self.count, free, self._busy())
        )

    def left(self) -> str:
        """Which lanes nobody has, for the refusal of a run that wants more; empty where that is no question."""
        if not self.on_lanes or not any(host_lock.lanes_taken()):
            return ""
        return f"; free lanes: {', '.join(free(self.placement)) or 'none'}"

    def _busy(self) -> frozenset[int]:
        """GPUs that somebody uses, asked only where there is a choice."""
        if not any(self.needs) or self.count in (0, most_at_once(self.placement, self.needs)):
            return frozenset()
        return frozenset(gpu.index for gpu in read_gpus().gpus if not gpu.free)


WHOLE_MACHINE = Share()


def free(placement: Placement) -> tuple[str, ...]:
    """The names of the lanes that no run has."""
    taken = [lane for lane, _ in host_lock.lanes_taken()]
    return tuple(lane.name for lane in placement.usable_lanes() if not any(overlap(lane, one) for one in taken))


def demand_lanes(host: HostProfile | None, placement: Placement, needs: Iterable[int], count: int) -> None:
    """The host has as many lanes for such launches. Raises LANE_UNKNOWN, INVALID_ARGUMENT."""
    if count < 0:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            "GPU-14",
            f"lanes must be a whole number, 0 for all of the host's, not {count!r}",
            Step(call("start_run", lanes=1), ", or leave it out"),
            {"argument": "lanes"},
        )
    there = most_at_once(placement, {*needs}) if placement.lanes else 1
    if count <= max(there, 1) or (host and host.cluster()):
        return
    names = ", ".join(lane.text() for lane in placement.usable_lanes())
    profile = f"host profile {host.name}" if host else "this machine has no host profile, so it"
    raise Refusal(
        Code.LANE_UNKNOWN,
        "GPU-14",
        f"{count} lanes are asked for, and {profile} has {f'{there} for these tests ({names})' if names else 'none'}",
        Step(call("start_run", lanes=there or 1), ", or add lanes to the profile: ", "tune-mcp doctor proposes some"),
        {"argument": "lanes", "lanes": [lane.name for lane in placement.usable_lanes()], "maximum": there},
    )


def _alone(settings: LaunchSettings) -> str:
    """Why nothing else may measure beside this run, empty where lanes keep it apart."""
    if settings.cleanup_command and any(settings.gpus_per_test.values()):
        return "the host profile's cleanup_command frees the GPUs of the whole machine"
    if settings.tests_end_processes and not own_pids.possible():
        return "its tests end processes by name, and no PID namespace can be made here that would keep them apart"
    return ""
