"""Before pytest: an empty place for the attempt, the planned tree, cold caches, a TMPDIR of its own."""

from __future__ import annotations

import os
from pathlib import Path

from tune_mcp.errors import Code, Refusal
from tune_mcp.session import drift, provenance
from tune_mcp.supervise import caches, scratch
from tune_mcp.supervise.job import Blocked, Job
from tune_mcp.supervise.processes import say
from tune_mcp.words import listed


def clear_place(job: Job) -> None:
    """Put aside what lies where this attempt will write: it is nobody's of this attempt."""
    emptied(job, job.attempt - 1)  # its runner may have been killed
    for path in (job.log, job.basetemp, job.guard_record):
        if path.exists():
            path.rename(path.with_name(f"{path.name}.found"))


def tree(job: Job) -> tuple[provenance.GitState | None, str]:
    """The tree as git sees it, and what of it is not as planned; None where there is no repository to ask."""
    try:
        now = provenance.read(Path(job.repo_root))
    except Refusal as refusal:
        return None, refusal.message
    return now, listed(drift.moved(Path(job.repo_root), now, job.tree))


def wiped(job: Job) -> Blocked | None:
    """Make the caches cold; why that failed, None when it did not (WDG-09: a launch requires it)."""
    slice_root = job.env.get("OMNI_CI_HOME")
    if not slice_root and not job.cache_wipes:
        return None
    try:
        if not slice_root:
            raise ValueError("OMNI_CI_HOME, the root of cache_wipes, is not set")
        found = caches.wipe(Path(slice_root), job.cache_wipes)
        if own := caches.wipe_home(job.env):
            say(f"wiped {own}")
    except (OSError, ValueError) as error:
        return Blocked(
            code=Code.CLEANUP_FAILED,
            rule="WDG-09",
            reason=f"a cache could not be wiped: {error}",
            next="make the folder writable or fix cache_wipes in config.yaml",
        )
    say(f"wiped below {slice_root}: {', '.join(found) or 'nothing, it was cold'}")
    return None


def tmpdir(job: Job) -> scratch.Scratch | Blocked:
    """The attempt's TMPDIR, or why there is none."""
    try:
        return scratch.make(job.run, job.folder, job.env, os.environ)
    except OSError as error:
        return Blocked(
            code=Code.CLEANUP_FAILED,
            rule="WDG-09",
            reason=f"no TMPDIR for the tests: {error}",
            next="make /tmp writable and free space on it",
        )


def emptied(job: Job, attempt: int) -> scratch.Left | None:
    """Remove the TMPDIR of an attempt at this repeat, of which no process lives; what the tests left in it."""
    try:
        return scratch.clear(job.run, job.run.attempt(job.test_key, job.repeat, attempt))
    except OSError as error:
        say(f"what the tests left in their TMPDIR cannot be removed: {error}")
        return None
