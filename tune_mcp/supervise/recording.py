"""What a repeat leaves on record: the history of its attempts, and run{k}.json of every stage that its pytest fed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import dump_json, parse_json, read_plain, sha256_bytes, write_atomic
from tune_mcp.observe.observation import Attempt, AttemptVerdict, Counts, Observation
from tune_mcp.observe.result_files import named_by
from tune_mcp.run_dir import RunDir, iso
from tune_mcp.session import events
from tune_mcp.supervise import comparing
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.supervise.verdict import Again, Keep, Stop, Verdict

COPIES = "recorded"
"""Folder in the attempt's own: what was recorded of it, by stage key."""
_OF_THE_WRITING = {"recorded_at", "attempts", "history"}


def attempt_made(job: Job, result: AttemptResult, verdict: Verdict) -> Attempt:
    """One attempt in the repeat's history."""
    match verdict:
        case Keep(reason):
            became = AttemptVerdict.KEPT
        case Again(reason, became):
            pass
        case Stop(halt):
            became, reason = AttemptVerdict.HALTED, halt.message
    return Attempt(
        attempt=job.attempt,
        verdict=became,
        reason=reason,
        pytest_rc=result.pytest_rc,
        started_at=result.started_at,
        ended_at=result.ended_at,
        duration_s=result.duration_s,
        log=_relative(job.run, job.run.log(job.test_key, job.repeat)),
        log_sha256=result.log_sha256,
        lane="" if job.any_host else job.lane,
        slowed_by=result.slowed_by,
        foreign_cores=result.quiet.foreign_cores if result.quiet else None,
        host=result.environment.hostname if result.environment else "",
        fingerprint=comparing.fingerprint_of(job.run, result.environment) if result.environment else "",
        incomparable=result.incomparable,
    )


def record(
    job: Job,
    result: AttemptResult,
    status: str,
    reason: str,
    history: tuple[Attempt, ...],
    now: datetime,
    home: Path | None = None,
) -> None:
    """Write run{k}.json of every fed stage, each with its digest in the ledger first (MET-05, STR-14).

    The attempt's folder keeps a copy of each. An observation of the same attempt that is on the ledger already and
    is the same is written from its copy, byte for byte, and stays on the ledger as it is: once, however often a
    crash or a lost artifact has it written again. ``home`` is the folder of the attempt's log and basetemp where they
    do not lie at their usual place.
    """
    run, known = job.run, events.ledger(job.run).observations
    home = home or run.test_folder(job.test_key)
    evidence = result.evidence_sha256
    for stage in job.stages:
        found = result.stages.get(stage.key)
        observation = Observation.model_validate(
            {
                "status": status,
                "reason": reason,
                "metrics": found.metrics if found else dict.fromkeys(stage.metrics),
                "sample_counts": Counts(total=found.total, ok=found.ok) if found else Counts(),
                "duration_s": result.duration_s,
                "attempts": len(history),
                "git_sha": job.tree.git_sha,
                "recorded_at": iso(now),
                "pytest_rc": result.pytest_rc,
                "pytest_log": _relative(run, home / run.log(job.test_key, job.repeat).name),
                "basetemp": _relative(run, home / run.basetemp(job.test_key, job.repeat).name),
                "run_id": run.run_id,
                "environment_sha256": sha256_bytes(read_plain(run.environment)) if run.environment.exists() else None,
                "evidence_sha256": {name: evidence[name] for name in named_by([stage]) if name in evidence},
                "history": history,
            }
        )
        copy = job.folder / COPIES / f"{stage.key}.json"
        standing = known.get((stage.key, job.repeat))
        data = _standing(copy, standing, observation) or dump_json(observation.model_dump(mode="json"))
        if (sha := sha256_bytes(data)) != standing:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, data, durable=False)  # without it the observation is recorded anew, under another digest
            what = f"{stage.key} run {job.repeat}"
            facts: dict[str, Json] = {"stage": stage.key, "repeat": job.repeat}
            if standing:
                events.append(run, "withdrawn", now, f"{what}: another observation replaces it", **facts)
            events.append(run, "recorded", now, what, sha256=sha, **facts)
        path = run.observation(stage.key, job.repeat)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, data)


def _standing(copy: Path, sha: str | None, now: Observation) -> bytes | None:
    """The bytes that the ledger knows by ``sha``, where they say the same as ``now`` but for when it was written."""
    try:
        data = read_plain(copy)
        kept = Observation.model_validate(parse_json(data))
    except (OSError, ValueError):
        return None
    same = kept.model_dump(exclude=_OF_THE_WRITING) == now.model_dump(exclude=_OF_THE_WRITING)
    return data if same and sha256_bytes(data) == sha else None


def _relative(run: RunDir, path: Path) -> str:
    return str(path.relative_to(run.path))
