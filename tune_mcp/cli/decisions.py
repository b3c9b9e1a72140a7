"""Apply at a terminal: the same questions as through a client, asked here (contract, section 2, tool 12)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tune_mcp.calibration import applying, reporting
from tune_mcp.calibration.answered import MODES, Decision, Mode
from tune_mcp.calibration.applying import ApplyReply
from tune_mcp.calibration.project import Project
from tune_mcp.errors import Code, Refusal


def decision(word: str) -> Decision:
    """``STAGE/METRIC=keep``, ``=apply`` or ``=<number>``. Raises INVALID_ARGUMENT."""
    name, _, choice = word.partition("=")
    stage, _, metric = name.partition("/")
    if not stage or not metric or not choice:
        raise _usage("--decide", word, "STAGE/METRIC=keep|apply|NUMBER")
    if choice == "keep" or choice == "apply":
        return Decision(stage_key=stage, metric_key=metric, choice=choice)
    return Decision(stage_key=stage, metric_key=metric, choice="custom", value=choice)


def _usage(option: str, word: str, form: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, "APL-12", f"{option} {word!r} is not understood", f"write {option} {form}")


def at_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def apply_at_terminal(
    project: Project, run_id: str, mode: str | None, plan_id: str | None, words: Sequence[str]
) -> ApplyReply:
    """Show the plan, ask for the mode and for every open metric, write. Without a terminal nothing is asked."""
    shown = reporting.apply_plan(project, run_id)
    if plan_id is not None and plan_id != shown.plan_id:
        applying.proposal_for(project, run_id, plan_id)
    decisions = [decision(word) for word in words]
    _, proposal = applying.proposal_for(project, run_id, shown.plan_id)
    person = at_terminal()
    if mode is None:
        if not person:
            raise Refusal(
                Code.DECISION_MISSING,
                "APL-04",
                "no mode was chosen, and there is no terminal to ask at",
                f"tune-mcp apply {run_id} --mode report|smart|full [--decide STAGE/METRIC=keep|apply|NUMBER]",
            )
        print(shown.text())
        mode = _ask("mode", MODES, "report")
    chosen: Mode = applying.checked_mode(mode)
    if person:
        named = {(one.stage_key, one.metric_key): one for one in decisions}
        for row in applying.open_questions(proposal, chosen, named):
            print(applying.question(row, shown.plan_id))
            answer = _ask("keep, apply or a number", (), "keep")
            decisions.append(decision(f"{row.stage.key}/{row.worst.metric_key}={answer}"))
    return applying.apply(
        project, run_id, shown.plan_id, chosen, decisions, "a person, at a terminal" if person else "command line"
    )


def _ask(what: str, allowed: Sequence[str], default: str) -> str:
    while True:
        try:
            answer = input(f"{what} [{default}]: ").strip() or default
        except EOFError:
            raise Refusal(
                Code.DECLINED, ("SCP-06", "APL-04"), "nobody answered; nothing was written", "apply again when decided"
            ) from None
        if not allowed or answer in allowed:
            return answer
        print(f"one of: {', '.join(allowed)}")
