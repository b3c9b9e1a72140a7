"""Compiled files of the repository that were there before us: Python may take one for a source that it is not of.

A ``.pyc`` names its source by size and whole seconds only, and one of the unchecked kind by nothing: a checkout within
a second, or a file that somebody left, runs another commit's code.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tune_mcp.files import open_plain
from tune_mcp.session.provenance import git

_BEGAN_NS = time.time_ns()
"""This runner's start: what its own launches compile later is of the tree that it compares before and after each."""
_BY_TIME = bytes(4)


def clear(repo: Path) -> bool:
    """Remove what was compiled before this runner, or is not compared with its source; False where that cannot be done.

    Only beside Python files that git lists (site-packages are not of a commit), and nothing that git tracks.
    """
    listed = git(repo, "ls-files", "-z", "-c", "-o", "--exclude-standard", "--", "*.py", "*.pyc")
    names = [repo / os.fsdecode(name) for name in listed.split(b"\0") if name]
    kept = {path for path in names if path.suffix == ".pyc"}
    done = True
    for folder in {path.parent / "__pycache__" for path in names if path.suffix == ".py"}:
        try:
            compiled = [path for path in folder.iterdir() if path.suffix == ".pyc" and path not in kept]
        except OSError:
            continue
        for path in compiled:
            try:
                if _stale(path):
                    path.unlink(missing_ok=True)
            except OSError:
                done = False
    return done


def _stale(path: Path) -> bool:
    if path.is_symlink() or path.stat().st_ctime_ns < _BEGAN_NS:
        return True
    with open_plain(path) as stream:
        return stream.read(8)[4:] != _BY_TIME
