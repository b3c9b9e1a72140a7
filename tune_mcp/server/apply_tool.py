"""The tool ``apply``: ask the person through the client, one question at a time, and write once at the end.

The same code serves both protocol eras: the SDK runs the resolvers again in every round, so they are pure looks at
files. Answers are stored as they come; a call that is cut short loses none (contract, section 2).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import BaseModel, Field

from tune_mcp.contract.applying import MODES, ApplyReply, Decision, Mode
from tune_mcp.contract.options import Options
from tune_mcp.errors import Code, Refusal
from tune_mcp.server.answers import Answer, answer_model, internal, refused
from tune_mcp.server.asking import can_ask
from tune_mcp.server.context import ServerContext, server_context
from tune_mcp.server.registering import tool

if TYPE_CHECKING:
    from tune_mcp.apply.plan import ApplyPlan, Row
    from tune_mcp.calibration.project import Project

ApplyAnswer: type[Answer] = answer_model(ApplyReply)
HINTS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False)
MAX_QUESTIONS = 128
"""More loosening metrics than any model has; whoever has more decides the rest at a terminal."""


class Agreement(BaseModel):
    """The first question: which mode. A person may choose less than was proposed."""

    mode: Literal["report", "smart", "full"] = Field(
        default="report", description="report: touch nothing; smart: ask for each loosening speed metric; full: all"
    )


class Choice(BaseModel):
    """The question for one loosening metric."""

    choice: Literal["keep", "apply", "custom"] = Field(default="keep", description="keep the present value by default")
    value: str = Field(default="", description="only with custom: the number to write, as it shall stand in the file")


def _open(run_id: str, plan_id: str) -> tuple[Project, ApplyPlan] | None:
    """The plan that is asked about; None when apply itself will refuse, so that nobody is asked in vain."""
    from tune_mcp.calibration import applying

    try:
        project = server_context.project()
        found = project, applying.askable(project, run_id, plan_id)
    except Refusal:
        return None
    _last[:] = [((server_context.options, run_id, plan_id), found)]
    return found


_last: list[tuple[tuple[Options, str, str], tuple[Project, ApplyPlan]]] = []
"""The plan that is asked about now. Its id is a digest of all it was made of, and apply reads everything anew."""


def _again(run_id: str, plan_id: str) -> tuple[Project, ApplyPlan] | None:
    """The same for the next question, without another audit of every artifact."""
    for key, found in _last:
        if key == (server_context.options, run_id, plan_id):
            return found
    return _open(run_id, plan_id)


def _ask_mode(run_id: str, plan_id: str, mode: str, decisions: list[Decision], ctx: Context[Any, Any]) -> Any:
    from tune_mcp.calibration import answered, deciding

    found = _open(run_id, plan_id) if mode in MODES and mode != "report" and can_ask(ctx) else None
    if found is None:
        return Agreement(mode="report")
    project, proposal = found
    saved = answered.load_mode(project.run(run_id), plan_id)
    if saved is not None and saved == mode and not decisions:
        return Agreement(mode=saved)
    brought = "; ".join(f"{one.stage_key}/{one.metric_key} = {_said(one)}" for one in decisions)
    return Elicit(
        f"Plan {plan_id} of {run_id}: write thresholds into the test files? Proposed mode: {mode}. "
        f"{deciding.summary(proposal, cast('Mode', mode))}"
        + (f" Decisions that came with the call: {brought}." if brought else ""),
        Agreement,
    )


def _said(decision: Decision) -> str:
    return str(decision.value) if decision.choice == "custom" else decision.choice


_OVER = "no further question"


def _slot(number: int, before: Callable[..., Any] | None) -> Callable[..., Any]:
    """Question ``number``: stores the answer to the one before it, then asks its own if there is one."""

    def slot(run_id: str, plan_id: str, ctx: Context[Any, Any], how: Any, previous: Any = None) -> Any:
        if not (isinstance(how, AcceptedElicitation) and cast("Agreement", how.data).mode == "smart"):
            return _OVER
        if number and not (isinstance(previous, AcceptedElicitation) and cast("object", previous.data) != _OVER):
            return _OVER
        found = _again(run_id, plan_id) if can_ask(ctx) else None
        if found is None:
            return _OVER
        from tune_mcp.calibration import answered, deciding

        project, proposal = found
        run = project.run(run_id)
        if not number and answered.load_mode(run, plan_id) != "smart":
            answered.store_mode(run, plan_id, "smart")
        rows = deciding.open_questions(proposal, "smart", {})
        if number and isinstance(previous, AcceptedElicitation) and number - 1 < len(rows):
            choice = cast("object", previous.data)
            if isinstance(choice, Choice):
                answered.store(run, plan_id, _decision(rows[number - 1], choice))
        if number >= len(rows):
            return _OVER
        if rows[number].key in answered.load(run, plan_id):
            return None
        return Elicit(deciding.question(rows[number], plan_id), Choice)

    annotations: dict[str, Any] = {
        "run_id": str,
        "plan_id": str,
        "ctx": Context,
        "how": Annotated[ElicitationResult[Agreement], Resolve(_ask_mode)],
    }
    if before is not None:
        annotations["previous"] = Annotated[ElicitationResult[Any], Resolve(before)]
    slot.__annotations__ = annotations
    slot.__qualname__ = f"question_{number:02d}"
    slot.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    return slot


def _decision(row: Row, choice: Choice) -> Decision:
    return Decision(
        stage_key=row.stage.key,
        metric_key=row.worst.metric_key,
        choice=choice.choice,
        value=choice.value if choice.choice == "custom" else None,
    )


def _chain(length: int) -> Callable[..., Any]:
    last: Callable[..., Any] | None = functools.reduce(lambda before, i: _slot(i, before), range(length), None)
    assert last is not None
    return last


LAST = _chain(MAX_QUESTIONS + 1)


def register_apply(mcp: MCPServer[Any], server: ServerContext) -> None:
    """Put ``apply`` on the server."""

    @tool(mcp, "Apply thresholds", HINTS)
    async def apply(
        run_id: Annotated[str, Field(description="The run's id.")],
        plan_id: Annotated[str, Field(description="From apply_plan; anything that changed since makes it stale.")],
        mode: Annotated[
            str,
            Field(
                description="report, smart or full, as the user chose.",
                json_schema_extra={"enum": list(MODES)},
            ),
        ],
        decisions: Annotated[
            list[Decision],
            Field(description="The user's word on loosening metrics, where the client cannot ask by itself."),
        ] = [],  # noqa: B006 - the SDK reads the default, nobody changes it
        ctx: Context[Any, Any] = None,  # type: ignore[assignment]
        how: Annotated[ElicitationResult[Agreement], Resolve(_ask_mode)] = None,  # type: ignore[assignment]
        last: Annotated[ElicitationResult[Any], Resolve(LAST)] = None,  # type: ignore[assignment]
    ) -> Annotated[CallToolResult, ApplyAnswer]:
        """Write the thresholds of a plan into the test files, all files or none. Only after the user has seen the
        report and chosen a mode: report (touch nothing), smart (quality metrics and tightening speed; every
        loosening speed metric needs a decision), full (all). The client asks the user where it can."""
        from tune_mcp.calibration import applying

        try:
            chosen, given, by = await server.workers.run(
                lambda: _agreed(server.project(), run_id, plan_id, mode, decisions, asked=can_ask(ctx), how=how)
            )
        except Refusal as refusal:
            return refused(refusal)
        except Exception as error:
            return internal(error)
        return await server.workers.answer(
            lambda: applying.apply(server.project(), run_id, plan_id, chosen, given, by), shielded=True
        )


def _agreed(
    project: Project, run_id: str, plan_id: str, mode: str, decisions: Sequence[Decision], *, asked: bool, how: object
) -> tuple[str, Sequence[Decision], str]:
    """What was decided, by whom; a person's answer counts more than an argument.

    Raises DECLINED when the person said no or did not answer, DECISION_INVALID for an answer that cannot stand: it
    is forgotten, so that the next call asks for it again.
    """
    from tune_mcp.calibration import answered, applying, deciding

    chosen = deciding.checked_mode(mode)
    if chosen == "report" or not asked:
        return chosen, decisions, "arguments"
    proposal = applying.askable(project, run_id, plan_id)
    if not isinstance(how, AcceptedElicitation):
        applying.declined(project.run(run_id), plan_id, "declined through the client, or it could not ask")
        raise Refusal(
            Code.DECLINED,
            ("SCP-06", "APL-04"),
            "nobody agreed to write thresholds (declined, or the client could not ask); nothing was written",
            f"leave it, or let the user run: {deciding.terminal(project, run_id)}",
            {"plan_id": plan_id},
        )
    agreed = cast("Agreement", how.data).mode
    run = project.run(run_id)
    answered.store_mode(run, plan_id, agreed)
    stored = answered.load(run, plan_id)
    for one in stored.values():
        try:
            deciding.checked_decisions(proposal, [one])
        except Refusal:
            answered.forget(run, plan_id, one)
            raise
    brought = [one for one in decisions if (one.stage_key, one.metric_key) not in stored]
    return agreed, [*brought, *stored.values()], "a person, through the client"
