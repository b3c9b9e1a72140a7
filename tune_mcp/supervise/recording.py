"""What a repeat leaves on record: the history of its attempts, and run{k}.json of every stage that its pytest fed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tune_mcp.files import dump_json, read_plain, sha256_bytes, write_atomic
from tune_mcp.observe.observation import Attempt, Counts, Observation
from tune_mcp.observe.result_files import named_by
from tune_mcp.run_dir import RunDir, iso
from tune_mcp.session import events
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.supervise.retry import Again, Keep, Stop, Verdict


def attempt_made(
    job: Job, result: AttemptResult | None, verdict: Verdict, now: datetime, log: Path | None = None
) -> Attempt:
    """What the repeat's history says of one attempt; ``log`` where it does not lie at its usual place."""
    moment = iso(now)
    match verdict:
        case Keep(reason):
            name = "kept"
        case Again(reason):
            name = "retried" if verdict.charged else "not started"
        case Stop(halt):
            name, reason = "halted", halt.message
    return Attempt(
        attempt=job.attempt,
        verdict=name,
        reason=reason,
        pytest_rc=result.pytest_rc if result else None,
        started_at=result.started_at if result else moment,
        ended_at=result.ended_at if result else moment,
        duration_s=result.duration_s if result else 0.0,
        log=_relative(job.run, log or job.run.log(job.test_key, job.repeat)),
        log_sha256=result.log_sha256 if result else None,
        slowed_by=result.slowed_by if result else (),
    )


def record(
    run_id: str,
    job: Job,
    result: AttemptResult | None,
    status: str,
    reason: str,
    history: tuple[Attempt, ...],
    now: datetime,
    home: Path | None = None,
) -> None:
    """Write run{k}.json of every fed stage, each with its digest in the ledger first (MET-05, STR-14).

    ``home`` is the folder of the attempt's log and basetemp where they do not lie at their usual place.
    """
    run = job.run
    home = home or run.test_folder(job.test_key)
    evidence = result.evidence_sha256 if result else {}
    for stage in job.stages:
        found = result.stages.get(stage.key) if result else None
        observation = Observation.model_validate(
            {
                "status": status,
                "reason": reason,
                "metrics": found.metrics if found else dict.fromkeys(stage.metrics),
                "sample_counts": Counts(total=found.total, ok=found.ok) if found else Counts(),
                "duration_s": result.duration_s if result else 0.0,
                "attempts": len(history),
                "git_sha": job.tree.git_sha,
                "recorded_at": iso(now),
                "pytest_rc": result.pytest_rc if result else None,
                "pytest_log": _relative(run, home / run.log(job.test_key, job.repeat).name),
                "basetemp": _relative(run, home / run.basetemp(job.test_key, job.repeat).name),
                "run_id": run_id,
                "environment_sha256": _environment_sha256(run),
                "evidence_sha256": {name: evidence[name] for name in named_by([stage]) if name in evidence},
                "history": history,
            }
        )
        path = run.observation(stage.key, job.repeat)
        path.parent.mkdir(exist_ok=True)
        data = dump_json(observation.model_dump(mode="json"))
        events.append(
            run, "recorded", now, f"{stage.key} run {job.repeat}",
            stage=stage.key, repeat=job.repeat, sha256=sha256_bytes(data),
        )  # fmt: skip
        write_atomic(path, data)


def _relative(run: RunDir, path: Path) -> str:
    return str(path.relative_to(run.path))


def _environment_sha256(run: RunDir) -> str | None:
    return sha256_bytes(read_plain(run.environment)) if run.environment.exists() else None
