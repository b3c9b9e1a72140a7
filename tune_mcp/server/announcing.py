"""Announce changes on disk to the clients that asked: both protocol eras, from one look at the files.

Nobody tells the server what a supervisor, a terminal or another window did, so it looks: at the length and time of
the files behind each resource, and only while a client listens. A client of 2025-11-25 subscribes on its connection,
a newer one listens on the SDK's bus.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp_types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from tune_mcp import run_dir
from tune_mcp.errors import Refusal
from tune_mcp.server.context import server_context

if TYPE_CHECKING:
    from tune_mcp.verbs.project import Project

LOOK_EVERY_S = 1.0
_RUNS_WATCHED = 50

Stamp = tuple[tuple[int, int], ...]
"""Time in ns and length of each file behind one resource; a file that is not there is left out."""


class Bus(InMemorySubscriptionBus):
    """The SDK's bus, which calls ``first`` before it takes a listener and knows whether it has one."""

    def __init__(self, first: Callable[[], None]) -> None:
        super().__init__()
        self._first = first

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Add a listener until the returned function is called."""
        self._first()
        return super().subscribe(listener)


class Announcer:
    """Who listens to what, and what the files looked like at the last look."""

    def __init__(self) -> None:
        self.bus = Bus(self._begin)
        self._connections: dict[int, Connection] = {}
        self._subscribed: dict[str, set[int]] = {}
        self._seen: dict[str, Stamp] = {}
        self._listed: frozenset[str] | None = None

    def attach(self, mcp: MCPServer[Any]) -> None:
        """Take subscriptions of clients that shook hands; newer ones come through the bus."""
        server = mcp._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # no public way to subscribe (SDK 2.3)

        async def subscribe(ctx: ServerRequestContext[Any, Any], asked: SubscribeRequestParams) -> EmptyResult:
            self._begin()
            self._subscribed.setdefault(str(asked.uri), set()).add(self._remember(ctx))
            return EmptyResult()

        async def unsubscribe(ctx: ServerRequestContext[Any, Any], asked: UnsubscribeRequestParams) -> EmptyResult:
            self._subscribed.get(str(asked.uri), set()).discard(self._remember(ctx))
            return EmptyResult()

        server.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)

    async def greet(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware: a client that has shaken hands hears when the list of resources changes."""
        if ctx.method == "notifications/initialized":
            self._remember(ctx)
        return await call_next(ctx)

    def _remember(self, ctx: ServerRequestContext[Any, Any]) -> int:
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]  # outlives the request (SDK 2.3)
        key = id(connection)
        if key not in self._connections:
            self._connections[key] = connection
            connection.exit_stack.callback(self._forget, key)
        return key

    def _forget(self, key: int) -> None:
        self._connections.pop(key, None)
        for who in self._subscribed.values():
            who.discard(key)

    @asynccontextmanager
    async def lifespan(self, _: MCPServer[Any]) -> AsyncGenerator[None]:
        """Look at the files for as long as the server serves."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch)
            yield
            group.cancel_scope.cancel()

    def _begin(self) -> None:
        """What the files look like now, so that nothing is missed between a subscription and the next look."""
        if not self._seen:
            self._listed, self._seen = self._read(everything=True)

    async def _watch(self) -> None:
        while True:
            await self._look()
            await anyio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        subscribed = any(self._subscribed.values()) or self.bus.heard
        if not subscribed and not self._connections:
            return
        listed, stamps = await anyio.to_thread.run_sync(self._read, subscribed, abandon_on_cancel=True)
        known, before = self._seen, self._listed
        self._seen, self._listed = stamps, listed
        if before is not None and listed != before:
            await self.bus.publish(ResourcesListChanged())
            for connection in list(self._connections.values()):
                await connection.send_resource_list_changed()
        for uri in stamps if known else ():
            if stamps[uri] == known.get(uri):
                continue
            await self.bus.publish(ResourceUpdated(uri=uri))
            for key in list(self._subscribed.get(uri, ())):
                await self._connections[key].send_resource_updated(uri)

    def _read(self, everything: bool) -> tuple[frozenset[str], dict[str, Stamp]]:
        try:
            project = server_context.project()
        except Refusal:
            return frozenset(), {}
        runs = run_dir.list_runs(project.repo_root)[:_RUNS_WATCHED]
        listed = frozenset(run.run_id for run in runs if run.report_md.is_file())
        return listed, dict(behind(project, runs)) if everything else {}


def behind(project: Project, runs: list[run_dir.RunDir]) -> Iterator[tuple[str, Stamp]]:
    """Every resource whose content can change, with the stamp of the files that it is made of."""
    from tune_mcp.session import state

    everything: list[Path] = []
    for run in runs:
        base = f"tune://runs/{run.run_id}"
        progress = [run.events, run.supervisor]
        everything += progress
        yield f"{base}/report.md", stamp([run.report_md])
        yield f"{base}/report.html", stamp([run.report_html])
        yield f"{base}/plan", stamp([run.plan])
        yield f"{base}/events", stamp([run.events])
        yield f"{base}/audit", stamp([run.events])
        if state.conclude(run).active:
            for test, repeat, log in sorted(run.logs()):
                yield f"{base}/logs/{test}/{repeat}", stamp([log])
    yield "tune://runs", stamp(everything)
    places = project.places.places
    for name in project.places.model_names():
        folders = [place / "models" / name for place in places]
        files = [folder / file for folder in folders for file in ("config.yaml", "stages.yaml")]
        yield f"tune://models/{name}/stages", stamp(files)
    for name in project.places.host_names():
        yield f"tune://hosts/{name}", stamp([place / "hosts" / f"{name}.yaml" for place in places])


def stamp(paths: list[Path]) -> Stamp:
    """The files' times and lengths."""
    found: list[tuple[int, int]] = []
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue
        found.append((facts.st_mtime_ns, facts.st_size))
    return tuple(found)
