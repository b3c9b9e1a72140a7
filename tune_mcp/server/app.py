"""The server object for ``mcp dev``, ``mcp run`` and ``tune-mcp serve``: ``tune_mcp/server/app.py:mcp``."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # loaded as a loose file: this folder must not shadow modules, the package must be importable
    _here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _here]
    sys.path.insert(0, str(_here.parents[1]))

from tune_mcp.server.build import mcp

__all__ = ["mcp"]
