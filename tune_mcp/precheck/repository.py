"""The repository: a commit to calibrate, and how far the tree is from it (SES-03, VCS-08)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from tune_mcp.contract.precheck import Check
from tune_mcp.errors import Refusal
from tune_mcp.precheck.subject import Subject
from tune_mcp.session import provenance


def checks(subject: Subject) -> Iterator[Check]:
    """``repo.head`` and ``repo.tree``, and ``repo.path`` where the path itself is the trouble."""
    if ":" in str(subject.repo_root):
        yield Check(
            id="repo.path",
            status="mismatch",
            detail=f"{subject.repo_root} has a colon in it, which ends an entry of PATH and PYTHONPATH",
            fix=f"mv {shlex.quote(str(subject.repo_root))} <a path without a colon>",
        )
    try:
        state = provenance.read(subject.repo_root)
    except Refusal as refusal:
        yield Check(id="repo.head", status="missing", detail=refusal.message, fix=f"git -C {subject.repo_root} status")
        return
    yield Check(id="repo.head", status="ok", detail=f"{state.head} on {state.branch} in {subject.repo_root}")
    if state.dirty:
        changed = f"{len(state.changed)} tracked file(s) changed"
        yield Check(
            id="repo.tree",
            status="warn",
            detail=f"the tree is not the commit: {changed}, {len(state.untracked)} untracked; recorded with the run",
            fix=f"git -C {subject.repo_root} status --short",
        )
    else:
        yield Check(id="repo.tree", status="ok", detail="clean")
