"""One measuring run at a time on a machine; the holder is named, even half-written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tune_mcp.files import FileLock
from tune_mcp.supervise import host_lock
from tune_mcp.supervise.host_lock import LockHolder

MINE = LockHolder("20260423T050000Z_toy", "/repo/.tune-runs/20260423T050000Z_toy", "/repo")


@pytest.mark.rule("GPU-14", "STR-18")
def test_a_second_taker_learns_who_has_it_until_it_is_given_back() -> None:
    assert host_lock.current() is None
    lock = host_lock.take(MINE)
    assert not isinstance(lock, LockHolder)

    assert host_lock.take(LockHolder("other", "/o", "/o")) == MINE
    assert host_lock.current() == MINE

    lock.release()
    assert host_lock.current() is None


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b'{"run_id": null}', b'{"run_id": 7'])
def test_a_holder_that_has_not_written_its_name_yet_is_unknown_and_still_holds(data: bytes) -> None:
    lock = host_lock.take(MINE)
    assert not isinstance(lock, LockHolder)
    host_lock.lock_path().write_bytes(data)

    assert host_lock.take(MINE) == LockHolder("?", "?", "?")
    lock.release()


def test_the_folder_of_the_lock_is_for_all_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LOCK_DIR", str(tmp_path / "new" / "folder"))

    assert host_lock.lock_path() == tmp_path / "new" / "folder" / "host.lock"
    assert stat.S_IMODE((tmp_path / "new" / "folder").stat().st_mode) == 0o1777


def test_a_lock_that_cannot_be_asked_is_unknown_and_never_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LOCK_DIR", str(tmp_path))
    (tmp_path / "host.lock").symlink_to(tmp_path / "host.lock")

    with pytest.raises(OSError):
        host_lock.current()


def test_a_lock_can_be_taken_by_every_user_and_never_through_a_link(tmp_path: Path) -> None:
    """Another user's umask must not make a machine-wide lock theirs alone, nor a link make us write elsewhere."""
    target = tmp_path / "precious"
    target.write_text("mine")
    (host_lock.lock_folder() / "link.lock").symlink_to(target)
    old = os.umask(0o077)
    try:
        lock = host_lock.take(MINE)
    finally:
        os.umask(old)
    assert not isinstance(lock, LockHolder)

    assert stat.S_IMODE(host_lock.lock_path().stat().st_mode) == 0o666
    lock.release()
    with pytest.raises(OSError):
        FileLock.take(host_lock.lock_folder() / "link.lock", {})
    assert target.read_text() == "mine"
