"""``stop_run``: end a measurement, or give a halted run up."""

from __future__ import annotations

import time

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.contract.stop_run import StopReply
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock, write_json
from tune_mcp.observe.audit import audit
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events, state
from tune_mcp.session.state import RunState
from tune_mcp.verbs import halts
from tune_mcp.verbs.gates import demand_ours
from tune_mcp.verbs.handover import active, record
from tune_mcp.verbs.machine import recover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import next_step

STOP_WAIT_S = 40.0
_LOOK_EVERY_S = 0.2


def stop_run(project: Project, run_id: str, reason: str) -> StopReply:
    """Stop gracefully and keep what is complete. A stopped run can be resumed.

    A halted, exhausted or lost run is given up: so a person allows a fresh run (HLT-03). What a
    lost run left alive is ended first; HOST_BUSY when it cannot be.
    """
    if not reason.strip():
        raise Refusal(Code.INVALID_ARGUMENT, "GPU-20", "a stop needs a reason", "say why, in a few words")
    run = project.run(run_id)
    plan = project.plan(run)
    demand_ours(project, plan)
    now = state.conclude(run)
    halt = halts.standing(run)
    if now.active:
        write_json(run.stop_request, {"schema_version": 1, "reason": reason, "asked_at": run_dir.iso(utc_now())})
        end = time.monotonic() + STOP_WAIT_S
        while (now := state.conclude(run)).active and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
    elif now.state in (RunState.HALTED, RunState.EXHAUSTED, RunState.LOST) or (halt and not halt.given_up):
        recover([run])
        if plan.settings.slurm:
            from tune_mcp.supervise.executor.slurm import take_back

            take_back(run)
        _give_up(run, reason)
        now = state.conclude(run)
    audited = audit(run, plan)
    ended_before = now.state is RunState.FINISHED
    return StopReply(
        run_id=run_id,
        state=str(now.state),
        strict_ready=f"{audited.ready_stages}/{len(audited.stages)}",
        kept_cells=audited.counts[Cell.STRICT],
        reason="there was nothing to stop" if ended_before else reason,
        next=Step(call("status", run_id=run_id, wait_s=45), ": pytest is still tearing down")
        if now.active
        else next_step(run, now, audited, tuple(events.read(run.events)))
        if ended_before
        else Step(
            call("resume_run", run_id=run_id),
            " to go on from here",
            " once its cause is fixed" if halt else "",
            ", or ",
            call("start_run", model=plan.model),
            " for a new one",
        ),
    )


def _give_up(run: RunDir, reason: str) -> None:
    lock = FileLock.take(run.supervisor_lock, {"run_id": run.run_id})
    if lock is None:
        raise active(run)
    try:
        now = utc_now()
        record(run, RunState.STOPPED, now, f"given up: {reason}")
        events.append(run, "stopped", now, f"given up: {reason}")
    finally:
        lock.release()
