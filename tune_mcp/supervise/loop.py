"""The supervisor's loop: which job is due, what its result means, what is written. Test files in order (STR-19).

Only this process writes observations. It decides and waits; a runner does the work (see ``runner.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from tune_mcp.config.stages import Stage
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code, Json, NotPlain, Refusal, unusable
from tune_mcp.files import dump_json, parse_json, read_plain, read_text, write_atomic
from tune_mcp.observe.audit import AuditedCell, judge, one_scope
from tune_mcp.observe.observation import Attempt, Missing, load
from tune_mcp.precheck.gates import Precheck
from tune_mcp.run_dir import RunDir, iso
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import CurrentWork, Halt, Owner, RunState, SupervisorRecord
from tune_mcp.supervise import rereading, scratch
from tune_mcp.supervise.due import next_job
from tune_mcp.supervise.executor import Executor
from tune_mcp.supervise.executor.batch import LEFT_OUT
from tune_mcp.supervise.gpu.use import read_after
from tune_mcp.supervise.job import (
    JOB_FILE,
    PHASE_FILE,
    AttemptResult,
    Job,
    cancel,
    cancel_earlier,
    is_cancelled,
    read_job,
    runner_end,
)
from tune_mcp.supervise.neighbours import Neighbour
from tune_mcp.supervise.purge import purge
from tune_mcp.supervise.recording import attempt_made, record
from tune_mcp.supervise.reserve import space_kept
from tune_mcp.supervise.retry import MAX_PASSES, MAX_TRIES, Again, Keep, Stop, Verdict
from tune_mcp.supervise.retry import judge as judge_attempt
from tune_mcp.supervise.sealed import counted_tests, is_on_ledger, put_on_ledger
from tune_mcp.supervise.strays import strays
from tune_mcp.supervise.unwatched import LIMIT_S, Watchers
from tune_mcp.supervise.watch.alerts import WATCH_FILE, AlertNews
from tune_mcp.words import number_of

HEARTBEAT_S = 2.0
NEIGHBOURS_S = 10.0
"""How often the process table is searched for other measuring supervisors while pytest runs."""
_LOOK_EVERY_S = 0.5
_LEFT = "left_behind"


class Clock(Protocol):
    """Time, handed in: wall clock for records, monotonic for waits, and a sleep that news ends early."""

    def now(self) -> datetime:
        """UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds, for waits."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait until something may have happened, at most that long."""
        ...


class Stopped(Exception):
    """Somebody asked the run to stop; what is complete stays."""


class Halted(Exception):
    """Nothing else starts until resume_run."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.message)
        self.halt = halt


class Exhausted(Exception):
    """All passes are used up and a repeat is still not strict (RES-08)."""


@dataclass
class Supervisor:
    """One run, from precheck to its end state. ``run()`` returns the exit code of the process."""

    run_dir: RunDir
    plan: Plan
    executor: Executor
    clock: Clock
    owner: Owner
    precheck: Callable[[], Precheck]
    stop_asked: Callable[[], str | None]
    neighbours: Callable[[], Sequence[Neighbour]] = tuple
    """Other supervisors that measure on this machine now."""
    _neighbours: tuple[Neighbour, ...] = ()
    _neighbours_due: float = 0.0
    _record: SupervisorRecord = field(init=False)
    _plugins: tuple[str, ...] = ()
    _beat_due: float = 0.0
    _appeared: set[str] = field(default_factory=set[str])
    _outputs: set[str] = field(default_factory=set[str])
    _watchers: Watchers = field(init=False)
    _stopping: str | None = None

    def __post_init__(self) -> None:
        self._watchers = Watchers(self.run_dir.watched, self.clock.now().timestamp())
        self._record = SupervisorRecord(
            state=RunState.PRECHECKING, owner=self.owner, heartbeat_at=self.clock.now().timestamp()
        )

    def run(self) -> int:
        """Precheck, then every test file until it is N of N strict, then the end state."""
        try:
            with space_kept(self.run_dir.reserve):
                self._set(RunState.PRECHECKING)
                if not self._prechecked():
                    return 1
                self._set(RunState.RUNNING)
                size = f"{len(self.plan.stages)} stages × {self.plan.repeats} repeats"
                self._event("started", f"{self.plan.model}: {size}")
                self._record_strays()
                for test, stages in self.plan.tests().items():
                    self._complete(test, stages)
        except Stopped as stopped:
            self._end(RunState.STOPPED, "stopped", str(stopped))
            return 1
        except Halted as halted:
            halt = halted.halt
            self._end(RunState.HALTED, "halted", halt.message, f" — {halt.next}", halt)
            return 1
        except Exhausted as exhausted:
            self._end(RunState.EXHAUSTED, "exhausted", str(exhausted))
            return 1
        except Exception as error:
            refusal = unusable(error)
            bug = f"a bug in the supervisor: {error!r}; see supervisor.log"
            self._end(RunState.FAILED, "failed", refusal.text() if refusal else bug)
            if refusal is None:
                raise
            return 1
        self._end(RunState.FINISHED, "finished", "every stage × repeat is strict")
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
            gaps = "; ".join(f"{check.id} {check.status}: {check.detail}" for check in blocking)
            self._end(RunState.FAILED, "failed", f"{Code.PRECHECK_FAILED}: {gaps}")
            return False
        self._event("prechecked", f"{len(answer.checks)} checks, none blocks; {answer.gpu_summary}")
        return True

    def wait(self, seconds: float) -> None:
        """Sleep as a supervisor does: it shows that it lives, and raises ``Stopped`` when somebody asks."""
        self._check_stop()
        self._beat()
        self.clock.sleep(seconds)

    def _complete(self, test: str, stages: tuple[Stage, ...]) -> None:
        """All N repeats of one test file, in as many passes as it takes (STR-19, RTY-01)."""
        for number in range(1, MAX_PASSES + 1):
            open_repeats = self._open(stages)
            if not open_repeats:
                return
            for repeat in open_repeats:
                if self._read_again(test, repeat):
                    continue
                self._clear(test, stages, repeat, number)
                self._observe(test, stages, repeat)
        if left := self._open(stages):
            raise Exhausted(f"{test}: repeats {left} are not strict after {MAX_PASSES} passes of {MAX_TRIES} tries")

    def _open(self, stages: tuple[Stage, ...]) -> list[int]:
        """The repeats that do not count: those with a stage, among all that their pytest fed, not strict (STR-16)."""
        recorded = events.ledger(self.run_dir)
        scoped = one_scope(self.run_dir, self.plan, stages, recorded)
        return [
            repeat
            for repeat in range(1, self.plan.repeats + 1)
            if any(cell.cell is not Cell.STRICT for cell in self._cells(scoped, repeat, recorded))
        ]

    def _cells(self, stages: tuple[Stage, ...], repeat: int, recorded: events.Ledger) -> list[AuditedCell]:
        return [judge(s, repeat, load(self.run_dir, s.key, repeat), self.plan, recorded) for s in stages]

    def _read_again(self, test: str, repeat: int) -> bool:
        """Whether a sealed attempt is complete although its artifact was lost or changed: it is written once more."""
        found = rereading.look(self.run_dir, self.plan, [(test, repeat)])
        rereading.count(self.run_dir, self.plan, found.counted, "the supervisor, from sealed files", self.clock.now())
        return bool(found.counted)

    def _clear(self, test: str, stages: tuple[Stage, ...], repeat: int, number: int) -> None:
        """Take a repeat that is on disk but not strict out of the way, whole (GAP-05, RES-04)."""
        recorded = events.ledger(self.run_dir)
        if all(isinstance(load(self.run_dir, stage.key, repeat), Missing) for stage in stages):
            return
        scoped = one_scope(self.run_dir, self.plan, stages, recorded)
        reasons = sorted({cell.reason for cell in self._cells(scoped, repeat, recorded) if cell.reason})
        reason = f"not strict before pass {number}: {'; '.join(reasons)}"
        self._purge(test, stages, repeat, reason)

    def _purge(self, test: str, stages: tuple[Stage, ...], repeat: int, reason: str) -> None:
        keys = [stage.key for stage in stages]
        purge(self.run_dir, test, keys, repeat, who="supervisor", reason=reason, now=self.clock.now())

    def _observe(self, test: str, stages: tuple[Stage, ...], repeat: int) -> None:
        """Up to MAX_TRIES attempts at one repeat; the last one is written down either way."""
        scoped = one_scope(self.run_dir, self.plan, stages, events.ledger(self.run_dir))
        by_key = {stage.key: stage for stage in scoped}
        ran = counted_tests(self.run_dir, test, stages[0].key, repeat)
        verdicts: tuple[Verdict, ...] = ()
        history: tuple[Attempt, ...] = ()
        tries = 0
        while True:
            job = next_job(self.plan, self.run_dir, self._plugins, test, stages, repeat)
            job = self._under_way(job) or job
            result = self._attempt(job)
            verdict = judge_attempt(result, by_key, verdicts, None if result else runner_end(job), ran)
            verdicts += (verdict,)
            if self._stopping is not None and not isinstance(verdict, Keep):
                raise Stopped(self._stopping)
            history += (attempt_made(job, result, verdict, self.clock.now()),)
            match verdict:
                case Keep(reason):
                    record(self.plan.run_id, job, result, "ok", reason, history, self.clock.now())
                    self._observed(job, result, "PASS" if not reason else f"PASS, {reason}")
                    return
                case Stop(halt, quarantined):
                    if quarantined:
                        self._purge(test, stages, repeat, f"{halt.code}: {halt.message}")
                    else:
                        record(self.plan.run_id, job, result, "failed", halt.message, history, self.clock.now())
                    raise Halted(halt.model_copy(update={"test": test, "repeat": repeat}))
                case Again(reason, charged):
                    tries += charged
                    if result and result.engine and not charged:
                        node = result.engine.node
                        self._event(LEFT_OUT, f"{node} is left out from now on: {reason}", node=node)
                    if tries >= MAX_TRIES:
                        record(self.plan.run_id, job, result, "failed", reason, history, self.clock.now())
                        self._observed(job, result, f"FAIL, {reason}")
                        return
                    self._event(
                        "retry",
                        f"{test} run {repeat}: {reason}; try {tries + 1} of {MAX_TRIES}",
                        test=test,
                        repeat=repeat,
                    )

    def _under_way(self, job: Job) -> Job | None:
        """The attempt before ``job`` where an engine may still have it, handed over by a supervisor that died."""
        earlier = job.model_copy(update={"attempt": job.attempt - 1})
        if not self.executor.outlives or is_cancelled(earlier) or is_on_ledger(earlier):
            return None
        try:
            same = read_job(earlier.folder / JOB_FILE) == earlier
        except (OSError, ValueError):
            return None
        return earlier if same else None

    def _attempt(self, job: Job) -> AttemptResult | None:
        """Submit, wait, collect. A stop request cancels the runner and waits until nothing of it is left.

        What it sealed all the same was complete when the stop came.
        """
        self._check_stop()
        log = self.run_dir.log(job.test_key, job.repeat).relative_to(self.run_dir.path)
        self._event(
            "launched",
            f"START {job.test_key} run {job.repeat}/{self.plan.repeats} attempt {job.attempt} — log {log}",
            test=job.test_key, repeat=job.repeat, attempt=job.attempt,
        )  # fmt: skip
        cancel_earlier(job)
        key, since, phase = self.executor.submit(job), self.clock.now(), ""
        news = AlertNews(job.folder / WATCH_FILE)
        while self.executor.poll([key])[key] == "running":
            asked = self.stop_asked()
            if asked is not None:
                self._cancel(job, asked)
                break
            found = self._phase(job) or phase
            if found != phase:
                phase, since = found, self.clock.now()
            self._watch(job, news)
            self._record_unwatched()
            self._record_neighbours(job)
            self._show(job, phase, since)
            self.clock.sleep(_LOOK_EVERY_S)
        self._watch(job, news)
        self._record = self._record.model_copy(update={"alerts": (), "processes": {}})
        result = self.executor.collect(job)
        if result is None:  # its runner was killed, and what it had in its TMPDIR stays otherwise
            with suppress(OSError):
                scratch.clear(job.run, job.key, job.folder)
        put_on_ledger(job, result, self.clock.now())
        after = read_after(job)
        if after and after.trouble:
            self._event("gpus_not_clear", f"after {job.test_key} run {job.repeat}: {after.trouble}")
        self._record_appeared(result)
        self._record_left(job, result)
        return result

    def _watch(self, job: Job, news: AlertNews) -> None:
        """Take over what the attempt's watchdog saw: news as milestones, open alerts into the record."""
        for alert in news.read():
            kind, text = ("alert_over", f"{alert.name}: {alert.over}") if alert.over else ("alert", alert.line())
            self._event(
                kind, f"{job.test_key} run {job.repeat} attempt {job.attempt}: {text}",
                test=job.test_key, repeat=job.repeat, attempt=job.attempt, alert=alert.name,
            )  # fmt: skip
        seen = {"alerts": news.open, "processes": news.sighting.processes}
        if seen != {"alerts": self._record.alerts, "processes": self._record.processes}:
            self._record = self._record.model_copy(update=seen)
            self._write_record(durable=False)

    def _record_unwatched(self) -> None:
        """That nobody polled for longer than allowed belongs into the run's record (POL-01)."""
        gap = self._watchers.look(self.clock.now().timestamp())
        if gap is None:
            return
        since = iso(datetime.fromtimestamp(gap.since, UTC))
        if gap.seconds is None:
            self._event("unwatched", f"nobody polled since {since}, more than {LIMIT_S:g} s", since=since)
        else:
            self._event("watched", f"polled again after {gap.seconds:.0f} s", since=since, seconds=round(gap.seconds))

    def _record_neighbours(self, job: Job) -> None:
        """Record a second run that measures beside this one, whatever became of the lock between them (GPU-14)."""
        if self.clock.monotonic() < self._neighbours_due:
            return
        self._neighbours_due = self.clock.monotonic() + NEIGHBOURS_S
        found = tuple(self.neighbours())
        for other in found:
            if other not in self._neighbours:
                self._event(
                    "overlap",
                    f"{job.test_key} run {job.repeat}: another run measures on this machine at the same time: {other}",
                    test=job.test_key, repeat=job.repeat, run_dir=other.run_dir or "?",
                )  # fmt: skip
        self._neighbours = found

    def _record_appeared(self, result: AttemptResult | None) -> None:
        """Files that the tests leave in the tree are no reason to stop, but nobody should have to find them."""
        new = {*result.appeared} - self._appeared if result else set[str]()
        if new:
            self._appeared |= new
            names = ", ".join(sorted(new)[:6])
            self._event(
                "appeared", f"{number_of(len(new), 'new file')} in the tree, taken for the tests' output: {names}"
            )
        outputs = {*result.outputs} - self._outputs if result else set[str]()
        if outputs:
            self._outputs |= outputs
            names = ", ".join(sorted(outputs)[:6])
            self._event(
                "appeared",
                f"the tests rewrite {number_of(len(outputs), 'file')} of the tree, left out when it is compared: "
                f"{names}; "
                "each repeat starts from what the one before left",
                rewritten=[*sorted(outputs)],
            )

    def _record_left(self, job: Job, result: AttemptResult | None) -> None:
        """What the tests of a file leave in their TMPDIR is named once: each repeat leaves the same."""
        left = result.left_in_tmp if result else None
        if left and all(one.facts.get("test") != job.test_key for one in events.read(self.run_dir.events, _LEFT)):
            self._event(_LEFT, f"{job.test_key}: {left.sentence()} in its TMPDIR, emptied", test=job.test_key)

    def _record_strays(self) -> None:
        if found := strays(self.run_dir, self.plan.table(), self.plan.repeats):
            names = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
            self._event("ignored", f"in the run directory, written by somebody else and ignored: {names}")

    def _phase(self, job: Job) -> str:
        try:
            return read_text(job.folder / PHASE_FILE)
        except OSError:
            return ""

    def _show(self, job: Job, phase: str, since: datetime) -> None:
        waiting = phase.startswith("waiting_for_gpu")
        state = RunState.WAITING_FOR_GPU if waiting else RunState.RUNNING
        if waiting and self._record.state is not RunState.WAITING_FOR_GPU:
            self._event("waiting_for_gpu", phase.partition(": ")[2])
        current = CurrentWork(
            test=job.test_key, repeat=job.repeat, attempt=job.attempt, phase=phase or "starting", since=iso(since)
        )
        if current != self._record.current or state is not self._record.state:
            self._set(state, current=current)
        else:
            self._beat()

    def _cancel(self, job: Job, reason: str) -> None:
        self._stopping = reason
        self._set(RunState.STOPPING, reason=reason, current=self._record.current)
        self._event("stop_requested", reason)
        cancel(job)
        self.executor.cancel([job.key])
        while self.executor.poll([job.key])[job.key] == "running":
            self._beat()
            self.clock.sleep(_LOOK_EVERY_S)

    def _check_stop(self) -> None:
        asked = self._stopping or self.stop_asked()
        if asked is None:
            return
        if self._stopping is None:
            self._event("stop_requested", asked)
        raise Stopped(asked)

    def _observed(self, job: Job, result: AttemptResult | None, text: str) -> None:
        seconds = result.duration_s if result else 0.0
        slowed = f"; clocks held down: {', '.join(result.slowed_by)}" if result and result.slowed_by else ""
        self._event(
            "observed",
            f"{job.test_key} run {job.repeat}/{self.plan.repeats} {text} ({seconds:.1f} s){slowed}",
            test=job.test_key, repeat=job.repeat, duration_s=seconds,
        )  # fmt: skip

    def _event(self, kind: str, text: str, **facts: Json) -> None:
        events.append(self.run_dir, kind, self.clock.now(), text, **facts)

    def _end(self, state: RunState, kind: str, text: str, more: str = "", halt: Halt | None = None) -> None:
        """The state is written last: whoever reads it finds the event and no process of the run any more."""
        self.executor.close()
        scratch.sweep(self.run_dir)
        with suppress(NotPlain):  # the log itself is what cannot be used; the record below says so
            self._event(kind, text + more, **(halt.model_dump(exclude_none=True) if halt else {}))
        self._set(state, reason=text, halt=halt)

    def _set(
        self, state: RunState, reason: str = "", current: CurrentWork | None = None, halt: Halt | None = None
    ) -> None:
        before = self._record.state
        self._record = self._record.model_copy(
            update={"state": state, "reason": reason, "current": current, "halt": halt}
        )
        self._write_record(durable=state is not before)

    def _beat(self) -> None:
        if self.clock.monotonic() >= self._beat_due:
            self._write_record(durable=False)

    def _write_record(self, *, durable: bool) -> None:
        self._record = self._record.model_copy(update={"heartbeat_at": self.clock.now().timestamp()})
        write_atomic(self.run_dir.supervisor, dump_json(self._record.model_dump(mode="json")), durable=durable)
        self._beat_due = self.clock.monotonic() + HEARTBEAT_S


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
