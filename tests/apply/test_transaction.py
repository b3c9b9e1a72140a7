"""All files or none, whatever happens at whatever step."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.apply import transaction
from tune_mcp.apply.transaction import FileChange
from tune_mcp.errors import Refusal
from tune_mcp.files import FileLock, sha256_bytes

OLD = {"tests/a.py": b"A = 1\n", "tests/b.py": b"B = 1\r\n", "c.py": b"C = 1\n"}
NEW = {"tests/a.py": b"A = 2\n", "tests/b.py": b"B = 2\r\n", "c.py": b"C = 2\n"}


def now() -> datetime:
    return datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name, content in OLD.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "c.py").chmod(0o755)
    return root


@pytest.fixture
def folder(repo: Path) -> Path:
    return repo / ".tune-runs" / "r" / "apply" / "plan"


def changes(repo: Path) -> list[FileChange]:
    return [FileChange(repo / name, sha256_bytes(OLD[name]), NEW[name]) for name in OLD]


def content(repo: Path) -> dict[str, bytes]:
    return {name: (repo / name).read_bytes() for name in OLD}


def leftovers(repo: Path) -> list[str]:
    return [path.name for path in repo.rglob("*.tmp") if ".tune-runs" not in str(path)]


@pytest.mark.rule("APL-24")
def test_all_files_are_written_and_keep_their_mode(repo: Path, folder: Path) -> None:
    journal = transaction.commit(folder, repo, changes(repo), now)

    assert journal.state == "committed"
    assert content(repo) == NEW
    assert stat.S_IMODE((repo / "c.py").stat().st_mode) == 0o755
    assert leftovers(repo) == []


@pytest.mark.parametrize("step", range(3))
def test_a_failure_at_any_rename_rolls_everything_back_at_once(repo: Path, folder: Path, step: int) -> None:
    def failing(source: Path, target: Path) -> None:
        if target.name == list(OLD)[step].rpartition("/")[2] and "tmp" in str(source):
            raise OSError("disk trouble")
        os.replace(source, target)

    with pytest.raises(OSError, match="disk trouble"):
        transaction.commit(folder, repo, changes(repo), now, failing)

    assert content(repo) == OLD
    assert leftovers(repo) == []


@pytest.mark.parametrize("step", range(1, 12))
def test_a_process_killed_at_any_step_leaves_old_or_new_after_recover(repo: Path, folder: Path, step: int) -> None:
    child = os.fork()
    if child == 0:
        _die_at(step)
        transaction.commit(folder, repo, changes(repo), now, os.replace)
        os._exit(0)
    os.waitpid(child, 0)

    transaction.recover(folder, repo, now)

    assert content(repo) in (OLD, NEW)
    assert leftovers(repo) == []
    before = content(repo)
    transaction.recover(folder, repo, now)
    assert content(repo) == before


def _die_at(step: int) -> None:
    """In the child: the ``step``-th rename of any kind kills the process, half of them before it happened."""
    real: Callable[..., None] = os.replace
    count = 0

    def counted(source: object, target: object, **rest: object) -> None:
        nonlocal count
        count += 1
        if count == step and step % 2:
            os._exit(9)
        real(source, target, **rest)
        if count == step:
            os._exit(9)

    os.replace = counted  # type: ignore[assignment]
    Path.replace = lambda self, target: counted(self, target)  # type: ignore[assignment, method-assign]


@pytest.mark.rule("APL-24")
def test_a_file_that_changed_since_the_plan_stops_everything_before_the_first_write(repo: Path, folder: Path) -> None:
    (repo / "c.py").write_bytes(b"C = 9\n")

    with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED \[APL-24\]: .*c\.py"):
        transaction.commit(folder, repo, changes(repo), now)

    assert content(repo) == {**OLD, "c.py": b"C = 9\n"}


def test_a_link_is_followed_and_stays_a_link_but_never_out_of_the_repository(repo: Path, folder: Path) -> None:
    (repo / "link.py").symlink_to("c.py")
    change = FileChange(repo / "link.py", sha256_bytes(OLD["c.py"]), NEW["c.py"])
    transaction.commit(folder, repo, [change], now)
    assert (repo / "link.py").is_symlink() and (repo / "c.py").read_bytes() == NEW["c.py"]

    outside = repo.parent / "outside.py"
    outside.write_bytes(b"X = 1\n")
    (repo / "escape.py").symlink_to(outside)
    with pytest.raises(Refusal, match=r"^OUTSIDE_REPO"):
        transaction.commit(
            folder.with_name("other"), repo, [FileChange(repo / "escape.py", sha256_bytes(b"X = 1\n"), b"")], now
        )
    assert outside.read_bytes() == b"X = 1\n"


def test_undo_puts_the_files_back_and_refuses_over_somebody_elses_edit(repo: Path, folder: Path) -> None:
    transaction.commit(folder, repo, changes(repo), now)
    transaction.undo(folder, repo, now)
    assert content(repo) == OLD

    other = folder.with_name("second")
    transaction.commit(other, repo, changes(repo), now)
    (repo / "tests/a.py").write_bytes(b"A = 3\n")
    with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED .*a\.py"):
        transaction.undo(other, repo, now)
    assert content(repo) == {**NEW, "tests/a.py": b"A = 3\n"}


def test_two_appliers_at_once_are_one_too_many(repo: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    held = FileLock.take(folder / "apply.lock", {})
    assert held is not None

    with pytest.raises(Refusal, match=r"^RUN_ACTIVE"):
        transaction.commit(folder, repo, changes(repo), now)

    held.release()
    assert content(repo) == OLD
