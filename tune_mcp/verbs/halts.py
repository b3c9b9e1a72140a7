"""What a halt bars until its cause is fixed: a fresh run, and a resume of the same thing (HLT-02, HLT-03, POL-06).

The run's events say whether a halt stands, not its last record: that one is overwritten, and could be lost.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from pydantic import ValidationError

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_plain
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import Halt
from tune_mcp.supervise.rereading import Reread
from tune_mcp.verbs.project import Project


@dataclass(frozen=True)
class OpenHalt:
    """A halt about which no resume has done anything; ``given_up``: a person allowed a fresh run."""

    halt: Halt
    given_up: bool = False


def standing(run: RunDir) -> OpenHalt | None:
    """The halt that stands. A resume that took a fix into the plan and then broke off has ended it."""
    if not run.events.is_file() or b'"halted"' not in read_plain(run.events):
        return None  # most runs never halt, and all of them are asked at each start
    found: OpenHalt | None = None
    for event in events.read(run.events):
        if event.kind == "halted":
            found = OpenHalt(_halt(event))
        elif event.kind in ("planned", "resumed"):
            found = None
        elif event.kind == "stopped" and found is not None:
            found = OpenHalt(found.halt, given_up=True)
    return found


def _halt(event: events.Event) -> Halt:
    try:
        return Halt.model_validate({name: event.facts.get(name) for name in Halt.model_fields})
    except ValidationError:  # a line that is not the supervisor's: strict, because nobody knows better
        return Halt(code=Code.HALT_UNRESOLVED, rule="HLT-02", message=event.text, next="fix its cause")


def none_open(project: Project, model: str, head: str) -> None:
    """A halted run of this commit waits for its cause to be fixed; a fresh directory would hide it (HLT-03).

    A person who moved to another commit wants that one measured, and a new run is the only way to it (SES-18). Raises
    HALT_UNRESOLVED.
    """
    for run in run_dir.list_runs(project.repo_root):
        found = standing(run)
        if found and not found.given_up and _is_of(project, run, model, head):
            raise Refusal(
                Code.HALT_UNRESOLVED,
                ("HLT-03", "SES-18"),
                f"{run.run_id} halted on this commit: {found.halt.message}",
                Step(
                    "fix the cause and ",
                    call("resume_run", run_id=run.run_id),
                    ", or give the run up: ",
                    call("stop_run", run_id=run.run_id),
                ),
                {"run_id": run.run_id},
            )


def _is_of(project: Project, run: RunDir, model: str, head: str) -> bool:
    """Whether the run calibrates that model at that commit. One whose plan was changed may, and cannot be given up."""
    try:
        plan = project.plan(run)
        return (plan.model, plan.calibration_git_sha) == (model, head)
    except Refusal as changed:
        raise Refusal(
            Code.HALT_UNRESOLVED,
            ("HLT-03", changed.rules[0]),
            f"{run.run_id} halted, and {changed.message}",
            f"let a person see what it was and move {run.path} away",
            {"run_id": run.run_id},
        ) from changed


def fixed(run: RunDir, plan: Plan, new: Plan, purged: Container[tuple[str | None, int | None]], again: Reread) -> None:
    """Nothing is measured again as it was when it halted the run. Raises HALT_UNRESOLVED (HLT-02, POL-06).

    ``new`` is the plan on the present tree, ``again`` what its definitions make of the sealed result files: where they
    still cannot be read, another launch could not be read either. What no file shows (a data set that was completed) is
    stated by purging the halted repeat with a reason. The machine and the tree are checked again in any case, so halts
    of these pass.
    """
    found = standing(run)
    if found is None or found.halt.code != Code.HALT_UNRESOLVED:
        return
    halt = found.halt
    repeat = (halt.test or "", halt.repeat or 0)
    if repeat in purged or repeat in again.counted:
        return
    if (new.config_sha256, new.file_sha256) != (plan.config_sha256, plan.file_sha256):
        if still := again.unreadable.get(repeat):
            raise Refusal(
                Code.HALT_UNRESOLVED,
                ("HLT-02", "HLT-01"),
                f"the sealed result files of {halt.test} run {halt.repeat} were read again with the config as it is "
                f"now, and it still does not fit them: {still.message}",
                _measured_again(run, plan, halt, still.next),
                {"run_id": run.run_id, "test": halt.test, "repeat": halt.repeat},
            )
        return
    raise Refusal(
        Code.HALT_UNRESOLVED,
        ("HLT-02", "POL-06", halt.rule),
        f"{run.run_id} halted at {halt.test} run {halt.repeat}, and neither its config"
        f"{f' ({plan.config_dir})' if plan.config_dir else ''} nor its test files have changed since: {halt.message}",
        _measured_again(run, plan, halt, halt.next),
        {"run_id": run.run_id, "test": halt.test, "repeat": halt.repeat},
    )


def _measured_again(run: RunDir, plan: Plan, halt: Halt, fix: str) -> Step:
    """The fix; and how to say that it was made where no file of the run shows it."""
    stage = next((key for key, stage in plan.catalogue.items() if stage.test_key == halt.test), "STAGE")
    item = {"stage": stage, "repeat": halt.repeat, "reason": "what was fixed"}
    return Step(
        fix,
        "; if the cause was fixed where no file of this run shows it, say so: ",
        call("resume_run", run_id=run.run_id, purge=[item]),
    )
