"""Arguments are judged before anything is read, all at once, in both protocol eras: a middleware around every call.

``null`` for an optional argument is its default. What does not fit gets one refusal that names every fault.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.tools.base import Tool
from pydantic import AfterValidator, Field, ValidationError
from pydantic.fields import FieldInfo

from tune_mcp import run_dir
from tune_mcp.contract.status import MAX_WAIT_S, unfit_wait
from tune_mcp.errors import Code, Refusal
from tune_mcp.server.results import internal, refused

_SDK_ANSWER = re.compile(r"Error executing tool (\S+): Resolver .*", re.DOTALL)
_SDK_MASKED = re.compile(r"Error executing tool (\S+)")
_DECISION = (
    'each decision is {"stage_key": "...", "metric_key": "...", "choice": "keep" | "apply" | "custom"}, '
    "with custom also a value; apply without decisions answers with the whole list, ready to be edited"
)
_WORDS = {"missing": "is missing", "extra_forbidden": "is not known here"}
Context = ServerRequestContext[Any, Any]


def _label(label: str) -> str:
    if label and not run_dir.LABEL.fullmatch(label):
        raise ValueError("takes letters, digits, '.', '_' and '-', at most 60, the first a letter or digit")
    return label


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("needs a few words")
    return text


ALL_STAGES: list[str] = ["ALL"]
Model = Annotated[str, Field(description="Model name, as catalog lists them.")]
RunId = Annotated[str, Field(description="The run's id, as start_run and status give it: never a path.")]
Stages = Annotated[
    list[str] | str,
    Field(description='A list of stage keys, test-file bases, "@group" names, or "ALL" for every stage.'),
]
Label = Annotated[
    str,
    Field(description="Short word for the run directory's name; empty: made from the model."),
    AfterValidator(_label),
]
Wait = Annotated[
    float, Field(description=f"Wait up to this many seconds for news; 0 to {MAX_WAIT_S}.", ge=0, le=MAX_WAIT_S)
]
Pattern = Annotated[
    str, Field(description="Regular expression; only matching lines. Empty: all."), AfterValidator(_pattern)
]
Reason = Annotated[str, Field(description="Why; kept with the run."), AfterValidator(_words)]


def argument_check(server: Callable[[], MCPServer[Any]]) -> ServerMiddleware[Any]:
    """The middleware: refuse what does not fit, leave out every null of an optional argument, pass on the others."""

    async def check(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method != "tools/call":
            return await call_next(ctx)
        params = dict(ctx.params or {})
        given = params.get("arguments")
        tool = _tool(server(), params.get("name"))
        if tool is not None and (given is None or isinstance(given, dict)):
            named = cast("dict[str, object]", given or {})
            fields = tool.fn_metadata.arg_model.model_fields
            params["arguments"] = {name: value for name, value in named.items() if not _left_out(fields, name, value)}
            if refusal := _judge(tool, params["arguments"]):
                return refused(refusal)
        result = await call_next(replace(ctx, params=params))
        text = _sdk_error(result)
        if masked := _SDK_MASKED.fullmatch(text):
            return internal(RuntimeError(f"{masked[1]}: the traceback is above, where the SDK logged it"))
        answer = _SDK_ANSWER.fullmatch(text)
        return refused(_unfit_answer(answer[1])) if answer else result

    return check


def _tool(server: MCPServer[Any], name: object) -> Tool | None:
    tools = server._tool_manager  # pyright: ignore[reportPrivateUsage]  # no public way to the argument models (SDK 2.3)
    return tools.get_tool(name) if isinstance(name, str) else None


def _left_out(fields: Mapping[str, FieldInfo], name: str, value: object) -> bool:
    return value is None and name in fields and not fields[name].is_required()


def _judge(tool: Tool, given: Mapping[str, object]) -> Refusal | None:
    """Every fault of a call; None when all arguments fit."""
    fields = tool.fn_metadata.arg_model.model_fields
    wrong: dict[str, str] = {}
    for name, value in given.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1, 0.5)
            wrong[name] = "is not known" + (f" (near: {near[0]})" if near else "")
        elif isinstance(value, bool) and fields[name].annotation is not bool:  # true would pass for the number 1
            wrong[name] = "cannot be true or false"
    known = {name: value for name, value in given.items() if name in fields}
    too_long = False
    try:
        tool.fn_metadata.validate_arguments(known)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            # The arms of a union each say what they would take: the argument is what the caller knows.
            place = [part for part in one["loc"] if not (isinstance(part, str) and ("[" in part or part == "str"))]
            name = ".".join(str(part) for part in place)
            wrong.setdefault(name, _WORDS.get(one["type"]) or one["msg"].removeprefix("Value error, "))
            too_long = too_long or (name, one["type"]) == ("wait_s", "less_than_equal")
    if not wrong:
        return None
    if too_long and len(wrong) == 1:
        return unfit_wait(cast("float", given["wait_s"]))
    return _misfit(tool.name, wrong, [*fields])


def _misfit(tool: str, wrong: Mapping[str, str], known: list[str]) -> Refusal:
    """All that is wrong with the arguments of a call: argument (``decisions.0.choice``) -> what is wrong."""
    said = "; ".join(f"{name} {reason[:1].lower()}{reason[1:]}" for name, reason in wrong.items())
    decisions = any(name.startswith("decisions") for name in wrong)
    return Refusal(
        Code.INVALID_ARGUMENT,
        (),
        f"{tool}: {said}",
        _DECISION if decisions else f"call {tool} again with these corrected; it takes {', '.join(known)}",
        {"tool": tool, "argument": next(iter(wrong)), "errors": {**wrong}, "known": [*known]},
    )


def _sdk_error(result: object) -> str:
    """The text of an error that the SDK answered by itself; empty for every other result."""
    if not isinstance(result, dict):
        return ""
    wire = cast("dict[str, Any]", result)
    content: list[dict[str, Any]] = wire.get("content") or [{}]
    return str(content[0].get("text", "")) if wire.get("isError") else ""


def _unfit_answer(tool: str) -> Refusal:
    return Refusal(
        Code.DECISION_INVALID,
        (),
        f"the client's answer to a question of {tool} does not fit the question's form",
        "call it again and let the user answer, or let the user run tune-mcp apply at a terminal",
        {"tool": tool},
    )
