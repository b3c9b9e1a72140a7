"""One measuring run at a time on a machine: the host-wide lock (rules GPU-14, STR-18; note C53).

Speed is measured, so a second run spoils the first even when both need no GPU. The lock is taken by start_run,
handed to the supervisor as an open file, and lives exactly as long as that process.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import FileLock, is_locked, parse_json


def lock_path() -> Path:
    """``$TUNE_LOCK_DIR/host.lock``, else one path for all users of this machine."""
    folder = Path(os.environ.get("TUNE_LOCK_DIR") or Path(tempfile.gettempdir()) / "tune-mcp")
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o1777)
    return folder / "host.lock"


@dataclass(frozen=True)
class Holder:
    """Who measures on this machine now."""

    run_id: str
    run_dir: str
    repo_root: str


def take(holder: Holder) -> FileLock | Holder:
    """The lock, or who has it."""
    path = lock_path()
    facts: dict[str, Json] = {"run_id": holder.run_id, "run_dir": holder.run_dir, "repo_root": holder.repo_root}
    lock = FileLock.take(path, facts)
    if lock is None:
        return read_holder(path)
    return lock


def current() -> Holder | None:
    """Who has the lock, None when nobody does. Raises ``OSError`` when that cannot be known."""
    path = lock_path()
    return read_holder(path) if is_locked(path) else None


def read_holder(path: Path) -> Holder:
    """What the holder wrote; ``?`` where it is not readable yet."""
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError):
        value = {}
    found = value if isinstance(value, dict) else {}
    return Holder(*(str(found.get(name) or "?") for name in ("run_id", "run_dir", "repo_root")))
