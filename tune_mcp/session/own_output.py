"""Files that hold the output of those who started a run: ``nohup tune-mcp run``, ``... | tee calibration.txt``.

They grow while the run works, in the tree that it compares. Who writes them is asked of the process table: this
process, its ancestors (``script``), its terminal session, and whoever reads what it prints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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
    while pid > 1 and (facts := _facts(pid)):
        pid = facts[0]
        found.add(pid)
    pipes = {link for handle in (1, 2) if (link := _link(Path(f"/proc/self/fd/{handle}"))).startswith("pipe:")}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (facts := _facts(int(entry.name))):
            of_session = facts[1] == session
            if of_session or (pipes and not pipes.isdisjoint(link for _, link in _open(int(entry.name)))):
                found.add(int(entry.name))
    return found - {0, 1}


def _facts(pid: int) -> tuple[int, int] | None:
    """Parent and session of a process; None when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(words[1]), int(words[3])
    except (OSError, ValueError, IndexError):
        return None


def _written(pid: int) -> Iterator[str]:
    for handle, link in _open(pid):
        if link.startswith("/") and _for_writing(pid, handle):
            yield link


def _open(pid: int) -> Iterator[tuple[str, str]]:
    try:
        handles = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for handle in handles:
        yield handle.name, _link(handle)


def _link(handle: Path) -> str:
    """What an open handle is: a path, ``pipe:[4711]``; empty when it is closed by now."""
    try:
        return str(handle.readlink())
    except OSError:
        return ""


def _for_writing(pid: int, handle: str) -> bool:
    try:
        lines = Path(f"/proc/{pid}/fdinfo/{handle}").read_text().splitlines()
        flags = next(line.split()[1] for line in lines if line.startswith("flags:"))
    except (OSError, StopIteration, IndexError):
        return False
    return int(flags, 8) & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
