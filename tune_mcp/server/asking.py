"""Questions to the person through the client: whether the client can show them (both protocol eras)."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import Context


def can_ask(ctx: Context[Any, Any]) -> bool:
    """Whether the client declared that it can show a form (a bare ``elicitation: {}`` counts)."""
    capabilities = ctx.request_context.session.client_params
    found = getattr(capabilities, "capabilities", None) or getattr(ctx, "client_capabilities", None)
    elicitation = getattr(found, "elicitation", None)
    return elicitation is not None and (
        getattr(elicitation, "form", None) is not None or getattr(elicitation, "url", None) is None
    )
