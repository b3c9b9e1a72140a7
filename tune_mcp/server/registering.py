"""How a verb becomes a tool: its docstring, as one paragraph, is the description that the model reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

Verb = TypeVar("Verb", bound=Callable[..., Any])


def tool(mcp: MCPServer[Any], title: str, hints: ToolAnnotations) -> Callable[[Verb], Verb]:
    """Register under the function's own name, with every hint set."""

    def register(verb: Verb) -> Verb:
        return mcp.tool(title=title, annotations=hints, description=" ".join((verb.__doc__ or "").split()))(verb)

    return register
