"""Who measures on a machine: the host-wide lock, and one lock for each lane (rules GPU-14, STR-18).

Speed is measured, so a second run spoils the first even when both need no GPU, unless each has GPUs and CPUs of its
own. A run without lanes has the host's lock for itself; runs on lanes share it, and each has the locks of its lanes;
a run whose launches a cluster places has none, since nothing is measured here.
All are taken by start_run, handed to the supervisor as open files, and live exactly as long as that process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.config.lanes import Lane, overlap
from tune_mcp.errors import Json
from tune_mcp.files import FileLock, digest, is_locked, parse_object, read_object

LANE = "lane-"
"""How the name of a lane's lock begins."""


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
class LockHolder:
    """Who measures on this machine now."""

    run_id: str
    run_dir: str
    repo_root: str
    previous: str = "?"
    """The run directory of the holder before; ``?`` once that one is known to have left nothing behind."""


@dataclass(frozen=True)
class HostClaim:
    """What a run has of this machine: all of it, or the ``lanes``, each with its lock behind the shared one.

    Nothing (``host`` is None) where it measures elsewhere.
    """

    host: FileLock | None = None
    lanes: tuple[Lane, ...] = ()
    locks: tuple[FileLock, ...] = ()

    def describe(self, holder: LockHolder) -> None:
        """Name the run that holds it, and forget the one before."""
        if self.host and not self.lanes:
            self.host.describe(_facts(holder))
        for lane, lock in zip(self.lanes, self.locks, strict=True):
            lock.describe(_facts(holder) | _of(lane))

    def release(self) -> None:
        """Give this process's share back; a supervisor that inherited it keeps its own."""
        for lock in (*self.locks, self.host):
            if lock:
                lock.release()


def take(holder: LockHolder) -> HostClaim | LockHolder:
    """The machine, or who has it. Until ``describe`` its file names the run before too: it may have left something."""
    lock = FileLock.take(lock_path(), lambda written: _facts(holder) | _previous(written))
    return HostClaim(lock) if lock else current() or read_holder(lock_path())


def take_lanes(
    holder: LockHolder, lanes: Sequence[Lane], choose: Callable[[Sequence[Lane]], tuple[Lane, ...]]
) -> HostClaim | LockHolder:
    """Lock those of the free ``lanes`` that ``choose`` picks; who has them where it picks none."""
    host = FileLock.share(lock_path())
    if host is None:
        return read_holder(lock_path())
    nobody_known = LockHolder("?", "?", "?")
    locks: list[FileLock] = []
    with ExitStack() as undo, ExitStack() as turn:
        undo.callback(host.release)
        one_at_a_time = FileLock.take(lock_folder() / "lanes.lock", {})
        if one_at_a_time is None:
            return nobody_known  # another start chooses at this moment
        turn.callback(one_at_a_time.release)
        taken = [*lanes_taken()]
        chosen = choose([lane for lane in lanes if not any(overlap(lane, other) for other, _ in taken)])
        if not chosen:
            return next((other for _, other in taken), nobody_known)
        for lane in chosen:
            lock = FileLock.take(lane_path(lane), lambda data, lane=lane: _facts(holder) | _of(lane) | _previous(data))
            if lock is None:
                raise RuntimeError(f"lane {lane.name} is free and its lock is not")
            undo.callback(lock.release)
            locks.append(lock)
        undo.pop_all()
    return HostClaim(host, chosen, tuple(locks))


def lane_path(lane: Lane) -> Path:
    """The lock of a lane: profiles may call the same GPUs and CPUs by other names."""
    return lock_folder() / f"{LANE}{digest([sorted(lane.gpus), lane.cpus])[:16]}.lock"


def lanes_taken() -> Iterator[tuple[Lane, LockHolder]]:
    """Every lane that a run has now, and which. One whose lock cannot be read is passed over: its GPUs have locks."""
    for path in sorted(lock_folder().glob(f"{LANE}*.lock")):
        with suppress(OSError, ValueError, KeyError):
            if is_locked(path):
                found = read_object(path)
                yield Lane.model_validate(found["lane"]), _holder(found)


def last() -> tuple[Path, ...]:
    """The directories of the runs that had the host, or a lane of it, last; none that is not known."""
    paths = (lock_path(), *sorted(lock_folder().glob(f"{LANE}*.lock")))
    named = dict.fromkeys(_last(read_holder(path)) for path in paths)
    return tuple(Path(name) for name in named if name != "?")


def _previous(written: bytes) -> dict[str, Json]:
    return {"previous": _last(_holder(parse_object(written)))}


def _of(lane: Lane) -> dict[str, Json]:
    return {"lane": {"name": lane.name, "gpus": [*lane.gpus], "cpus": lane.cpus}}


def _last(holder: LockHolder) -> str:
    """The run that had the lock last: the one before, as long as the holder has not named its own."""
    return holder.run_dir if holder.previous == "?" else holder.previous


def current() -> LockHolder | None:
    """Who measures here, the first of several; None when nobody does. Raises ``OSError`` when that cannot be known."""
    path = lock_path()
    return read_holder(path) if is_locked(path) else next((holder for _, holder in lanes_taken()), None)


def read_holder(path: Path) -> LockHolder:
    """What the holder wrote; ``?`` where it is not readable yet."""
    return _holder(read_object(path))


def _holder(found: dict[str, Json]) -> LockHolder:
    return LockHolder(*(str(found.get(name) or "?") for name in ("run_id", "run_dir", "repo_root", "previous")))


def _facts(holder: LockHolder) -> dict[str, Json]:
    return {"run_id": holder.run_id, "run_dir": holder.run_dir, "repo_root": holder.repo_root}
