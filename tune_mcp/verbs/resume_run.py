"""``resume_run``: go on with a run on the same commit, or on one that is proven to measure the same.

What a caller wants measured again may be refused (GAP-05, GAP-11, RES-06). A strict repeat stays: no measurement is
dropped for its value. A person who holds one to be disturbed may replace it; an agent may not, so the word must come
through the client's question or from the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tune_mcp.actions import Step, call
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.start_run import RunReply
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.discover.aliases import expand
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.observe.audit import Audit, AuditedCell, audit
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
from tune_mcp.verbs.share import Share


def resume_run(project: Project, run_id: str, purge: Sequence[PurgeItem] = (), person: str | None = None) -> RunReply:
    """Go on with the same run on the same commit, or on one that is proven to measure the same.

    ``person`` says who agreed to replace the strict repeats among ``purge``, None when nobody did.

    Raises UNKNOWN_RUN, PLAN_TAMPERED, COMMIT_MOVED, RUN_ACTIVE, HOST_BUSY, STAGES_CHANGED, REPEAT_IS_STRICT,
    REPEAT_ACTIVE, UNKNOWN_STAGE, INVALID_ARGUMENT, INVALID_CONFIG, HALT_UNRESOLVED, FOREIGN_ARTIFACT (a run of the
    older script). Refuses before it writes anything. The configuration is that of the place which the plan recorded.
    """
    run, plan = _resumable(project, run_id, purge)
    named = project.options.config
    project = as_planned(project, plan)
    apply_recovery.settle(project)
    git = provenance.read(project.repo_root)
    proven = _same_measurement(project, plan, git)
    audited = audit(run, plan)
    items = _asked_for(plan, audited, purge)
    new = run_plan.amended(project, plan, _strict_tests(audited), git, proven)
    items = _complete(run, new, items)
    _demand_person(items, person)
    open_repeats = _open(plan, audited)
    otherwise = run_plan.launched_otherwise(plan, new.settings)
    again = rereading.judge_again(
        run, new, (one for one in open_repeats if one not in items and one[0] not in otherwise)
    )
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
        rereading.record_counted(run, new, again.counted, "resume_run", moment)
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


def _resumable(project: Project, run_id: str, purge: Sequence[PurgeItem]) -> tuple[RunDir, Plan]:
    """The run and its plan, where it may go on here and does not work. Raises what ``resume_run`` raises first."""
    run = project.run(run_id)
    plan = project.plan(run)
    demand_ours(project, plan)
    demand_here(project, plan)
    if (now := state.conclude(run)).active:
        raise _busy_repeat(run, now, purge) or active(run)
    return run, plan


def _strict_tests(audited: Audit) -> frozenset[str]:
    return frozenset(
        stage.stage.test_key for stage in audited.stages for cell in stage.cells if cell.cell is Cell.STRICT
    )


def _complete(run: RunDir, plan: Plan, items: dict[Repeat, Purge]) -> dict[Repeat, Purge]:
    """A repeat that its sealed files show to be complete is dropped like a strict one: only by a person."""
    found = rereading.judge_again(run, plan, [key for key, item in items.items() if not item.strict]).counted
    return {key: replace(item, strict=True) if key in found else item for key, item in items.items()}


def _open(plan: Plan, audited: Audit) -> set[Repeat]:
    """The repeats that do not count: one stage of theirs is not strict."""
    return {
        (stage.stage.test_key, repeat)
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
        if cell.cell is not Cell.STRICT
    }


def _by_test(repeats: Iterable[Repeat]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for test, repeat in sorted(repeats):
        found.setdefault(test, []).append(repeat)
    return found


def replacing(project: Project, run_id: str, purge: Sequence[PurgeItem]) -> dict[Repeat, str]:
    """The question for every strict repeat that ``purge`` names, when resume_run could go on now (ASK-11).

    Empty where there is nothing to ask a person. Raises what resume_run raises before it looks at the repeats.
    """
    run, plan = _resumable(project, run_id, purge)
    audited = audit(run, plan)
    items = _asked_for(plan, audited, purge)
    if items:
        project = as_planned(project, plan)
        git = provenance.read(project.repo_root)
        proven = _same_measurement(project, plan, git)
        items = _complete(run, run_plan.amended(project, plan, _strict_tests(audited), git, proven), items)
    return {one.key: _question(plan, audited, one) for one in items.values() if one.strict}


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


Repeat = tuple[str, int]
"""A pytest repeat: test key and number, from 1."""


@dataclass(frozen=True)
class Purge:
    """One repeat to measure again. ``strict``: it is complete, so only a person may replace it."""

    test: str
    repeat: int
    stage: str
    reason: str
    strict: bool

    @property
    def key(self) -> Repeat:
        """Which repeat it is."""
        return self.test, self.repeat


def _asked_for(plan: Plan, audited: Audit, items: Sequence[PurgeItem]) -> dict[Repeat, Purge]:
    """What ``items`` name, by (test key, repeat). Raises UNKNOWN_STAGE or INVALID_ARGUMENT."""
    found: dict[Repeat, Purge] = {}
    by_key = {stage.stage.key: stage for stage in audited.stages}
    for item in items:
        if item.stage not in by_key:
            expand([item.stage], plan.table())
            raise Refusal(
                Code.UNKNOWN_STAGE,
                "STG-01",
                f"purge needs one stage key, not the alias {item.stage!r}",
                f"name one of: {', '.join(list(by_key)[:6])}",
            )
        if not 1 <= item.repeat <= plan.repeats or not item.reason.strip():
            raise Refusal(
                Code.INVALID_ARGUMENT,
                "GAP-11",
                f"purge of {item.stage} needs a repeat from 1 to {plan.repeats} and a reason",
                "give {stage, repeat, reason}",
                {"argument": "purge"},
            )
        test = by_key[item.stage].stage.test_key
        cells = _cells(plan, audited, (test, item.repeat)).values()
        strict = all(cell.cell is Cell.STRICT for cell in cells)
        found[(test, item.repeat)] = Purge(test, item.repeat, item.stage, item.reason.strip(), strict)
    return found


def _demand_person(purges: dict[Repeat, Purge], person: str | None) -> None:
    """Raises REPEAT_IS_STRICT for a strict repeat without a ``person`` who agreed to replace it."""
    strict = [one for one in purges.values() if one.strict]
    if not strict or person is not None:
        return
    named = ", ".join(f"{one.test} run {one.repeat}" for one in strict)
    listed: list[Json] = [{"stage": one.stage, "repeat": one.repeat} for one in strict]
    raise Refusal(
        Code.REPEAT_IS_STRICT,
        ("RES-06", "STR-20"),
        f"{named} {'is' if len(strict) == 1 else 'are'} strict-complete, as recorded or in its sealed files; "
        "no measurement is dropped for its value",
        "leave it: worst-of-N needs every valid repeat. A person who considers it disturbed may replace it, through "
        "a client that can ask or at a terminal: tune-mcp resume RUN --purge STAGE:REPEAT:REASON",
        {"stage": strict[0].stage, "repeat": strict[0].repeat, "strict": listed},
    )


def _question(plan: Plan, audited: Audit, purge: Purge) -> str:
    """What a person is asked before a strict repeat is replaced: its values beside those of the other repeats."""
    lines = [
        f"{plan.run_id}: replace repeat {purge.repeat} of {purge.test}? It is complete and counts; worst-of-N is only "
        f"honest when no repeat is dropped for its value. Reason given: {purge.reason}."
    ]
    for stage in plan.tests()[purge.test]:
        cells = next(one.cells for one in audited.stages if one.stage.key == stage.key)
        for metric in stage.metrics:
            values = [_value(cell, metric) for cell in cells]
            others = ", ".join(value for number, value in enumerate(values, 1) if number != purge.repeat)
            lines.append(f"{stage.key}/{metric}: {values[purge.repeat - 1]} here, others {others or 'none'}")
    lines.append("Its values, the reason and your answer stay in the report; the repeat is measured again.")
    return "\n".join(lines)


def _cells(plan: Plan, audited: Audit, repeat: Repeat) -> dict[str, AuditedCell]:
    keys = {stage.key for stage in plan.tests()[repeat[0]]}
    return {one.stage.key: one.cells[repeat[1] - 1] for one in audited.stages if one.stage.key in keys}


def _value(cell: AuditedCell, metric: str) -> str:
    value = cell.stored.content.metrics.get(metric) if cell.stored else None
    return "—" if value is None else repr(value)
