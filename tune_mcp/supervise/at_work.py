"""One repeat on its lane: its next job, and its attempts one after the other, as far as the supervisor sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from tune_mcp.config.lanes import Lane
from tune_mcp.config.metrics import family
from tune_mcp.config.stages import Stage
from tune_mcp.contract.status import CurrentWork, PhaseKind
from tune_mcp.observe.observation import Attempt
from tune_mcp.run_dir import RunDir, iso
from tune_mcp.session import events
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import Alert, RunState
from tune_mcp.supervise import caches
from tune_mcp.supervise.executor import no_node
from tune_mcp.supervise.job import Job, Phase
from tune_mcp.supervise.schedule import Repeat
from tune_mcp.supervise.verdict import Verdict
from tune_mcp.supervise.watch.alerts import WATCH_FILE, AlertReader

DEFAULT_TIMEOUT_S = 4 * 3600.0
_FORGED = 1_000_000
"""No run has that many attempts."""
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
    this wait, and its repeat goes to another lane. ``no_node`` is the alert that no node of an engine can take it.
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
    no_node: Alert | None = None
    leaves: bool = False
    tries: int = 0
    verdicts: tuple[Verdict, ...] = ()
    history: tuple[Attempt, ...] = ()

    def go_on(self, before: AtWork) -> None:
        """Take over the attempts that were made on another lane."""
        self.tries, self.verdicts, self.history = before.tries, before.verdicts, before.history

    def launched(self, job: Job, now: datetime) -> None:
        """Note that this job is the repeat's attempt from now on."""
        self.job, self.since, self.phase, self.waits_since = job, now, Phase(PhaseKind.STARTING), None
        self.no_node = None
        self.alerts = AlertReader(job.folder / WATCH_FILE)

    def look(self, now: datetime) -> bool:
        """Read the runner's phase; whether it began to wait for something."""
        found = Phase.read(self.job.folder)
        if found is None or found == self.phase:
            return False
        waited, self.phase, self.since = self.waits, found, now
        self.waits_since = (self.waits_since or now) if self.waits else None
        return self.waits not in (None, waited)

    def news(self) -> tuple[Alert, ...]:
        """Alerts that were raised or ended since the last call: the watchdog's, and that no node can take the job."""
        found = self.alerts.read()
        waits, before = self.phase.kind is PhaseKind.NO_NODE, self.no_node
        if waits and before is None:
            self.no_node = Alert(
                name=PhaseKind.NO_NODE, cause=self.phase.reason, remedy=no_node.REMEDY, since=iso(self.since)
            )
            return (*found, self.no_node)
        if before is not None and not waits:
            self.no_node = None
            return (*found, before.model_copy(update={"over": "a node can take the job again"}))
        return found

    @property
    def open_alerts(self) -> tuple[Alert, ...]:
        """The alerts that are open now."""
        return (*self.alerts.open, *([self.no_node] if self.no_node else []))

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


def next_job(
    plan: Plan,
    run: RunDir,
    plugins: tuple[str, ...],
    stages: tuple[Stage, ...],
    which: Repeat,
    lane_name: str = "",
    lane: Lane | None = None,
) -> Job:
    """One more attempt at the repeat: its number is higher than that of every attempt there has been.

    ``lane`` is where it runs; None leaves that to the runner.
    """
    settings, path = plan.settings, stages[0].test
    test, repeat = which
    file = path.rpartition("/")[2]
    made = [number for number, _ in run.attempts(test, repeat)] + _launched(run, test, repeat)
    return Job(
        run_dir=str(run.path),
        repo_root=plan.repo_root,
        test=path,
        test_key=test,
        repeat=repeat,
        lane=lane_name,
        own_pids=lane is not None and bool(settings.tests_end_processes),
        attempt=max(made, default=0) + 1,
        stages=stages,
        timed=tuple(stage.key for stage in stages if family(stage.group, plan.groups.get(stage.group)) == "speed"),
        tree=plans.launch_tree(run, plan),
        venv_python=plan.venv_python,
        env=caches.of_lane({**settings.env, **stages[0].extra_env}, settings.placement, lane, run.path.parent),
        pytest_extra_args=settings.pytest_extra_args.get(file, ()),
        plugins=plugins,
        assets=settings.assets,
        cache_wipes=settings.cache_wipes,
        allow_mig=settings.allow_mig,
        placement=settings.placement.on(lane),
        accept_unknown_gpus=settings.accept_unknown_gpus,
        cleanup_command=settings.cleanup_command,
        signatures=settings.signatures,
        gpus=settings.gpus_per_test.get(test, 0),
        timeout_s=settings.timeout_s.get(file, DEFAULT_TIMEOUT_S),
        any_host=settings.slurm is not None,
    )


def _launched(run: RunDir, test: str, repeat: int) -> list[int]:
    """Attempts on the ledger since the repeat was last moved aside: a folder that somebody took away was one, too."""
    found: list[int] = []
    for event in events.read(run.events, "purged", "launched"):
        if (event.facts.get("test"), event.facts.get("repeat")) != (test, repeat):
            continue
        number = event.facts.get("attempt")
        if event.kind == "purged":
            found.clear()
        elif isinstance(number, int) and number < _FORGED:
            found.append(number)
    return found
