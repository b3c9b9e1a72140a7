"""``python -m tune_mcp`` and the console script ``tune-mcp``."""

from __future__ import annotations

import sys

from tune_mcp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
