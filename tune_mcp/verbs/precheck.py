"""``precheck``: is this machine ready for these stages?"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from tune_mcp.actions import Step, call
from tune_mcp.contract.precheck import Check, PrecheckReply, check
from tune_mcp.discover.aliases import expand
from tune_mcp.files import is_locked
from tune_mcp.gpus import accepting, read_gpus
from tune_mcp.precheck.gates import Precheck, Probes, ordered
from tune_mcp.precheck.gates import precheck as all_checks
from tune_mcp.precheck.imports import Imports
from tune_mcp.precheck.subject import Subject, quoted
from tune_mcp.precheck.venv import read_venv
from tune_mcp.run_dir import iso, utc_now
from tune_mcp.supervise import host_lock, launch_variables, neighbours
from tune_mcp.verbs import machine, share
from tune_mcp.verbs.project import Project, hostname


def precheck(project: Project, model: str, stages: Sequence[str] = ("ALL",)) -> PrecheckReply:
    """All failed checks at once; changes and kills nothing. Raises UNKNOWN_MODEL, UNKNOWN_STAGE."""
    config = project.places.model(model)
    table = project.places.stages(model)
    keys = expand(stages, table)
    subject = project.subject(config, tuple(table[key] for key in keys))
    lock = _lock(project)
    load = launch_variables.as_launched(project.env) if lock.status in ("ok", "warn") else _undisturbed
    if subject.slurm:
        lock = check("host.free", "ok", "not asked: Slurm places every launch")
    probes = Probes(accepting(read_gpus, project.accepts_unknown_gpus), read_venv, load)
    answer = all_checks(subject, probes, iso(utc_now()))
    found = answer.model_copy(update={"checks": ordered((_host(project), lock, *answer.checks))})
    return PrecheckReply(
        model=model,
        stages=keys,
        ok=found.ok,
        checks=found.checks,
        versions=found.versions,
        gpu_summary=found.gpu_summary,
        next=_next_step(model, found),
    )


def _next_step(model: str, found: Precheck) -> Step:
    if found.ok:
        return Step(call("start_run", model=model))
    first, again = found.blocking()[0].id, Step(", then ", call("precheck", model=model), " again")
    if first in ("stages.fresh", "stages.config"):
        return Step(call("discover", model=model), ", do what it says", again)
    return Step(f"fix {first}", again)


def _undisturbed(subject: Subject, seconds: float) -> Imports:
    """Loading torch takes half a minute of CPU, which a measurement that goes on here would feel."""
    again = f"when it has ended: tune-mcp precheck {subject.model} --repo {quoted(subject.repo_root)}"
    return Imports(untried="another run is measuring on this machine", retry=again)


def _host(project: Project) -> Check:
    if project.host is None:
        names = ", ".join(project.places.host_names())
        detail = f"none is for {hostname()} (there are: {names}); the model's defaults count"
    else:
        detail = f"{project.host.name} ({project.host_source})"
    return check("host.profile", "ok", detail)


def _lock(project: Project) -> Check:
    try:
        holder = host_lock.current()
    except OSError as error:
        return check("host.free", "unknown", f"the host lock cannot be read: {error}")
    free = share.free(project.placement) if project.placement.lanes else ()
    if holder is not None and free and not is_locked(host_lock.lock_path()):
        detail = f"{holder.run_id} of {holder.repo_root} measures on other lanes; free: {', '.join(free)}"
        return check("host.free", "ok", detail)
    if holder is None and (living := machine.left_alive(machine.suspects(project))):
        return check("host.free", "warn", living)
    if holder is None and (others := neighbours.measuring()):
        if busy := neighbours.under(host_lock.lock_folder(), others):
            detail = f"another run is measuring here, although nobody holds the lock: {busy[0]}"
            fix = f"tune-mcp stop {shlex.quote(Path(busy[0].run_dir).name)}" if busy[0].run_dir else "wait for its end"
            return check("host.free", "busy", detail, fix=fix)
        detail = f"measuring here too, under another lock folder: {', '.join(map(str, others[:5]))}"
        return check("host.free", "warn", detail)
    if holder is None:
        return check("host.free", "ok", "no other run on this machine")
    detail = f"{holder.run_id} of {holder.repo_root} is measuring here"
    fix = f"tune-mcp status {holder.run_id} --repo {shlex.quote(holder.repo_root)}"
    return check("host.free", "busy", detail, fix)
