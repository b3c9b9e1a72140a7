"""The supervisor's loop: which job is due, what its result means, what is written (STR-19).

Only this process writes observations. It decides and waits; a runner does the work on each lane (see ``runner.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tune_mcp.config.lanes import Lane
from tune_mcp.errors import Code, NotPlain, Refusal, unusable
from tune_mcp.files import dump_json, parse_json, read_plain, write_atomic
from tune_mcp.observe.audit import one_scope
from tune_mcp.observe.observation import AttemptVerdict
from tune_mcp.precheck.gates import Precheck
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import Alert, Halt, Owner, RunState
from tune_mcp.supervise import scratch
from tune_mcp.supervise.at_work import AtWork, next_job
from tune_mcp.supervise.busy_lanes import BusyLanes
from tune_mcp.supervise.executor import Executor
from tune_mcp.supervise.gpu.use import AFTER_FILE, AfterRun
from tune_mcp.supervise.job import (
    JOB_FILE,
    AttemptResult,
    Job,
    cancel,
    cancel_earlier,
    is_cancelled,
    runner_end,
    unmeasured,
)
from tune_mcp.supervise.journal import Clock, RunJournal, space_kept
from tune_mcp.supervise.milestones import Milestones
from tune_mcp.supervise.neighbours import Neighbour
from tune_mcp.supervise.noting import Notes
from tune_mcp.supervise.progress import Exhausted, Progress
from tune_mcp.supervise.recording import attempt_made, record
from tune_mcp.supervise.retry import MAX_PASSES, MAX_TRIES
from tune_mcp.supervise.retry import judge as judge_attempt
from tune_mcp.supervise.schedule import Due, Repeat, Start, starts
from tune_mcp.supervise.sealed import counted_tests, is_on_ledger, put_on_ledger
from tune_mcp.supervise.verdict import Again, Keep, Stop
from tune_mcp.words import number_of

_LOOK_EVERY_S = 0.5


class Stopped(Exception):
    """The run was asked to stop; what is complete stays."""


class Halted(Exception):
    """The run halts: nothing else starts until resume_run."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.message)
        self.halt = halt


@dataclass
class Supervisor:
    """One run, from precheck to its end state. ``run()`` returns the exit code of the process.

    ``lanes`` are where repeats may run, by name; None is a place on a host without lanes. ``at_once`` of them work at
    the same time.
    """

    run_dir: RunDir
    plan: Plan
    executor: Executor
    clock: Clock
    owner: Owner
    precheck: Callable[[], Precheck]
    stop_asked: Callable[[], str | None]
    neighbours: Callable[[], Sequence[Neighbour]] = tuple
    lanes: Mapping[str, Lane | None] = field(default_factory=lambda: {"": None})
    at_once: int = 1
    _plugins: tuple[str, ...] = ()
    _work: dict[str, AtWork] = field(default_factory=dict[str, AtWork])
    _stopping: str | None = None
    _over: Stopped | Halted | Exhausted | None = None
    _awaited: set[str] = field(default_factory=set[str])
    _lengths: dict[str, float] | None = None

    def __post_init__(self) -> None:
        self._journal = RunJournal(self.run_dir, self.clock, self.owner)
        self._milestones = Milestones(self._journal, self.plan.repeats, MAX_TRIES)
        self._notes = Notes(self._journal, self.neighbours)
        self._busy_lanes = BusyLanes(self.plan, self.lanes, self.clock)
        self._progress = Progress(self.run_dir, self.plan, self.clock.now, MAX_PASSES, MAX_TRIES)

    def run(self) -> int:
        """Precheck, then every test file until it is N of N strict, then the end state."""
        try:
            with space_kept(self.run_dir.reserve):
                self._journal.set(RunState.PRECHECKING)
                if not self._prechecked():
                    return 1
                self._journal.set(RunState.RUNNING)
                size = f"{number_of(len(self.plan.stages), 'stage')} × {number_of(self.plan.repeats, 'repeat')}"
                on = f" on lanes {', '.join(self.lanes)}" if self.at_once > 1 else ""
                self._journal.event("started", f"{self.plan.model}: {size}{on}")
                self._notes.strays(self.plan)
                self._measure()
        except Stopped as stopped:
            self._end(RunState.STOPPED, str(stopped))
            return 1
        except Halted as halted:
            self._end(RunState.HALTED, str(halted), halted.halt)
            return 1
        except Exhausted as exhausted:
            self._end(RunState.EXHAUSTED, str(exhausted))
            return 1
        except Exception as error:
            refusal = unusable(error)
            bug = f"a bug in the supervisor: {error!r}; see supervisor.log"
            self._end(RunState.FAILED, refusal.text() if refusal else bug)
            if refusal is None:
                raise
            return 1
        self._end(RunState.FINISHED, "every stage × repeat is strict")
        return 0

    def _prechecked(self) -> bool:
        try:
            answer = self.precheck()
        except Refusal as refusal:
            halt = Halt(code=refusal.code, rule=refusal.rules[0], message=refusal.message, next=refusal.next)
            raise Halted(halt) from refusal
        self._plugins = answer.pytest_plugins
        write_atomic(self.run_dir.precheck, dump_json(answer.model_dump(mode="json")))
        blocking = answer.blocking()
        if blocking:
            failed = "; ".join(f"{check.id} {check.status}: {check.detail}" for check in blocking)
            self._end(RunState.FAILED, f"{Code.PRECHECK_FAILED}: {failed}")
            return False
        self._journal.event(
            "prechecked", f"{number_of(len(answer.checks), 'check')}, none blocks; {answer.gpu_summary}"
        )
        return True

    def wait(self, seconds: float, why: str = "") -> None:
        """Sleep as a supervisor does: it shows that it lives and ``why`` it waits. Raises ``Stopped`` when asked to."""
        self._check_stop()
        if why != self._journal.record.reason:
            self._journal.set(self._journal.record.state, why)
        self._journal.beat()
        self.clock.sleep(seconds)

    def _measure(self) -> None:
        """Measure until every repeat is strict or something ends the run: then what runs may end, nothing starts."""
        while True:
            try:
                if self._over is None:
                    self._start_due()
                if not self._work:
                    break
                for lane in self._ended():
                    self._judge_ended(lane)
            except (Stopped, Halted, Exhausted) as end:
                self._over = self._over or end
        if self._over:
            raise self._over
        if due := self._due():
            raise RuntimeError(f"{len(due)} repeats are due and start nowhere")

    def _start_due(self) -> None:
        """Fill the free lanes."""
        while found := starts(self._due(), self._running(), self._progress.led, self.at_once):
            for start in found:
                self._begin(start)

    def _running(self) -> dict[str, Repeat]:
        return {lane: work.repeat for lane, work in self._work.items()}

    def _due(self) -> list[Due]:
        alone = self.at_once == 1
        if self._lengths is None:
            self._lengths = {} if alone else events.expected_lengths(self.run_dir)
        return self._progress.due(self._running().values(), self._busy_lanes.usable, self._lengths.get, in_order=alone)

    def _begin(self, start: Start) -> None:
        """Up to MAX_TRIES attempts at one repeat; the last one is written down either way."""
        self._check_stop()
        if not self._progress.begin(start.due.key):
            return
        test, repeat = start.due.key
        stages = self.plan.tests()[test]
        scoped = one_scope(self.run_dir, self.plan, stages, events.ledger(self.run_dir))
        ran = counted_tests(self.run_dir, test, stages[0].key, repeat)
        work = AtWork(stages, {stage.key: stage for stage in scoped}, ran, start.due.key, start.lane)
        if before := self._busy_lanes.moved(work.repeat):
            work.go_on(before)
        self._launch(work)

    def _launch(self, work: AtWork) -> None:
        """Submit the next attempt."""
        self._check_stop()
        lane = self.lanes[work.lane]
        job = next_job(self.plan, self.run_dir, self._plugins, work.stages, work.repeat, work.lane, lane)
        job = self._under_way(job) or job
        self._milestones.launched(job, work.lane)
        cancel_earlier(job)
        job.run.point(job.test_key, job.repeat, job.attempt)
        self._awaited.add(job.key)
        self.executor.submit(job)
        work.launched(job, self.clock.now())
        self._work[work.lane] = work

    def _under_way(self, job: Job) -> Job | None:
        """The attempt before ``job`` where an engine may still have it, handed over by a supervisor that died."""
        earlier = Job.from_file(job.run.attempt(job.test_key, job.repeat, job.attempt - 1) / JOB_FILE)
        if earlier is None or earlier.model_copy(update={"attempt": job.attempt, "lane": job.lane}) != job:
            return None
        if not self.executor.outlives or earlier.key in self._awaited:
            return None
        return None if is_cancelled(earlier) or is_on_ledger(earlier) else earlier

    def _ended(self) -> list[str]:
        """Wait until attempts have ended; their lanes. Empty when one that others used may be tried again.

        A stop request cancels all, and waits until nothing runs.
        """
        avoided = self._busy_lanes.avoided()
        while True:
            if ended := [lane for lane, work in self._work.items() if not self.executor.runs(work.job)]:
                return ended
            asked = None if self._stopping else self.stop_asked()
            if asked is not None:
                self._cancel(asked)
            self._look()
            if avoided - self._busy_lanes.avoided():
                return []
            self.clock.sleep(_LOOK_EVERY_S)

    def _look(self) -> None:
        """Take over what the runners report."""
        if self._stopping:
            self._journal.beat()
            return
        for work in self._work.values():
            if work.look(self.clock.now()):
                self._milestones.waits(work)
            self._watch(work)
            if self._over is None and self._busy_lanes.should_leave(work):
                work.leaves = True
                cancel(work.job)
                self.executor.cancel(work.job)
        self._notes.look(next(iter(self._work.values())).job)
        self._journal.seen(*self._watched())
        waits = [work.waits for work in self._work.values()]
        state = RunState.RUNNING if None in waits else waits[0] or RunState.RUNNING
        self._journal.show(state, [work.current() for work in self._work.values()])

    def _watched(self) -> tuple[list[Alert], list[dict[str, int]]]:
        """Open alerts and living processes of what runs."""
        every = self._work.values()
        return [one for work in every for one in work.open_alerts], [work.alerts.record.processes for work in every]

    def _watch(self, work: AtWork) -> None:
        """What the attempt's watchdog saw, and that no node can take it, as milestones."""
        for alert in work.news():
            self._milestones.alert(work.job, alert)

    def _collected(self, work: AtWork) -> AttemptResult | None:
        """What the ended attempt left. What it sealed although a stop came was complete at that time."""
        job = work.job
        self._watch(work)
        result = self.executor.collect(job)
        if result is None:  # its runner was killed, and what it had in its TMPDIR stays otherwise
            with suppress(OSError):
                scratch.clear(job.run, job.folder)
        put_on_ledger(job, result, self.clock.now(), beside=self.at_once > 1)
        after = AfterRun.from_file(job.folder / AFTER_FILE)  # none where it used no GPU, or its runner was killed
        if after and after.trouble:
            self._milestones.gpus_not_clear(job, after.trouble)
        self._notes.ended(job, result)
        return result

    def _judge_ended(self, lane: str) -> None:
        """Judge the attempt that ended on a lane: its repeat counts, is tried again, or halts the run."""
        work = self._work[lane]
        job, result = work.job, self._collected(work)
        del self._work[lane]
        self._journal.seen(*self._watched())
        if work.leaves and result is None and self._stopping is None:
            self._progress.give_back(work.repeat)
            self._busy_lanes.leave(work)
            self._milestones.left_lane(work)
            return
        verdict = judge_attempt(result, work.scoped, work.verdicts, None if result else runner_end(job), work.ran)
        work.verdicts += (verdict,)
        if self._stopping is not None and not isinstance(verdict, Keep):
            raise Stopped(self._stopping)
        result = result or unmeasured(job, self.clock.now())
        work.history += (attempt_made(job, result, verdict),)
        match verdict:
            case Keep(reason):
                self._record(work, result, "ok", reason)
                if self._lengths is not None:
                    self._lengths[job.test_key] = result.duration_s
                self._milestones.observed(work, result, "PASS" if not reason else f"PASS, {reason}")
            case Stop(halt, quarantined):
                if quarantined:
                    self._progress.purge(work.repeat, f"{halt.code}: {halt.message}")
                else:
                    self._record(work, result, "failed", halt.message)
                if self._over:
                    self._milestones.observed(work, result, f"FAIL, {halt.message}")
                raise Halted(halt.model_copy(update={"test": job.test_key, "repeat": job.repeat}))
            case Again(reason, became):
                work.tries += verdict.charged
                if result.engine and became is AttemptVerdict.NOT_STARTED:
                    self._milestones.left_out(result.engine.node, reason)
                if work.tries >= MAX_TRIES:
                    self._record(work, result, "failed", reason)
                    self._milestones.observed(work, result, f"FAIL, {reason}")
                elif self._over is None:
                    self._milestones.again(work, verdict)
                    self._launch(work)

    def _record(self, work: AtWork, result: AttemptResult, status: str, reason: str) -> None:
        record(work.job, result, status, reason, work.history, self.clock.now())
        self._progress.ended(work.repeat)

    def _cancel(self, reason: str) -> None:
        """Ask every runner to stop."""
        self._stopping = reason
        self._journal.set(RunState.STOPPING, reason, self._journal.record.work)
        self._journal.event("stop_requested", reason)
        for work in self._work.values():
            cancel(work.job)
        for work in self._work.values():
            self.executor.cancel(work.job)

    def _check_stop(self) -> None:
        asked = self._stopping or self.stop_asked()
        if asked is None:
            return
        if self._stopping is None:
            self._journal.event("stop_requested", asked)
        raise Stopped(asked)

    def _end(self, state: RunState, text: str, halt: Halt | None = None) -> None:
        """The state is written last: whoever reads it finds the event and no process of the run any more."""
        self.executor.close()
        scratch.sweep(self.run_dir)
        facts = halt.model_dump(exclude_none=True) if halt else {}
        with suppress(NotPlain):  # the log itself is what cannot be used; the record below says so
            self._journal.event(str(state), text, **facts)
        self._journal.set(state, reason=text, halt=halt)


def stop_request(run: RunDir) -> str | None:
    """The reason in stop.json, None when nobody asked."""
    try:
        value = parse_json(read_plain(run.stop_request))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "stop.json is there but cannot be read"
    reason = value.get("reason") if isinstance(value, Mapping) else None
    return reason if isinstance(reason, str) else "no reason given"
