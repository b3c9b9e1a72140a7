"""``status`` without a run: the runs of this repository."""

from __future__ import annotations

from tune_mcp import run_dir
from tune_mcp.calibration import evidence
from tune_mcp.calibration.project import Project
from tune_mcp.contract.status import RunEntry, RunsReply
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session.state import RunState


def list_runs(project: Project, limit: int = 30) -> RunsReply:
    """The newest runs; one that cannot be read says why instead of failing the list."""
    entries = tuple(_entry(project, run) for run in run_dir.list_runs(project.repo_root)[:limit])
    active = [entry.run_id for entry in entries if entry.state and not _at_rest(entry.state)]
    return RunsReply(
        runs=entries,
        next=f"poll status with run_id={active[0]}"
        if active
        else "call status with a run_id, or start_run for a new calibration (never reuse an old run for a new request)",
    )


def _at_rest(value: str) -> bool:
    return RunState(value).at_rest


def _entry(project: Project, run: RunDir) -> RunEntry:
    try:
        found = evidence.read(project, run.run_id)
    except Refusal as refusal:
        return RunEntry(
            run_id=run.run_id, model="", state="", strict_ready="", commit="", started_at="", problem=refusal.text()
        )
    return RunEntry(
        run_id=run.run_id,
        model=found.plan.model,
        state=str(evidence.conclude(run, found.plan).state),
        strict_ready=f"{found.audit.ready_stages}/{len(found.audit.stages)}",
        commit=found.plan.calibration_git_sha,
        started_at=found.plan.calibration_started_at,
    )
