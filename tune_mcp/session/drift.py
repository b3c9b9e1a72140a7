"""Whether a tree is still the one that the run measures, and whether it was another one in between (SES-11).

Files decide, not git's word alone: a test, threshold or catalogue file is compared by its bytes, everything else that
git tracks or could be imported by its digest. What a run may leave in its tree is recognised by name and by who writes
it (see docs/explanation/decisions.md and docs/how-to/what-tests-leave.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from json import dumps
from pathlib import Path, PurePosixPath
from re import escape, fullmatch, sub
from shlex import quote

from tune_mcp import procfs
from tune_mcp.config.loader import REPO_PLACE
from tune_mcp.config.stages import Frozen
from tune_mcp.files import has_digest, read_plain, sha256_bytes
from tune_mcp.run_dir import RUNS_FOLDER
from tune_mcp.session.provenance import GitState, of_client

_OURS = (f"{REPO_PLACE}/", f"{RUNS_FOLDER}/")
_BYTECODE = frozenset({"__pycache__", ".pytest_cache"})
_LOGS = frozenset({".log", ".pyc"})
_LOADED = frozenset(
    {".py", ".pyi", ".pyx", ".pyd", ".so", ".pth", ".egg-link", ".ini", ".toml", ".cfg", ".sh", ".bash"}
)
"""Suffixes of files that Python, pytest or a shell loads, and of their settings: never taken for an output."""


class Baseline(Frozen):
    """What a launch must find: the commit, how the tree differs from it, and the measured files byte for byte.

    ``changed`` and ``untracked`` are those of ``GitState``; ``file_sha256`` maps test and threshold files (relative to
    the repository) and ``config_sha256`` the catalogue's files (absolute) to their digests. ``apart`` are files that
    are no part of the tree: our own output, and untracked ones that the tests write. ``test_outputs`` are globs of
    tracked files that the model's tests rewrite; they never cover a measured or a loaded file.
    """

    git_sha: str
    changed: dict[str, str]
    untracked: dict[str, str]
    file_sha256: dict[str, str]
    config_sha256: dict[str, str]
    apart: tuple[str, ...] = ()
    test_outputs: tuple[str, ...] = ()


def is_loaded(name: str) -> bool:
    """Whether Python, pytest, a shell or dotenv would load such a file; ``/`` at the end: another repository."""
    path = PurePosixPath(name)
    return name.endswith("/") or path.suffix in _LOADED or path.name.startswith(".env")


def config_digest(path: Path) -> str:
    """Digest of a catalogue file; when it was discovered does not count."""
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
        if not has_digest(root / name, sha)
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
        if before == after or _apart(name, planned) or (before is None and not is_loaded(name)):
            continue
        found.append(f"{name} {'appeared' if before is None else 'is gone' if after is None else 'was changed'}")
    return tuple(found)


def appeared(now: GitState, planned: Baseline) -> tuple[str, ...]:
    """New files that are taken for a test's output: no reason to stop, but they are reported."""
    return tuple(
        name
        for name in sorted({*now.untracked} - {*planned.untracked})
        if not is_loaded(name) and not _apart(name, planned)
    )


def rewritten(before: GitState, after: GitState, planned: Baseline) -> tuple[str, ...]:
    """Tracked files that were written between two looks at one launch, whatever they hold now."""
    return tuple(name for name in _written(before, after) if name in planned.file_sha256 or not _apart(name, planned))


def outputs(before: GitState, after: GitState, planned: Baseline) -> tuple[str, ...]:
    """What the tests of one launch wrote that is no part of the tree: untracked data, and declared outputs."""
    untracked = (
        name
        for name in sorted(planned.untracked)
        if before.untracked.get(name) != after.untracked.get(name) and not is_loaded(name)
    )
    declared = (name for name in _written(before, after) if _declared(name, planned))
    return (*(name for name in untracked if not _apart(name, planned)), *declared)


def way_out(tracked: Iterable[str], new: Iterable[str], planned: Baseline) -> str:
    """What a person can do about files that the tests write into the tree, a clause; empty when there is none.

    ``tracked`` are files that differ from the plan, ``new`` untracked ones. A measured or a loaded file can only be put
    back; a new one that Python or pytest would load can be ignored by git, because a person decides that.
    """
    declarable = [name for name in tracked if not _is_ours(name, planned) and not is_loaded(name)]
    made = [name for name in new if not _is_ours(name, planned) and is_loaded(name)]
    steps: list[str] = []
    if declarable:
        listed = ", ".join(dumps(name) for name in declarable[:5])
        steps.append(f"if the tests write it, add test_outputs: [{listed}] to the model's config.yaml")
    if made:
        lines = " ".join(quote(f"/{_ignore_pattern(name)}") for name in made[:5])
        exclude = '"$(git rev-parse --git-path info/exclude)"'
        steps.append(f"if the tests make it, let git ignore it: printf '%s\\n' {lines} >> {exclude}")
    return "; ".join(steps)


def _ignore_pattern(name: str) -> str:
    """The pattern of an ignore file that fits this name: what is special there is escaped, a line break is any sign."""
    return sub(r"([\\*?\[\]]| $)", r"\\\1", name).replace("\n", "?").replace("\r", "?")


def _is_ours(name: str, planned: Baseline) -> bool:
    """Whether the file has a digest of its own in the plan, or lies where only we write."""
    return name in planned.file_sha256 or name.startswith(_OURS)


def _written(before: GitState, after: GitState) -> list[str]:
    return [
        name
        for name in sorted({*before.stamps, *after.stamps})
        if before.stamps.get(name) != after.stamps.get(name) or before.changed.get(name) != after.changed.get(name)
    ]


def _declared(name: str, planned: Baseline) -> bool:
    """Whether the model declares that its tests rewrite this file; a measured or loaded one stays what it is."""
    return (
        name not in planned.file_sha256
        and not is_loaded(name)
        and any(_fits(str(PurePosixPath(name)), glob) for glob in planned.test_outputs)
    )


def _fits(name: str, glob: str) -> bool:
    """``**`` for any depth, a folder for all that is in it; never by the file's name alone."""
    whole = "(?:.*/)?".join(escape(part) for part in glob.rstrip("/").split("**/"))
    regex = whole.replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return fullmatch(regex + "(/.*)?", name) is not None


def touched(before: GitState, after: GitState, planned: Baseline) -> tuple[str, ...]:
    """What was moved between two looks although both look alike: HEAD by its reflog, files by being written."""
    found = [] if before.position == after.position else [f"HEAD moved and came back ({after.position or 'no reflog'})"]
    written = (one for one in rewritten(before, after, planned) if before.stamps.get(one) != after.stamps.get(one))
    return (*found, *(f"{name} was written" for name in written))


def _apart(name: str, planned: Baseline) -> bool:
    """Files that are no part of the tree here: ours, a client's, caches, logs, outputs, those compared by bytes."""
    path = PurePosixPath(name)
    return (
        name in planned.file_sha256
        or name.startswith(_OURS)
        or path.suffix in _LOGS
        or not _BYTECODE.isdisjoint(path.parts)
        or of_client(name)
        or name in planned.apart
        or _declared(name, planned)
    )


def own_output(root: Path, top: Path) -> tuple[str, ...]:
    """Files below ``top`` that hold the output of those who started a run: ``... | tee calibration.txt``.

    They grow while the run works, in the tree that it compares. Who writes them is asked of the process table: this
    process, its ancestors (``script``), its terminal session, and whoever reads what it prints. Named relative to
    ``root``; never one that Python, pytest or a shell loads. What /proc does not show is left out.
    """
    here, above = os.path.realpath(root), os.path.realpath(top)
    found = {path for pid in _writers() for path in _written_by(pid) if path.startswith(f"{above}/")}
    names = (os.path.relpath(path, here) for path in found if Path(path).is_file())
    return tuple(sorted(name for name in names if not is_loaded(name)))


def _writers() -> set[int]:
    found, session = procfs.ancestors(), os.getsid(0)
    own = procfs.open_files("self") or {}
    pipes = {link for handle in ("1", "2") if (link := own.get(handle, "")).startswith("pipe:")}
    for one in procfs.processes():
        if one.session == session or (pipes and not pipes.isdisjoint((procfs.open_files(one.pid) or {}).values())):
            found.add(one.pid)
    return found - {0, 1}


def _written_by(pid: int) -> Iterator[str]:
    for handle, link in (procfs.open_files(pid) or {}).items():
        if link.startswith("/") and procfs.is_written(pid, handle):
            yield link
