"""Apply at a terminal: the same questions as through a client, asked here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

from tune_mcp.apply.plan import ApplyPlan
from tune_mcp.contract.apply import MODES, ApplyReply, Decision, Mode, Otherwise
from tune_mcp.contract.reply import bounded
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs import answers, apply_recovery, questions
from tune_mcp.verbs.apply import apply, carry_out, declined
from tune_mcp.verbs.apply_plan import plan_reply, proposal_for
from tune_mcp.verbs.project import Project

_MODES_SAY = (
    "report touches no file; smart writes what tightens and asks about the rest; full writes all, and asks about what "
    "loosens"
)


def decision(word: str) -> Decision:
    """``STAGE/METRIC=keep``, ``=apply`` or ``=<number>``. Raises INVALID_ARGUMENT."""
    name, _, choice = word.partition("=")
    stage, _, metric = name.partition("/")
    if not stage or not metric or not choice:
        what, step = f"--decide {word!r} is not understood", "write --decide STAGE/METRIC=keep|apply|NUMBER"
        raise Refusal(Code.INVALID_ARGUMENT, "APL-12", what, step)
    if choice == "keep" or choice == "apply":
        return Decision(stage_key=stage, metric_key=metric, choice=choice)
    return Decision(stage_key=stage, metric_key=metric, choice="custom", value=choice)


def at_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def apply_at_terminal(
    project: Project,
    run_id: str,
    mode: Mode | None,
    plan_id: str | None,
    words: Sequence[str],
    otherwise: Otherwise | None = None,
) -> ApplyReply:
    """Show the plan, ask for the mode and for every open metric, write. Without a terminal nothing is asked."""
    decisions = [decision(word) for word in words]
    apply_recovery.settle(project)
    made = proposal_for(project, run_id, plan_id)
    plan = made.plan
    named = questions.checked_decisions(plan, decisions)
    if not at_terminal():
        if mode is None:
            raise Refusal(
                Code.DECISION_MISSING,
                "APL-04",
                "no mode was chosen, and there is no terminal to ask at",
                f"tune-mcp apply {run_id} --mode report|smart|full [--decide STAGE/METRIC=keep|apply|NUMBER] "
                "[--otherwise keep|apply]",
            )
        return carry_out(made, mode, decisions, "command line", otherwise)
    if mode != "report":
        apply_recovery.demand_idle(project)
    run = made.run
    try:
        chosen, agreed = mode, list[Decision]()
        if chosen is None:
            shown = plan_reply(project, made.evidence, plan).model_copy(update={"decisions": ()})
            print(bounded("\n".join(shown.lines())))
            print(_MODES_SAY)
            chosen = cast("Mode", ask("mode", MODES, "report"))
            agreed = questions.agreed_with_mode(plan, chosen, named)
        failures_agreed = chosen != "report" and _agreed_to_failures(run, plan, run_id)
        decided = _asked(run, plan, chosen, [*decisions, *agreed], otherwise)
    except EOFError:
        declined(run, plan.plan_id, "the input at the terminal ended")
        raise Refusal(
            Code.DECLINED, ("SCP-06", "APL-04"), "nobody answered; nothing was written", "apply again when decided"
        ) from None
    by = "a person, at a terminal"
    if mode is not None and not failures_agreed and len(decided) == len(decisions):
        return carry_out(made, chosen, decided, by, otherwise)
    # Time has passed since the plan was made: everything is looked at anew.
    plan_id = plan.plan_id
    return apply(project, run_id, plan_id, chosen, decided, by, otherwise, failures_agreed=failures_agreed)


def _agreed_to_failures(run: RunDir, plan: ApplyPlan, run_id: str) -> bool:
    """Whether the person wants thresholds although tests fail for other reasons; asked only where some do."""
    if not questions.failing(plan) or answers.load(run, plan.plan_id).failures_agreed:
        return bool(questions.failing(plan))
    print(questions.failures_question(plan, run_id))
    agreed = ask("write anyway, or leave", ("write", "leave"), "leave") == "write"
    if agreed:
        answers.store(run, plan.plan_id, failures_agreed=True)
    return agreed


def _asked(
    run: RunDir, plan: ApplyPlan, mode: Mode, given: Sequence[Decision], otherwise: Otherwise | None
) -> list[Decision]:
    """The decisions given, those answered before, and an answer to every open question; each is kept as it comes."""
    named = {one.key: one for one in given}
    if otherwise is not None:
        return list(named.values())
    for row in questions.open_questions(plan, mode, named):
        kept = answers.load(run, plan.plan_id).by_metric().get(row.key)
        if kept is not None:
            print(f"{'/'.join(row.key)}: {kept.value if kept.choice == 'custom' else kept.choice}, answered before")
            named[row.key] = kept
            continue
        print(questions.question([row], plan.plan_id))
        while row.key not in named:
            answer = decision(f"{'/'.join(row.key)}={ask('keep, apply or a number', (), 'keep')}")
            try:
                questions.checked_decisions(plan, [answer])
            except Refusal as refusal:
                print(refusal.message)
                continue
            answers.store_decisions(run, plan.plan_id, [answer])
            named[row.key] = answer
    return list(named.values())


def ask(what: str, allowed: Sequence[str], default: str) -> str:
    """One answer of the person; ``default`` for an empty one. Raises ``EOFError`` at the end of the input."""
    while True:
        answer = input(f"{what} [{default}]: ").strip() or default
        if not allowed or answer in allowed:
            return answer
        print(f"one of: {', '.join(allowed)}")
