"""Lanes that others use: a repeat that waits long for one goes to another, and nothing starts there for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tune_mcp.config.lanes import Lane
from tune_mcp.session.plan import Plan
from tune_mcp.supervise.at_work import AtWork
from tune_mcp.supervise.journal import Clock
from tune_mcp.supervise.schedule import Repeat

LEAVE_AFTER_S = 30.0
"""A repeat that waits so long for its lane goes to another one; where quiet is asked for, its window comes on top."""
LEFT_ALONE_S = 600.0
"""So long nothing starts on a lane that others use, while another one is there."""


@dataclass
class BusyLanes:
    """The lanes of a run, by name (None on a host without lanes), and which of them are left to others until when."""

    plan: Plan
    lanes: Mapping[str, Lane | None]
    clock: Clock
    _until: dict[str, float] = field(default_factory=dict[str, float])
    _moving: dict[Repeat, AtWork] = field(default_factory=dict[Repeat, AtWork])

    def avoided(self) -> frozenset[str]:
        """The lanes on which nothing starts now."""
        now = self.clock.monotonic()
        return frozenset(lane for lane, until in self._until.items() if now < until)

    def usable(self, test: str) -> tuple[str, ...]:
        """The lanes that may run the test; all where none fits, and its launch reports why.

        Those that others use are left out as long as another one is there.
        """
        settings = self.plan.settings
        fitting = settings.placement.lanes_for(settings.gpus_per_test.get(test, 0))
        names = tuple(name for name, lane in self.lanes.items() if lane is None or lane in fitting) or (*self.lanes,)
        avoided = self.avoided()
        return tuple(name for name in names if name not in avoided) or names

    def should_leave(self, work: AtWork) -> bool:
        """Whether the repeat has waited so long for its lane that it goes to another one, which others do not use."""
        if work.leaves or work.waits_since is None or self.lanes[work.lane] is None:
            return False
        quiet = self.plan.settings.placement.quiet
        if (self.clock.now() - work.waits_since).total_seconds() < LEAVE_AFTER_S + (quiet.window_s if quiet else 0.0):
            return False
        return any(lane not in {work.lane, *self.avoided()} for lane in self.usable(work.repeat[0]))

    def leave(self, work: AtWork) -> None:
        """Leave the lane of this repeat to others for a while, and keep the attempts that it had."""
        self._until[work.lane] = self.clock.monotonic() + LEFT_ALONE_S
        self._moving[work.repeat] = work

    def moved(self, repeat: Repeat) -> AtWork | None:
        """The repeat as it left its lane, once; None for one that did not."""
        return self._moving.pop(repeat, None)
