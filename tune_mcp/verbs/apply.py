"""``apply``: write what a person agreed to, all files or none; and ``apply --undo``."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from tune_mcp.actions import Step, ToClient, call
from tune_mcp.apply import doubts, proof, transaction
from tune_mcp.apply.literals import rewrite
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.config.stages import MetricKey, Number
from tune_mcp.contract.apply import Applied, ApplyReply, Decision, Mode, Otherwise, UndoReply
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.contract.report import DIRTY
from tune_mcp.discover.assertions import Gate
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_bytes
from tune_mcp.run_dir import RunDir, iso, utc_now
from tune_mcp.session import events
from tune_mcp.supervise import launch_variables
from tune_mcp.verbs import answers, apply_recovery, pull_request, questions
from tune_mcp.verbs.apply_plan import Proposal, proposal_for
from tune_mcp.verbs.apply_recovery import ApplyRecord, KeptThreshold
from tune_mcp.verbs.gates import Evidence, copied_from
from tune_mcp.verbs.project import Project
from tune_mcp.words import number_of

_PROOFS_AT_ONCE = 4
"""Modules that are loaded at the same time; each may import torch."""


def apply(
    project: Project,
    run_id: str,
    plan_id: str,
    mode: Mode,
    decisions: Sequence[Decision] = (),
    by: str = "arguments",
    otherwise: Otherwise | None = None,
    *,
    failures_agreed: bool = False,
) -> ApplyReply:
    """Write the thresholds: all files or none. ``by`` records who decided.

    ``otherwise`` (keep or apply) is the person's choice for every open question that ``decisions`` does not name;
    ``failures_agreed``: a person wants it although tests fail for another reason than a threshold.

    Raises the gates' refusals, NOT_REPORTED, STALE_REPORT, UNRESOLVED_CONTEXT, STALE_PLAN, DECISION_MISSING,
    TEST_FAILED, DECISION_INVALID, THRESHOLD_UNKNOWN, THRESHOLD_CHANGED, RUN_ACTIVE, INVALID_ARGUMENT.
    """
    apply_recovery.settle(project)
    proposal = proposal_for(project, run_id, plan_id)
    return carry_out(proposal, mode, decisions, by, otherwise, failures_agreed=failures_agreed)


def carry_out(
    proposal: Proposal,
    mode: Mode,
    decisions: Sequence[Decision],
    by: str,
    otherwise: Otherwise | None = None,
    *,
    failures_agreed: bool = False,
) -> ApplyReply:
    """Write what was agreed to about a proposal that was made now; see ``apply``."""
    project, run_id, plan = proposal.project, proposal.run.run_id, proposal.plan
    decided = questions.checked_decisions(plan, decisions)
    if mode == "report":
        return _nothing(plan, run_id, "report", "mode report: no file was touched")
    failing = questions.failing(plan)
    if failing and not failures_agreed:
        raise questions.tests_failed(project, run_id, failing)
    completed = questions.completed(plan, mode, decided, otherwise)
    missing = questions.open_questions(plan, mode, completed)
    if missing:
        raise questions.missing(project, run_id, missing)
    return _write(proposal, mode, completed, by, otherwise)


def declined(run: RunDir, plan_id: str, by: str) -> None:
    """Record in the run that nobody agreed to write the plan."""
    events.append(run, "declined", utc_now(), f"nobody agreed to write plan {plan_id}: {by}", plan_id=plan_id)


def _write(
    made: Proposal,
    mode: Mode,
    decided: Mapping[MetricKey, Decision],
    by: str,
    otherwise: Otherwise | None,
) -> ApplyReply:
    project, found, proposal = made.project, made.evidence, made.plan
    values = questions.chosen_values(proposal, mode, decided)
    written = [row for row in proposal.rows if row.key in values and values[row.key][0] != row.current_raw]
    applied = tuple(_applied(row, values[row.key][0]) for row in written)
    folder = found.run.apply_folder(proposal.plan_id)
    record = ApplyRecord(
        order=1 + max((earlier.order for earlier in apply_recovery.in_effect(found.run)), default=0),
        mode=mode,
        decided_by=by,
        decided_at=iso(utc_now()),
        decisions=tuple(decided.values()),
        otherwise=otherwise,
        failures_agreed=tuple(one.text for one in questions.failing(proposal)),
        applied=applied,
        kept=tuple(_kept(row, decided) for row in proposal.rows if row not in written),
    )
    if not written:
        transaction.demand_new(folder)
        apply_recovery.write_record(folder, record)
        return _nothing(proposal, found.run.run_id, mode, "nothing to write")
    changes = [
        transaction.FileChange(
            path=project.repo_root / file,
            before_sha256=sha256_bytes(content),
            content=rewrite(content, file, [row.edit(*values[row.key]) for row in written if row.file == file]),
        )
        for file, content in proposal.contents.items()
        if any(row.file == file for row in written)
    ]
    unproved = _proved(project, found, proposal, changes, {key: value for key, (value, _) in values.items()})
    catalogue = pull_request.catalogue(project, found.plan.model)
    with apply_recovery.changing(project, found.run, folder, made.report) as settled:
        transaction.demand_new(folder)
        apply_recovery.write_record(folder, record)
        transaction.commit(folder, project.repo_root, changes, utc_now)
    published = pull_request.Publication(found.run, settled.report or made.report, settled.records, catalogue)
    place = copied_from(project, found.plan)
    text = f"{number_of(len(applied), 'value')} written in mode {mode} (plan {proposal.plan_id})"
    events.append(found.run, "applied", utc_now(), text, plan_id=proposal.plan_id)
    return ApplyReply(
        run_id=found.run.run_id,
        plan_id=proposal.plan_id,
        mode=mode,
        applied=applied,
        kept=_names(proposal, applied),
        warnings=(
            *([DIRTY] if found.plan.dirty else []),
            *([f"this is a copy of a run that was measured in {place}"] if place else []),
            *_failing(written, values),
            *_unwritten(proposal, decided),
            *unproved,
            *settled.problems,
        ),
        undo_command=f"tune-mcp apply {found.run.run_id} --undo {proposal.plan_id} "
        f"--repo {shlex.quote(str(project.repo_root))}",
        pull_request=str(published.write(folder)),
        commit_files=published.commit_files(),
        files_changed=(
            *sorted({one.file for one in applied}),
            *([catalogue.name] if settled.catalogue_written else []),
        ),
        next=Step(
            ToClient("list every change to the user; commit or push only if the user asks for it (prompt publish); "),
            "git diff shows the changes, and nothing is committed",
        ),
    )


def _proved(
    project: Project,
    found: Evidence,
    proposal: ApplyPlan,
    changes: Sequence[transaction.FileChange],
    values: Mapping[MetricKey, Number],
) -> tuple[str, ...]:
    """Which files could not be loaded to prove the edit, one sentence each. Raises THRESHOLD_UNKNOWN."""
    python, until = Path(found.plan.venv_python), time.monotonic() + proof.WHOLE_S

    def ask(change: transaction.FileChange) -> list[str]:
        file, unproved = str(change.path.relative_to(project.repo_root)), list[str]()
        rows = [row for row in proposal.rows if row.file == file]
        # A preset that its variables choose is another module with the same text.
        for chosen in {tuple(sorted(row.stage.extra_env.items())) for row in rows}:
            settings = {**found.plan.settings.env, **dict(chosen)}
            launch = launch_variables.build(os.environ, settings, python, (project.repo_root,), ())
            same = [row for row in rows if tuple(sorted(row.stage.extra_env.items())) == chosen]
            asked = proof.ProofRun(python, project.repo_root, launch.variables, until)
            why = proof.prove(asked, file, proposal.contents[file], change.content, same, values)
            if why:
                unproved.append(f"{file} could not be loaded to prove the edit ({why}); its text alone was read")
        return unproved

    with ThreadPoolExecutor(_PROOFS_AT_ONCE) as pool:
        return tuple(dict.fromkeys(chain.from_iterable(pool.map(ask, changes))))


def _applied(row: Row, value: Number) -> Applied:
    old = row.current_raw
    return Applied(
        file=row.file,
        symbol=row.place,
        stage_key=row.stage_key,
        metric_key=row.metric_key,
        worst_op=row.worst_op,
        old=old,
        new=value,
        direction=row.change(value),
    )


def _kept(row: Row, decided: Mapping[MetricKey, Decision]) -> KeptThreshold:
    decision = decided.get(row.key)
    return KeptThreshold(
        stage_key=row.stage_key,
        metric_key=row.metric_key,
        symbol=row.place,
        current=row.current_raw,
        proposed=row.write_value,
        direction=row.change(),
        why="a person decided so" if decision and decision.choice == "keep" else row.reason,
    )


def _names(proposal: ApplyPlan, applied: Sequence[Applied]) -> tuple[str, ...]:
    written = {one.key for one in applied}
    return tuple("/".join(row.key) for row in proposal.rows if row.key not in written)


def _unwritten(proposal: ApplyPlan, decided: Mapping[MetricKey, Decision]) -> tuple[str, ...]:
    """What no mode writes, except what is equal already: never passed over in silence (APL-17)."""
    return tuple(
        f"{'/'.join(row.key)} was not edited: {row.reason}"
        for row in proposal.rows
        if row.decision == "skip" and row.direction is not Direction.EQUAL and row.key not in decided
    )


def _failing(written: Sequence[Row], values: Mapping[MetricKey, tuple[Number, str | None]]) -> Iterator[str]:
    """What was written as a person decided although repeats of this run would not pass it."""
    for row in written:
        value = values[row.key][0]
        if isinstance(row.gate, Gate) and (why := doubts.fails_text(row.worst, row.gate, value)):
            yield f"{row.place} = {value!r} was written although CI is likely to fail on it: {why}"


def _nothing(proposal: ApplyPlan, run_id: str, mode: Mode, why: str) -> ApplyReply:
    return ApplyReply(
        run_id=run_id,
        plan_id=proposal.plan_id,
        mode=mode,
        applied=(),
        kept=_names(proposal, ()),
        warnings=_unwritten(proposal, {}),
        undo_command=None,
        next=f"nothing ({why}); the report stays",
    )


def undo(project: Project, run_id: str, plan_id: str) -> UndoReply:
    """Put the files before an apply back, all or none (command line only); a second call changes nothing.

    Raises what ``transaction.undo`` raises, and RUN_ACTIVE.
    """
    run = project.run(run_id)
    if not re.fullmatch(r"[0-9a-f]{16}", plan_id):
        raise Refusal(
            Code.INVALID_ARGUMENT, "APL-24", f"{plan_id!r} is no plan id", "take one from the run's apply folder"
        )
    apply_recovery.settle(project)
    folder = run.apply_folder(plan_id)
    if transaction.read_journal(folder) is None:
        raise transaction.never_applied(folder)
    catalogue = pull_request.catalogue(project, project.plan(run).model)
    with apply_recovery.changing(project, run, folder) as settled:
        # What was agreed to was carried out: whoever applies this plan again is asked again.
        answers.clear(run, plan_id)
        journal = transaction.undo(folder, project.repo_root, utc_now)
    events.append(run, "undone", utc_now(), f"plan {plan_id} taken back", plan_id=plan_id)
    return UndoReply(
        run_id=run_id,
        plan_id=plan_id,
        files=(*(file.path for file in journal.files), *([catalogue.name] if settled.catalogue_written else [])),
        warnings=tuple(settled.problems),
        next=Step(call("apply_plan", run_id=run_id), " to decide again"),
    )
