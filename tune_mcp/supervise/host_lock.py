"""One measuring run at a time on a machine: the host-wide lock (rules GPU-14, STR-18).

Speed is measured, so a second run spoils the first even when both need no GPU. The lock is taken by start_run,
handed to the supervisor as an open file, and lives exactly as long as that process.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import FileLock, is_locked, parse_json, read_plain


def lock_folder() -> Path:
    """``$TUNE_LOCK_DIR``, else one folder for all users of this machine."""
    folder = Path(os.environ.get("TUNE_LOCK_DIR") or Path(tempfile.gettempdir()) / "tune-mcp")
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o1777)
    return folder


def lock_path() -> Path:
    """The host's own lock."""
    return lock_folder() / "host.lock"


@dataclass(frozen=True)
class Holder:
    """Who measures on this machine now."""

    run_id: str
    run_dir: str
    repo_root: str
    previous: str = "?"
    """The run directory of the holder before; ``?`` once that one is known to have left nothing behind."""


def take(holder: Holder) -> FileLock | Holder:
    """The lock, or who has it. Until ``describe`` the file names the run before too, which may have left processes."""
    path = lock_path()
    lock = FileLock.take(path, lambda written: _facts(holder) | {"previous": _last(_parsed(written))})
    return read_holder(path) if lock is None else lock


def describe(lock: FileLock, holder: Holder) -> None:
    """Name the run that the lock is held for, and forget the one before."""
    lock.describe(_facts(holder))


def last() -> Path | None:
    """The directory of the run that had the lock last; None when that is not known."""
    named = _last(read_holder(lock_path()))
    return None if named == "?" else Path(named)


def _last(holder: Holder) -> str:
    """A holder that has not named its run yet still names the one before."""
    return holder.run_dir if holder.previous == "?" else holder.previous


def current() -> Holder | None:
    """Who has the lock, None when nobody does. Raises ``OSError`` when that cannot be known."""
    path = lock_path()
    return read_holder(path) if is_locked(path) else None


def read_holder(path: Path) -> Holder:
    """What the holder wrote; ``?`` where it is not readable yet."""
    try:
        return _parsed(read_plain(path))
    except OSError:
        return _parsed(b"")


def _parsed(data: bytes) -> Holder:
    try:
        value = parse_json(data)
    except ValueError:
        value = {}
    found = value if isinstance(value, dict) else {}
    return Holder(*(str(found.get(name) or "?") for name in ("run_id", "run_dir", "repo_root", "previous")))


def _facts(holder: Holder) -> dict[str, Json]:
    return {"run_id": holder.run_id, "run_dir": holder.run_dir, "repo_root": holder.repo_root}
