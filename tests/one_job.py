"""The runner for one job alone, as an engine starts it: ``python one_job.py JOB_FILE``. Ends as ``attempt`` answers."""

from __future__ import annotations

import sys
from pathlib import Path

from tune_mcp.supervise.job import read_job
from tune_mcp.supervise.processes import become_subreaper, default_signals, plain_command_line
from tune_mcp.supervise.runner import attempt
from tune_mcp.supervise.waiting import Orders


def main(job: Path) -> int:
    plain_command_line("tune-mcp", "tune_mcp.supervise.runner")
    default_signals()
    become_subreaper()
    return attempt(read_job(job), Orders())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
