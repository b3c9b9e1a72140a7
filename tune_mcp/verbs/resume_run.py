"""``resume_run``: go on with a run on the same commit, or on one that is proven to measure the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from tune_mcp.actions import Step, call
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.start_run import RunReply
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code, Refusal
from tune_mcp.observe.audit import Audit, audit
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import drift, events, provenance, state
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import Equivalence, Plan
from tune_mcp.supervise import rereading
from tune_mcp.supervise.purge import purge as take_out
from tune_mcp.verbs import apply_recovery, equivalence, halts, run_plan
from tune_mcp.verbs.gates import demand_here, demand_ours
from tune_mcp.verbs.handover import active, launched, plan_line
from tune_mcp.verbs.project import Project, as_planned
from tune_mcp.verbs.purge_items import Purge, Repeat, asked_for, demand_person, question
from tune_mcp.verbs.share import Share


def resume_run(project: Project, run_id: str, purge: Sequence[PurgeItem] = (), person: str | None = None) -> RunReply:
    """Go on with the same run on the same commit, or on one that is proven to measure the same.

    ``person`` says who agreed to replace the strict repeats among ``purge``, None when nobody did.

    Raises UNKNOWN_RUN, PLAN_TAMPERED, COMMIT_MOVED, RUN_ACTIVE, HOST_BUSY, STAGES_CHANGED, REPEAT_IS_STRICT,
    REPEAT_ACTIVE, UNKNOWN_STAGE, INVALID_ARGUMENT, INVALID_CONFIG, HALT_UNRESOLVED, FOREIGN_ARTIFACT (a run of the
    older script). Refuses before it writes anything. The configuration is that of the place which the plan recorded.
    """
    run = project.run(run_id)
    plan = project.plan(run)
    demand_ours(project, plan)
    demand_here(project, plan)
    now = state.conclude(run)
    if now.active:
        raise _busy_repeat(run, now, purge) or active(run)
    named = project.options.config
    project = as_planned(project, plan)
    apply_recovery.settle(project)
    git = provenance.read(project.repo_root)
    proven = _same_measurement(project, plan, git)
    audited = audit(run, plan)
    items = asked_for(plan, audited, purge)
    new = run_plan.amended(project, plan, _strict_tests(audited), git, proven)
    items = _complete(run, new, items)
    demand_person(items, person)
    open_repeats = _open(plan, audited)
    otherwise = run_plan.launched_otherwise(plan, new.settings)
    again = rereading.look(run, new, (one for one in open_repeats if one not in items and one[0] not in otherwise))
    halts.fixed(run, plan, new, items, again)

    def prepare(run: RunDir, moment: datetime) -> Plan:
        for item in items.values():
            keys = [stage.key for stage in plan.tests()[item.test]]
            who = person if item.strict and person else "resume_run"
            take_out(run, item.test, keys, item.repeat, who=who, reason=item.reason, now=moment, replaced=item.strict)
        if new != plan:
            text = "catalogue, files or commit taken from the present tree"
            plans.amend(run, new, moment, text)
        if proven:
            events.append(run, "equivalent", moment, proven.sentence(), git_sha=proven.git_sha)
        rereading.count(run, new, again.counted, "resume_run", moment)
        events.append(run, "resumed", moment, f"{plan_line(run, new)} (resumed)")
        return new

    reply = launched(project, Share.of(new), prepare, lambda _: run)
    every = {(test, repeat) for test in new.tests() for repeat in range(1, new.repeats + 1)}
    return reply.model_copy(
        update={
            "equivalence": proven.sentence() if proven else None,
            "kept": _by_test(every - open_repeats - items.keys()),
            "read_again": _by_test(again.counted),
            "measured_again": _by_test((open_repeats | items.keys()) - again.counted.keys()),
            "notes": () if named == project.options.config else (f"configuration: {plan.config_dir}, as planned",),
        }
    )


def _strict_tests(audited: Audit) -> frozenset[str]:
    return frozenset(
        stage.stage.test_key for stage in audited.stages for cell in stage.cells if cell.cell is Cell.STRICT
    )


def _complete(run: RunDir, plan: Plan, items: dict[Repeat, Purge]) -> dict[Repeat, Purge]:
    """A repeat that its sealed files show to be complete is dropped like a strict one: only by a person."""
    found = rereading.look(run, plan, [key for key, item in items.items() if not item.strict]).counted
    return {key: replace(item, strict=True) if key in found else item for key, item in items.items()}


def _open(plan: Plan, audited: Audit) -> set[rereading.Repeat]:
    """The repeats that do not count: one stage of theirs is not strict."""
    return {
        (stage.stage.test_key, repeat)
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
        if cell.cell is not Cell.STRICT
    }


def _by_test(repeats: Iterable[rereading.Repeat]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for test, repeat in sorted(repeats):
        found.setdefault(test, []).append(repeat)
    return found


def replacing(project: Project, run_id: str, purge: Sequence[PurgeItem]) -> dict[Repeat, str]:
    """The question for every strict repeat that ``purge`` names, when resume_run could go on now (ASK-11).

    Empty where there is nothing to ask a person. Raises what resume_run raises before it looks at the repeats.
    """
    run = project.run(run_id)
    plan = project.plan(run)
    demand_ours(project, plan)
    demand_here(project, plan)
    now = state.conclude(run)
    if now.active:
        raise _busy_repeat(run, now, purge) or active(run)
    audited = audit(run, plan)
    items = asked_for(plan, audited, purge)
    if items:
        project = as_planned(project, plan)
        git = provenance.read(project.repo_root)
        proven = _same_measurement(project, plan, git)
        items = _complete(run, run_plan.amended(project, plan, _strict_tests(audited), git, proven), items)
    return {one.key: question(plan, audited, one) for one in items.values() if one.strict}


def _same_measurement(project: Project, plan: Plan, git: provenance.GitState) -> Equivalence | None:
    """None on the calibrated commit, the proof on another one. Raises COMMIT_MOVED (RES-02)."""
    tree = run_plan.present_tree(project, project.run(plan.run_id), plan)
    if git.head != plan.calibration_git_sha:
        try:
            return equivalence.prove(project.repo_root, plan, git, utc_now(), tree)
        except equivalence.NotEquivalent as why:
            raise equivalence.refusal(plan, git.head, why) from why
    if moved := drift.dirt_moved(git, tree):
        tracked = [name for name, digest in git.changed.items() if tree.changed.get(name) != digest]
        out = drift.way_out(tracked, [name for name in git.untracked if name not in tree.untracked], tree)
        raise Refusal(
            Code.COMMIT_MOVED,
            ("SES-11", "RES-02"),
            f"the tree is not the one that {plan.run_id} measures: {'; '.join(moved[:4])}",
            Step(
                *((f"{out}, then ", call("resume_run", run_id=plan.run_id), "; or ") if out else ()),
                "put these files back, or ",
                call("stop_run", run_id=plan.run_id),
                " and start a new run",
            ),
            {"moved": list(moved[:50])},
        )
    return None


def _busy_repeat(run: RunDir, now: state.Conclusion, purge: Sequence[PurgeItem]) -> Refusal | None:
    work = now.record.work if now.record else ()
    current = next((one for one in work if any(item.repeat == one.repeat for item in purge)), None)
    if current is None:
        return None
    return Refusal(
        Code.REPEAT_ACTIVE,
        "GAP-11",
        f"{current.test} run {current.repeat} is being measured now",
        Step(call("stop_run", run_id=run.run_id), " first, or wait"),
        {"test": current.test, "repeat": current.repeat},
    )
