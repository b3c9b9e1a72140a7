"""``tune-mcp serve``: the server over stdio, or over HTTP. It ends with its client or by a signal; runs live on."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from tune_mcp.contract.options import Options
from tune_mcp.errors import Refusal
from tune_mcp.server.http import HttpOptions, serve_http

if TYPE_CHECKING:
    import anyio
    from mcp.server.mcpserver import MCPServer

_LAST_SECONDS = 1.0


def serve(options: Options, http: HttpOptions | None = None) -> int:
    """Serve until standard input ends or a signal comes. Standard output carries the protocol and nothing else."""
    mcp = _server(options)
    if http is not None:
        return serve_http(http)
    import anyio

    try:
        anyio.run(_serve, mcp)
    except* BrokenPipeError:
        pass
    finally:
        sys.stderr.flush()
        os._exit(0)  # a worker thread may still wait in a long poll; nothing needs to be shut down
    return 0


def _server(options: Options) -> MCPServer[Any]:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    gc.disable()  # the import makes many objects that all stay: collecting meanwhile costs a fifth of the start
    from tune_mcp.server.build import mcp
    from tune_mcp.server.context import server_context

    gc.freeze()
    gc.enable()
    server_context.options = options
    return mcp


async def _serve(mcp: MCPServer[Any]) -> None:
    import anyio
    from mcp.server.lowlevel import NotificationOptions
    from mcp.server.stdio import stdio_server

    from tune_mcp.server import unreadable
    from tune_mcp.server.results import in_thread

    server = mcp._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # no public way to say listChanged (SDK 2.3)

    async def on_signal(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for _ in signals:
                scope.cancel()
                threading.Timer(_LAST_SECONDS, os._exit, (143,)).start()

    async with anyio.create_task_group() as group:
        group.start_soon(on_signal, group.cancel_scope)
        group.start_soon(in_thread, settle_at_start)
        async with stdio_server() as (reader, writer):
            options = NotificationOptions(tools_changed=True, resources_changed=True, prompts_changed=True)
            to_server, messages = anyio.create_memory_object_stream[unreadable.Item]()
            group.start_soon(unreadable.pass_on, reader, to_server, writer)
            await server.run(messages, writer, server.create_initialization_options(options))
        group.cancel_scope.cancel()


def settle_at_start() -> None:
    """Finish or roll back an apply that a crash cut off; the verb that meets it reports what stays open."""
    from tune_mcp.server.context import server_context
    from tune_mcp.verbs import apply_recovery

    try:
        messages = apply_recovery.settle(server_context.project())
    except Refusal as refusal:
        messages = [refusal.text()]
    except OSError as error:
        messages = [str(error)]
    for line in messages:
        logging.getLogger(__name__).warning(line)
