"""What Python and pytest loaded for one launch from outside git's view, and whether another repeat loaded the same.

The guard plugin lists it inside the measured process, so it is asked the way the launch asks. Compared are: the files
of every imported module, installed or ignored by git; settings files that pytest used, also above the repository;
``.pth`` files, site customisation and the RECORD of every installed distribution; editable installs by their own
commit; ignored files that pytest's process read; revisions of the declared models and data sets. A file is hashed when
it is first seen and again only when size, times or inode changed.

``loaded.json`` of the run directory is the record of the last attempt that was comparable. It holds what all attempts
before it loaded, too, and its digest stands in the ledger as that of a sealed attempt.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.errors import Json, Refusal
from tune_mcp.files import dump_json, parse_json, read_plain, read_text, sha256_bytes, sha256_file, write_atomic
from tune_mcp.precheck import hub
from tune_mcp.precheck.hub import Revision
from tune_mcp.run_dir import RUNS_FOLDER
from tune_mcp.session import drift, provenance
from tune_mcp.session.provenance import GitState
from tune_mcp.supervise.job import Job
from tune_mcp.words import listed

LISTED_FILE = "guard/loaded.json"
"""In the attempt's folder, as the guard wrote it."""
RECORD_FILE = "loaded.json"
JOINED_FILE = "loaded.joined.json"
RECORDS = (RECORD_FILE, JOINED_FILE)
"""In the attempt's folder, with digests; the run directory has the last comparable one."""
_HASHED_UP_TO_BYTES = 16 * 1024 * 1024
_CUSTOMISING = ("sitecustomize", "usercustomize")
_NOT_READ = frozenset({".git", RUNS_FOLDER, ".pytest_cache", "__pycache__", ".hypothesis"})
_OURS = "tune_mcp-"
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


@dataclass(frozen=True)
class Difference:
    """What another repeat loaded otherwise, a clause each: inside the repository (COMMIT_MOVED), and anywhere else
    (HOST_NOT_COMPARABLE); empty when there is nothing.

    ``inherited`` are files of the repository that this launch read and an earlier one of the run had written.
    """

    moved: str = ""
    incomparable: str = ""
    inherited: tuple[str, ...] = ()


class _Listed(Frozen):
    """What the guard wrote."""

    interpreter: tuple[str, ...]
    search_path: tuple[str, ...]
    settings: tuple[str, ...]
    modules: tuple[str, ...]
    read: tuple[str, ...]


def recorded(path: Path) -> Loaded | None:
    """A record; None when there is none or it cannot be read."""
    stamp = _stamp(str(path))
    return None if stamp is None else _parsed(path, stamp)


@lru_cache(maxsize=2)
def _parsed(path: Path, _: Stamp) -> Loaded | None:
    """Parsed once for both looks of a launch: it has a line for every imported file."""
    return Loaded.from_file(path)


def before(job: Job) -> Difference:
    """What has changed since the record, as far as that can be seen without a launch."""
    kept = recorded(job.run.loaded)
    if kept is None:
        return Difference()
    found = _Comparison(job, kept)
    for path in kept.files:
        found.compare(path, _stamp(path))
    found.site(_site(kept.search_path))
    found.projects({name: _project(Path(name)) for name in kept.projects})
    found.revisions(hub.revisions_of(job.env, job.assets))
    return found.difference()


def after(job: Job, tree: GitState, started_ns: int) -> tuple[Loaded | None, Difference]:
    """The record of this attempt, with all that was known before it, and how it differs from that.

    ``tree`` is what git sees, ``started_ns`` when the launch began. None when the guard left no list.
    """
    launch = _read_listed(job)
    if launch is None:
        return None, Difference()
    kept = recorded(job.run.loaded)
    found = _Comparison(job, kept)
    ours = f"{job.run.path}{os.sep}"
    searched = tuple(path for path in launch.search_path if not f"{path}{os.sep}".startswith(ours))
    found.search_path = searched
    site = _site(searched)
    known = _known_to_git(Path(job.repo_root), tree, {*launch.modules, *launch.read})
    names = dict.fromkeys([*launch.modules, *launch.settings, *_own_files(job, launch, site)])
    for path in (*kept.files, *names) if kept else names:
        if path not in known and not path.startswith(ours):
            found.compare(path, _stamp(path), started_ns)
    untracked = {os.path.normpath(f"{job.repo_root}/{name}") for name in tree.untracked}
    for path in launch.read:
        if path in names or path in known - untracked or not _is_input(path, job, started_ns):
            continue
        found.inherit(path)
        if path not in known:
            found.compare(path, _stamp(path), started_ns, data=True)
    found.site(site)
    projects = {name: _project(Path(name)) for name in _editable(site, Path(job.repo_root))}
    found.projects(projects)
    now = hub.revisions_of(job.env, job.assets)
    found.revisions(now)
    if kept:
        found.same("the interpreter", kept.interpreter, launch.interpreter)
        found.same("the search path of modules", kept.search_path, searched)
        found.same("pytest's settings file", kept.settings, launch.settings)
    record = Loaded(
        began_ns=kept.began_ns if kept else started_ns,
        interpreter=launch.interpreter,
        search_path=searched,
        settings=launch.settings,
        files=found.files,
        site=site,
        projects=projects,
        revisions=now,
    )
    return record, found.difference()


def store(job: Job, record: Loaded) -> str:
    """Write the attempt's record; returns its digest. Without indentation, which the fast encoder does not know."""
    data = json.dumps(record.model_dump(mode="json"), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    write_atomic(job.folder / RECORD_FILE, data)
    return sha256_bytes(data)


def joined(job: Job, record: Path, kept: Path) -> Path:
    """The attempt's record, with what attempts beside it recorded since it was compared; where that lies.

    What both have stays as it was recorded first, so that the next attempt shows where they differ.
    """
    mine, others = recorded(record), recorded(kept)
    if mine is None or others is None:
        return record
    missing = {name for name in others.files if name not in mine.files and _stamp(name)}
    if not missing:
        return record
    first = {name: state for name, state in others.files.items() if name in missing or name in mine.files}
    same = {"site": mine.site | others.site, "projects": mine.projects | others.projects}
    data = mine.model_copy(
        update={"began_ns": min(mine.began_ns, others.began_ns), "files": mine.files | first, **same}
        | {"revisions": mine.revisions | others.revisions}
    )
    path = job.folder / JOINED_FILE
    write_atomic(path, json.dumps(data.model_dump(mode="json"), separators=(",", ":")).encode() + b"\n")
    return path


class _Comparison:
    """File after file against the record; ``files`` becomes the new one."""

    def __init__(self, job: Job, kept: Loaded | None) -> None:
        self._root = f"{job.repo_root}{os.sep}"
        self._kept = kept
        self.search_path: tuple[str, ...] = kept.search_path if kept else ()
        self.files: dict[str, FileState] = {}
        self._inside: list[str] = []
        self._elsewhere: list[str] = []
        self._inherited: list[str] = []

    def compare(self, path: str, now: Stamp | None, started_ns: int | None = None, *, data: bool = False) -> None:
        """One file: unchanged since it was recorded, or new and older than the first launch.

        ``started_ns``: after a launch that began then. ``data``: read, not imported.
        """
        before = self._kept.files.get(path) if self._kept else None
        if before and now == before[1:]:
            self.files[path] = before
            return
        if now is None:
            if before and self._is_loaded_from(path):
                self._tell(path, "is gone")
            return
        state = (_digest(path, now), *now)
        changed = now[2]
        if before:
            if before[0] != state[0]:
                self._tell(path, "is not what an earlier repeat loaded")
        elif started_ns is not None:
            searched = self._is_loaded_from(path)
            if not searched and changed >= started_ns:
                return  # made by the launch itself: compiled code, a copy below a cache
            what = ""
            if self._kept and searched and changed > self._kept.began_ns and (not data or drift.is_loaded(path)):
                what = "is new or was changed since the first repeat"
            elif not self._kept and changed >= started_ns and self._decides(path):
                what = "was written while it was in use"
            if what and not _is_as_installed(path):
                self._tell(path, what)
        self.files[path] = state

    def inherit(self, path: str) -> None:
        """A data file that was read: from an earlier launch where it is newer than the first one and new to the run."""
        now = _stamp(path)
        if now and self._kept and path not in self._kept.files and path.startswith(self._root):
            self._inherited += [path.removeprefix(self._root)] if now[2] > self._kept.began_ns else []

    def site(self, now: Mapping[str, tuple[str, ...]]) -> None:
        """Names that run code by themselves: a new one shows before it was loaded, one that is gone afterwards too."""
        for folder, names in now.items():
            for name in names if self._kept and folder in self._kept.site else ():
                if self._kept and name not in self._kept.site[folder]:
                    self._tell(f"{folder}/{name}", "appeared")

    def projects(self, now: Mapping[str, str]) -> None:
        """Editable installs elsewhere."""
        for name, state in now.items():
            if self._kept and self._kept.projects.get(name, state) != state:
                self._tell(name, "(an editable install) has another commit or other changes")

    def revisions(self, now: Mapping[str, Revision]) -> None:
        """Models and data sets."""
        for name, revision in now.items():
            if (
                self._kept
                and (known := self._kept.revisions.get(name))
                and (change := hub.revision_change(known, revision))
            ):
                self._elsewhere.append(f"{name} {change}")

    def same(self, what: str, before: tuple[str, ...], now: tuple[str, ...]) -> None:
        """A fact of the launch as a whole."""
        if before != now:
            only = [text for text in now if text not in before] or [text for text in before if text not in now] or now
            self._elsewhere.append(f"{what} is another one than in an earlier repeat ({', '.join(only)[:200]})")

    def difference(self) -> Difference:
        """All of it; a file is named once."""
        found = (listed([*dict.fromkeys(one)]) for one in (self._inside, self._elsewhere))
        return Difference(*found, inherited=tuple(dict.fromkeys(self._inherited)))

    def _is_loaded_from(self, path: str) -> bool:
        """Whether the file lies where a launch looks for modules or settings, not in a cache that a launch fills."""
        places = (folder for folder in self.search_path if len(folder) > 1)
        return path.startswith(self._root) or any(path.startswith(f"{folder}{os.sep}") for folder in places)

    def _decides(self, path: str) -> bool:
        """Installed modules, conftests and settings: no launch writes them."""
        name = path.rpartition("/")[2]
        return not path.startswith(self._root) or "-packages/" in path or name == "conftest.py" or name[:4] == ".env"

    def _tell(self, path: str, what: str) -> None:
        if path.startswith(self._root) and "-packages/" not in path:
            self._inside.append(f"{path.removeprefix(self._root)}, which git ignores, {what}")
        else:
            self._elsewhere.append(f"{path} {what}")


def _read_listed(job: Job) -> _Listed | None:
    found = _Listed.from_file(job.folder / LISTED_FILE)
    if found is None:
        return None
    modules, read = (tuple(path for path in paths if path.isprintable()) for paths in (found.modules, found.read))
    return found.model_copy(update={"modules": modules, "read": read})  # without names that JSON cannot hold


def _known_to_git(root: Path, tree: GitState, loaded: Set[str]) -> frozenset[str]:
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


def _own_files(job: Job, launch: _Listed, site: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Files that decide a launch without being modules."""
    python = Path(job.venv_python)
    yield from (str(python), str(python.parent.parent / "pyvenv.cfg"), launch.interpreter[0])
    for folder, names in site.items():
        yield from (f"{folder}/{name}" for name in names if not name.startswith(_CUSTOMISING))
        if folder.endswith("-packages"):
            yield from (f"{folder}/{name}/RECORD" for name in _names(folder) if name.endswith(".dist-info"))
    for folder in {Path(job.repo_root), (Path(job.repo_root) / job.test).parent}:
        yield from (f"{folder}/{name}" for name in _names(str(folder)) if name.startswith(".env"))


def _site(search_path: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Folder -> what in it is run without being asked for."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in search_path:
        runs = (".pth", ".egg-link") if folder.endswith("-packages") else ()
        names = [name for name in _names(folder) if name.endswith(runs) or name.startswith(_CUSTOMISING)]
        found[folder] = tuple(sorted(names))
    return found


def _editable(site: Iterable[str], repo_root: Path) -> Iterator[str]:
    """Folders of the editable installs that are not the repository itself."""
    top: Path | None = None
    for folder in site:
        for name in _names(folder) if folder.endswith("-packages") else ():
            if not name.endswith(".dist-info") or name.startswith(_OURS):
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


def _project(folder: Path) -> str:
    """The commit of an editable install and a digest of what is changed in it; empty where git knows nothing."""
    try:
        state = provenance.read(folder)
    except Refusal:
        return ""
    new = {name: sha for name, sha in state.untracked.items() if drift.is_loaded(name)}
    return f"{state.head} {sha256_bytes(dump_json([state.changed, new]))[:16]}"


def _is_input(path: str, job: Job, started_ns: int) -> bool:
    """Whether it is a file that was there before the launch: what a launch writes is its output."""
    parts = path.removeprefix(f"{job.repo_root}{os.sep}").split(os.sep)
    if not _NOT_READ.isdisjoint(parts):
        return False
    now = _stamp(path)
    return now is not None and now[2] < started_ns


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _stamp(path: str) -> Stamp | None:
    """None for what is no plain file."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    plain = stat.S_ISREG(facts.st_mode)
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino) if plain else None


def _digest(path: str, stamp: Stamp) -> str:
    if stamp[0] > _HASHED_UP_TO_BYTES:
        return f"size:{stamp[0]}:{stamp[1]}"
    try:
        return sha256_file(Path(path))
    except OSError as error:
        return f"unreadable:{error.errno}"


def _is_as_installed(path: str) -> bool:
    """Whether the RECORD of a distribution holds this digest of the file: then only its links or permissions changed.

    A package manager that installs by hard links changes them whenever it fills another environment. An edited RECORD
    is a difference of its own.
    """
    folder, _, name = path.rpartition("-packages/")
    try:
        digest = bytes.fromhex(sha256_file(Path(path)))
        line = f"{name},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')},"
        records = Path(f"{folder}-packages").glob("*.dist-info/RECORD") if folder else ()
        return any(line in read_text(record) for record in records)
    except (OSError, ValueError):
        return False
