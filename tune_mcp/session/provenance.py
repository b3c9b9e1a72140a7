"""Which commit, and how far the working tree is from it: read from git, never changed (rules SES-03, VCS-09)."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_bytes, sha256_file

_GIT_DEADLINE_S = 30
_HASHED_UP_TO_BYTES = 16 * 1024 * 1024
_ELSEWHERE = frozenset(
    {
        "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_EXTERNAL_DIFF",
        "GIT_DIFF_OPTS",
    }
)  # fmt: skip
"""Variables of a caller inside a git hook that would make git answer for another repository."""


@dataclass(frozen=True)
class GitState:
    """HEAD (40 hex digits), branch (``HEAD`` when detached), the tracked diff, and untracked files with digests."""

    head: str
    branch: str
    diff: bytes
    untracked: dict[str, str]

    @property
    def dirty(self) -> bool:
        """Whether the tree holds anything that the commit does not (ignored files apart)."""
        return bool(self.diff or self.untracked)

    @property
    def diff_sha256(self) -> str | None:
        """Digest of the tracked diff, None when there is none."""
        return sha256_bytes(self.diff) if self.diff else None


def git(repo: Path, *words: str) -> bytes:
    """What a reading git command prints; the caller's own git variables do not reach it. Raises NO_HEAD."""
    kept = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    env = {**kept, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(repo), *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=env,
            timeout=_GIT_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(
            Code.NO_HEAD,
            "SES-03",
            f"git could not be asked in {repo}: {error}",
            "make git usable there, then call again",
        ) from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise Refusal(
            Code.NO_HEAD,
            "SES-03",
            f"{repo} has no commit to calibrate ({reason[-1] if reason else 'git failed'})",
            "use a git repository with at least one commit",
            {"repo": str(repo), "git": " ".join(words)},
        )
    return done.stdout


def top_level(folder: Path) -> Path | None:
    """The git work tree that holds ``folder``, or None."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel").decode().strip())
    except Refusal:
        return None


def head(repo: Path) -> str:
    """The full sha of HEAD. Raises NO_HEAD."""
    return git(repo, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()


def read(repo: Path) -> GitState:
    """Everything about the tree that a run records. Raises NO_HEAD."""
    sha = head(repo)
    branch = git(repo, "rev-parse", "--abbrev-ref", "HEAD").decode().strip()
    diff = git(repo, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD")
    names = git(repo, "ls-files", "--others", "--exclude-standard", "-z").decode("utf-8", "surrogateescape")
    untracked = {_printable(name): _digest(repo / name) for name in names.split("\0") if name}
    return GitState(sha, branch, diff, untracked)


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _digest(path: Path) -> str:
    """A digest, or for a link, a folder and a very large file a description that changes when the file does."""
    if path.is_symlink():
        return f"link:{path.readlink()}"
    try:
        facts = path.stat()
        if not path.is_file():
            return "not-a-file"
        return (
            sha256_file(path) if facts.st_size <= _HASHED_UP_TO_BYTES else f"size:{facts.st_size}:{facts.st_mtime_ns}"
        )
    except OSError as error:
        return f"unreadable:{error.errno}"
