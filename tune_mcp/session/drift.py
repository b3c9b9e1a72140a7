"""Whether a tree is still the one that the run measures, and whether it was another one in between (SES-11).

Files decide, not git's word alone: a test, threshold or catalogue file is compared by its bytes, everything else that
git tracks or could be imported by its digest. What a run may leave in its tree is told apart by name (see
docs/explanation/decisions.md).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tune_mcp.config.loader import REPO_PLACE
from tune_mcp.config.stages import Frozen
from tune_mcp.files import read_plain, sha256_bytes, sha256_file
from tune_mcp.run_dir import RUNS_FOLDER
from tune_mcp.session.provenance import GitState

_OURS = (f"{REPO_PLACE}/", f"{RUNS_FOLDER}/")
_BYTECODE = frozenset({"__pycache__", ".pytest_cache"})
_LOGS = frozenset({".log", ".pyc"})
OUTPUTS = frozenset(
    {
        ".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".html", ".md", ".out", ".err", ".png", ".svg", ".wav",
        ".mp3", ".flac", ".npy", ".npz",
    }
)  # fmt: skip
"""What a new file may end in and still be taken for a test's output: nothing that Python or pytest would load."""


class Baseline(Frozen):
    """What a launch must find: the commit, how the tree differs from it, and the measured files byte for byte.

    ``changed`` and ``untracked`` are those of ``GitState``; ``file_sha256`` maps test and threshold files (relative to
    the repository) and ``config_sha256`` the catalogue's files (absolute) to their digests.
    """

    git_sha: str
    changed: dict[str, str]
    untracked: dict[str, str]
    file_sha256: dict[str, str]
    config_sha256: dict[str, str]


def config_digest(path: Path) -> str:
    """Digest of a catalogue file; when it was discovered is no part of what it says."""
    lines = read_plain(path).splitlines(keepends=True)
    return sha256_bytes(b"".join(line for line in lines if b"last_discovered_at:" not in line))


def moved(root: Path, now: GitState, planned: Baseline) -> tuple[str, ...]:
    """What is not as planned, one sentence each, commit first; empty when the tree is the planned one."""
    found: list[str] = []
    if now.head != planned.git_sha:
        found.append(f"HEAD is {now.head}, the run measures {planned.git_sha}")
    found += [
        f"{name} is not the file that was planned"
        for name, sha in planned.file_sha256.items()
        if not _is(root / name, sha)
    ]
    for name, sha in planned.config_sha256.items():
        path = Path(name)
        if not path.is_file() or config_digest(path) != sha:
            found.append(f"{name} is not the file that was planned")
    return (*found, *dirt_moved(now, planned))


def dirt_moved(now: GitState, planned: Baseline) -> tuple[str, ...]:
    """How the tree differs from its commit otherwise than was recorded, measured files and our own config apart."""
    found = [
        f"{name} was changed"
        for name in sorted({*now.changed, *planned.changed})
        if now.changed.get(name) != planned.changed.get(name) and not _apart(name, planned)
    ]
    for name in sorted({*now.untracked, *planned.untracked}):
        before, after = planned.untracked.get(name), now.untracked.get(name)
        if before == after or _apart(name, planned) or (before is None and PurePosixPath(name).suffix in OUTPUTS):
            continue
        found.append(f"{name} {'appeared' if before is None else 'is gone' if after is None else 'was changed'}")
    return tuple(found)


def appeared(now: GitState, planned: Baseline) -> tuple[str, ...]:
    """New files that are taken for a test's output: no reason to stop, but they are told."""
    return tuple(
        name
        for name in sorted({*now.untracked} - {*planned.untracked})
        if PurePosixPath(name).suffix in OUTPUTS and not _apart(name, planned)
    )


def touched(before: GitState, after: GitState, planned: Baseline) -> tuple[str, ...]:
    """What was moved between two looks although both look alike: HEAD by its reflog, files by being written."""
    found = [] if before.position == after.position else [f"HEAD moved and came back ({after.position or 'no reflog'})"]
    return tuple(
        found
        + [
            f"{name} was written"
            for name in sorted({*before.stamps, *after.stamps})
            if before.stamps.get(name) != after.stamps.get(name)
            and (name in planned.file_sha256 or not _apart(name, planned))
        ]
    )


def _apart(name: str, planned: Baseline) -> bool:
    """Files that are not part of the tree here: ours, caches and logs, and those that are compared by their bytes."""
    path = PurePosixPath(name)
    return (
        name in planned.file_sha256
        or name.startswith(_OURS)
        or path.suffix in _LOGS
        or not _BYTECODE.isdisjoint(path.parts)
    )


def _is(path: Path, sha: str) -> bool:
    return path.is_file() and sha256_file(path) == sha
