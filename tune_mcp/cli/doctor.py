"""``tune-mcp doctor``: what a run would need here, for one model or for all."""

from __future__ import annotations

from collections.abc import Callable

from tune_mcp.contract.reply import Reply
from tune_mcp.errors import Refusal
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project


def doctor(project: Project, model: str | None, show: Callable[[Reply], None]) -> int:
    """Precheck every model; a model that cannot be checked says why. Returns 0 when all are ready, else 1."""
    ready = True
    for name in [model] if model else project.places.model_names():
        try:
            reply = precheck(project, name)
        except Refusal as refusal:
            if model:
                raise
            print(f"{name}: {refusal.text()}")
            ready = False
            continue
        show(reply)
        ready = ready and reply.ok
    return 0 if ready else 1
