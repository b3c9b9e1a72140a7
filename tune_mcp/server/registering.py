"""How a verb becomes a tool: its docstring, as one paragraph, is the description that the model reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

Verb = TypeVar("Verb", bound=Callable[..., Any])


def tool(mcp: MCPServer[Any], title: str, hints: ToolAnnotations, page: str | None = None) -> Callable[[Verb], Verb]:
    """Register under the function's own name, with every hint set; ``page`` is the ``ui://`` page that shows it."""
    meta = {"ui": {"resourceUri": page}} if page else None

    def register(verb: Verb) -> Verb:
        description = " ".join((verb.__doc__ or "").split())
        return mcp.tool(title=title, annotations=hints, description=description, meta=meta)(verb)

    return register
