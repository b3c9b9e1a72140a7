"""Room for logs and results: a run that fills the disk loses what it measured (note E102)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from tune_mcp.contract.precheck import Check
from tune_mcp.precheck.subject import Subject

_BLOCKS_BELOW = 1 * 2**30
_WARNS_BELOW = 10 * 2**30


def checks(subject: Subject) -> Iterator[Check]:
    """``disk.space`` of the file system that holds the run directories."""
    free = shutil.disk_usage(subject.repo_root).free
    status = "missing" if free < _BLOCKS_BELOW else "warn" if free < _WARNS_BELOW else "ok"
    yield Check(
        id="disk.space",
        status=status,
        detail=f"{free / 2**30:.1f} GiB free under {subject.repo_root}",
        fix="" if status == "ok" else f"du -xh --max-depth=1 {subject.repo_root / '.tune-runs'}",
    )
