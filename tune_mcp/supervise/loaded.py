"""The record of what Python and pytest loaded for one launch from outside git's view (``loaded.json``).

The guard plugin lists it inside the measured process, so it is asked the way the launch asks. On record are: the files
of every imported module, installed or ignored by git; settings files that pytest used, also above the repository;
``.pth`` files, site customisation and the RECORD of every installed distribution; editable installs by their own
commit; ignored files that pytest's process read; revisions of the declared models and data sets. A file is hashed when
it is first seen and again only when size, times or inode changed.

``loaded.json`` of the run directory is the record of the last attempt that was comparable. It holds what all attempts
before it loaded, too, and its digest stands in the ledger as that of a sealed attempt.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.errors import Json, Refusal
from tune_mcp.files import content_mark, dump_json, parse_json, read_plain, sha256_bytes, write_atomic
from tune_mcp.precheck.hub import Revision
from tune_mcp.run_dir import RunDir
from tune_mcp.session import drift, events, provenance
from tune_mcp.session.provenance import GitState
from tune_mcp.supervise.job import AttemptResult, Job

LISTED_FILE = "guard/loaded.json"
"""In the attempt's folder, as the guard wrote it."""
RECORD_FILE = "loaded.json"
JOINED_FILE = "loaded.joined.json"
RECORDS = (RECORD_FILE, JOINED_FILE)
"""In the attempt's folder, with digests; the run directory has the last comparable one."""
_CUSTOMISING = ("sitecustomize", "usercustomize")
_OUR_DISTRIBUTION = "tune_mcp-"
_NO_FILTER = frozenset({"unspecified", "unset"})

Stamp = tuple[int, int, int, int]
"""Size, modification and change time (ns), inode."""
FileState = tuple[str, int, int, int, int]
"""Digest, then the stamp at which it was taken."""


class Loaded(Frozen):
    """The files by path, and what else decides a launch. ``began_ns`` is when the run's first comparable one began.

    ``site`` maps a folder of the search path to the names in it that run code by themselves, ``projects`` an editable
    install to its commit and local changes.
    """

    schema_version: int = 1
    began_ns: int
    interpreter: tuple[str, ...]
    search_path: tuple[str, ...]
    settings: tuple[str, ...]
    files: dict[str, FileState]
    site: dict[str, tuple[str, ...]]
    projects: dict[str, str] = Field(default_factory=dict)
    revisions: dict[str, Revision] = Field(default_factory=dict)


class Listed(Frozen):
    """What the guard listed: a launch's interpreter, settings files, modules, and data files that were read."""

    interpreter: tuple[str, ...]
    search_path: tuple[str, ...]
    settings: tuple[str, ...]
    modules: tuple[str, ...]
    read: tuple[str, ...]


def recorded(path: Path) -> Loaded | None:
    """The record in a file; None when there is none or it cannot be read."""
    stamp = stamp_of(str(path))
    return None if stamp is None else _parsed(path, stamp)


@lru_cache(maxsize=2)
def _parsed(path: Path, _: Stamp) -> Loaded | None:
    """Parsed once for both comparisons of a launch: it has a line for every imported file."""
    return Loaded.from_file(path)


def store(job: Job, record: Loaded) -> str:
    """Write the attempt's record; returns its digest."""
    data = _encoded(record)
    write_atomic(job.folder / RECORD_FILE, data)
    return sha256_bytes(data)


def joined(job: Job, record: Path, kept: Path) -> Path:
    """The attempt's record, with what attempts beside it recorded since it was compared; where that lies.

    What both have stays as it was recorded first, so that the next attempt shows where they differ.
    """
    mine, others = recorded(record), recorded(kept)
    if mine is None or others is None:
        return record
    missing = {name for name in others.files if name not in mine.files and stamp_of(name)}
    if not missing:
        return record
    first = {name: state for name, state in others.files.items() if name in missing or name in mine.files}
    same = {"site": mine.site | others.site, "projects": mine.projects | others.projects}
    both = mine.model_copy(
        update={"began_ns": min(mine.began_ns, others.began_ns), "files": mine.files | first, **same}
        | {"revisions": mine.revisions | others.revisions}
    )
    path = job.folder / JOINED_FILE
    write_atomic(path, _encoded(both))
    return path


def reference(job: Job, result: AttemptResult | None, *, beside: bool) -> tuple[str, bytes]:
    """What a sealed attempt loaded, for the next ones to be compared with: its digest, and its text if it is so.

    Empty for an attempt that differs from the run's other ones: it is no measure for them. ``beside``: others may have
    ended since this one was compared; what they loaded stays in.
    """
    if result is None or result.loaded_sha256 is None or result.moved or result.incomparable:
        return "", b""
    with suppress(OSError):  # without it the next attempt is compared with the one before
        path = job.folder / RECORD_FILE
        data = read_plain(path)
        if sha256_bytes(data) == result.loaded_sha256:
            data = read_plain(joined(job, path, job.run.loaded)) if beside else data
            return sha256_bytes(data), data
    return result.loaded_sha256, b""


def restored(run: RunDir) -> bool:
    """Put the newest sealed record back where a crash, or somebody else, left another one; False where none is left."""
    known = [str(event.facts["loaded"]) for event in events.read(run.events, "sealed") if "loaded" in event.facts]
    with suppress(OSError):
        if not known or sha256_bytes(read_plain(run.loaded)) in known:
            return True
    copies: dict[str, bytes] = {}
    for place in ("_pytest/*/attempts/*", "purged/*/*"):
        for path in (found for name in RECORDS for found in run.path.glob(f"{place}/{name}")):
            with suppress(OSError):
                data = read_plain(path)
                copies[sha256_bytes(data)] = data
    newest = next((copies[sha] for sha in reversed(known) if sha in copies), None)
    if newest is not None:
        write_atomic(run.loaded, newest)
    return newest is not None


def _encoded(record: Loaded) -> bytes:
    """Without indentation, which the fast encoder does not know."""
    return json.dumps(record.model_dump(mode="json"), allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_listed(job: Job) -> Listed | None:
    """What the guard listed for this attempt, without names that JSON cannot hold; None when it left no list."""
    found = Listed.from_file(job.folder / LISTED_FILE)
    if found is None:
        return None
    modules, read = (tuple(path for path in paths if path.isprintable()) for paths in (found.modules, found.read))
    return found.model_copy(update={"modules": modules, "read": read})


def known_to_git(root: Path, tree: GitState, loaded: Set[str]) -> frozenset[str]:
    """Plain files that git compares already; what a link of the tree leads to is not among them.

    Nor is what was loaded through a filter (git-lfs, smudge): of such a file git compares what the filter makes of it.
    """
    links = {name for name, stamp in tree.stamps.items() if stamp and stat.S_ISLNK(stamp[1])}
    names = {*tree.stamps, *tree.untracked} - links
    known = frozenset(os.path.normpath(f"{root}/{name}") for name in names)
    asked = sorted(known & loaded)
    if not asked:
        return known
    answer = os.fsdecode(provenance.git(root, "check-attr", "-z", "filter", "--", *asked)).split("\0")
    filtered = {path for path, value in zip(answer[::3], answer[2::3], strict=False) if value not in _NO_FILTER}
    return known - filtered


def own_files(job: Job, launch: Listed, site: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Files that decide a launch without being modules."""
    python = Path(job.venv_python)
    yield from (str(python), str(python.parent.parent / "pyvenv.cfg"), launch.interpreter[0])
    for folder, names in site.items():
        yield from (f"{folder}/{name}" for name in names if not name.startswith(_CUSTOMISING))
        if folder.endswith("-packages"):
            yield from (f"{folder}/{name}/RECORD" for name in _names(folder) if name.endswith(".dist-info"))
    for folder in {Path(job.repo_root), (Path(job.repo_root) / job.test).parent}:
        yield from (f"{folder}/{name}" for name in _names(str(folder)) if name.startswith(".env"))


def site_of(search_path: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Folder of the search path -> the names in it that Python runs by itself."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in search_path:
        runs = (".pth", ".egg-link") if folder.endswith("-packages") else ()
        names = [name for name in _names(folder) if name.endswith(runs) or name.startswith(_CUSTOMISING)]
        found[folder] = tuple(sorted(names))
    return found


def editable(site: Iterable[str], repo_root: Path) -> Iterator[str]:
    """Folders of the editable installs that are not the repository itself."""
    top: Path | None = None
    for folder in site:
        for name in _names(folder) if folder.endswith("-packages") else ():
            if not name.endswith(".dist-info") or name.startswith(_OUR_DISTRIBUTION):
                continue
            try:
                value = parse_json(read_plain(Path(folder) / name / "direct_url.json"))
            except (OSError, ValueError):
                continue
            place = _place(value)
            if place:
                top = top or provenance.top_level(repo_root) or repo_root
                if not Path(place).is_relative_to(top):
                    yield place


def _place(direct_url: Json) -> str:
    """The folder of an editable install (PEP 610); empty for another one."""
    facts = direct_url if isinstance(direct_url, dict) else {}
    url, kind = facts.get("url"), facts.get("dir_info")
    editable = isinstance(kind, dict) and kind.get("editable") is True
    return url.removeprefix("file://") if editable and isinstance(url, str) and url.startswith("file:///") else ""


def project(folder: Path) -> str:
    """The commit of an editable install and a digest of what is changed in it; empty where git knows nothing."""
    try:
        state = provenance.read(folder)
    except Refusal:
        return ""
    new = {name: sha for name, sha in state.untracked.items() if drift.is_loaded(name)}
    return f"{state.head} {sha256_bytes(dump_json([state.changed, new]))[:16]}"


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def stamp_of(path: str) -> Stamp | None:
    """The stamp of a file now; None for what is no plain file."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    plain = stat.S_ISREG(facts.st_mode)
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino) if plain else None


def digest_of(path: str, stamp: Stamp) -> str:
    """A digest of the file; of a very large one its size and time."""
    try:
        return content_mark(Path(path), *stamp[:2])
    except OSError as error:
        return f"unreadable:{error.errno}"
