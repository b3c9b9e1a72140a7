"""The tool ``resume_run``: goes on with a run, and asks the person before a strict repeat is replaced."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, MCPServer, Resolve
from pydantic import BaseModel, Field

from tune_mcp.contract.reply import Reply
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.start_run import RunReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.server.answers import Answered
from tune_mcp.server.arguments import RunId
from tune_mcp.server.context import ServerContext, can_ask, server_context
from tune_mcp.server.registering import tool
from tune_mcp.server.start_tool import START


class Replacement(BaseModel):
    """A person's answer about strict repeats; ``not asked`` where there was nothing to ask."""

    choice: Literal["keep", "replace"] = Field(default="keep", description="keep: nothing changes")


_NOT_ASKED = "not asked"


def _ask(run_id: str, purge: list[PurgeItem], ctx: Context[Any, Any]) -> Any:
    """One question about all strict repeats of the call; none when resume_run will refuse anyway (ASK-11)."""
    if not purge or not can_ask(ctx):
        return _NOT_ASKED
    from tune_mcp.verbs import resume_run as verb

    try:
        questions = verb.replacing(server_context.project(), run_id, purge)
    except Refusal:
        return _NOT_ASKED
    return Elicit("\n\n".join(questions.values()), Replacement) if questions else _NOT_ASKED


def register_resume(mcp: MCPServer[Any], server: ServerContext) -> None:
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
        word: Annotated[ElicitationResult[Any], Resolve(_ask)] = None,  # type: ignore[assignment]
    ) -> Answered:
        """Go on with an interrupted, halted, exhausted, stopped or lost run, on the same commit or on one that
        differs only in thresholds of this run (proven, and said in the reply). Complete repeats are kept, the others
        are measured. After a halt, fix its cause first. On any other commit: start_run."""
        from tune_mcp.verbs import resume_run as verb

        def resume() -> Reply:
            asked = not (isinstance(word, AcceptedElicitation) and cast("object", word.data) == _NOT_ASKED)
            return verb.resume_run(server.project(), run_id, purge, _person(word) if asked else None)

        return await server.workers.answer(resume)


def _person(word: object) -> str:
    """Who agreed. Raises DECLINED."""
    said = cast("object", word.data) if isinstance(word, AcceptedElicitation) else None
    if isinstance(said, Replacement) and said.choice == "replace":
        return "a person, through the client"
    raise Refusal(
        Code.DECLINED,
        "RES-06",
        "the person keeps the strict repeat (declined, or did not answer); nothing was changed",
        "call resume_run without that purge",
    )
