"""Prompts from ``prompts/*.md`` (front matter and ``{{name}}``), and completions for their arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts.base import Prompt, PromptArgument
from mcp_types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference
from pydantic import ConfigDict

from tune_mcp import run_dir
from tune_mcp.config.loader import shipped_place
from tune_mcp.config.stages import Frozen
from tune_mcp.errors import Refusal
from tune_mcp.server.context import server_context
from tune_mcp.server.results import in_thread

_FILE = re.compile(r"---\n(?P<head>.*?)\n---\n(?P<body>.*)", re.DOTALL)
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_MOST = 100


class Argument(Frozen):
    """One argument of a prompt; ``missing`` stands in its place when it is not given."""

    name: str
    description: str
    missing: str


class PromptFile(Frozen):
    """A markdown file with front matter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    description: str
    arguments: tuple[Argument, ...] = ()
    body: str

    def render(self, given: dict[str, str]) -> str:
        """The body with every ``{{name}}`` filled; an argument that is missing becomes its own words for that."""
        missing = {argument.name: argument.missing for argument in self.arguments}
        return _PLACE.sub(lambda match: given.get(match[1]) or missing.get(match[1], match[0]), self.body)


def read_prompt(path: Path) -> PromptFile:
    """Raises ``ValueError`` for a file without front matter or with an unknown key."""
    match = _FILE.fullmatch(path.read_text())
    if match is None:
        raise ValueError(f"{path} has no front matter")
    return PromptFile.model_validate({**yaml.safe_load(match["head"]), "body": match["body"].strip() + "\n"})


def register_prompts(mcp: MCPServer[Any]) -> None:
    """One prompt for each file."""
    for path in sorted((shipped_place() / "prompts").glob("*.md")):
        file = read_prompt(path)
        mcp.add_prompt(
            Prompt(
                name=path.stem,
                title=file.title,
                description=file.description,
                fn=_renderer(file),
                context_kwarg=None,
                arguments=[
                    PromptArgument(name=one.name, description=one.description, required=False) for one in file.arguments
                ],
            )
        )


def _renderer(file: PromptFile) -> Callable[..., str]:
    def render(**given: str) -> str:
        return file.render(given)

    return render


def register_completions(mcp: MCPServer[Any]) -> None:
    """Model names, stage tokens and run ids, for prompt arguments and resource templates."""

    @mcp.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        chosen = (context.arguments if context else None) or {}
        try:
            names = await in_thread(lambda: _candidates(argument.name, chosen.get("model")))
        except Refusal:
            names = []
        hits = [name for name in names if name.startswith(argument.value)]
        return Completion(values=hits[:_MOST], total=len(hits), has_more=len(hits) > _MOST)


def _candidates(argument: str, model: str | None) -> list[str]:
    from tune_mcp.discover.aliases import aliases

    project = server_context.project()
    match argument:
        case "model":
            return project.places.model_names()
        case "run_id":
            return [run.run_id for run in run_dir.list_runs(project.repo_root)]
        case "host":
            return project.places.host_names()
        case "stages" if model:
            table = project.places.stages(model)
            return [*aliases(table), *table]
        case _:
            return []
