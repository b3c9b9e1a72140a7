"""``tune-mcp tail``: the verbose side (Tab A): the active pytest log, switching by itself (SUP-07 to SUP-10)."""

from __future__ import annotations

import sys
import time
from typing import BinaryIO

from tune_mcp.files import open_plain
from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.tail_pytest import LogName, active_log, newest_log, tail_pytest

_LOOK_EVERY_S = 0.3
_CHUNK = 64 * 1024


def follow(project: Project, run_id: str, lines: int) -> int:
    """Print the last lines of the active log, then what is appended, until the run has ended."""
    run = project.run(run_id)
    first = tail_pytest(project, run_id, lines)
    if state.conclude(run).state.at_rest:
        print("\n".join(first.lines()))
        return 0
    name: LogName | None = None
    stream: BinaryIO | None = None
    print("" if first.log_lines else "waiting for pytest …", end="", flush=True)
    while True:
        present = active_log(run)
        if present is not None and present != name:
            _drain(stream)
            name, stream = present, open_plain(present.path(run))
            print(f"\n==> {present.test} run {present.repeat} <==", flush=True)
        _drain(stream)
        if state.conclude(run).state.at_rest:
            _drain(stream)
            _last(run)
            return 0
        time.sleep(_LOOK_EVERY_S)


def _drain(stream: BinaryIO | None) -> None:
    while stream is not None and (chunk := stream.read(_CHUNK)):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _last(run: RunDir) -> None:
    name = newest_log(run)
    print(f"\n[the run is {state.conclude(run).state}; last log: {name.path(run) if name else 'none'}]")
