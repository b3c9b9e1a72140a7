"""What the server was started with, and what the client of a call can do. Every call resolves the project anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from mcp.server.mcpserver import AcceptedElicitation, Context

from tune_mcp.contract.options import Options

if TYPE_CHECKING:
    from tune_mcp.verbs.project import Project


@dataclass
class ServerContext:
    """Set once by ``tune-mcp serve`` before the first message; ``mcp dev`` keeps the defaults."""

    options: Options = field(default_factory=Options)

    def project(self) -> Project:
        """The project as it is now."""
        from tune_mcp.verbs.project import Project

        return Project.resolve(self.options)


server_context = ServerContext()


def accepted(answer: object) -> Any:
    """What a person filled into a form, or a resolver gave in its place; None for a form that was not accepted."""
    return cast("Any", answer.data) if isinstance(answer, AcceptedElicitation) else None


def can_ask(ctx: Context[Any, Any]) -> bool:
    """Whether the client declared that it can show a person a form (a bare ``elicitation: {}`` counts)."""
    capabilities = ctx.request_context.session.client_params
    found = getattr(capabilities, "capabilities", None) or getattr(ctx, "client_capabilities", None)
    elicitation = getattr(found, "elicitation", None)
    return elicitation is not None and (
        getattr(elicitation, "form", None) is not None or getattr(elicitation, "url", None) is None
    )
