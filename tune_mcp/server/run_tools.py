"""The tools ``start_run`` and ``resume_run``, with what they ask a person (rules ASK-01 to ASK-11).

``start_run`` asks once when no model was named, ``resume_run`` before a strict repeat is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field, create_model

from tune_mcp.contract.reply import Reply
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.start_run import DEFAULT_REPEATS, MAX_REPEATS, RunReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.server.arguments import ALL_STAGES, Label, Model, RunId, Stages
from tune_mcp.server.context import accepted, can_ask, server_context
from tune_mcp.server.registering import tool
from tune_mcp.server.results import ToolResult, answer

START = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)


class Selection(BaseModel):
    """What a person chose; None where nothing was asked."""

    model: str | None = None
    stages: str | None = None
    repeats: str | None = None


def tokens(stages: list[str] | str) -> Sequence[str]:
    """The stage tokens of a call, however they were written."""
    return [stages] if isinstance(stages, str) else stages


def _form(names: list[str], stages: list[str] | str, repeats: int) -> type[BaseModel]:
    """One form with just the open fields (ASK-06, ASK-08); what the call gave on purpose is not asked again."""
    fields: dict[str, Any] = {"model": (Literal[tuple(names)], Field(description="which model"))}
    if list(tokens(stages)) == ALL_STAGES:
        fields["stages"] = (str, Field(default="ALL", description="ALL, or names with commas between them"))
    if repeats == DEFAULT_REPEATS:
        text = "observations per stage: 5 for thresholds, 1 is a smoke test"
        fields["repeats"] = (Literal["1", "2", "3", "5"], Field(default="5", description=text))
    return create_model("Selection", **fields)


def _ask_selection(model: str, stages: list[str] | str, repeats: int, ctx: Context[Any, Any]) -> Any:
    """The one question, before anything runs; nobody is asked when the call will be refused anyway (ASK-11)."""
    if model or not can_ask(ctx):
        return Selection()
    from tune_mcp.supervise import host_lock
    from tune_mcp.verbs import start_run as verb

    try:
        project = server_context.project()
        names = project.places.model_names()
        if len(names) < 2 or host_lock.current() is not None:
            return Selection()
        return Elicit(verb.question(project), _form(names, stages, repeats))
    except (Refusal, OSError):  # the tool itself says what is wrong
        return Selection()


def register_start(mcp: MCPServer[Any]) -> None:
    """Put ``start_run`` on the server."""

    @tool(mcp, "Start a calibration run", START, RunReply)
    async def start_run(
        model: Model = "",
        stages: Stages = ALL_STAGES,
        repeats: Annotated[
            int,
            Field(
                description=f"Observations per stage, 1 to {MAX_REPEATS}; 5 for thresholds, 1 is a smoke test.",
                ge=1,
                le=MAX_REPEATS,
            ),
        ] = DEFAULT_REPEATS,
        label: Label = "",
        lanes: Annotated[int, Field(description="Lanes of the host profile to use at once; 0 for all.", ge=0)] = 1,
        chosen: Annotated[ElicitationResult[Any], Resolve(_ask_selection)] = None,  # type: ignore[assignment]
    ) -> ToolResult:
        """Begin a new calibration of the present commit, always in a new run directory. Returns at once; a detached
        supervisor does the work and outlives this server. Show the user the plan line and both commands, then poll
        status. For every new request of the user call this, never an old run. After an interruption: resume_run.
        Ask the user for model, stages and repeats before, once; without a model, clients that can will ask here."""
        from tune_mcp.verbs import start_run as verb

        form: BaseModel | None = accepted(chosen)
        picked = Selection.model_validate(form.model_dump()) if form else Selection()

        def start() -> RunReply:
            project = server_context.project()
            name = model or picked.model or verb.only_model(project)
            if name is None:
                raise verb.unnamed(project)
            asked = [picked.stages] if picked.stages else tokens(stages)
            return verb.start_run(project, name, asked, int(picked.repeats or repeats), label or None, lanes)

        return await answer(start)


class Replacement(BaseModel):
    """A person's answer about strict repeats; ``not asked`` where there was nothing to ask."""

    choice: Literal["keep", "replace"] = Field(default="keep", description="keep: nothing changes")


_NOT_ASKED = "not asked"


def _ask_replacing(run_id: str, purge: list[PurgeItem], ctx: Context[Any, Any]) -> Any:
    """One question about all strict repeats of the call; none when resume_run will refuse anyway (ASK-11)."""
    if not purge or not can_ask(ctx):
        return _NOT_ASKED
    from tune_mcp.verbs import resume_run as verb

    try:
        questions = verb.replacing(server_context.project(), run_id, purge)
    except Refusal:
        return _NOT_ASKED
    return Elicit("\n\n".join(questions.values()), Replacement) if questions else _NOT_ASKED


def register_resume(mcp: MCPServer[Any]) -> None:
    """Put ``resume_run`` on the server."""

    @tool(mcp, "Resume a run", START, RunReply)
    async def resume_run(
        run_id: RunId,
        purge: Annotated[
            list[PurgeItem],
            Field(
                description="Repeats to measure again; a strict one only if the user, who is asked here, agrees. "
                "The files are kept aside."
            ),
        ] = [],  # noqa: B006 - the SDK reads the default, nobody changes it
        ctx: Context[Any, Any] = None,  # type: ignore[assignment]
        word: Annotated[ElicitationResult[Any], Resolve(_ask_replacing)] = None,  # type: ignore[assignment]
    ) -> ToolResult:
        """Go on with an interrupted, halted, exhausted, stopped or lost run, on the same commit or on one that
        differs only in thresholds of this run (proven, and said in the reply). Complete repeats are kept, the others
        are measured. After a halt, fix its cause first. On any other commit: start_run."""
        from tune_mcp.verbs import resume_run as verb

        def resume() -> Reply:
            said = accepted(word)
            person = None if said == _NOT_ASKED else _person(said)
            return verb.resume_run(server_context.project(), run_id, purge, person)

        return await answer(resume)


def _person(said: object) -> str:
    """Who agreed. Raises DECLINED."""
    if isinstance(said, Replacement) and said.choice == "replace":
        return "a person, through the client"
    raise Refusal(
        Code.DECLINED,
        "RES-06",
        "the person keeps the strict repeat (declined, or did not answer); nothing was changed",
        "call resume_run without that purge",
    )
