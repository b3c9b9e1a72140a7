"""``status``: how far a run is, from its files alone; without a run, all runs of the repository."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp import run_dir
from tune_mcp.actions import Step, ToClient, call
from tune_mcp.contract.report import DIRTY
from tune_mcp.contract.status import MAX_WAIT_S, OpenCell, RunEntry, RunsReply, StatusReply, unfit_wait
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Refusal
from tune_mcp.observe.audit import Audit
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import Conclusion, Liveness, RunState
from tune_mcp.verbs import gates
from tune_mcp.verbs.project import Project

if TYPE_CHECKING:
    from tune_mcp.gpus import GpuReading
    from tune_mcp.report.apart import LaneMedian

MAX_POLL_S = 120
"""No poll of an active run is further than this from the next (rules POL-01, POL-10)."""
_STALE_HEARTBEAT_S = 30.0
_LOOK_EVERY_S = 0.25
_SETTLED_S = 1.0
_MISSING_SHOWN = 50
_RUNS_SHOWN = 30
_ALERTS_SHOWN = 6


def status(
    project: Project,
    run_id: str,
    wait_s: float = 0,
    sleep: Callable[[float], None] = time.sleep,
    cancelled: Callable[[], bool] = lambda: False,
    known: str | None = None,
) -> StatusReply:
    """One run now, or as soon as something changes within ``wait_s`` seconds.

    ``known`` is the mark of the same client's last answer: news since then are news, and nothing else is.
    Raises WAIT_TOO_LONG, UNKNOWN_RUN, PLAN_TAMPERED.
    """
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise unfit_wait(wait_s)
    run = project.run(run_id)
    plan = project.plan(run)
    end = time.monotonic() + wait_s
    known, _, shown = (None, "", "") if known is None else known.partition("\n")
    first, seen = _pulse(run, plan), stamps(run)
    changed = first.at_rest or (known is not None and first.mark != known)
    if not first.at_rest:
        _polled(run)
    now, quiet_since = first, time.monotonic()
    # News come in groups: the end of one repeat, its cells, the start of the next. One answer holds the group; and
    # who has seen the last cell wants to hear how the run ended.
    while time.monotonic() < end and not cancelled() and not now.at_rest:
        if changed and time.monotonic() - quiet_since >= _SETTLED_S and not _closing(run, plan):
            break
        sleep(min(_LOOK_EVERY_S, max(0.0, end - time.monotonic())))
        if (looked := stamps(run)) != seen:
            seen, before = looked, now
            now = _pulse(run, plan)
            if now.mark != before.mark:
                changed, quiet_since = True, time.monotonic()
    if not first.at_rest:
        _polled(run)
    reply, sides = _status(project, run, plan, timed_out=wait_s > 0 and not changed)
    # Medians move little from one repeat to the next: who has just read them reads them again when they differ.
    medians = "; ".join(f"{one.lane} {one.median:.2f}{' apart' if one.apart else ''}" for one in sides)
    news: dict[str, object] = {"mark": f"{now.mark}\n{medians}"}
    if now.mark == known and not now.at_rest:
        again = f"as before: poll again within {reply.poll_within_s} s"
        news |= {"unchanged": True, "next": again}
    if medians == shown and not now.at_rest:
        news["lane_medians"] = ()
    return reply.model_copy(update=news)


def _polled(run: RunDir) -> None:
    """Tell the supervisor that somebody looked (POL-01); a reader without the right to write reads all the same."""
    with contextlib.suppress(OSError):
        run.watched.touch()


def stamps(run: RunDir) -> tuple[object, ...]:
    """What cannot stay the same when something changed: a wait costs a lock's test and two looks at a folder entry."""
    return (state.liveness(run), *(_stamp(path) for path in (run.supervisor, run.events)))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@dataclass(frozen=True)
class _Pulse:
    """What counts as a change: state, the repeat that is at work, and the length of the event log."""

    at_rest: bool
    mark: str


def _pulse(run: RunDir, plan: Plan) -> _Pulse:
    now = gates.conclude(run, plan)
    size = run.events.stat().st_size if run.events.exists() else 0
    work = now.record.work if now.record else ()
    at = " ".join(f"{one.lane} {one.test} {one.repeat} {one.attempt}" for one in work)
    return _Pulse(now.state.at_rest, f"{now.state}|{at}|{size}")


def _closing(run: RunDir, plan: Plan) -> bool:
    """Whether every cell is strict, so that only the run's own end is left."""
    return not gates.audit(run, plan).open_cells()


def _status(
    project: Project, run: RunDir, plan: Plan, *, timed_out: bool
) -> tuple[StatusReply, tuple[LaneMedian, ...]]:
    # GPUs and logs are of a status alone: an audit at a terminal does not wait for them.
    from tune_mcp.gpus import MEMORY_LIMIT_MIB, Presence
    from tune_mcp.verbs.tail_pytest import active_tail

    now = gates.conclude(run, plan)
    log = list(events.read(run.events))
    audited = gates.audit(run, plan, events.recorded(log))
    record = now.record
    work = record.work if record and now.active else ()
    current = next(iter(work), None)
    age = None if record is None else max(0.0, round(time.time() - record.heartbeat_at, 1))
    gaps = audited.open_cells()
    counts = audited.counts
    left = _eta(audited, log) if now.active else None
    seen = state.GpusSeen.from_file(run.gpus)
    sides = _lane_medians(run, audited)
    total = sum(counts.values())
    extracted = counts[Cell.STRICT] + counts[Cell.PARTIAL]
    reply = StatusReply(
        run_id=run.run_id,
        state=str(now.state),
        terminal=now.state.terminal,
        timed_out=timed_out,
        strict_ready=f"{audited.ready_stages}/{len(audited.stages)}",
        whole_repeats="/".join(map(str, _whole_repeats(audited))),
        strict_complete=audited.ready,
        audit_text="" if now.active else audited.text(),
        git_provenance=audited.git.verdict,
        complete=extracted == total,
        ok=extracted,
        total=total,
        missing=tuple(
            OpenCell(stage_key=key, repeat=repeat, cell=cell.cell.value, reason=cell.reason)
            for key, repeat, cell in gaps[:_MISSING_SHOWN]
        ),
        missing_total=len(gaps),
        stages=tuple(stage.line() for stage in audited.stages),
        current=current,
        lanes=work if current and current.lane else (),
        lane_medians=tuple(one.brief() for one in sides),
        reason=_reason(now, audited),
        eta_s=left,
        gpus=seen.reading.gpus if seen else (),
        gpus_known=seen is not None and seen.reading.presence is not Presence.UNKNOWN,
        gpus_seen_at=seen.seen_at if seen else None,
        gpu_mem_limit_mib=MEMORY_LIMIT_MIB,
        pytest_active=any(one.in_pytest for one in work),
        processes=record.processes if record and now.active else {},
        pytest_tail=active_tail(run) if any(one.in_pytest for one in work) else (),
        heartbeat_age_s=age,
        alerts=(*_alerts(run, now, age, plan, seen.reading if seen else None), *_apart(sides)),
        poll_within_s=_poll_within(now, left, plan.settings.poll_interval_max_s),
        milestones=tuple(f"{event.t} {event.text}" for event in log if event.kind in events.MILESTONES)[-3:],
        failed_tests=_failed_tests(project, run, audited),
        next=next_step(run, now, audited, log),
    )
    return reply, sides


def _failed_tests(project: Project, run: RunDir, audited: Audit) -> tuple[str, ...]:
    """One line for each test that failed for another reason than a threshold."""
    failing = {
        (stage.stage.test_key, repeat): cell.stored
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
        if cell.stored and cell.stored.content.pytest_rc not in (0, None)
    }
    if audited.plan.legacy or not failing:
        return ()
    from tune_mcp.verbs.pytest_outcomes import failed_tests  # it reads test files: nothing where pytest ended well

    return failed_tests(project, run, audited, failing)


def _alerts(run: RunDir, now: Conclusion, age: float | None, plan: Plan, gpus: GpuReading | None) -> Iterable[str]:
    from tune_mcp.gpus import Presence

    if now.state is RunState.LOST:
        yield "the supervisor is gone without an end state; what is complete is kept"
    if not now.active and now.state is not RunState.FINISHED:
        from tune_mcp.verbs import machine  # the process table: only a run that broke off waits for it

        if living := machine.left_alive([run]):
            yield living
    if now.liveness is Liveness.UNKNOWN:
        yield "the supervisor's lock is gone or cannot be read, so nobody knows whether it still runs"
    if now.active and age is not None and age > _STALE_HEARTBEAT_S:
        yield f"no heartbeat for {age:.0f} s"
    if record := now.record if now.active else None:
        yield from (alert.line() for alert in record.alerts[:_ALERTS_SHOWN])
    if plan.dirty:
        yield DIRTY
    if gpus and gpus.presence is Presence.UNKNOWN:
        yield f"GPUs {gpus.summary()}"


def _lane_medians(run: RunDir, audited: Audit) -> tuple[LaneMedian, ...]:
    """What each lane measured so far, where the plan has lanes."""
    if not any(plan.settings.placement.lanes for _, plan in audited.plan.parts(run)):
        return ()
    from tune_mcp.report import apart, history

    return apart.lane_medians(history.launches(run, audited))


def _apart(sides: Iterable[LaneMedian]) -> Iterable[str]:
    for one in sides:
        if one.apart:
            length = f"its {one.counted} repeats took {one.median:.2f} of their tests' median length"
            yield f"lane {one.lane} stands apart: {length}; see what else runs on its CPUs"


def _whole_repeats(audited: Audit) -> tuple[int, int]:
    """Pytest repeats all of whose stages are strict, and all that are planned."""
    cells = {stage.stage.key: stage.cells for stage in audited.stages}
    whole = [
        all(cell.cell is Cell.STRICT for cell in repeat)
        for stages in audited.plan.tests().values()
        for repeat in zip(*(cells[stage.key] for stage in stages), strict=True)
    ]
    return sum(whole), len(whole)


def _eta(audited: Audit, log: list[events.Event]) -> tuple[int, int] | None:
    """Seconds left, from the fastest and slowest repeat of each test so far; None before the first.

    On several lanes as the scheduler would fill them, all of the same speed.
    """
    from tune_mcp.supervise.schedule import Due, makespan

    seen = events.observed_lengths(log)
    if not seen:
        return None
    every = [value for values in seen.values() for value in values]
    places = audited.plan.settings.placement.lanes
    names = tuple(lane.name for lane in places)[: audited.plan.lanes or None] or ("",)
    left: list[tuple[str, int]] = []
    led: set[str] = set()
    for test, stages in audited.plan.tests().items():
        keys = {stage.key for stage in stages}
        rows = [stage.cells for stage in audited.stages if stage.stage.key in keys]
        for repeat, cells in enumerate(zip(*rows, strict=True), 1):
            if any(cell.cell is not Cell.STRICT for cell in cells):
                left.append((test, repeat))
            else:
                led.add(test)
    low, high = (
        makespan([Due(*one, names, pick(seen.get(one[0], every))) for one in left], {}, led, len(names))
        for pick in (min, max)
    )
    return round(low), round(high)


def _poll_within(now: Conclusion, left: tuple[int, int] | None, ceiling: int) -> int:
    """Longer waits while much is left, never above 120 s nor the host's own ceiling (POL-01, POL-10)."""
    wanted = MAX_POLL_S if left is None or not now.active else max(30, left[0] // 4)
    return min(wanted, ceiling, MAX_POLL_S)


def _reason(now: Conclusion, audited: Audit) -> str:
    """Why the run is in its state; what a finished run said of itself holds only as long as its files do."""
    if now.state is RunState.FINISHED and not audited.ready:
        return "the run ended complete, but files of it were lost or changed since, or its commit is gone"
    return now.record.reason if now.record else ""


def next_step(run: RunDir, now: Conclusion, audited: Audit, log: Sequence[events.Event]) -> Step:
    """What to do with a run in this state; ``log`` are its events."""
    resume = call("resume_run", run_id=run.run_id)
    if now.active:
        ceiling = min(MAX_POLL_S, audited.plan.settings.poll_interval_max_s)
        return Step(
            "slow is normal; ",
            call("status", run_id=run.run_id, wait_s=min(45, ceiling)),
            ToClient(f" (at most {ceiling} s apart)"),
            "; start nothing else and edit no file meanwhile",
        )
    if audited.ready:
        return _after_measuring(run, log)
    if now.state is RunState.HALTED and now.record and now.record.halt:
        return Step(f"{now.record.halt.next}, then ", resume)
    if now.state is RunState.FAILED:
        return Step("fix what the reason says, then ", resume)
    return Step(
        resume, " to measure what is missing; ", call("start_run", model=audited.plan.model), " would start over"
    )


def _after_measuring(run: RunDir, log: Sequence[events.Event]) -> Step:
    """What comes next for a complete run: its report, its apply plan, or what an apply left."""
    steps = ("observed", "planned", "reported", "applied", "undone")
    last = next((event.kind for event in reversed(log) if event.kind in steps), "")
    plan = call("apply_plan", run_id=run.run_id)
    if last == "applied":
        return Step("the thresholds of this run are written; ", plan, " to see what was left as it was")
    return Step(plan) if last in ("reported", "undone") else Step(call("report", run_id=run.run_id))


def list_runs(project: Project) -> RunsReply:
    """The newest runs; one that cannot be read says why instead of failing the list."""
    entries = tuple(_entry(project, run) for run in run_dir.list_runs(project.repo_root)[:_RUNS_SHOWN])
    active = [entry.run_id for entry in entries if entry.state and not RunState(entry.state).at_rest]
    return RunsReply(
        runs=entries,
        next=Step(call("status", run_id=active[0], wait_s=45))
        if active
        else Step(call("status"), " with a run's id, or ", call("start_run"), " for a new calibration"),
    )


def _entry(project: Project, run: RunDir) -> RunEntry:
    try:
        found = gates.read(project, run.run_id)
    except Refusal as refusal:
        return RunEntry(
            run_id=run.run_id, model="", state="", strict_ready="", commit="", started_at="", problem=refusal.text()
        )
    return RunEntry(
        run_id=run.run_id,
        model=found.plan.model,
        state=str(gates.conclude(run, found.plan).state),
        strict_ready=f"{found.audit.ready_stages}/{len(found.audit.stages)}",
        commit=found.plan.calibration_git_sha,
        started_at=found.plan.calibration_started_at,
    )
