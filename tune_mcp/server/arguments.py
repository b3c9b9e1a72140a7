"""Arguments that do not fit get one clear refusal, in both protocol eras: a middleware before and after every call."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.mcpserver import MCPServer

from tune_mcp.errors import Code, Refusal
from tune_mcp.server.answers import internal, refused

_SDK_TEXT = re.compile(r"Error executing tool (\S+): \d+ validation errors? for \S+\n(?P<all>.*)", re.DOTALL)
_SDK_ERROR = re.compile(r"^(?P<argument>\S+)\n  (?P<reason>.*?)(?:\[type=|\n|\Z)", re.MULTILINE)
_SDK_ANSWER = re.compile(r"Error executing tool (\S+): Resolver .*", re.DOTALL)
_SDK_MASKED = re.compile(r"Error executing tool (\S+)")
Context = ServerRequestContext[Any, Any]
_DECISION = (
    'each decision is {"stage_key": "...", "metric_key": "...", "choice": "keep" | "apply" | "custom"}, '
    "with custom also a value; apply without decisions answers with the whole list, ready to be edited"
)


def argument_check(server: Callable[[], MCPServer[Any]]) -> ServerMiddleware[Any]:
    """The middleware: unknown names are refused before the call, wrong types after the SDK found them."""

    async def check(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method != "tools/call":
            return await call_next(ctx)
        params = cast("Mapping[str, Any]", ctx.params or {})
        given = params.get("arguments")
        schemas = {tool.name: tool.input_schema for tool in await server().list_tools()}
        schema = schemas.get(str(params.get("name")))
        if schema is not None and isinstance(given, dict):
            known = cast("dict[str, dict[str, Any]]", schema.get("properties", {}))
            for name, value in cast("dict[str, object]", given).items():
                if name not in known:
                    return refused(_unknown(str(params.get("name")), name, list(known)))
                # JSON's true would pass for the number 1.
                if isinstance(value, bool) and "boolean" not in str(known[name]):
                    return refused(_misfit(str(params.get("name")), {name: "Input should not be true or false"}))
        result = await call_next(ctx)
        text = _sdk_error(result)
        if masked := _SDK_MASKED.fullmatch(text):
            return internal(RuntimeError(f"{masked[1]}: the traceback stands above, where the SDK logged it"))
        refusal = _from_sdk(text)
        return refused(refusal) if refusal else result

    return check


def _unknown(tool: str, name: str, known: list[str]) -> Refusal:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return Refusal(
        Code.INVALID_ARGUMENT,
        "SCP-04",
        f"{tool} has no argument {name!r}" + (f" (near: {near[0]})" if near else ""),
        f"use only: {', '.join(known) or 'no argument'}",
        {"tool": tool, "argument": name, "known": [*known]},
    )


def _sdk_error(result: object) -> str:
    """The text of an error that the SDK answered by itself; empty for every other result."""
    if not isinstance(result, dict):
        return ""
    wire = cast("dict[str, Any]", result)
    content: list[dict[str, Any]] = wire.get("content") or [{}]
    return str(content[0].get("text", "")) if wire.get("isError") else ""


def _from_sdk(text: str) -> Refusal | None:
    """The SDK's words on a wrong type or a wrong answer, in our own form; None for everything else."""
    if answer := _SDK_ANSWER.fullmatch(text):
        return Refusal(
            Code.DECISION_INVALID,
            ("APL-13", "APL-12"),
            f"the client's answer to a question of {answer[1]} does not fit the question's form",
            "call it again and let the user answer, or let the user run tune-mcp apply at a terminal",
            {"tool": answer[1]},
        )
    match = _SDK_TEXT.fullmatch(text)
    if match is None:
        return None
    found = {one["argument"]: one["reason"].strip() or "does not fit" for one in _SDK_ERROR.finditer(match["all"])}
    return _misfit(match[1], found or {"": "an argument does not fit"})


def _misfit(tool: str, errors: Mapping[str, str]) -> Refusal:
    """All that is wrong with the types of a call, at once: argument (``decisions.0.choice``) -> what is wrong."""
    wrong = "; ".join(f"{argument or tool} — {reason}" for argument, reason in errors.items())
    decisions = any(argument.startswith("decisions.") for argument in errors)
    return Refusal(
        Code.INVALID_ARGUMENT,
        ("APL-12", "APL-13") if decisions else "SCP-04",
        f"{tool}: argument {wrong}" if len(errors) == 1 else f"{tool}: {len(errors)} arguments do not fit: {wrong}",
        _DECISION if decisions else "look at the tool's input schema and call again",
        {"tool": tool, "argument": next(iter(errors)), **({"errors": {**errors}} if len(errors) > 1 else {})},
    )
