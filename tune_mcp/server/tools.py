"""The twelve tools, in their published order. Each is its verb, nothing more, and imports it when it is called."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from tune_mcp.contract.apply_plan import ApplyPlanReply
from tune_mcp.contract.catalog import CatalogReply
from tune_mcp.contract.discover import DiscoverReply
from tune_mcp.contract.precheck import PrecheckReply
from tune_mcp.contract.report import ReportReply
from tune_mcp.contract.status import RunsReply, StatusReply
from tune_mcp.contract.stop_run import StopReply
from tune_mcp.contract.strict_audit import AuditReply
from tune_mcp.contract.tail_pytest import MAX_LINES, TailReply
from tune_mcp.server import dashboard
from tune_mcp.server.apply_tool import register_apply
from tune_mcp.server.arguments import ALL_STAGES, Model, Pattern, Reason, RunId, Stages, Wait
from tune_mcp.server.context import server_context
from tune_mcp.server.registering import tool, void
from tune_mcp.server.results import ToolResult, answer
from tune_mcp.server.run_tools import register_resume, register_start, tokens

READ = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
WRITE = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
STOP = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


def register_tools(mcp: MCPServer[Any]) -> None:
    """Put all twelve tools on the server."""
    project = server_context.project

    @tool(mcp, "Catalog", READ, CatalogReply)
    async def catalog(
        model: Annotated[str, Field(description="Show this model's stages and aliases; empty: all models.")] = "",
    ) -> ToolResult:
        """Hosts and models that can be calibrated here. With model: its stages, metrics and the aliases that
        start_run accepts. Call this first. A stage marked STALE needs discover."""
        from tune_mcp.verbs import catalog as verb

        return await answer(lambda: verb.catalog(project(), model or None))

    @tool(mcp, "Discover stages", WRITE, DiscoverReply)
    async def discover(
        model: Model,
        write: Annotated[bool, Field(description="Write stages.yaml; false only shows.")] = True,
    ) -> ToolResult:
        """Read the model's test files and config into stages.yaml. Call it when catalog says STALE, after a test
        constant or config.yaml changed, or for a new model. Lists what is added, removed, changed, and metrics that
        still need a JSON path (NEEDS_CONFIG)."""
        from tune_mcp.verbs import discover as verb

        return await answer(lambda: verb.discover(project(), model, write))

    @tool(mcp, "Precheck the machine", READ, PrecheckReply)
    async def precheck(model: Model, stages: Stages = ALL_STAGES) -> ToolResult:
        """Is this machine ready? Read only: changes and kills nothing. All failed checks at once, each with the
        exact command that fixes it. Tell the user what failed before fixing any; fix only what is listed; never rebuild
        an environment that is ok. start_run repeats this check as its first phase."""
        from tune_mcp.verbs import precheck as verb

        return await answer(lambda: verb.precheck(project(), model, tokens(stages)))

    register_start(mcp)
    register_resume(mcp)

    @tool(mcp, "Stop a run", STOP, StopReply)
    async def stop_run(run_id: RunId, reason: Reason) -> ToolResult:
        """Stop a run gracefully when the user wants it: pytest is interrupted, its servers are ended, what is
        complete stays and can be resumed. On a halted run: give it up, so that a fresh run may start."""
        from tune_mcp.verbs import stop_run as verb

        return await answer(lambda: verb.stop_run(project(), run_id, reason))

    @tool(mcp, "Status of a run", READ, StatusReply, RunsReply, page=dashboard.URI)
    async def status(
        run_id: Annotated[str, Field(description="Leave it empty for the list of runs, newest first.")] = "",
        wait_s: Wait = 0,
        ctx: Context[Any, Any] = None,  # type: ignore[assignment]
    ) -> ToolResult:
        """How far a run is; the strict counts come first and are the only progress that counts. Poll with wait_s=45
        while the run is active, never more than poll_within_s apart. Slow is normal: a run takes minutes to hours.
        Stop polling when state is finished, stopped, failed, lost, halted or exhausted, and do what next says."""
        from tune_mcp.verbs import status as verb

        if not run_id:
            return await answer(lambda: verb.list_runs(project()))
        return await _watched(run_id, wait_s, ctx)

    answered: dict[str, str] = {}
    """Run -> the mark of the last status that this server's one client was given."""

    async def _watched(run_id: str, wait_s: float, ctx: Context[Any, Any]) -> CallToolResult:
        from tune_mcp.verbs import status as verb

        gone = threading.Event()
        # Over HTTP many clients share the server, and each is always given the whole answer.
        alone = ctx.request_context.request is None

        def look() -> StatusReply:
            known = answered.get(run_id) if alone else None
            reply = verb.status(project(), run_id, wait_s, lambda s: void(gone.wait(s)), gone.is_set, known)
            if alone and not gone.is_set():
                answered[run_id] = reply.mark
            return reply

        results: list[CallToolResult] = []
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_progress, ctx)
                results.append(await answer(look))
                group.cancel_scope.cancel()
        finally:
            gone.set()
        return results[0]

    @tool(mcp, "Strict audit", READ, AuditReply)
    async def strict_audit(run_id: RunId) -> ToolResult:
        """The matrix of stage × repeat: ✓ strict, △ partial, ✗ failed, — not run; and whether every artifact is of
        one commit. Only "STRICT + GIT: READY" means that the calibration is complete."""
        from tune_mcp.verbs import strict_audit as verb

        return await answer(lambda: verb.strict_audit(project(), run_id))

    @tool(mcp, "Tail the active pytest log", READ, TailReply)
    async def tail_pytest(
        run_id: RunId,
        lines: Annotated[
            int,
            Field(
                description=f"How many lines, 1 to {MAX_LINES}.",
                json_schema_extra={"minimum": 1, "maximum": MAX_LINES},
            ),
        ] = 30,
        test: Annotated[str, Field(description="A test of the run; empty: the one that runs now.")] = "",
        repeat: Annotated[int, Field(description="Which repeat of it, from 1; 0: the latest.", ge=0)] = 0,
        grep: Pattern = "",
        cursor: Annotated[str, Field(description="From an earlier answer: what came after it.")] = "",
    ) -> ToolResult:
        """The end of the log of the pytest that runs now: server start-up, requests, assertions. Follows to the next
        test by itself through cursor. A failed threshold assertion in it is normal during calibration."""
        from tune_mcp.verbs import tail_pytest as verb

        return await answer(
            lambda: verb.tail_pytest(
                project(), run_id, lines, test or None, repeat or None, grep or None, cursor or None
            )
        )

    @tool(mcp, "Write the report", WRITE, ReportReply)
    async def report(run_id: RunId) -> ToolResult:
        """Write report.md, report.json and report.html of a finished run; refused unless every stage × repeat is
        strict on one commit. Tell the user the path and what would loosen."""
        from tune_mcp.verbs import report as verb

        return await answer(lambda: verb.report(project(), run_id))

    @tool(mcp, "Plan the threshold changes", READ, ApplyPlanReply)
    async def apply_plan(run_id: RunId) -> ToolResult:
        """What would be written into the test files, per metric: present value, worst of N, value to write, whether
        it tightens or loosens CI. Writes nothing. Its plan_id is what apply needs."""
        from tune_mcp.verbs import apply_plan as verb

        return await answer(lambda: verb.apply_plan(project(), run_id))

    register_apply(mcp)


async def _progress(ctx: Context[Any, Any] | None) -> None:
    """Tell a client that asked for progress that the call is alive; nothing depends on it."""
    if ctx is None:
        return
    beat = 0
    while True:
        await anyio.sleep(5)
        beat += 1
        await ctx.report_progress(beat, None, "waiting for a change of the run")
