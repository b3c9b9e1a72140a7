"""Files that hold the output of those who started a run: ``nohup tune-mcp run``, ``... | tee calibration.txt``.

They grow while the run works, in the tree that it compares. Who writes them is asked of the process table: this
process, its ancestors (``script``), its terminal session, and whoever reads what it prints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tune_mcp import procfs
from tune_mcp.session.drift import is_loaded


def files(root: Path, top: Path) -> tuple[str, ...]:
    """Files below ``top`` that one of these processes has open for writing, named relative to ``root``.

    Never one that Python, pytest or a shell loads. What /proc does not show is left out.
    """
    here, above = os.path.realpath(root), os.path.realpath(top)
    found = {path for pid in _writers() for path in _written(pid) if path.startswith(f"{above}/")}
    names = (os.path.relpath(path, here) for path in found if Path(path).is_file())
    return tuple(sorted(name for name in names if not is_loaded(name)))


def _writers() -> set[int]:
    pid, session = os.getpid(), os.getsid(0)
    found = {pid}
    while pid > 1 and (process := procfs.process(pid)):
        pid = process.parent
        found.add(pid)
    own = procfs.open_files("self") or {}
    pipes = {link for handle in ("1", "2") if (link := own.get(handle, "")).startswith("pipe:")}
    for one in procfs.processes():
        if one.session == session or (pipes and not pipes.isdisjoint((procfs.open_files(one.pid) or {}).values())):
            found.add(one.pid)
    return found - {0, 1}


def _written(pid: int) -> Iterator[str]:
    for handle, link in (procfs.open_files(pid) or {}).items():
        if link.startswith("/") and procfs.is_written(pid, handle):
            yield link
