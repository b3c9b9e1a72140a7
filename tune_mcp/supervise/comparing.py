"""Is this still the machine that the run measures on (SCP-01, SCP-02)?

``environment.json`` is fixed with the run's first strict repeat, its digest stands in the ledger. Every attempt is
compared with it before and after its pytest; the whole list of packages is read again only when their folders changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.files import dump_json, parse_json, read_plain, sha256_bytes, write_atomic
from tune_mcp.gpus import Gpu
from tune_mcp.observe.audit import audit
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.fingerprint import Environment, GpuIdentity
from tune_mcp.precheck.venv import packages_of
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.supervise import loaded
from tune_mcp.supervise.job import Job

_NEXT = "stop this run and start a new one here, or go on where it was measured"


def record_or_compare(run: RunDir, plan: Plan, found: Environment, now: datetime) -> None:
    """Record the machine, or compare it with the one on record once something strict was measured there.

    Raises HOST_NOT_COMPARABLE.
    """
    ledger = events.ledger(run)
    if audit(run, plan, ledger).counts[Cell.STRICT]:
        kept = recorded_machine(run)
        if kept is None:
            raise _refusal(
                "environment.json is gone, or is not what the supervisor wrote, and events.jsonl does not hold it",
                "put the file back as it was, or stop this run and start a new one",
            )
        if other := fingerprint.differences(kept, found, any_host=plan.settings.slurm is not None):
            raise _refusal("; ".join(other))
        if not loaded.restored(run):
            raise _refusal("loaded.json is gone, or is not what the supervisor wrote")
        return
    run.loaded.unlink(missing_ok=True)
    machine = found.model_dump(mode="json")
    data = dump_json(machine)
    facts = {"sha256": sha256_bytes(data), "fingerprint": fingerprint.fingerprint(found), "machine": machine}
    events.append(run, "environment", now, "the machine is on record", **facts)
    write_atomic(run.environment, data)


def recorded_machine(run: RunDir) -> Environment | None:
    """The machine on record; None when there is none or it cannot be read.

    A file that is gone, or is not the one on the ledger, is written again from there.
    """
    lines = [event.facts for event in events.read(run.events, "environment")]
    recorded = lines[-1] if lines else dict[str, Json]()
    data = b""
    with suppress(OSError):
        data = read_plain(run.environment)
    try:
        if recorded and sha256_bytes(data) != recorded.get("sha256"):
            data = dump_json(recorded.get("machine"))
            if sha256_bytes(data) != recorded.get("sha256"):
                return None
            write_atomic(run.environment, data)
        return Environment.model_validate(parse_json(data))
    except (OSError, ValueError):
        return None


def fingerprint_of(run: RunDir, machine: Environment) -> str:
    """The fingerprint of the host of one attempt: the run's, unless the machine is of another kind."""
    kept = recorded_machine(run)
    same = kept is not None and not fingerprint.differences(kept, machine, any_host=True)
    return fingerprint.fingerprint(kept if kept and same else machine)


def recorded_variables(run: RunDir, caller: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables, but search path, language and time zone those of the shell that started the run."""
    kept = recorded_machine(run)
    if kept is None or not kept.carried_env:
        return {**caller}
    return {name: value for name, value in caller.items() if not fingerprint.is_carried(name)} | kept.carried_env


def machine_now(job: Job, gpus: tuple[Gpu, ...] = ()) -> tuple[Environment | None, str]:
    """The machine now, with the GPUs of this attempt, and how it differs from the one on record ("": it does not)."""
    kept, python = recorded_machine(job.run), Path(job.venv_python)
    if kept is None:
        return None, "environment.json cannot be read"
    now = fingerprint.reread_machine(kept, python, lambda: packages_of(python))
    now = now.model_copy(update={"gpus": tuple(map(GpuIdentity.of, gpus))})
    return now, "; ".join(fingerprint.differences(kept, now, any_host=job.any_host))


def _refusal(what: str, step: str = _NEXT) -> Refusal:
    return Refusal(
        Code.HOST_NOT_COMPARABLE,
        ("SCP-02", "SCP-01"),
        f"numbers from here are not comparable with those of this run: {what}",
        step,
    )
