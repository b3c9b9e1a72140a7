"""The run's first phase as a job: what the node where it will measure reports of itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from tune_mcp.config.host import SlurmSettings
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import new_folder, read_plain, read_text
from tune_mcp.precheck import slurm_site
from tune_mcp.precheck.gates import Precheck
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.slurm import NotAccepted, QueuedJob, Slurm, Unreachable
from tune_mcp.supervise import comparing
from tune_mcp.supervise.executor import batch
from tune_mcp.supervise.executor.no_node import REMEDY, NoNode, nodes_of
from tune_mcp.supervise.first_look import Machine

Wait = Callable[[float, str], None]
"""A sleep that shows why it waits, and raises when the run is to stop."""
FOLDER = "_precheck"
ANSWER_FILE = "answer.json"
_LOOK_FILES_S = 0.5
_ASK_EVERY = 10
"""Looks at the answer's file for each question to Slurm."""
_LOST_AT_MOST = 2
"""A node that dies, a controller that forgets: the job only reads, so it is simply submitted again."""


def prechecked(run: RunDir, plan: Plan, settings: SlurmSettings, wait: Wait) -> Precheck:
    """The run's first phase on one of the nodes where it will measure; leaves environment.json.

    Raises EXECUTOR_UNAVAILABLE, and HOST_NOT_COMPARABLE
    when the run has strict repeats from another kind of machine.
    """
    gpus, slurm = max(plan.settings.gpus_per_test.values(), default=0), Slurm()
    found = _answer(run, settings, gpus, slurm, wait)
    comparing.record_or_compare(run, plan, found.environment, utc_now())
    site = slurm_site.checks(settings, run.repo_root, gpus, slurm)
    return found.precheck.model_copy(update={"checks": (*site, *found.precheck.checks)})


def _answer(run: RunDir, settings: SlurmSettings, gpus: int, slurm: Slurm, wait: Wait) -> Machine:
    """What a node with that many GPUs granted found."""
    folder = new_folder(run.path / FOLDER, (f"a{number}" for number in range(1, 10_000)))
    name = batch.name_of(run.attempt_key("precheck", 1, folder.name.removeprefix("a")))
    module = ("tune_mcp.supervise.first_look", str(run.path), str(folder / ANSWER_FILE))
    order = batch.order(run, name, folder, settings, module, gpus)
    lost, round_, why, no_node = -1, 0, "", NoNode()
    try:
        while True:
            if (found := _read(folder / ANSWER_FILE)) is not None:
                return found
            if round_ % _ASK_EVERY == 0:
                try:
                    here = [job for job in slurm.jobs([name]) if job.folder == str(folder)]
                    if all(job.ended for job in here) and _read(folder / ANSWER_FILE) is None:
                        lost += 1
                        if lost > _LOST_AT_MOST:
                            raise _no_answer(folder, here)
                        slurm.submit(order)
                    why = _waits_for(run, settings, gpus, slurm, here, no_node)
                except Unreachable:
                    pass  # nothing is known: look again
                except NotAccepted as error:
                    raise _unavailable(f"Slurm does not take the job: {error}") from error
            round_ += 1
            wait(_LOOK_FILES_S, why)
    except BaseException:
        with suppress(Unreachable, NotAccepted):  # it only reads, and nobody waits for its answer
            slurm.cancel([name])
        raise


def _waits_for(
    run: RunDir, settings: SlurmSettings, gpus: int, slurm: Slurm, here: list[QueuedJob], no_node: NoNode
) -> str:
    """Why the job has no node yet. Raises EXECUTOR_UNAVAILABLE when none can take it for too long."""
    living = [job for job in here if not job.ended]
    if not living or any(job.started for job in living):
        return ""
    before = no_node.why
    no_node.look(slurm_site.no_node(settings, nodes_of(slurm, settings), gpus, batch.left_out(run)))
    if given_up := no_node.given_up:
        raise _unavailable(given_up, REMEDY)
    if no_node.why and not before:
        events.append(run, "engine", utc_now(), f"no node can take the first job: {no_node.why}")
    return f"the first job waits for a node: {no_node.why or f'{living[0].state} ({living[0].reason})'}"


def _no_answer(folder: Path, found: list[QueuedJob]) -> Refusal:
    try:
        last = read_text(folder / batch.LOG_FILE, "replace").strip().splitlines()[-1:]
    except OSError:
        last = []
    how = ", ".join(f"{job.state} on {job.node or 'no node'} ({job.reason})" for job in found)
    text = last[0] if last else f"nothing lies in {folder}, so the node may not see this folder"
    return _unavailable(f"the first look on a node ended without an answer: {how or 'Slurm forgot it'}; {text}")


def _read(path: Path) -> Machine | None:
    try:
        return Machine.model_validate_json(read_plain(path))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise _unavailable(f"the first look on a node cannot be read: {error}") from error


def _unavailable(what: str, step: str = "see what the site lacks: tune-mcp doctor") -> Refusal:
    return Refusal(Code.EXECUTOR_UNAVAILABLE, "SCP-01", what, step)
