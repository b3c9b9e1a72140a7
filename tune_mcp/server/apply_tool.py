"""The tool ``apply``: ask the person through the client, and write once at the end.

The same code serves both protocol eras: the SDK runs the resolvers again in every round, so they are pure looks at
files. Answers are stored as they come; a call that is cut short loses none. Clients stop after ten rounds of questions,
so there are never more than nine: the mode, failed tests, and the metrics, several in one form where they are many.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp_types import ToolAnnotations
from pydantic import Field

from tune_mcp.contract.apply import ApplyReply, Decision, Mode
from tune_mcp.contract.options import Options
from tune_mcp.errors import Code, Refusal
from tune_mcp.server.arguments import RunId
from tune_mcp.server.context import accepted, can_ask, server_context
from tune_mcp.server.forms import FORMS, Agreement, Failures, Form, decisions_of, form_for, standing
from tune_mcp.server.registering import tool, void
from tune_mcp.server.results import ToolResult, answer, failed, in_thread

if TYPE_CHECKING:
    from tune_mcp.apply.plan import ApplyPlan
    from tune_mcp.verbs.project import Project

HINTS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False)


def _open(run_id: str, plan_id: str) -> tuple[Project, ApplyPlan] | None:
    """The plan that is asked about; None when apply itself will refuse, so that nobody is asked in vain."""
    from tune_mcp.verbs.apply_plan import askable

    try:
        project = server_context.project()
        found = project, askable(project, run_id, plan_id)
    except Refusal:
        return None
    _last[:] = [((server_context.options, run_id, plan_id), found)]
    return found


_last: list[tuple[tuple[Options, str, str], tuple[Project, ApplyPlan]]] = []
"""The plan that is asked about now. Its id is a digest of all it was made of, and apply reads everything anew."""


def _again(run_id: str, plan_id: str) -> tuple[Project, ApplyPlan] | None:
    """The plan that was asked about last where it is this one, without another audit of every artifact."""
    for key, found in _last:
        if key == (server_context.options, run_id, plan_id):
            return found
    return _open(run_id, plan_id)


def _ask_mode(
    run_id: str, plan_id: str, mode: Mode, decisions: list[Decision], otherwise: str, ctx: Context[Any, Any]
) -> Any:
    from tune_mcp.verbs import answers, questions

    found = _open(run_id, plan_id) if mode != "report" and can_ask(ctx) else None
    if found is None:
        return Agreement(mode="report")
    project, plan = found
    known = answers.load(project.run(run_id), plan_id)
    if known.mode == mode and not decisions and otherwise in ("", known.otherwise):
        return Agreement(mode=mode, otherwise=known.otherwise or "ask")
    brought = "; ".join(f"{'/'.join(one.key)} = {_chosen(one)}" for one in decisions)
    return Elicit(
        f"Plan {plan_id} of {run_id}: write thresholds into the test files? Proposed mode: {mode}. "
        f"{questions.summary(plan, mode)}"
        + (f"\nDecisions that came with the call: {brought}." if brought else "")
        + (f"\nAnswer that came with the call, for every single question: {otherwise}." if otherwise else ""),
        Agreement,
    )


def _chosen(decision: Decision) -> str:
    return str(decision.value) if decision.choice == "custom" else decision.choice


_OVER, _GO_ON = "no further question", "no question in this form"


def _ask_failures(run_id: str, plan_id: str, ctx: Context[Any, Any], how: Any) -> Any:
    """Asked right after the mode, where a test failed for another reason than a threshold."""
    agreement: Agreement | None = accepted(how)
    found = _again(run_id, plan_id) if agreement and agreement.mode != "report" and can_ask(ctx) else None
    if found is None:
        return Failures()
    from tune_mcp.verbs import answers, questions

    project, plan = found
    if not questions.failing(plan) or answers.load(project.run(run_id), plan_id).failures_agreed:
        return Failures(choice="write")
    return Elicit(questions.failures_question(plan, run_id), Failures)


_ask_failures.__annotations__ |= {"how": Annotated[ElicitationResult[Agreement], Resolve(_ask_mode)]}


def _none_before() -> str:
    """Stands before the first form, which has no answers to store."""
    return _GO_ON


def _slot(before: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Form ``number``: stores the answers to the one before it, then asks its own if there is one."""

    def slot(
        run_id: str, plan_id: str, otherwise: str, ctx: Context[Any, Any], how: Any, failures: Any, previous: Any
    ) -> Any:
        agreement: Agreement | None = accepted(how)
        form = accepted(previous)
        if agreement is None or agreement.mode == "report" or not _writes(failures) or form in (None, _OVER):
            return _OVER
        found = _again(run_id, plan_id) if can_ask(ctx) else None
        if found is None:
            return _OVER
        from tune_mcp.verbs import answers, questions

        project, plan = found
        run = project.run(run_id)
        word = agreement.word(otherwise)
        if not number:
            answers.store(run, plan_id, mode=agreement.mode, otherwise=word)
            if questions.failing(plan):
                answers.store(run, plan_id, failures_agreed=True)
        rows = questions.asked_one_by_one(plan, agreement.mode) if word is None else ()
        size = max(1, math.ceil(len(rows) / FORMS))
        if isinstance(form, Form):
            answers.store_decisions(run, plan_id, decisions_of(form))
        if number * size >= len(rows):
            return _OVER
        known = answers.load(run, plan_id).by_metric()
        asked = [row for row in rows[number * size : (number + 1) * size] if row.key not in known]
        return Elicit(questions.question(asked, plan_id), form_for(asked)) if asked else _GO_ON

    slot.__annotations__ |= {
        "how": Annotated[ElicitationResult[Agreement], Resolve(_ask_mode)],
        "failures": Annotated[ElicitationResult[Failures], Resolve(_ask_failures)],
        "previous": Annotated[ElicitationResult[Any], Resolve(before)],
    }
    slot.__qualname__ = f"form_{number}"
    return slot


def _writes(failures: object) -> bool:
    """Whether the person wants thresholds although tests fail, or none failed."""
    answer: Failures | None = accepted(failures)
    return answer is not None and answer.choice == "write"


LAST = functools.reduce(_slot, range(FORMS + 1), _none_before)


def register_apply(mcp: MCPServer[Any]) -> None:
    """Put ``apply`` on the server."""

    @tool(mcp, "Apply thresholds", HINTS, ApplyReply)
    async def apply(
        run_id: RunId,
        plan_id: Annotated[str, Field(description="From apply_plan; anything that changed since makes it stale.")],
        mode: Annotated[Mode, Field(description="report, smart or full, as the user chose.")],
        decisions: Annotated[
            list[Decision],
            Field(description="The user's word on single metrics; apply_plan holds the list, ready to be edited."),
        ] = [],  # noqa: B006 - the SDK reads the default, nobody changes it
        otherwise: Annotated[
            Literal["", "keep", "apply"],
            Field(
                description="keep or apply: the user's choice for every metric that decisions does not name. "
                "Leave it empty to get the list of what needs a decision.",
                json_schema_extra=lambda schema: void(schema.pop("enum")),
            ),
        ] = "",
        ctx: Context[Any, Any] = None,  # type: ignore[assignment]
        how: Annotated[ElicitationResult[Agreement], Resolve(_ask_mode)] = None,  # type: ignore[assignment]
        failures: Annotated[ElicitationResult[Failures], Resolve(_ask_failures)] = None,  # type: ignore[assignment]
        last: Annotated[ElicitationResult[Any], Resolve(LAST)] = None,  # type: ignore[assignment]
    ) -> ToolResult:
        """Write the thresholds of a plan into the test files, all files or none. Only after the user has seen the
        report and chosen a mode: report (touch nothing), smart (what tightens; every loosening or doubtful metric
        needs a decision), full (all; what loosens must be named in decisions, or otherwise given). The client asks
        the user where it can."""
        try:
            write = await in_thread(
                lambda: _agreed(run_id, plan_id, mode, decisions, otherwise, can_ask(ctx), how, failures)
            )
        except Exception as error:
            return failed(error)
        return await answer(write, shielded=True)


def _agreed(
    run_id: str,
    plan_id: str,
    mode: Mode,
    decisions: Sequence[Decision],
    otherwise: str,
    asked: bool,
    how: object,
    failures: object,
) -> Callable[[], ApplyReply]:
    """What writes that which was decided, with who decided it; a person's answer counts more than an argument.

    Raises DECLINED when the person said no or did not answer, DECISION_INVALID for an answer that cannot stand: it
    is forgotten, so that the next call asks for it again.
    """
    from tune_mcp.verbs import answers, questions
    from tune_mcp.verbs import apply as verb
    from tune_mcp.verbs.apply_plan import askable

    project = server_context.project()
    write = functools.partial(verb.apply, project, run_id, plan_id)
    if mode == "report" or not asked:
        return functools.partial(write, mode, decisions, "arguments", standing(otherwise))
    plan = askable(project, run_id, plan_id)
    run = project.run(run_id)
    agreement: Agreement | None = accepted(how)
    if agreement is None:
        verb.declined(run, plan_id, "declined through the client, or it could not ask")
        raise Refusal(
            Code.DECLINED,
            ("SCP-06", "APL-04"),
            "nobody agreed to write thresholds (declined, or the client could not ask); nothing was written",
            f"leave it, or let the user run: {questions.terminal(project, run_id)}",
            {"plan_id": plan_id},
        )
    word = agreement.word(otherwise)
    answers.store(run, plan_id, mode=agreement.mode, otherwise=word)
    stored = answers.load(run, plan_id).by_metric()
    try:
        questions.checked_decisions(plan, [*stored.values()])
    except Refusal:
        answers.forget(run, plan_id, questions.invalid(plan, [*stored.values()]))
        raise
    rows = questions.asked_one_by_one(plan, agreement.mode) if word is None else ()
    single = {row.key for row in rows}
    brought = [one for one in decisions if one.key not in {*stored, *single}]
    named = {**{one.key: one for one in brought}, **stored}
    with_mode = [] if word else questions.agreed_with_mode(plan, agreement.mode, named)
    return functools.partial(
        write,
        agreement.mode,
        [*brought, *stored.values(), *with_mode],
        "a person, through the client",
        word,
        failures_agreed=_writes(failures),
    )
