"""``precheck``: is this machine ready for these stages?"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tune_mcp.calibration import recovering
from tune_mcp.calibration.project import Project, hostname, select
from tune_mcp.contract.precheck import Check, PrecheckReply
from tune_mcp.discover.aliases import expand
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock
from tune_mcp.gpus import GpuReader, accepting, read_gpus
from tune_mcp.precheck import comparable
from tune_mcp.precheck.gates import Precheck, Probes
from tune_mcp.precheck.gates import precheck as look
from tune_mcp.precheck.imports import Imports
from tune_mcp.precheck.subject import Subject
from tune_mcp.precheck.venv import read_venv
from tune_mcp.run_dir import RunDir, iso, utc_now
from tune_mcp.session import state
from tune_mcp.supervise import environment, host_lock, neighbours

_LEAVING_S = 5.0
_LOOK_EVERY_S = 0.02


def precheck(project: Project, model: str, stages: Sequence[str] = ("ALL",)) -> PrecheckReply:
    """All gaps at once; changes and kills nothing (contract, tool 3). Raises UNKNOWN_MODEL, UNKNOWN_STAGE."""
    config = project.places.model(model)
    table = project.places.stages(model)
    keys = expand(stages, table)
    subject = project.subject(config, select(table, keys))
    lock = _lock(project)
    load = environment.as_launched(project.env) if lock.status in ("ok", "warn") else _undisturbed
    accept = project.host is not None and project.host.gpu_memory_unknown == "accept"
    answer = look(subject, Probes(accepting(read_gpus, accept), read_venv, load), iso(utc_now()))
    checks = (*_host(project), lock, *answer.checks)
    found = answer.model_copy(update={"checks": checks})
    return PrecheckReply(
        model=model,
        stages=keys,
        ok=found.ok,
        checks=_blocking_first(found),
        versions=found.versions,
        gpu_summary=found.gpu_summary,
        next=f"call start_run with model={model}"
        if found.ok
        else f"fix {found.blocking()[0].id}, then call precheck again",
    )


def _undisturbed(subject: Subject, seconds: float) -> Imports:
    """Loading torch takes half a minute of CPU, which a measurement that goes on here would feel."""
    return Imports(untried="another run is measuring on this machine")


def _blocking_first(found: Precheck) -> tuple[Check, ...]:
    blocking = found.blocking()
    return (*blocking, *(check for check in found.checks if check not in blocking))


def _host(project: Project) -> tuple[Check, ...]:
    if project.host is None:
        names = ", ".join(project.places.host_names())
        detail = f"none is for {hostname()} (there are: {names}); the model's defaults count"
        return (Check(id="host.profile", status="ok", detail=detail),)
    return (Check(id="host.profile", status="ok", detail=f"{project.host.name} ({project.host_source})"),)


def _lock(project: Project) -> Check:
    try:
        holder = host_lock.current()
    except OSError as error:
        return Check(id="host.free", status="unknown", detail=f"the host lock cannot be read: {error}")
    if holder is None and (living := recovering.told(recovering.suspects(project))):
        return Check(id="host.free", status="warn", detail=living)
    if holder is None and (others := neighbours.measuring()):
        if busy := neighbours.under(host_lock.lock_folder(), others):
            detail = f"another run is measuring here, although nobody holds the lock: {busy[0]}"
            fix = f"tune-mcp stop {shlex.quote(Path(busy[0].run_dir).name)}" if busy[0].run_dir else "wait for its end"
            return Check(id="host.free", status="busy", detail=detail, fix=fix)
        detail = f"measuring here too, under another lock folder: {', '.join(map(str, others[:5]))}"
        return Check(id="host.free", status="warn", detail=detail)
    if holder is None:
        return Check(id="host.free", status="ok", detail="no other run on this machine")
    return Check(
        id="host.free",
        status="busy",
        detail=f"{holder.run_id} of {holder.repo_root} is measuring here",
        fix=f"tune-mcp status {holder.run_id} --repo {holder.repo_root}",
    )


def comparable_or_refuse(subject: Subject, read: GpuReader) -> None:
    """Raises HOST_NOT_COMPARABLE for GPUs of another model; CUDA shows only in the run's own precheck (SCP-01).

    NVML is asked only where the model says which GPUs its CI has.
    """
    if not subject.needs.ci_machine.gpu:
        return
    reading = read()
    for check in comparable.gpu_model(subject, reading):
        if check.status == "mismatch":
            raise Refusal(
                Code.HOST_NOT_COMPARABLE,
                ("SCP-01", "SCP-02"),
                f"numbers from this machine are not comparable: {check.detail}",
                check.fix,
                {"expected": subject.needs.ci_machine.gpu, "found": [gpu.name for gpu in reading.gpus]},
            )


def take_host(project: Project, sleep: Callable[[float], None] = time.sleep) -> FileLock:
    """The host lock. Raises RUN_ACTIVE or HOST_BUSY.

    A holder that has not named itself yet, or has written its end already, is given a moment.
    """
    end = time.monotonic() + _LEAVING_S
    while isinstance(host := host_lock.take(host_lock.Holder("?", "?", str(project.repo_root))), host_lock.Holder):
        if not (host.repo_root == "?" or _is_leaving(host)) or time.monotonic() >= end:
            raise _busy(project, host)
        sleep(_LOOK_EVERY_S)
    if others := neighbours.under(host_lock.lock_folder(), neighbours.measuring()):
        host.release()
        raise Refusal(
            Code.RUN_ACTIVE if _of_this(project, others[0]) else Code.HOST_BUSY,
            ("GPU-14", "STR-18"),
            f"another run is measuring on this machine, although nobody holds its lock: {others[0]}",
            "wait until it has ended, or stop_run it",
            {"neighbours": [{"pid": one.pid, "run_dir": one.run_dir} for one in others]},
        )
    return host


def _of_this(project: Project, other: neighbours.Neighbour) -> bool:
    return other.run_dir is not None and Path(other.run_dir).is_relative_to(project.repo_root)


def _is_leaving(holder: host_lock.Holder) -> bool:
    """Whether its run came to rest by itself; what a dead supervisor left behind may last."""
    if holder.run_dir == "?":
        return False
    now = state.conclude(RunDir(Path(holder.run_dir))).state
    return now.at_rest and now is not state.RunState.LOST


def _busy(project: Project, holder: host_lock.Holder) -> Refusal:
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
        f"{holder.run_id}{doing} of {holder.repo_root} is measuring on this machine",
        f"call status with run_id={holder.run_id}"
        if ours
        else "wait until it is done, or stop it where it was started",
        {"run_id": holder.run_id, "run_dir": holder.run_dir, "repo_root": holder.repo_root},
    )
