"""How what one launch loaded from outside git's view differs from the record of the run's other repeats."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.files import read_text, sha256_file
from tune_mcp.precheck import hub
from tune_mcp.precheck.hub import Revision
from tune_mcp.run_dir import RUNS_FOLDER
from tune_mcp.session import drift
from tune_mcp.session.provenance import GitState
from tune_mcp.supervise import loaded
from tune_mcp.supervise.job import Job
from tune_mcp.supervise.loaded import FileState, Loaded, Stamp
from tune_mcp.words import listed

_NOT_READ = frozenset({".git", RUNS_FOLDER, ".pytest_cache", "__pycache__", ".hypothesis"})
_NOTHING = Loaded(began_ns=0, interpreter=(), search_path=(), settings=(), files={}, site={})
"""In place of a record, for the run's first launch."""


@dataclass(frozen=True)
class Difference:
    """What another repeat loaded otherwise, a clause each: inside the repository (COMMIT_MOVED), and anywhere else
    (HOST_NOT_COMPARABLE); empty when there is nothing.

    ``inherited`` are files of the repository that this launch read and an earlier one of the run had written.
    """

    moved: str = ""
    incomparable: str = ""
    inherited: tuple[str, ...] = ()


def before_launch(job: Job) -> Difference:
    """What has changed since the record, as far as that can be seen without a launch."""
    kept = loaded.recorded(job.run.loaded)
    if kept is None:
        return Difference()
    found = _Comparison(job, kept)
    for path in kept.files:
        found.compare(path, loaded.stamp_of(path))
    found.site(loaded.site_of(kept.search_path))
    found.projects({name: loaded.project(Path(name)) for name in kept.projects})
    found.revisions(hub.revisions_of(job.env, job.assets))
    return found.difference()


def after_launch(job: Job, tree: GitState, started_ns: int) -> tuple[Loaded | None, Difference]:
    """The record of this attempt, with all that was known before it, and how it differs from that.

    ``tree`` is what git sees, ``started_ns`` when the launch began. None when the guard left no list.
    """
    launch = loaded.read_listed(job)
    if launch is None:
        return None, Difference()
    kept = loaded.recorded(job.run.loaded)
    found = _Comparison(job, kept)
    ours = f"{job.run.path}{os.sep}"
    searched = tuple(path for path in launch.search_path if not f"{path}{os.sep}".startswith(ours))
    found.search_path = searched
    site = loaded.site_of(searched)
    known = loaded.known_to_git(Path(job.repo_root), tree, {*launch.modules, *launch.read})
    names = dict.fromkeys([*launch.modules, *launch.settings, *loaded.own_files(job, launch, site)])
    for path in (*kept.files, *names) if kept else names:
        if path not in known and not path.startswith(ours):
            found.compare(path, loaded.stamp_of(path), started_ns)
    untracked = {os.path.normpath(f"{job.repo_root}/{name}") for name in tree.untracked}
    for path in launch.read:
        if path in names or path in known - untracked or not _is_input(path, job, started_ns):
            continue
        found.inherit(path)
        if path not in known:
            found.compare(path, loaded.stamp_of(path), started_ns, data=True)
    found.site(site)
    projects = {name: loaded.project(Path(name)) for name in loaded.editable(site, Path(job.repo_root))}
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


class _Comparison:
    """File after file against the record; ``files`` becomes the new one."""

    def __init__(self, job: Job, kept: Loaded | None) -> None:
        self._root = f"{job.repo_root}{os.sep}"
        self._first = kept is None
        self._recorded = kept or _NOTHING
        self.search_path = self._recorded.search_path
        self.files: dict[str, FileState] = {}
        self._inside: list[str] = []
        self._outside: list[str] = []
        self._inherited: list[str] = []

    def compare(self, path: str, now: Stamp | None, started_ns: int | None = None, *, data: bool = False) -> None:
        """Compare one file: it must be unchanged since it was recorded, or new and older than the first launch.

        ``started_ns``: after a launch that began then. ``data``: read, not imported.
        """
        before = self._recorded.files.get(path)
        if before and now == before[1:]:
            self.files[path] = before
            return
        if now is None:
            if before and self._is_loaded_from(path):
                self._differs(path, "is gone")
            return
        state = (loaded.digest_of(path, now), *now)
        changed = now[2]
        if before:
            if before[0] != state[0]:
                self._differs(path, "is not what an earlier repeat loaded")
        elif started_ns is not None:
            searched = self._is_loaded_from(path)
            if not searched and changed >= started_ns:
                return  # made by the launch itself: compiled code, a copy below a cache
            what = ""
            if (
                not self._first
                and searched
                and changed > self._recorded.began_ns
                and (not data or drift.is_loaded(path))
            ):
                what = "is new or was changed since the first repeat"
            elif self._first and changed >= started_ns and self._decides(path):
                what = "was written while it was in use"
            if what and not _is_as_installed(path):
                self._differs(path, what)
        self.files[path] = state

    def inherit(self, path: str) -> None:
        """A data file that was read: from an earlier launch where it is newer than the first one and new to the run."""
        now = loaded.stamp_of(path)
        new = not self._first and path not in self._recorded.files and path.startswith(self._root)
        if now and new and now[2] > self._recorded.began_ns:
            self._inherited.append(path.removeprefix(self._root))

    def site(self, now: Mapping[str, tuple[str, ...]]) -> None:
        """Compare the names that run code by themselves: a new one shows before it was loaded."""
        for folder, names in now.items():
            for name in names:
                if name not in self._recorded.site.get(folder, names):
                    self._differs(f"{folder}/{name}", "appeared")

    def projects(self, now: Mapping[str, str]) -> None:
        """Compare editable installs outside the repository."""
        for name, state in now.items():
            if self._recorded.projects.get(name, state) != state:
                self._differs(name, "(an editable install) has another commit or other changes")

    def revisions(self, now: Mapping[str, Revision]) -> None:
        """Compare the revisions of models and data sets."""
        for name, revision in now.items():
            known = self._recorded.revisions.get(name)
            if known and (change := hub.revision_change(known, revision)):
                self._outside.append(f"{name} {change}")

    def same(self, what: str, before: tuple[str, ...], now: tuple[str, ...]) -> None:
        """Compare a fact of the launch as a whole."""
        if before != now:
            only = [text for text in now if text not in before] or [text for text in before if text not in now] or now
            self._outside.append(f"{what} is another one than in an earlier repeat ({', '.join(only)[:200]})")

    def difference(self) -> Difference:
        """All differences that were found; a file is named once."""
        found = (listed([*dict.fromkeys(one)]) for one in (self._inside, self._outside))
        return Difference(*found, inherited=tuple(dict.fromkeys(self._inherited)))

    def _is_loaded_from(self, path: str) -> bool:
        """Whether the file lies where a launch looks for modules or settings, not in a cache that a launch fills."""
        places = (folder for folder in self.search_path if len(folder) > 1)
        return path.startswith(self._root) or any(path.startswith(f"{folder}{os.sep}") for folder in places)

    def _decides(self, path: str) -> bool:
        """Installed modules, conftests and settings: no launch writes them."""
        name = path.rpartition("/")[2]
        return not path.startswith(self._root) or "-packages/" in path or name == "conftest.py" or name[:4] == ".env"

    def _differs(self, path: str, what: str) -> None:
        if path.startswith(self._root) and "-packages/" not in path:
            self._inside.append(f"{path.removeprefix(self._root)}, which git ignores, {what}")
        else:
            self._outside.append(f"{path} {what}")


def _is_input(path: str, job: Job, started_ns: int) -> bool:
    """Whether it is a file that was there before the launch: what a launch writes is its output."""
    parts = path.removeprefix(f"{job.repo_root}{os.sep}").split(os.sep)
    if not _NOT_READ.isdisjoint(parts):
        return False
    now = loaded.stamp_of(path)
    return now is not None and now[2] < started_ns


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
