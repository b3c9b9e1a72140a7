"""Hand the machine to a supervisor: what ``start_run`` and ``resume_run`` have in common."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from datetime import datetime

from tune_mcp import run_dir
from tune_mcp.actions import Step, ToClient, call
from tune_mcp.contract.start_run import RunReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import state
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import RunState, SupervisorRecord
from tune_mcp.supervise import host_lock, launcher, neighbours
from tune_mcp.verbs import apply_recovery
from tune_mcp.verbs.machine import recover, suspects, take_host
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.share import Share
from tune_mcp.words import number_of


def plan_line(run: RunDir, plan: Plan) -> str:
    """State model, stages, repeats, commit and directory in one line (ASK-10)."""
    return (
        f"Running {plan.model}: {','.join(plan.stages)}, {number_of(plan.repeats, 'repeat')} "
        f"on commit {plan.calibration_git_sha}, run-dir {run.path}"
    )


def launched(
    project: Project,
    share: Share,
    prepare: Callable[[RunDir, datetime], Plan],
    make: Callable[[datetime], RunDir],
) -> RunReply:
    """Take the host or lanes of it, end what a dead run left, make or reopen the directory, start a supervisor."""
    host = take_host(project, share=share)
    try:
        _nothing_else_active(project, share)
        recover(suspects(project))
        now = utc_now()
        run = make(now)
        host.describe(host_lock.LockHolder(run.run_id, str(run.path), str(project.repo_root)))
        lock = FileLock.take(run.supervisor_lock, {"run_id": run.run_id})
        if lock is None:
            raise active(run)
        try:
            with apply_recovery.applying_alone(project):
                plan = _prepared(run, prepare, now)
            run.stop_request.unlink(missing_ok=True)
            record(run, RunState.PRECHECKING, now)
            try:
                launcher.start(run.path, lock, host)
            except Exception as error:
                record(run, RunState.FAILED, now, f"the supervisor could not be started: {error}")
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
        plan_line=plan_line(run, plan),
        state=str(RunState.PRECHECKING),
        watch_command=f"tune-mcp watch {run.run_id} --repo {shlex.quote(str(root))}",
        tail_command=f"tune-mcp tail {run.run_id} --repo {shlex.quote(str(root))}",
        next=Step(
            ToClient("tell the user the plan line and both commands, then "),
            call("status", run_id=run.run_id, wait_s=45),
        ),
    )


def _nothing_else_active(project: Project, share: Share) -> None:
    """The host's lock is not the only word: somebody may have deleted its file under a run (GPU-14)."""
    if share.elsewhere:
        return
    beside = {one.pid for one in neighbours.measuring() if one.on_lanes and share.on_lanes}
    for run in run_dir.list_runs(project.repo_root):
        now = state.conclude(run)
        owner = now.record.owner if now.active and now.record else None
        if owner and owner.pid not in beside and state.lives(owner) and not neighbours.elsewhere(owner.pid):
            raise active(run)


def _prepared(run: RunDir, prepare: Callable[[RunDir, datetime], Plan], now: datetime) -> Plan:
    """The plan on disk; a directory that did not get one is taken away again, so that a refusal leaves nothing."""
    try:
        return prepare(run, now)
    except BaseException:
        if not run.plan.exists():
            shutil.rmtree(run.path)
        raise


def record(run: RunDir, now_state: RunState, now: datetime, reason: str = "") -> None:
    """The record on behalf of a supervisor that does not run yet; only ever written while its lock is held."""
    SupervisorRecord(state=now_state, reason=reason, heartbeat_at=now.timestamp()).to_file(run.supervisor)


def active(run: RunDir) -> Refusal:
    """RUN_ACTIVE for a run that works already."""
    return Refusal(
        Code.RUN_ACTIVE,
        ("GPU-14", "SES-04"),
        f"{run.run_id} is {state.conclude(run).state}",
        Step(call("status", run_id=run.run_id, wait_s=45)),
        {"run_id": run.run_id},
    )
