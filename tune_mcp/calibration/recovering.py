"""Processes that a dead run left alive: told by ``status`` and ``precheck``, ended before anything else is started."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp import run_dir
from tune_mcp.calibration.project import Project
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events, state
from tune_mcp.supervise import host_lock


def suspects(project: Project) -> list[RunDir]:
    """The run that measured last on this machine, of whatever repository, and all of this one's."""
    last = host_lock.last()
    found = [RunDir(last)] if last is not None and last.is_dir() else []
    return [*found, *(run for run in run_dir.list_runs(project.repo_root) if run not in found)]


def recover(runs: Iterable[RunDir]) -> None:
    """End what dead runs left alive, then empty their TMPDIRs; each run's record says what it was (GPU-20, GPU-16).

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


def told(runs: Iterable[RunDir]) -> str:
    """Name what dead runs left alive, in a sentence or two; empty when there is nothing."""
    from tune_mcp.supervise import leftovers
    from tune_mcp.supervise.processes import describe

    runs = list(runs)
    parts: list[str] = []
    if living := leftovers.living(runs):
        names = "; ".join(describe(process) for process in living[:5])
        parts.append(
            f"{len(living)} process(es) of a dead run live on ({names}): stop_run of it or the next start ends them"
        )
    if unproven := leftovers.unproven(runs):
        names = "; ".join(describe(process) for process in unproven[:5])
        parts.append(
            f"{len(unproven)} process(es) that a dead run wrote down live on without its mark ({names}): "
            "they are not ended by tune-mcp; end them yourself if they are its servers"
        )
    return ". ".join(parts)
