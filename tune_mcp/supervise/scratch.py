"""One short, private TMPDIR for each attempt: made before its pytest, emptied after it, whoever was killed in between.

Files that tests leave in a shared /tmp add up to gigabytes over the repeats, and a UNIX socket below a long path cannot
be bound (108 bytes). The folder's name is derived from the secret of the supervisor's start, so whoever only edits the
record of an attempt cannot make us remove another folder. No link is followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.config.stages import Frozen
from tune_mcp.files import read_plain, read_text, write_atomic
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.leftovers import MARK
from tune_mcp.words import number_of

RECORD_FILE = "tmpdir"
_SHORT = 40
_ENOUGH_BYTES = 2 * 1024**3
_NAMED = 3


class Left(Frozen):
    """What tests left in their TMPDIR: how many files, their size, the first names at its top."""

    files: int
    size_bytes: int
    names: tuple[str, ...]

    def sentence(self) -> str:
        """``2000 files, 64.0 MiB (mmsu_audio_x1, ...)``."""
        size = self.size_bytes / 1024**2
        more = ", ..." if self.files > len(self.names) else ""
        return f"{number_of(self.files, 'file')}, {size:.1f} MiB ({', '.join(self.names)}{more})"


@dataclass(frozen=True)
class Scratch:
    """The folder of one attempt. ``tmp`` is its TMPDIR; ``run`` a link to the run directory, a short name for it."""

    folder: Path

    @property
    def tmp(self) -> Path:
        """What the tests get as TMPDIR."""
        return self.folder / "t"

    @property
    def run(self) -> RunDir:
        """The run directory, by a name that holds nothing of the repository."""
        return RunDir(self.folder / "run")


def make(run: RunDir, attempt: Path, settings: Mapping[str, str], caller: Mapping[str, str]) -> Scratch:
    """Make the folder of the attempt whose own folder is ``attempt``, and record it there.

    It goes below the first of these with 2 GiB free, or the one with the most: TMPDIR of the model's ``settings`` and
    of the ``caller``, /tmp, /var/tmp; longer ones only where no short one can be written. Raises ``OSError``.
    """
    name = _name(caller.get(MARK, "").partition(":")[0], run, attempt)
    longest = _SHORT - 1 - len(f"/{name}/t")
    named = (settings.get("TMPDIR", ""), caller.get("TMPDIR", ""), "/tmp", "/var/tmp")
    usable = [root for root in dict.fromkeys(named) if root.startswith("/") and os.access(root, os.W_OK | os.X_OK)]
    roots = [root for root in usable if len(os.fsencode(root)) <= longest] or usable
    if not roots:
        raise FileNotFoundError(f"none of {', '.join(filter(None, named))} is a folder that can be written")
    free = {root: shutil.disk_usage(root).free for root in roots}
    root = next((root for root in roots if free[root] >= _ENOUGH_BYTES), max(roots, key=free.__getitem__))
    scratch = Scratch(Path(root) / name)
    write_atomic(attempt / RECORD_FILE, os.fsencode(scratch.folder), durable=False)
    scratch.folder.mkdir(mode=0o700)
    scratch.tmp.mkdir(mode=0o700)
    scratch.run.path.symlink_to(run.path)
    return scratch


def clear(run: RunDir, attempt: Path) -> Left | None:
    """Remove the folder that ``attempt`` recorded, once none of its processes lives; what the tests left in it.

    None when there is none, or it is not provably the attempt's. Raises ``OSError`` when something cannot be removed.
    """
    record = attempt / RECORD_FILE
    try:
        scratch = Scratch(Path(os.fsdecode(read_plain(record))))
    except (OSError, ValueError):
        return None
    if not _is_of(scratch.folder, run, attempt):
        return None
    left = _count(scratch.tmp)
    for _ in _walk(scratch.folder):  # makes what the tests locked accessible, and refuses mount points
        pass
    shutil.rmtree(scratch.folder)
    record.unlink()
    return left


def sweep(run: RunDir) -> tuple[str, ...]:
    """Remove the folders of all attempts of a run of which nothing lives; problems, one sentence each."""
    problems: list[str] = []
    for record in sorted((run.path / "_pytest").glob(f"*/attempts/*/{RECORD_FILE}")):
        try:
            clear(run, record.parent)
        except OSError as error:
            problems.append(f"what the tests left in their TMPDIR cannot be removed: {error}")
    return tuple(problems)


def _name(secret: str, run: RunDir, attempt: Path) -> str:
    repeat, _, number = attempt.name.removeprefix("run").partition("_a")
    key = run.attempt_key(attempt.parent.parent.name, repeat, number)
    return "tune-" + hashlib.sha256(os.fsencode(f"{secret}\0{run.path}\0{key}")).hexdigest()[:12]


def _is_of(folder: Path, run: RunDir, attempt: Path) -> bool:
    """Whether the name proves that this folder was made for the attempt, and it is our own folder, no link."""
    try:
        secrets = read_text(run.marks).split()
    except (OSError, ValueError):
        secrets = []
    if folder.name not in {_name(secret, run, attempt) for secret in ("", *secrets)}:
        return False
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()


def _walk(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    """All below ``folder``, itself first; folders are made readable on the way. Raises ``OSError`` at a mount."""
    device = folder.lstat().st_dev
    todo = [folder]
    while todo:
        here = todo.pop()
        facts = here.lstat()
        yield here, facts
        if stat.S_ISDIR(facts.st_mode):
            if facts.st_dev != device:
                raise OSError(f"{here} is a mount point")
            if facts.st_mode & 0o700 != 0o700:
                here.chmod(0o700)
            with os.scandir(here) as entries:
                todo += [Path(entry.path) for entry in entries]


def _count(tmp: Path) -> Left | None:
    if tmp.is_symlink() or not tmp.is_dir():
        return None
    files, size = 0, 0
    for path, facts in _walk(tmp):
        if not stat.S_ISDIR(facts.st_mode):
            files, size = files + 1, size + facts.st_size
        elif path != tmp and path.parent == tmp:
            files += not any(path.iterdir())  # an empty folder is left behind as well
    names = sorted(entry.name.encode(errors="replace").decode() for entry in tmp.iterdir())
    return Left(files=files, size_bytes=size, names=tuple(names[:_NAMED])) if names else None
