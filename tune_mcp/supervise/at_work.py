"""One repeat on its lane: its attempts one after the other, as far as the supervisor sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from tune_mcp.config.stages import Stage
from tune_mcp.contract.status import CurrentWork, PhaseKind
from tune_mcp.observe.observation import Attempt
from tune_mcp.run_dir import iso
from tune_mcp.session.state import RunState
from tune_mcp.supervise.job import Job, Phase
from tune_mcp.supervise.retry import Verdict
from tune_mcp.supervise.schedule import Repeat
from tune_mcp.supervise.watch.alerts import WATCH_FILE, AlertReader

_WAITS = {
    PhaseKind.WAITING_FOR_GPU: RunState.WAITING_FOR_GPU,
    PhaseKind.WAITING_FOR_QUIET: RunState.WAITING_FOR_QUIET,
}


@dataclass
class AtWork:
    """A repeat with the attempts so far; ``job`` is the one that runs, once it was launched.

    ``scoped`` are its stages, each with the sample scope that all repeats must have; ``ran`` are the node ids that
    another repeat ran which counts already, None while there is none. ``since`` is when the phase began,
    ``waits_since`` when it began to wait for GPUs or quiet, None while it does not. ``leaves``: it was cancelled in
    this wait, and its repeat goes to another lane.
    """

    stages: tuple[Stage, ...]
    scoped: dict[str, Stage]
    ran: tuple[str, ...] | None
    repeat: Repeat
    lane: str
    job: Job = field(init=False)
    since: datetime = field(init=False)
    alerts: AlertReader = field(init=False)
    phase: Phase = field(init=False)
    waits_since: datetime | None = None
    leaves: bool = False
    tries: int = 0
    verdicts: tuple[Verdict, ...] = ()
    history: tuple[Attempt, ...] = ()

    def go_on(self, before: AtWork) -> None:
        """Take over the attempts that were made on another lane."""
        self.tries, self.verdicts, self.history = before.tries, before.verdicts, before.history

    def launched(self, job: Job, now: datetime) -> None:
        """Another attempt runs from now on."""
        self.job, self.since, self.phase, self.waits_since = job, now, Phase(PhaseKind.STARTING), None
        self.alerts = AlertReader(job.folder / WATCH_FILE)

    def look(self, now: datetime) -> bool:
        """Read the runner's phase; whether it began to wait for something."""
        found = Phase.read(self.job.folder)
        if found is None or found == self.phase:
            return False
        waited, self.phase, self.since = self.waits, found, now
        self.waits_since = (self.waits_since or now) if self.waits else None
        return self.waits not in (None, waited)

    @property
    def waits(self) -> RunState | None:
        """What the run waits for as long as nothing else runs; None when this attempt is at work."""
        return _WAITS.get(self.phase.kind)

    def current(self) -> CurrentWork:
        """What readers see of it."""
        job = self.job
        return CurrentWork(
            test=job.test_key,
            repeat=job.repeat,
            attempt=job.attempt,
            phase=str(self.phase),
            since=iso(self.since),
            lane=job.lane,
        )
