"""The server over HTTP without a token, for the conformance suite alone: ``open_server.py PORT REPOSITORY``."""

from __future__ import annotations

import sys
from pathlib import Path

from tune_mcp.server.build import mcp
from tune_mcp.server.context import server_context
from tune_mcp.verbs.project import Options

if __name__ == "__main__":
    server_context.options = Options(repo=Path(sys.argv[2]))
    mcp.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
