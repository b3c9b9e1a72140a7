"""What changed between two commits, and what a file was at the commits that touched it; read from git (PRF-01)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.errors import Refusal
from tune_mcp.session.provenance import git

_FIELD = "\x1f"
_LOG = ("-z", "--no-show-signature", f"--format=%H{_FIELD}%cs{_FIELD}%s")


@dataclass(frozen=True)
class Commit:
    """One commit: full sha, the day it was made (``YYYY-mm-dd``), first line of its message."""

    sha: str
    day: str
    subject: str


@dataclass(frozen=True)
class ChangedFile:
    """One file of a diff; added and removed lines are None for a binary file."""

    path: str
    added: int | None
    removed: int | None


@dataclass(frozen=True)
class CommitRange:
    """What lies between two commits: ``git log before..after``, newest first, and the files that differ."""

    commits: tuple[Commit, ...]
    files: tuple[ChangedFile, ...]


def between(repo: Path, before: str, after: str) -> CommitRange | None:
    """The range of two commits (full shas); None where the repository does not have them both."""
    try:
        log = git(repo, "log", *_LOG, f"{before}..{after}", "--")
        return CommitRange(_commits(log), changed(repo, before, after))
    except Refusal:
        return None


def changed(repo: Path, before: str, after: str, globs: Sequence[str] = ()) -> tuple[ChangedFile, ...]:
    """Files that differ between two commits, in git's order; only those under ``globs`` where there are any.

    Raises NO_HEAD where the repository does not have both commits.
    """
    only = [f":(glob){glob}" for glob in globs]
    stat = git(
        repo, "diff", "--no-ext-diff", "--no-textconv", "--no-renames", "--numstat", "-z", before, after, "--", *only
    )
    records = (record.split("\t", 2) for record in stat.decode(errors="replace").split("\0") if record)
    return tuple(ChangedFile(path, _lines(added), _lines(removed)) for added, removed, path in records)


def touching(repo: Path, path: str, until: str, most: int) -> tuple[Commit, ...]:
    """The last ``most`` commits up to ``until`` that changed a file, newest first; empty where git cannot say."""
    try:
        return _commits(git(repo, "log", *_LOG, f"--max-count={most}", until, "--", f":(literal){path}"))
    except Refusal:
        return ()


def content(repo: Path, sha: str, path: str) -> bytes | None:
    """A file's bytes at a commit; None where it was not there."""
    try:
        return git(repo, "cat-file", "blob", f"{sha}:./{path}")
    except Refusal:
        return None


def _commits(log: bytes) -> tuple[Commit, ...]:
    records = (record.split(_FIELD, 2) for record in log.decode(errors="replace").split("\0") if record)
    return tuple(Commit(sha, day, subject) for sha, day, subject in records)


def _lines(count: str) -> int | None:
    return None if count == "-" else int(count)
