"""Which commit, how far the working tree is from it, and what changed between two: read from git, never changed.

Rules SES-03, VCS-09, PRF-01.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tune_mcp.errors import Code, Refusal
from tune_mcp.files import content_mark, digest

_GIT_DEADLINE_S = 30
_QUESTIONS = (
    ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=none"),
    ("log", "-g", "-1", "--date=raw", "--format=%H %gd %gs", "HEAD"),
    ("ls-files", "-v", "-z", "--full-name", "--", ":/"),
    ("rev-parse", "--show-prefix", "--show-cdup"),
)
_PLAINLY = ("-c", "core.fsmonitor=false", "-c", "log.showSignature=false", "--no-replace-objects")
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_ELSEWHERE = frozenset(
    {
        "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_EXTERNAL_DIFF",
        "GIT_DIFF_OPTS", "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
    }
)  # fmt: skip
"""Variables of a caller, a git hook say, that would make git answer for another repository or other paths."""


_CLIENTS = frozenset(
    {
        ".claude", ".cursor", ".vscode", ".codex", ".gemini", ".idea", ".zed", ".continue", ".windsurf", ".roo",
        ".kilocode", ".opencode", ".junie", ".kiro", ".amazonq", ".qwen", ".trae", ".fleet", ".cline", ".goose",
        ".mcp.json", "opencode.json", "opencode.jsonc", ".clinerules", ".roomodes",
    }
)  # fmt: skip
"""What clients and editors keep at the top of a project for themselves: no test reads it."""
_CLIENT_PREFIX = ".aider"

_FIELD = "\x1f"

Stamp = tuple[int, int, int, int]
"""Inode, mode, size and modification time (ns) of a file: it changes when somebody writes the file."""


@dataclass(frozen=True)
class GitState:
    """The work tree as git sees it: HEAD (40 hex digits), branch (``HEAD`` when detached), and what differs from HEAD.

    ``changed`` maps tracked files that are not those of HEAD, or that git is set to overlook; ``untracked`` files
    that git does not know (ignored ones apart); both to digests, and a submodule's digest covers its own commit and
    files. ``position`` is the newest entry of HEAD's reflog; ``stamps`` are those of every tracked file: they tell a
    tree that was changed and put back. Names are relative to the folder that was asked about; a larger repository
    around it is part of the tree (``../other/file``).
    """

    head: str
    branch: str
    changed: dict[str, str]
    untracked: dict[str, str]
    position: str
    stamps: dict[str, Stamp | None]

    @property
    def dirty(self) -> bool:
        """Whether the tree holds anything that the commit does not (ignored files apart)."""
        return bool(self.changed or self.untracked)


def git(repo: Path, *words: str) -> bytes:
    """What a reading git command prints: without locks, monitors or the caller's own git variables. Raises NO_HEAD."""
    kept = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        done = subprocess.run(
            ["git", *_PLAINLY, *words],
            cwd=repo,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={**kept, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
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
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        raise _no_commit(repo, next((line for line in errors if line.startswith("fatal: ")), "git failed"))
    return done.stdout


def _no_commit(repo: Path, reason: str) -> Refusal:
    return Refusal(
        Code.NO_HEAD,
        "SES-03",
        f"{repo} has no commit to calibrate ({reason})",
        "use a git repository with at least one commit",
        {"repo": str(repo)},
    )


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
    """Everything about the tree that a run records and a launch compares. Raises NO_HEAD.

    The questions run side by side: a launch waits for the slowest one only.
    """
    from concurrent.futures import ThreadPoolExecutor  # only those who ask git wait for it

    with ThreadPoolExecutor(len(_QUESTIONS)) as pool:
        asked = [pool.submit(git, repo, *words) for words in _QUESTIONS]
        status, position, tracked, placed = (one.result() for one in asked)
    place = _Place.of(placed)
    head, branch = "", ""
    changed: dict[str, str] = {}
    untracked: dict[str, str] = {}
    for entry in _entries(status):
        kind, _, rest = entry.partition(" ")
        if entry.startswith("# branch.oid "):
            head = rest.partition(" ")[2]
        elif entry.startswith("# branch.head "):
            branch = rest.partition(" ")[2]
        elif kind == "#":
            continue
        elif kind == "?":
            name = place.name(rest)
            if not of_client(name) or name.endswith(".py"):
                untracked[_printable(name)] = _digest(repo / name)
        else:
            # "1 XY sub mH mI mW hH hI path", or "u" with three stages; what is staged changes no file.
            fields = rest.split(" ", 7 if kind == "1" else 9)
            mode = fields[4 if kind == "1" else 5]
            name = place.name(fields[-1])
            changed[_printable(name)] = f"{mode} {_digest(repo / name)}"
    if not _SHA.fullmatch(head):
        raise _no_commit(repo, head or "git status names none")
    stamps: dict[str, Stamp | None] = {}
    for entry in _entries(tracked):
        tag, _, path = entry.partition(" ")
        path = place.name(path)
        name = _printable(path)
        stamps[name] = _stamp(repo / path)
        if (tag.islower() or tag == "S") and stamps[name]:
            # git is set not to look (assume-unchanged, skip-worktree): nobody can say that it is the commit's file.
            changed[name] = f"hidden {_digest(repo / path)}"
    branch = "HEAD" if branch == "(detached)" else branch
    return GitState(head, branch, changed, untracked, position.decode(errors="replace").strip(), stamps)


def of_client(name: str) -> bool:
    """Whether a file lies where a client or an editor keeps its own, at the top of the project or of what holds it."""
    top = next((part for part in PurePosixPath(name).parts if part != ".."), "")
    return top in _CLIENTS or top.startswith(_CLIENT_PREFIX)


@dataclass(frozen=True)
class _Place:
    """Where a folder lies in its work tree: git names files from the top, we name them from the folder."""

    prefix: str
    up: str

    @classmethod
    def of(cls, answer: bytes) -> _Place:
        """From ``rev-parse --show-prefix --show-cdup``; both lines are empty at the top."""
        prefix, _, up = os.fsdecode(answer).removesuffix("\n").rpartition("\n")
        return cls(prefix, up)

    def name(self, path: str) -> str:
        """The name of a file, below the folder or above it."""
        inside = path.startswith(self.prefix) and path != self.prefix
        return path.removeprefix(self.prefix) if inside else self.up + path


ABSENT = "000000"
"""The mode of a side on which a file does not exist."""


@dataclass(frozen=True)
class Change:
    """One path on which two commits differ: git's modes and the blobs' names on both sides."""

    path: str
    old_mode: str
    new_mode: str
    old_blob: str
    new_blob: str


def changes(repo: Path, old: str, new: str) -> tuple[Change, ...]:
    """Every path on which the trees of two commits differ; a rename is two of them. Raises NO_HEAD."""
    words = ("diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--no-renames", "--ignore-submodules=none")
    answer = _entries(git(repo, *words, old, new))
    place = _Place.of(git(repo, *_QUESTIONS[-1]))
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return tuple(Change(_printable(place.name(path)), *facts.lstrip(":").split(" ")[:4]) for facts, path in pairs)


def blob(repo: Path, name: str) -> bytes:
    """The bytes of a blob, by its name or as ``<commit>:./<path>``. Raises NO_HEAD."""
    return git(repo, "cat-file", "blob", name)


def holding(repo: Path, commit: str, word: str) -> dict[str, bytes]:
    """The Python files of a commit that hold a word: path to bytes. Raises NO_HEAD."""
    words = ("grep", "-l", "-z", "-w", "-F", "-e", word, commit, "--", ":/*.py")
    # Without a match git grep fails; that the commit is there tells it from another failure.
    try:
        found = _entries(git(repo, *words))
    except Refusal:
        git(repo, "cat-file", "-e", f"{commit}^{{commit}}")
        return {}
    names = [name.removeprefix(f"{commit}:") for name in found]
    return {_printable(name): blob(repo, f"{commit}:./{name}") for name in names}


def diff(repo: Path) -> bytes:
    """The tracked changes against HEAD, as a patch that can be applied. Raises NO_HEAD."""
    return git(repo, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD")


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
        form = f"--format=%H{_FIELD}%cs{_FIELD}%s"
        log = git(repo, "log", "-z", "--no-show-signature", form, f"{before}..{after}", "--")
        files = changed(repo, before, after)
    except Refusal:
        return None
    records = (record.split(_FIELD, 2) for record in log.decode(errors="replace").split("\0") if record)
    return CommitRange(tuple(Commit(sha, day, subject) for sha, day, subject in records), files)


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


def _lines(count: str) -> int | None:
    return None if count == "-" else int(count)


def _entries(answer: bytes) -> list[str]:
    return [name for name in os.fsdecode(answer).split("\0") if name]


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _stamp(path: Path) -> Stamp | None:
    """None for a file that is gone, and for a submodule's folder, whose time changes with every file in it."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return None if stat.S_ISDIR(facts.st_mode) else (facts.st_ino, facts.st_mode, facts.st_size, facts.st_mtime_ns)


def _digest(path: Path) -> str:
    """A digest, or for a link, another repository and a very large file what changes when its content does."""
    try:
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            return f"link:{path.readlink()}"
        if stat.S_ISDIR(facts.st_mode):
            inner = read(path)
            return f"repository:{inner.head}:{digest([inner.changed, inner.untracked])}"
        if not stat.S_ISREG(facts.st_mode):
            return "not-a-file"
        return content_mark(path, facts.st_size, facts.st_mtime_ns)
    except FileNotFoundError:
        return "gone"
    except OSError as error:
        return f"unreadable:{error.errno}"
    except Refusal:
        return "repository:no commit"
