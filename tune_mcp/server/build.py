"""Put the server together: instructions, tools, resources, prompts, completions. Importing this has no side effect."""

from __future__ import annotations

import logging
from typing import Any

from mcp.server.apps import Apps, ResourceCsp
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from tune_mcp import __version__
from tune_mcp.server import dashboard
from tune_mcp.server.announcing import Announcer
from tune_mcp.server.arguments import argument_check
from tune_mcp.server.prompts import register_completions, register_prompts
from tune_mcp.server.resources import TuneServer, register_resources
from tune_mcp.server.tools import register_tools

INSTRUCTIONS = """\
tune calibrates thresholds of CI tests: each test file runs N times on this host, the strict worst of N per metric is
written into the test files after a person agreed.
The one flow: catalog -> discover (if STALE) -> precheck -> start_run -> status(wait_s=45) again and again until it is
finished (its last answer holds the strict matrix) -> report -> apply_plan -> apply. Every answer ends with what to do
next. If a call is cut by your time limit, use a smaller wait_s; nothing is lost.
- A new request of the user is a new start_run on the present commit. resume_run only continues an interrupted run.
- Ask once, at the beginning, for a missing model, stages or repeats; ask nothing while a run is active.
- While a run is active: poll at most 120 s apart, show the user the strict counts, start nothing else, edit no file.
  Slow is normal. Failed threshold assertions in the log are normal.
- halted: fix what it names, then resume_run. failed precheck: tell the user what failed, fix only that.
- Complete means STRICT + GIT: READY, in the last status and in strict_audit. Nothing else does.
- Thresholds are written by apply alone, never by hand; commit or push only when the user asks for it.
- A refusal says CODE: what is wrong. Next: what to do. Do that, do not work around it.
"""


def build(auth: AuthSettings | None = None, verifier: TokenVerifier | None = None) -> MCPServer[Any]:
    """A new server with everything on it; ``auth`` and ``verifier`` are for HTTP."""
    logging.getLogger("mcp").setLevel(logging.WARNING)
    announcer = Announcer()
    mcp = TuneServer(
        "tune",
        title="tune-mcp",
        version=__version__,
        instructions=INSTRUCTIONS,
        middleware=[argument_check(lambda: mcp), announcer.greet],
        subscriptions=announcer.bus,
        lifespan=announcer.lifespan,
        extensions=[_apps()],
        auth=auth,
        token_verifier=verifier,
    )
    announcer.attach(mcp)
    register_tools(mcp)
    register_resources(mcp)
    register_prompts(mcp)
    register_completions(mcp)
    return mcp


def _apps() -> Apps:
    """The dashboard, for clients that show pages; it talks to its host and to nobody else."""
    apps = Apps()
    apps.add_html_resource(
        dashboard.URI,
        dashboard.page(),
        title="Dashboard of a run",
        csp=ResourceCsp(connect_domains=[]),
        prefers_border=True,
    )
    return apps


mcp = build()
