"""This machine before a run: its lock, whether its numbers count, and what a dead run left alive on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.errors import Code, Refusal
from tune_mcp.gpus import GpuReader
from tune_mcp.precheck import hardware
from tune_mcp.precheck.subject import Subject
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events, state
from tune_mcp.supervise import host_lock, neighbours
from tune_mcp.supervise.host_lock import HostClaim
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.share import WHOLE_MACHINE, Share


def suspects(project: Project) -> list[RunDir]:
    """The runs that measured last on this machine, of whatever repository, and all of this one's."""
    found = [RunDir(last) for last in host_lock.last() if last.is_dir()]
    return [*found, *(run for run in run_dir.list_runs(project.repo_root) if run not in found)]


def recover(runs: Iterable[RunDir]) -> None:
    """End what dead runs left alive, then empty their TMPDIRs; each run's record names them (GPU-20, GPU-16).

    Raises HOST_BUSY when a process outlives even SIGKILL: nothing is measured beside it.
    """
    import logging

    from tune_mcp.supervise import leftovers, scratch  # the process table: nothing that a mere reader waits for

    runs = list(runs)
    warn = logging.getLogger(__name__).warning
    any_living = bool(leftovers.living(runs))
    for run in runs:
        ended = leftovers.end([run], warn) if any_living else leftovers.Ended((), ())
        if not ended.left and state.liveness(run) is state.Liveness.FREE:
            for problem in scratch.sweep(run):
                warn(problem)
        if not ended.found:
            continue
        names = "; ".join(ended.found[:5])
        events.append(run, "recovered", utc_now(), f"{len(ended.found)} process(es) of the dead run ended: {names}")
        if ended.left:
            raise Refusal(
                Code.HOST_BUSY,
                ("GPU-20", "GPU-16"),
                f"{len(ended.left)} process(es) of {run.run_id} outlive SIGKILL: {'; '.join(ended.left[:5])}",
                "they hang in the kernel: restart the machine or its container, then try again",
                {"run_id": run.run_id, "processes": list(ended.left)},
            )


def left_alive(runs: Iterable[RunDir]) -> str:
    """Name what dead runs left alive, in a sentence or two; empty when there is nothing."""
    from tune_mcp.supervise import leftovers
    from tune_mcp.supervise.processes import describe

    runs = list(runs)
    parts: list[str] = []
    if living := leftovers.living(runs):
        names = "; ".join(describe(process) for process in living[:5])
        parts.append(f"{len(living)} process(es) of a dead run live on ({names}): the next start ends them")
    if unproven := leftovers.unproven(runs):
        names = "; ".join(describe(process) for process in unproven[:5])
        parts.append(
            f"{len(unproven)} process(es) that a dead run wrote down live on without its mark ({names}): "
            "they are not ended by tune-mcp; end them yourself if they are its servers"
        )
    return ". ".join(parts)


_LEAVING_S = 5.0
_LOOK_EVERY_S = 0.02


def comparable_or_refuse(subject: Subject, read: GpuReader) -> None:
    """Raises HOST_NOT_COMPARABLE for GPUs of another model; CUDA shows only in the run's own precheck (SCP-01).

    NVML is asked only where the model says which GPUs its CI has.
    """
    if not subject.needs.ci_machine.gpu or subject.slurm:
        return
    reading = read()
    for check in hardware.gpu_model(subject, reading):
        if check.status == "mismatch":
            raise Refusal(
                Code.HOST_NOT_COMPARABLE,
                ("SCP-01", "SCP-02"),
                f"numbers from this machine are not comparable: {check.detail}",
                check.fix,
                {"expected": subject.needs.ci_machine.gpu, "found": [gpu.name for gpu in reading.gpus]},
            )


def take_host(project: Project, sleep: Callable[[float], None] = time.sleep, share: Share = WHOLE_MACHINE) -> HostClaim:
    """The host, or the lanes of it that a run wants. Raises RUN_ACTIVE or HOST_BUSY.

    A holder that has not named itself yet, or has written its end already, is given a moment.
    """
    end = time.monotonic() + _LEAVING_S
    while isinstance(host := share.take(host_lock.LockHolder("?", "?", str(project.repo_root))), host_lock.LockHolder):
        if not (host.repo_root == "?" or _is_leaving(host)) or time.monotonic() >= end:
            raise _busy(project, host, share)
        sleep(_LOOK_EVERY_S)
    if share.elsewhere:
        return host
    if others := neighbours.under(host_lock.lock_folder(), neighbours.measuring(), on_lanes=share.on_lanes):
        host.release()
        folder = others[0].run_dir
        ours = folder is not None and Path(folder).is_relative_to(project.repo_root)
        raise Refusal(
            Code.RUN_ACTIVE if ours else Code.HOST_BUSY,
            ("GPU-14", "STR-18"),
            f"another run is measuring on this machine, although nobody holds its lock: {others[0]}",
            "wait until it has ended, or stop it",
            {"neighbours": [{"pid": one.pid, "run_dir": one.run_dir} for one in others]},
        )
    return host


def _is_leaving(holder: host_lock.LockHolder) -> bool:
    """Whether its run came to rest by itself; what a dead supervisor left behind may last."""
    if holder.run_dir == "?":
        return False
    now = state.conclude(RunDir(Path(holder.run_dir))).state
    return now.at_rest and now is not state.RunState.LOST


def _busy(project: Project, holder: host_lock.LockHolder, share: Share) -> Refusal:
    """The refusal for a second run: RUN_ACTIVE in this repository, HOST_BUSY from another (GPU-14, STR-18)."""
    ours = holder.repo_root == str(project.repo_root)
    doing = ""
    if ours and holder.run_dir != "?":
        # Its directory may be so new that it has no plan yet, and then nothing can be said of it but its name.
        now = state.conclude(RunDir(Path(holder.run_dir)))
        doing = f" ({now.state})" if now.record else ""
    return Refusal(
        Code.RUN_ACTIVE if ours else Code.HOST_BUSY,
        ("GPU-14", "STR-18"),
        f"{holder.run_id}{doing} of {holder.repo_root} is measuring on this machine{share.left()}",
        Step(call("status", run_id=holder.run_id))
        if ours
        else "wait until it is done, or stop it where it was started",
        {"run_id": holder.run_id, "run_dir": holder.run_dir, "repo_root": holder.repo_root},
    )
