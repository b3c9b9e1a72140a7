"""Resources: the same facts as the tools give, for clients that read files. Nothing here that a tool does not tell."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import Resource, Tool
from pydantic import BaseModel

from tune_mcp import run_dir
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import dump_json, open_plain, read_text
from tune_mcp.run_dir import RunDir
from tune_mcp.server.context import server_context
from tune_mcp.server.registering import published

_TAIL_BYTES = 256 * 1024


class TuneServer(MCPServer[Any]):
    """Lists the reports of present runs beside the fixed resources."""

    async def list_tools(self) -> list[Tool]:
        """The tools with schemas that every client understands."""
        return [published(tool) for tool in await super().list_tools()]

    async def list_resources(self) -> list[Resource]:
        """The fixed ones, and report.md of each run that has one."""
        fixed = await super().list_resources()
        try:
            runs = run_dir.list_runs(server_context.project().repo_root)[:50]
        except Refusal:
            return fixed
        return fixed + [
            Resource(
                uri=f"tune://runs/{run.run_id}/report.md",
                name=f"report of {run.run_id}",
                mime_type="text/markdown",
                size=run.report_md.stat().st_size,
            )
            for run in runs
            if run.report_md.is_file()
        ]


def _json(model: BaseModel) -> str:
    return dump_json(model.model_dump(mode="json")).decode()


@contextmanager
def _as_protocol_error(error: type[ResourceError]) -> Generator[None]:
    """A refusal as the protocol's error for resources, with the same text."""
    try:
        yield
    except Refusal as refusal:
        raise error(refusal.text()) from refusal


def register_resources(mcp: MCPServer[Any]) -> None:
    """``tune://...`` addresses."""
    project = server_context.project

    def run(run_id: str) -> RunDir:
        with _as_protocol_error(ResourceNotFoundError):
            return project().run(run_id)

    def text(run_id: str, name: str) -> str:
        path = run(run_id).path / name
        if not path.is_file():
            raise ResourceNotFoundError(f"{run_id} has no {name} yet")
        return read_text(path, errors="replace")

    @mcp.resource("tune://runs", title="Runs", mime_type="application/json")
    def runs() -> str:
        """All runs, newest first (tool: status)."""
        from tune_mcp.verbs import status

        return _json(status.list_runs(project()))

    @mcp.resource("tune://runs/{run_id}/report.md", title="Report (markdown)", mime_type="text/markdown")
    def report_md(run_id: str) -> str:
        """The canonical report (tool: report)."""
        return text(run_id, "report.md")

    @mcp.resource("tune://runs/{run_id}/report.html", title="Report (page)", mime_type="text/html")
    def report_html(run_id: str) -> str:
        """The report for people (tool: report)."""
        return text(run_id, "report.html")

    @mcp.resource("tune://runs/{run_id}/audit", title="Strict audit", mime_type="text/plain")
    def audit(run_id: str) -> str:
        """The strict audit now (tool: strict_audit)."""
        from tune_mcp.verbs.strict_audit import strict_audit

        run(run_id)
        with _as_protocol_error(ResourceError):
            return strict_audit(project(), run_id).text()

    @mcp.resource("tune://runs/{run_id}/plan", title="Plan", mime_type="application/json")
    def plan(run_id: str) -> str:
        """plan.json of the run (tool: start_run)."""
        return text(run_id, "plan.json")

    @mcp.resource("tune://runs/{run_id}/apply_plan", title="Apply plan", mime_type="application/json")
    def whole_plan(run_id: str) -> str:
        """Every row of the apply plan and the whole diff (tool: apply_plan)."""
        from tune_mcp.verbs import apply_plan as verb

        run(run_id)
        with _as_protocol_error(ResourceError):
            return _json(verb.apply_plan(project(), run_id))

    @mcp.resource("tune://runs/{run_id}/events", title="Milestones", mime_type="application/jsonl")
    def run_events(run_id: str) -> str:
        """events.jsonl of the run (tool: status)."""
        return text(run_id, "events.jsonl")

    @mcp.resource("tune://runs/{run_id}/logs/{test}/{repeat}", title="Pytest log", mime_type="text/plain")
    def log(run_id: str, test: str, repeat: str) -> str:
        """The end of one pytest log, at most 256 KiB (tool: tail_pytest)."""
        found = run(run_id)
        with _as_protocol_error(ResourceError):
            tests = project().plan(found).tests()
        if test not in tests or not repeat.isdigit():
            raise ResourceNotFoundError(f"{run_id} has no log {test}/{repeat}")
        path = found.log(test, int(repeat))
        if not path.is_file():
            raise ResourceNotFoundError(f"{run_id} has no log {test}/{repeat} yet")
        with open_plain(path) as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")

    @mcp.resource("tune://models/{model}/stages", title="Stages of a model", mime_type="application/json")
    def stages(model: str) -> str:
        """The stage catalogue (tool: catalog)."""
        from tune_mcp.verbs.catalog import catalog

        with _as_protocol_error(ResourceNotFoundError):
            return _json(catalog(project(), model))

    @mcp.resource("tune://hosts/{host}", title="Host profile", mime_type="application/json")
    def host_profile(host: str) -> str:
        """One host profile (tool: catalog)."""
        with _as_protocol_error(ResourceNotFoundError):
            return _json(project().places.host(host))

    @mcp.resource("tune://rules", title="Rules for clients, and refusals", mime_type="text/markdown")
    def register() -> str:
        """What a client has to keep to because no server can enforce it, and the codes of the refusals."""
        from tune_mcp import rules

        prompted = ((name, rule) for name, rule in rules.register().items() if rule.how is rules.How.PROMPT)
        kept = [f"- {rule.rule} ({name})" for name, rule in prompted]
        lines, codes = "\n".join(kept), ", ".join(f"`{code}`" for code in Code)
        return (
            f"# What a client keeps to\n\n{lines}\n\n"
            "All other rules are kept by the server: whoever breaks one is refused.\n\n"
            "# Refusals\n\nEach says what is wrong and the next step; `INTERNAL` is a bug.\n\n"
            f"{codes}\n"
        )
