"""How a verb becomes a tool: its description, its hints, and schemas that every client's converter understands.

Converters of clients drop a tool, or every tool, over ``$ref``, ``additionalProperties`` or ``anyOf`` with null, and
some leave limits out. So what is published is plain: everything inlined, one type an argument, limits said in words.
What is accepted is decided by the argument models alone (see ``arguments``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from mcp.server.mcpserver import MCPServer
from mcp_types import Tool, ToolAnnotations

from tune_mcp.contract.reply import Reply
from tune_mcp.server.results import ResultFields

Verb = TypeVar("Verb", bound=Callable[..., Any])
Schema = dict[str, Any]

_DROPPED = frozenset({"title", "$defs", "additionalProperties"})
_OUTPUTS: dict[str, Schema] = {}
"""Tool -> what is published of its answers; the same for every server."""


def tool(
    mcp: MCPServer[Any], title: str, hints: ToolAnnotations, *replies: type[Reply], page: str | None = None
) -> Callable[[Verb], Verb]:
    """Register under the function's own name; its docstring, as one paragraph, is the description.

    ``replies`` are what the verb may answer, ``page`` is the ``ui://`` page that shows it.
    """
    meta = {"ui": {"resourceUri": page}} if page else None

    def register(verb: Verb) -> Verb:
        name = cast("str", getattr(verb, "__name__", ""))
        _OUTPUTS[name] = answer_schema(*replies)
        description = " ".join((verb.__doc__ or "").split())
        return mcp.tool(title=title, annotations=hints, description=description, meta=meta)(verb)

    return register


def published(tool: Tool) -> Tool:
    """The tool as clients see it."""
    return tool.model_copy(
        update={"input_schema": plain(tool.input_schema), "output_schema": _OUTPUTS.get(tool.name, tool.output_schema)}
    )


def plain(schema: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> Schema:
    """The schema with every reference inlined, one type where there was a choice, and no generated titles."""
    known = {**(definitions or {}), **schema.get("$defs", {})}
    if isinstance(reference := schema.get("$ref"), str):
        return plain({**known[reference.rpartition("/")[2]], **_without(schema, "$ref")}, known)
    if options := schema.get("anyOf"):
        first = next(option for option in options if option.get("type") != "null")
        return plain({**first, **_without(schema, "anyOf")}, known)
    found: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: plain(one, known) for name, one in value.items()}
        elif key == "items":
            found[key] = plain(value, known)
        elif key not in _DROPPED and not (key == "default" and value is None):
            found[key] = value
    return found


def _without(schema: Mapping[str, Any], key: str) -> Schema:
    return {name: value for name, value in schema.items() if name != key}


def answer_schema(*replies: type[Reply]) -> Schema:
    """The names and outer types of every answer and of a refusal. Nothing is required: a refusal fits it too.

    A client that validates error results against the output schema would throw otherwise (see docs/explanation).
    """
    named = {"left_out": "object", "whole": "string"}
    for model in (ResultFields, *replies):
        fields = plain(model.model_json_schema())["properties"]
        named |= {name: one.get("type", "object") for name, one in fields.items()}
        named |= getattr(model, "also_typed", {})
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in named.items()}}


def void(_: object) -> None:
    """Drop a value."""
