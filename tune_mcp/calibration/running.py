"""``start_run``, ``resume_run``, ``stop_run``: the only verbs that begin or end a measurement."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from tune_mcp import run_dir
from tune_mcp.calibration import config_place, equivalence, halted, planning, settling
from tune_mcp.calibration.evidence import demand_here, demand_ours
from tune_mcp.calibration.preparing import comparable_or_refuse, precheck, take_host
from tune_mcp.calibration.project import Project
from tune_mcp.calibration.purging import Purge, Repeat, asked_for, demand_person, question
from tune_mcp.calibration.recovering import recover, suspects
from tune_mcp.contract.audit import Cell
from tune_mcp.contract.running import DEFAULT_REPEATS, MAX_REPEATS, PurgeItem, RunReply, StopReply
from tune_mcp.discover.aliases import expand
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock, sha256_bytes, write_atomic, write_json
from tune_mcp.gpus import read_gpus
from tune_mcp.observe.audit import Audit, audit
from tune_mcp.precheck.gates import BLOCKING
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import drift, events, provenance, state
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import Equivalence, Plan
from tune_mcp.session.state import RunState, SupervisorRecord
from tune_mcp.supervise import host_lock, launch, rereading
from tune_mcp.supervise.purge import purge as take_out

STOP_WAIT_S = 40.0
_LOOK_EVERY_S = 0.2


def start_run(
    project: Project,
    model: str,
    stages: Sequence[str] = ("ALL",),
    repeats: int = DEFAULT_REPEATS,
    label: str | None = None,
) -> RunReply:
    """A fresh run on the present HEAD (contract, tool 4); returns while its precheck runs.

    Raises UNKNOWN_MODEL, UNKNOWN_STAGE, INVALID_ARGUMENT, INVALID_CONFIG, NO_HEAD, STAGES_STALE, NEEDS_CONFIG,
    PRECHECK_FAILED, HOST_NOT_COMPARABLE, HALT_UNRESOLVED, RUN_ACTIVE, HOST_BUSY. A refusal leaves nothing behind.
    """
    if type(repeats) is not int or not 1 <= repeats <= MAX_REPEATS:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            "RTY-07",
            f"repeats must be a whole number from 1 to {MAX_REPEATS}, not {repeats!r}",
            f"call start_run with repeats={DEFAULT_REPEATS}, or leave it out",
            {"argument": "repeats"},
        )
    settling.settle(project)
    config = project.places.model(model)
    table = project.places.stages(model)
    keys = expand(stages, table)
    chosen = planning.checked_stages(project, model, keys, table)
    git = provenance.read(project.repo_root)
    diff = provenance.diff(project.repo_root) if git.changed else b""
    python = project.interpreter(config)
    if python.path is None:
        raise _not_this_machine(project, model, keys)
    comparable_or_refuse(project.subject(config, chosen), read_gpus)
    halted.none_open(project, model, git.head)
    name = _label(model, keys, len(table), repeats) if label is None else label
    started = _launch(
        project,
        lambda run, now: _write_new(
            run,
            planning.new_plan(
                project,
                config,
                chosen,
                run_id=run.run_id,
                repeats=repeats,
                label=name,
                git=git,
                diff_sha256=sha256_bytes(diff) if diff else None,
                python=python,
                now=now,
            ),
            diff,
            now,
        ),
        lambda now: run_dir.create(project.repo_root, name, now),
    )
    wider = planning.wider_models(project, config)
    notes = [f"model {wide} also has these test files: a change to it is calibrated with that model" for wide in wider]
    return started.model_copy(update={"notes": tuple(notes)})


def _not_this_machine(project: Project, model: str, keys: tuple[str, ...]) -> Refusal:
    """Without the project's Python there is nothing to start: every gap of the machine at once, as precheck sees it."""
    gaps = [check for check in precheck(project, model, keys).checks if check.status in BLOCKING]
    return Refusal(
        Code.PRECHECK_FAILED,
        ("PRE-01", "HST-04"),
        f"this machine cannot measure {model}, {len(gaps)} gap(s): "
        + "; ".join(f"{gap.id} {gap.status} ({gap.detail})" for gap in gaps),
        f"{gaps[0].fix or 'call precheck'}, or give --venv-python or TUNE_VENV_PYTHON; precheck lists every fix",
        {"gaps": [{"id": gap.id, "status": gap.status, "detail": gap.detail, "fix": gap.fix} for gap in gaps]},
    )


def _label(model: str, keys: tuple[str, ...], all_stages: int, repeats: int) -> str:
    scope = "all" if len(keys) == all_stages else keys[0] if len(keys) == 1 else f"{len(keys)}-stages"
    return f"{model}_{scope}_r{repeats}"[:60]


def _write_new(run: RunDir, plan: Plan, diff: bytes, now: datetime) -> Plan:
    if diff:
        write_atomic(run.workspace_diff, diff)
    plans.write(
        run, plan, write_atomic, lambda sha: events.append(run, "planned", now, _plan_line(run, plan), sha256=sha)
    )
    return plan


def _plan_line(run: RunDir, plan: Plan) -> str:
    return (
        f"Running {plan.model}: {','.join(plan.stages)}, {plan.repeats} repeats "
        f"on commit {plan.calibration_git_sha}, run-dir {run.path}"
    )


def _launch(
    project: Project, prepare: Callable[[RunDir, datetime], Plan], make: Callable[[datetime], RunDir]
) -> RunReply:
    """Take the host, end what a dead run left on it, make or reopen the directory, hand both locks to a supervisor."""
    host = take_host(project)
    try:
        _nothing_else_active(project)
        recover(suspects(project))
        now = utc_now()
        run = make(now)
        host_lock.describe(host, host_lock.Holder(run.run_id, str(run.path), str(project.repo_root)))
        lock = FileLock.take(run.supervisor_lock, {"run_id": run.run_id})
        if lock is None:
            raise _active(run)
        try:
            with settling.applying_alone(project):
                plan = _prepared(run, prepare, now)
            run.stop_request.unlink(missing_ok=True)
            _record(run, RunState.PRECHECKING, now)
            try:
                launch.start(run.path, lock, host)
            except Exception as error:
                _record(run, RunState.FAILED, now, f"the supervisor could not be started: {error}")
                raise
        finally:
            lock.release()
    finally:
        host.release()
    root = project.repo_root
    return RunReply(
        run_id=run.run_id,
        run_dir=str(run.path),
        commit=plan.calibration_git_sha,
        dirty=plan.dirty,
        model=plan.model,
        stages=plan.stages,
        repeats=plan.repeats,
        plan_line=_plan_line(run, plan),
        state=str(RunState.PRECHECKING),
        watch_command=f"tune-mcp watch {run.run_id} --repo {root}",
        tail_command=f"tune-mcp tail {run.run_id} --repo {root}",
        next=f"tell the user the plan line and both commands, then poll status with run_id={run.run_id} and wait_s=45",
    )


def _nothing_else_active(project: Project) -> None:
    """The host's lock is not the only word: somebody may have deleted its file under a run (GPU-14)."""
    for run in run_dir.list_runs(project.repo_root):
        now = state.conclude(run)
        if now.active and now.record and now.record.owner and state.lives(now.record.owner):
            raise _active(run)


def _prepared(run: RunDir, prepare: Callable[[RunDir, datetime], Plan], now: datetime) -> Plan:
    """The plan on disk; a directory that did not get one is taken away again, so that a refusal leaves nothing."""
    try:
        return prepare(run, now)
    except BaseException:
        if not run.plan.exists():
            shutil.rmtree(run.path)
        raise


def _record(run: RunDir, now_state: RunState, now: datetime, reason: str = "") -> None:
    """The record on behalf of a supervisor that does not run yet; only ever written while its lock is held."""
    record = SupervisorRecord(state=now_state, reason=reason, heartbeat_at=now.timestamp())
    write_json(run.supervisor, record.model_dump(mode="json"))


def _active(run: RunDir) -> Refusal:
    return Refusal(
        Code.RUN_ACTIVE,
        ("GPU-14", "SES-04"),
        f"{run.run_id} is {state.conclude(run).state}",
        f"poll status with run_id={run.run_id}",
        {"run_id": run.run_id},
    )


def resume_run(project: Project, run_id: str, purge: Sequence[PurgeItem] = (), person: str | None = None) -> RunReply:
    """Go on with the same run on the same commit, or on one that is proven to measure the same (contract, tool 5).

    ``person`` says who agreed to replace the strict repeats among ``purge``, None when nobody did.

    Raises UNKNOWN_RUN, PLAN_TAMPERED, COMMIT_MOVED, RUN_ACTIVE, HOST_BUSY, STAGES_CHANGED, REPEAT_IS_STRICT,
    REPEAT_ACTIVE, UNKNOWN_STAGE, INVALID_ARGUMENT, INVALID_CONFIG, HALT_UNRESOLVED, FOREIGN_ARTIFACT (a run of the
    older script). Refuses before it writes anything. The configuration is that of the place which the plan recorded.
    """
    run = project.run(run_id)
    plan = project.plan(run)
    demand_ours(project, plan)
    demand_here(project, plan)
    now = state.conclude(run)
    if now.active:
        raise _busy_repeat(run, now, purge) or _active(run)
    named = project.options.config
    project = config_place.of_run(project, plan)
    settling.settle(project)
    git = provenance.read(project.repo_root)
    proven = _same_measurement(project, plan, git)
    audited = audit(run, plan)
    items = asked_for(plan, audited, purge)
    new = planning.amended(project, plan, _strict_tests(audited), git, proven)
    items = _complete(run, new, items)
    demand_person(items, person)
    open_repeats = _open(plan, audited)
    otherwise = planning.launched_otherwise(plan, new.settings)
    again = rereading.look(run, new, (one for one in open_repeats if one not in items and one[0] not in otherwise))
    halted.fixed(run, plan, new, items, again)

    def prepare(run: RunDir, moment: datetime) -> Plan:
        for item in items.values():
            keys = [stage.key for stage in plan.tests()[item.test]]
            who = person if item.strict and person else "resume_run"
            take_out(run, item.test, keys, item.repeat, who=who, reason=item.reason, now=moment, replaced=item.strict)
        if new != plan:
            text = "catalogue, files or commit taken from the present tree"
            plans.amend(run, new, write_atomic, lambda sha: events.append(run, "planned", moment, text, sha256=sha))
        if proven:
            events.append(run, "equivalent", moment, proven.sentence(), git_sha=proven.git_sha)
        rereading.count(run, new, again.counted, "resume_run", moment)
        events.append(run, "resumed", moment, f"{_plan_line(run, new)} (resumed)")
        return new

    reply = _launch(project, prepare, lambda _: run)
    every = {(test, repeat) for test in new.tests() for repeat in range(1, new.repeats + 1)}
    return reply.model_copy(
        update={
            "equivalence": proven.sentence() if proven else None,
            "kept": _by_test(every - open_repeats - items.keys()),
            "read_again": _by_test(again.counted),
            "measured_again": _by_test((open_repeats | items.keys()) - again.counted.keys()),
            "notes": () if named == project.options.config else (f"configuration: {plan.config_dir}, as planned",),
        }
    )


def _strict_tests(audited: Audit) -> frozenset[str]:
    return frozenset(
        stage.stage.test_key for stage in audited.stages for cell in stage.cells if cell.cell is Cell.STRICT
    )


def _complete(run: RunDir, plan: Plan, items: dict[Repeat, Purge]) -> dict[Repeat, Purge]:
    """A repeat that its sealed files show to be complete is dropped like a strict one: on a person's word only."""
    found = rereading.look(run, plan, [key for key, item in items.items() if not item.strict]).counted
    return {key: replace(item, strict=True) if key in found else item for key, item in items.items()}


def _open(plan: Plan, audited: Audit) -> set[rereading.Repeat]:
    """The repeats that do not count: one stage of theirs is not strict."""
    return {
        (stage.stage.test_key, repeat)
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
        if cell.cell is not Cell.STRICT
    }


def _by_test(repeats: Iterable[rereading.Repeat]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for test, repeat in sorted(repeats):
        found.setdefault(test, []).append(repeat)
    return found


def replacing(project: Project, run_id: str, purge: Sequence[PurgeItem]) -> dict[Repeat, str]:
    """The question for every strict repeat that ``purge`` names, when resume_run could go on now (ASK-11).

    Empty where there is nothing to ask a person. Raises what resume_run raises before it looks at the repeats.
    """
    run = project.run(run_id)
    plan = project.plan(run)
    demand_ours(project, plan)
    now = state.conclude(run)
    if now.active:
        raise _busy_repeat(run, now, purge) or _active(run)
    audited = audit(run, plan)
    items = asked_for(plan, audited, purge)
    if items:
        project = config_place.of_run(project, plan)
        git = provenance.read(project.repo_root)
        proven = _same_measurement(project, plan, git)
        items = _complete(run, planning.amended(project, plan, _strict_tests(audited), git, proven), items)
    return {one.key: question(plan, audited, one) for one in items.values() if one.strict}


def _same_measurement(project: Project, plan: Plan, git: provenance.GitState) -> Equivalence | None:
    """None on the calibrated commit, the proof on another one. Raises COMMIT_MOVED (RES-02)."""
    tree = planning.present_tree(project, project.run(plan.run_id), plan)
    if git.head != plan.calibration_git_sha:
        try:
            return equivalence.prove(project.repo_root, plan, git, utc_now(), tree)
        except equivalence.NotEquivalent as why:
            raise equivalence.refusal(plan, git.head, why) from why
    if moved := drift.dirt_moved(git, tree):
        tracked = [name for name, digest in git.changed.items() if tree.changed.get(name) != digest]
        out = drift.way_out(tracked, [name for name in git.untracked if name not in tree.untracked], tree)
        raise Refusal(
            Code.COMMIT_MOVED,
            ("SES-11", "RES-02"),
            f"the tree is not the one that {plan.run_id} measures: {'; '.join(moved[:4])}",
            f"{f'{out}, then call resume_run; or ' if out else ''}put these files back, or stop_run this run and start "
            "a new one",
            {"moved": list(moved[:50])},
        )
    return None


def _busy_repeat(run: RunDir, now: state.Conclusion, purge: Sequence[PurgeItem]) -> Refusal | None:
    current = now.record.current if now.record else None
    if not purge or current is None or all(item.repeat != current.repeat for item in purge):
        return None
    return Refusal(
        Code.REPEAT_ACTIVE,
        "GAP-11",
        f"{current.test} run {current.repeat} is being measured now",
        f"stop_run {run.run_id} first, or wait",
        {"test": current.test, "repeat": current.repeat},
    )


def stop_run(project: Project, run_id: str, reason: str, sleep: Callable[[float], None] = time.sleep) -> StopReply:
    """Stop gracefully and keep what is complete (contract, tool 6). A stopped run can be resumed.

    A halted, exhausted or lost run is given up: that is the person's word that a fresh run may follow (HLT-03). What a
    lost run left alive is ended first; HOST_BUSY when it cannot be.
    """
    if not reason.strip():
        raise Refusal(Code.INVALID_ARGUMENT, "GPU-20", "stop_run needs a reason", "say why, in a few words")
    run = project.run(run_id)
    plan = project.plan(run)
    demand_ours(project, plan)
    now = state.conclude(run)
    halt = halted.standing(run)
    if now.active:
        write_json(run.stop_request, {"schema_version": 1, "reason": reason, "asked_at": run_dir.iso(utc_now())})
        end = time.monotonic() + STOP_WAIT_S
        while (now := state.conclude(run)).active and time.monotonic() < end:
            sleep(_LOOK_EVERY_S)
    elif now.state in (RunState.HALTED, RunState.EXHAUSTED, RunState.LOST) or (halt and not halt.given_up):
        recover([run])
        _give_up(run, reason)
        now = state.conclude(run)
    audited = audit(run, plan)
    return StopReply(
        run_id=run_id,
        state=str(now.state),
        strict_ready=f"{audited.ready_stages}/{len(audited.stages)}",
        kept_cells=audited.counts[Cell.STRICT],
        reason=reason,
        next=f"poll status with run_id={run_id}: pytest is still tearing down"
        if now.active
        else f"start_run makes a new one, resume_run {run_id} goes on from here"
        + (" once its cause is fixed" if halt else ""),
    )


def _give_up(run: RunDir, reason: str) -> None:
    lock = FileLock.take(run.supervisor_lock, {"run_id": run.run_id})
    if lock is None:
        raise _active(run)
    try:
        now = utc_now()
        _record(run, RunState.STOPPED, now, f"given up: {reason}")
        events.append(run, "stopped", now, f"given up: {reason}")
    finally:
        lock.release()
