"""Runners as Slurm jobs: any node that sees the result directory, and a supervisor that may die at any moment.

What makes it safe is not Slurm but the attempt's folder: a runner claims it, refuses one that is cancelled or sealed,
and seals it last. Slurm is asked only about what is not sealed, by our name and our folder, never by its id. So a job
that it forgets, brings back, or starts twice changes nothing: the folder says what counts.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from tune_mcp.config.host import SlurmSettings
from tune_mcp.contract.status import PhaseKind
from tune_mcp.errors import Code
from tune_mcp.precheck import slurm_site
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events
from tune_mcp.slurm import NotAccepted, QueuedJob, Slurm, Unreachable
from tune_mcp.supervise.executor import batch
from tune_mcp.supervise.executor.no_node import REMEDY, NoNode, nodes_of
from tune_mcp.supervise.job import (
    JOB_FILE,
    LEFT_FILE,
    AttemptResult,
    Blocked,
    Job,
    Phase,
    cancel,
    claimed,
    is_sealed,
    read_job,
    read_result,
    seal_unstarted,
    write_job,
)

LOOK_EVERY_S = 5.0
"""How often Slurm is asked about open jobs; their ends show in the result directory at once."""
STOP_S = 120.0
"""How long a runner that was asked to stop may take before Slurm ends everything of the job."""
_NODES_EVERY_S = 30.0
_RETRY_S = 2.0
_FULL = re.compile(r"limit|policy|temporarily", re.IGNORECASE)
"""Words of a refusal that time heals: too many jobs of this user."""


@dataclass
class _Open:
    """One job that is not over, as far as anybody knows. ``cancelled_at`` is when it was asked to stop, ``waits_for``
    why Slurm has not started it, ``shown`` the phase that readers see.
    """

    job: Job
    submitted: bool = False
    gone: bool = False
    waits_for: str = ""
    no_node: NoNode = field(default_factory=NoNode)
    shown: Phase | None = None
    cancelled_at: float | None = None
    killed: bool = False

    @property
    def name(self) -> str:
        """The job's key, as Slurm's lists of names can hold it."""
        return batch.name_of(self.job.key)

    @property
    def overdue(self) -> bool:
        """Whether it was asked to stop longer ago than a stop may take."""
        return self.cancelled_at is not None and time.monotonic() >= self.cancelled_at + STOP_S


@dataclass
class SlurmExecutor:
    """The executor for one run. A thread of its own talks to Slurm, so that a controller which gives no answer holds
    up neither heartbeat nor stop.
    """

    run: RunDir
    settings: SlurmSettings
    slurm: Slurm = field(default_factory=Slurm)
    _open: dict[str, _Open] = field(default_factory=dict[str, _Open])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _news: threading.Event = field(default_factory=threading.Event)
    _over: bool = False
    _thread: threading.Thread | None = None
    _silent: str = ""
    _nodes_due: float = 0.0

    outlives = True
    """Its jobs go on when the supervisor dies: the next one takes them over."""

    def submit(self, job: Job) -> None:
        """Have the job submitted unless Slurm has it, or it is sealed, already."""
        write_job(job)
        with self._lock:
            self._open.setdefault(job.key, _Open(job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._talk, daemon=True, name="slurm")
            self._thread.start()
        self._news.set()

    def runs(self, job: Job) -> bool:
        """Whether Slurm has the job or has not answered, and its runner has not left."""
        with self._lock:
            one = self._open.get(job.key)
        if self._thread is not None and not self._thread.is_alive() and not self._over:
            raise RuntimeError("the thread that talks to Slurm has ended")
        if one is None or one.gone or (one.overdue and not claimed(job)):
            return False
        return not (job.folder / LEFT_FILE).exists()

    def cancel(self, job: Job) -> None:
        """Withdraw a job that waits, ask one that runs to stop, and end it later; its tombstone is written."""
        with self._lock:
            if (one := self._open.get(job.key)) and one.cancelled_at is None:
                one.cancelled_at = time.monotonic()
        self._news.set()

    def collect(self, job: Job) -> AttemptResult | None:
        """The sealed result."""
        with self._lock:
            self._open.pop(job.key, None)
        return read_result(job)

    def close(self) -> None:
        """Stop talking to Slurm; nothing is kept."""
        self._over = True
        self._news.set()
        if self._thread is not None:
            self._thread.join(1.0)  # it may wait for a controller that gives no answer

    # ---- the thread that talks to Slurm

    def _talk(self) -> None:
        due = 0.0
        while not self._over:
            with self._lock:
                waiting = [one for one in self._open.values() if not one.submitted and not one.gone]
                cancelled = [one for one in self._open.values() if one.cancelled_at is not None and not one.gone]
            try:
                if waiting or cancelled or time.monotonic() >= due:
                    self._round(waiting, cancelled)
                    due = time.monotonic() + LOOK_EVERY_S
                    self._answers()
                pause = LOOK_EVERY_S if not cancelled else 1.0
            except (Unreachable, NotAccepted, OSError) as error:  # OSError: nothing can be written now
                self._silent_for(str(error))
                pause = _RETRY_S
            self._news.wait(pause)
            self._news.clear()

    def _round(self, waiting: list[_Open], cancelled: list[_Open]) -> None:
        """Look up every open job first, then submit what Slurm does not have, then end what is to end."""
        with self._lock:
            every = [one for one in self._open.values() if not one.gone]
        if not every:
            return
        seen = self._seen(every)
        for one in every:
            if one.submitted or seen[one.job.key]:
                self._note(one, seen[one.job.key])
        pending = [one for one in every if one.waits_for and not one.gone and one.cancelled_at is None]
        if pending and time.monotonic() >= self._nodes_due:
            self._nodes_due = time.monotonic() + _NODES_EVERY_S
            self._look_for_nodes(pending)
        for one in pending:
            self._show(one)
        for one in waiting:
            if not one.submitted and not one.gone:
                self._submit(one)
        for one in cancelled:
            if not one.gone:
                self._end(one, seen[one.job.key])

    def _seen(self, every: list[_Open]) -> dict[str, list[QueuedJob]]:
        jobs = self.slurm.jobs(one.name for one in every)
        return {
            one.job.key: [job for job in jobs if job.name == one.name and job.folder == str(one.job.folder)]
            for one in every
        }

    def _note(self, one: _Open, found: list[QueuedJob]) -> None:
        """What Slurm says of a job now: it is there, or it is over, or it was forgotten."""
        living = [job for job in found if not job.ended]
        if living:
            one.submitted = True
            one.waits_for = f"{living[0].state} ({living[0].reason})"
            if any(job.started for job in living):
                one.waits_for, one.no_node = "", NoNode()
            return
        if not one.submitted:
            return
        one.gone = True
        if not is_sealed(one.job):
            last = found[-1] if found else None
            how = f"{last.state} on {last.node or 'no node'} ({last.reason})" if last else "Slurm has forgotten it"
            self._report(f"{one.job.key} ended without a result: {how}")

    def _look_for_nodes(self, pending: list[_Open]) -> None:
        """A busy node is waited for. Where all that could take a job are out of service, it is given up in the end."""
        nodes, without = nodes_of(self.slurm, self.settings), batch.left_out(self.run)
        for one in pending:
            one.no_node.look(slurm_site.no_node(self.settings, nodes, one.job.gpus, without))
            if (why := one.no_node.given_up) and self._refused(one.job, why, REMEDY):
                one.gone = True
                with suppress(Unreachable, NotAccepted):  # it is sealed: started all the same, it does nothing
                    self.slurm.cancel([one.name], "--state=PENDING")

    def _show(self, one: _Open) -> None:
        """Let readers see why the job waits, until its runner writes what it does."""
        waits = Phase(PhaseKind.WAITING_FOR_SLURM, one.waits_for)
        phase = Phase(PhaseKind.NO_NODE, one.no_node.why) if one.no_node.why else waits
        if phase != one.shown and not claimed(one.job):
            with suppress(OSError):
                phase.write(one.job.folder)
                one.shown = phase

    def _submit(self, one: _Open) -> None:
        job = one.job
        if is_sealed(job) or claimed(job) or one.cancelled_at is not None:  # it ran, or never will
            one.gone = True
            return
        try:
            module = ("tune_mcp.supervise.executor.on_node", str(job.folder))
            self.slurm.submit(batch.order(self.run, job.key, job.folder, self.settings, module, job.gpus))
        except NotAccepted as error:
            if _FULL.search(str(error)):
                one.waits_for = str(error)
                self._show(one)
                raise Unreachable(str(error)) from error
            without = ", ".join(batch.left_out(self.run))
            reason = f"Slurm does not take the job: {error}" + (
                f"; left out after refusals: {without}" if without else ""
            )
            self._refused(job, reason, "correct slurm in the host profile, or free the nodes that refused")
            one.gone = True
            return
        one.submitted = True

    def _refused(self, job: Job, reason: str, step: str) -> bool:
        """No node will run this job: sealed like any other attempt that did not start, so that the run halts.

        False where a runner has it after all.
        """
        code = Code.EXECUTOR_UNAVAILABLE
        step += ", then resume the run"
        return seal_unstarted(job, Blocked(code=code, rule="GPU-14", reason=reason, next=step, retryable=False))

    def _end(self, one: _Open, found: list[QueuedJob]) -> None:
        """What waits goes at once. A runner stops by its tombstone and a signal; what outlasts that, Slurm ends."""
        if all(job.ended for job in found):
            return
        if not any(job.started for job in found):
            self.slurm.cancel([one.name], "--state=PENDING")
        elif one.overdue and not one.killed:
            one.killed = True
            self.slurm.cancel([one.name])

    def _silent_for(self, why: str) -> None:
        if not self._silent:
            self._report(f"Slurm gives no answer, and what is not known is waited for: {why}")
        self._silent = why

    def _report(self, text: str) -> None:
        with suppress(OSError):
            events.append(self.run, "engine", utc_now(), text)

    def _answers(self) -> None:
        if self._silent:
            self._report("Slurm answers again")
        self._silent = ""


def take_back(run: RunDir) -> None:
    """Cancel every attempt that a dead supervisor left open: tombstones first, so that it holds without Slurm too.

    What waits is taken back; what runs stops by its tombstone.
    """
    names: list[str] = []
    for path in sorted(run.path.glob(f"_pytest/*/attempts/*/{JOB_FILE}")):
        with suppress(OSError, ValueError):
            job = read_job(path)
            if not is_sealed(job) and not (job.folder / LEFT_FILE).exists():
                cancel(job)
                names.append(batch.name_of(job.key))
    with suppress(Unreachable, NotAccepted):
        Slurm().cancel(names, "--state=PENDING")
