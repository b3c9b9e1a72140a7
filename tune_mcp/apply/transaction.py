"""All files of an apply, or none: a journal that is written ahead, and the way back after any crash.

The order is: check every file, keep the files before under ``before/``, journal ``prepared``, write and sync a
temporary file next to every target, rename all, journal ``committed``. The journal stands before the first
temporary file, so that ``recover`` knows every place where a crash can have left one. Test files are written here
and nowhere else (rule APL-24), and each target is one regular file inside the repository.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from tune_mcp.actions import Step, call
from tune_mcp.config.stages import Frozen
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import (
    FileLock,
    digest,
    inside,
    read_plain,
    real,
    sha256_bytes,
    sha256_file,
    sync_folder,
    write_atomic,
)
from tune_mcp.run_dir import iso

_JOURNAL = "journal.json"
Replace = Callable[[Path, Path], object]
State = Literal["before", "after", "foreign"]


@dataclass(frozen=True)
class FileChange:
    """New bytes for one file; ``path`` is absolute, ``before_sha256`` is what the plan saw there."""

    path: Path
    before_sha256: str
    content: bytes


class JournalFile(Frozen):
    """One file of the transaction: ``path`` relative to the repository, ``backup`` relative to the folder."""

    path: str
    before_sha256: str
    after_sha256: str
    backup: str
    mode: int


class Journal(Frozen):
    """What a transaction is about and how far it came; ``prepared`` means that a crash may have left any mixture."""

    schema_version: Literal[1] = 1
    state: Literal["prepared", "committed", "rolled_back"]
    files: tuple[JournalFile, ...]
    started_at: str
    finished_at: str | None = None


def commit(
    folder: Path,
    repo_root: Path,
    changes: Sequence[FileChange],
    now: Callable[[], datetime],
    replace: Replace = Path.replace,
) -> Journal:
    """Write all ``changes`` or none, with the journal in ``folder`` (``<run>/apply/<plan_id>/``).

    A failure rolls back at once and is raised again. Raises ``Refusal`` before the first write: THRESHOLD_CHANGED
    (APL-24) for a file that is not what the plan saw, OUTSIDE_REPO for a target outside ``repo_root`` or with more
    names than one, STALE_PLAN when this plan was applied or waits for ``recover``, RUN_ACTIVE for a second applier.
    """
    place = _Transaction(folder, repo_root.resolve(), now, replace)
    folder.mkdir(parents=True, exist_ok=True)
    with place.locked():
        last = demand_new(folder)
        place.sweep(last)
        files = [place.check(change) for change in changes]
        if len({file.path for file in files}) != len(files):
            raise Refusal(Code.INVALID_ARGUMENT, "APL-24", "one file is changed twice", "give each file once")
        before = folder / "before"
        before.mkdir(exist_ok=True)
        for file in files:
            content = read_plain(place.target(file))
            _demand(sha256_bytes(content) == file.before_sha256, file.path)
            write_atomic(folder / file.backup, content, mode=0o600)
        for level in (folder, folder.parent, folder.parent.parent):
            sync_folder(level)
        journal = Journal(state="prepared", files=tuple(files), started_at=iso(now()))
        written: list[JournalFile] = []
        try:
            journal.to_file(folder / _JOURNAL)
            moving = [
                (file, change.content)
                for file, change in zip(files, changes, strict=True)
                if file.before_sha256 != file.after_sha256
            ]
            for file, content in moving:
                place.stage(file, content)
            for file, _ in moving:
                # Looked at once more, as near to the rename as can be: an editor may have saved since.
                _demand(place.state(file) == "before", file.path)
                written.append(file)
                place.swap(file)
            return place.finish(journal, "committed")
        except BaseException as failure:
            try:
                place.roll_back(journal, written)
            except (OSError, Refusal) as second:
                failure.add_note(f"rolling back failed too, recover {folder}: {second}")
            raise


def recover(
    folder: Path, repo_root: Path, now: Callable[[], datetime], replace: Replace = Path.replace
) -> Journal | None:
    """Finish or roll back what a crash left in ``folder``; None when nothing was begun. May be called any time.

    All files new: the journal becomes ``committed``; else the old bytes are put back. Raises ``Refusal``
    THRESHOLD_CHANGED, and touches nothing, when a file is neither its old nor its new self (rule APL-24).
    """
    if not folder.is_dir():
        return None
    place = _Transaction(folder, repo_root.resolve(), now, replace)
    with place.locked():
        journal = read_journal(folder)
        place.sweep(journal)
        if journal is None or journal.state != "prepared":
            return journal
        if all(state == "after" for state in place.states(journal)):
            return place.finish(journal, "committed")
        return place.roll_back(journal, journal.files)


def undo(folder: Path, repo_root: Path, now: Callable[[], datetime], replace: Replace = Path.replace) -> Journal:
    """Put the files before back, all or none; a second call changes nothing.

    Raises ``Refusal`` THRESHOLD_CHANGED (APL-24), and touches nothing, when a file is neither its old nor its new
    self, and INVALID_ARGUMENT when ``folder`` holds no transaction.
    """
    place = _Transaction(folder, repo_root.resolve(), now, replace)
    journal = None
    if folder.is_dir():
        with place.locked():
            journal = read_journal(folder)
            place.sweep(journal)
            if journal is not None and journal.state != "rolled_back":
                place.states(journal)
                # From here on a crash leaves a mixture, which recover must be able to see.
                journal = journal.model_copy(update={"state": "prepared", "finished_at": None})
                journal.to_file(folder / _JOURNAL)
                journal = place.roll_back(journal, journal.files)
    if journal is None:
        raise never_applied(folder)
    return journal


def never_applied(folder: Path) -> Refusal:
    """INVALID_ARGUMENT for a plan that holds no transaction."""
    return Refusal(Code.INVALID_ARGUMENT, "APL-24", f"{folder} holds no applied plan", "name a plan that was applied")


def demand_new(folder: Path) -> Journal | None:
    """The journal of the plan of ``folder``; STALE_PLAN when the plan is applied already, or waits for ``recover``."""
    last = read_journal(folder)
    if last is not None and last.state != "rolled_back":
        raise Refusal(
            Code.STALE_PLAN,
            "APL-24",
            f"the plan {folder.name} is {last.state} already",
            Step(
                call("apply_plan"),
                " again; if the files were put back by hand, first run tune-mcp apply RUN --undo ",
                folder.name,
            )
            if last.state == "committed"
            else "recover it first",
            {"plan_id": folder.name, "state": last.state},
        )
    return last


def read_journal(folder: Path) -> Journal | None:
    """The journal in ``folder``, None when nothing was begun there. Raises PLAN_TAMPERED for one that is not ours."""
    path = folder / _JOURNAL
    try:
        return Journal.model_validate_json(read_plain(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Refusal(
            Code.PLAN_TAMPERED,
            "APL-24",
            f"{path} is not a journal that apply wrote: {error}",
            f"compare the test files with {folder / 'before'} and put them right by hand",
        ) from error


class _Transaction:
    """The folder of one transaction and the repository that it writes to. ``root`` is resolved."""

    def __init__(self, folder: Path, root: Path, now: Callable[[], datetime], replace: Replace) -> None:
        self.folder = folder
        self.root = root
        self.now = now
        self.replace = replace

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        lock = FileLock.take(self.folder / "apply.lock", {"pid": os.getpid(), "since": iso(self.now())})
        if lock is None:
            raise Refusal(
                Code.RUN_ACTIVE,
                "APL-24",
                f"another process is applying the plan {self.folder.name}",
                "wait until it is done",
                {"plan_id": self.folder.name},
            )
        try:
            yield
        finally:
            lock.release()

    def finish(self, journal: Journal, state: Literal["committed", "rolled_back"]) -> Journal:
        """Make the renames survive a power cut, then say so."""
        for parent in sorted({self.target(file).parent for file in journal.files}):
            sync_folder(parent)
        done = journal.model_copy(update={"state": state, "finished_at": iso(self.now())})
        done.to_file(self.folder / _JOURNAL)
        return done

    def check(self, change: FileChange) -> JournalFile:
        """Resolve one change to its one regular file inside the repository. Raises ``Refusal``; writes nothing."""
        if not change.path.is_absolute():
            raise Refusal(Code.INVALID_ARGUMENT, "APL-24", f"{change.path} is not absolute", "give absolute paths")
        try:
            target = real(change.path, strict=True)
        except OSError:
            raise _not_as_planned(str(change.path)) from None
        if not target.is_relative_to(self.root):
            raise Refusal(
                Code.OUTSIDE_REPO,
                "APL-24",
                f"{change.path} leads to {target}, outside {self.root}",
                "apply in the repository that holds the file",
                {"file": str(change.path)},
            )
        relative = target.relative_to(self.root).as_posix()
        _demand(target.is_file(), relative)
        facts = target.stat()
        if facts.st_nlink > 1:
            raise Refusal(
                Code.OUTSIDE_REPO,
                "APL-24",
                f"{relative} has {facts.st_nlink} hard links, and only one of them would be changed",
                "make it a file of its own: copy it and rename the copy over it",
                {"file": relative, "links": facts.st_nlink},
            )
        _demand(sha256_file(target) == change.before_sha256, relative)
        return JournalFile(
            path=relative,
            before_sha256=change.before_sha256,
            after_sha256=sha256_bytes(change.content),
            backup=f"before/{digest(relative)[:16]}_{target.name}",
            mode=stat.S_IMODE(facts.st_mode),
        )

    def target(self, file: JournalFile) -> Path:
        try:
            return inside(self.root, file.path)
        except ValueError as error:
            raise Refusal(
                Code.OUTSIDE_REPO, "APL-24", str(error), "put the repository's folders back as they were"
            ) from error

    def temporary(self, file: JournalFile) -> Path:
        """A name that is known from the journal alone, so that recover can remove what a crash left."""
        return self.target(file).parent / f".tune-apply-{digest([self.folder.name, file.path])[:24]}.tmp"

    def state(self, file: JournalFile) -> State:
        target = self.target(file)
        if target.is_symlink() or not target.is_file():
            return "foreign"
        found = sha256_file(target)
        if found == file.after_sha256:
            return "after"
        return "before" if found == file.before_sha256 else "foreign"

    def states(self, journal: Journal) -> list[State]:
        """State of each file. Raises ``Refusal`` THRESHOLD_CHANGED that names every file changed by somebody else."""
        states: list[State] = [self.state(file) for file in journal.files]
        foreign = [file for file, state in zip(journal.files, states, strict=True) if state == "foreign"]
        if foreign:
            raise self.changed_by_others(foreign)
        return states

    def changed_by_others(self, foreign: Sequence[JournalFile]) -> Refusal:
        names = ", ".join(file.path for file in foreign)
        return Refusal(
            Code.THRESHOLD_CHANGED,
            "APL-24",
            f"changed by somebody else since the plan {self.folder.name} was applied: {names}",
            f"put each back to its old bytes ({', '.join(str(self.folder / file.backup) for file in foreign)}) "
            "or to the applied ones, keep your own change elsewhere, and call again",
            {"files": [file.path for file in foreign]},
        )

    def stage(self, file: JournalFile, content: bytes) -> None:
        """Write ``content`` next to its target, synced, with the target's mode and, where allowed, its owner."""
        target, temporary = self.target(file), self.temporary(file)
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            old, new = target.stat(), os.fstat(handle)
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                # Not root: the file becomes ours, as with any editor that saves by renaming.
                with contextlib.suppress(PermissionError):
                    os.fchown(handle, old.st_uid, old.st_gid)
            os.fchmod(handle, file.mode)
            if int(new.st_mtime) <= int(old.st_mtime):
                # Python takes a .pyc for fresh by whole seconds and size; 0.81 -> 0.82 within a second must show.
                os.utime(handle, (int(old.st_mtime) + 1, int(old.st_mtime) + 1))
            os.fsync(handle)

    def swap(self, file: JournalFile) -> None:
        self.replace(self.temporary(file), self.target(file))

    def roll_back(self, journal: Journal, written: Sequence[JournalFile]) -> Journal:
        """Put the old bytes back into those of ``written`` that hold the new ones.

        A file that somebody changed behind us is left alone and named in a ``Refusal`` once the others are back.
        """
        states = [(file, self.state(file)) for file in written]
        back = [file for file, state in states if state == "after" and file.before_sha256 != file.after_sha256]
        foreign = [file for file, state in states if state == "foreign"]
        for file in back:
            content = read_plain(self.folder / file.backup)
            _demand(sha256_bytes(content) == file.before_sha256, str(self.folder / file.backup))
            self.stage(file, content)
        for file in back:
            self.swap(file)
        self.sweep(journal)
        if foreign:
            raise self.changed_by_others(foreign)
        return self.finish(journal, "rolled_back")

    def sweep(self, journal: Journal | None) -> None:
        """Remove temporary files that a crash left, next to the targets and in our own folder."""
        for file in journal.files if journal is not None else ():
            self.temporary(file).unlink(missing_ok=True)
        for leftover in (*self.folder.glob(".*.tmp"), *self.folder.glob("before/.*.tmp")):
            leftover.unlink(missing_ok=True)


def _demand(as_planned: bool, path: str) -> None:
    if not as_planned:
        raise _not_as_planned(path)


def _not_as_planned(path: str) -> Refusal:
    return Refusal(
        Code.THRESHOLD_CHANGED,
        "APL-24",
        f"{path} is not the file that the plan saw",
        Step(call("apply_plan"), " again and decide on its new numbers"),
        {"file": path},
    )
