"""From a verb's reply or refusal to a tool result: one output schema for both arms, text that is enough by itself."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Annotated, TypeVar, cast

import anyio
from anyio.lowlevel import RunVar
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict

from tune_mcp.contract.reply import Reply, bounded, cut
from tune_mcp.errors import Code, Json, Refusal, unusable

log = logging.getLogger(__name__)
T = TypeVar("T")
_THREADS = 16
_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("threads of the verbs")
_LONGEST, _DETAILS = 8000, 12000


class ResultFields(BaseModel):
    """The fields of a refusal, and whatever a verb answers: both fit what the SDK checks results against."""

    model_config = ConfigDict(extra="allow")

    code: str | None = None
    rules: list[str] | None = None
    message: str | None = None
    next: str | None = None
    details: dict[str, object] | None = None


ToolResult = Annotated[CallToolResult, ResultFields]
"""What every tool returns."""


def refused(refusal: Refusal) -> CallToolResult:
    """A refusal as a tool error: its one line as text, the same facts typed."""
    facts: dict[str, object] = {**refusal.data(), "details": cut(dict(refusal.details), limit=_DETAILS)}
    return _result(bounded(refusal.text(), limit=7500), facts, is_error=True)


def _result(text: str, facts: dict[str, object], *, is_error: bool = False) -> CallToolResult:
    return CallToolResult(
        is_error=is_error,
        content=[TextContent(type="text", text=_sendable(text))],
        structured_content=_sendable(facts),
    )


def _sendable(value: T) -> T:
    """A value without what UTF-8 has no bytes for (a file's name may hold any), its texts of limited length."""
    found: object = value
    if isinstance(value, str):
        found = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
        found = found.encode(errors="backslashreplace").decode() if not found.isascii() else found
    elif isinstance(value, dict):
        found = {_sendable(name): _sendable(one) for name, one in cast("dict[str, object]", value).items()}
    elif isinstance(value, list | tuple):
        found = [_sendable(one) for one in cast("list[object]", value)]
    return cast("T", found)


def succeeded(reply: Reply) -> CallToolResult:
    """A reply as text and as structured content."""
    return _result(reply.text(), reply.facts())


def internal(error: Exception) -> CallToolResult:
    """A bug: traceback on stderr, a short id for the client, nothing that could be taken for a refusal."""
    number = secrets.token_hex(4)
    log.error("internal error %s", number, exc_info=error)
    details: dict[str, Json] = {"id": number}
    return refused(
        Refusal(
            Code.INTERNAL,
            "INTERNAL",
            f"tune-mcp has a bug ({number}: {type(error).__name__})",
            "report it with the server's stderr; nothing was decided by this call",
            details,
        )
    )


async def answer(verb: Callable[[], Reply], *, shielded: bool = False) -> CallToolResult:
    """Run a verb in a thread and translate what it gives; ``shielded`` work is finished even when cancelled."""
    try:
        return succeeded(await in_thread(verb, shielded=shielded))
    except Exception as error:
        return failed(error)


def failed(error: Exception) -> CallToolResult:
    """What was raised, as a tool error."""
    refusal = error if isinstance(error, Refusal) else unusable(error)
    return refused(refusal) if refusal else internal(error)


async def in_thread(work: Callable[[], T], *, shielded: bool = False) -> T:
    """Run blocking work. A cancelled call leaves its thread behind, but waits for the end of shielded work."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=not shielded, limiter=_threads())


def _threads() -> anyio.CapacityLimiter:
    """Threads for the verbs, apart from those that the transport reads and writes with."""
    try:
        return _LIMITER.get()
    except LookupError:
        _LIMITER.set(limiter := anyio.CapacityLimiter(_THREADS))
        return limiter
