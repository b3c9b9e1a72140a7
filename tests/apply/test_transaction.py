"""All files or none: at every step of an apply, a rollback, a recovery and an undo the power may fail."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.apply.literals import Edit, rewrite
from tune_mcp.apply.transaction import FileChange, Journal, commit, read_journal, recover, undo
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock, sha256_bytes

CONFIG = "tests/model/tts_ci_config.py"
EDITS = (
    Edit("C", None, "7", 7, 8),
    Edit("D", None, None, None, 0.5),
    Edit("_P95['qps']", 8, None, None, 2.5),
)
"""Beside another value, two first baselines: a file of another size, with another tree."""
OLD = {
    "tests/test_a.py": b"A = 0.81\n",
    "tests/test_b.py": b"B = 0.5\r\n",
    CONFIG: b"C = 7\nD = None  # not yet\n_P95 = {8: {}}\n",
}
NEW = {
    "tests/test_a.py": b"A = 0.80\n",
    "tests/test_b.py": b"B = 0.25\r\n",
    CONFIG: rewrite(OLD[CONFIG], CONFIG, EDITS),
}
assert NEW[CONFIG] == b'C = 8\nD = 0.5  # not yet\n_P95 = {8: {"qps": 2.5}}\n'


def now() -> datetime:
    return datetime(2026, 4, 23, 5, 0, 0, tzinfo=UTC)


class Repo:
    """A repository with three threshold files, and the folder of one plan."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".tune-runs" / "20260423T050000Z_x" / "apply" / "0123456789abcdef"
        for name, content in OLD.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (root / "tests/test_a.py").chmod(0o755)
        (root / "tests/test_b.py").chmod(0o640)

    def changes(self) -> list[FileChange]:
        return [FileChange(self.root / name, sha256_bytes(OLD[name]), NEW[name]) for name in OLD]

    def commit(self, replace: Callable[[Path, Path], object] = os.replace) -> Journal:
        return commit(self.folder, self.root, self.changes(), now, replace)

    def recover(self) -> Journal | None:
        return recover(self.folder, self.root, now)

    def undo(self) -> Journal:
        return undo(self.folder, self.root, now)

    def contents(self) -> dict[str, bytes]:
        return {name: (self.root / name).read_bytes() for name in OLD}

    def leftovers(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob(".*.tmp"))

    def whole(self) -> str:
        """``old`` or ``new``; fails for a mixture, for leftovers and for lost modes."""
        found = self.contents()
        assert found in (OLD, NEW)
        assert self.leftovers() == []
        modes = {name: stat.S_IMODE((self.root / name).stat().st_mode) for name in OLD}
        assert (modes["tests/test_a.py"], modes["tests/test_b.py"]) == (0o755, 0o640)
        return "old" if found == OLD else "new"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


def refused(act: Callable[[], object], code: Code = Code.THRESHOLD_CHANGED) -> Refusal:
    with pytest.raises(Refusal) as caught:
        act()
    assert caught.value.code is code
    return caught.value


# -- the straight way ------------------------------------------------------------------------------------------------


def test_a_commit_writes_every_file_keeps_the_modes_and_the_bytes_before(repo: Repo) -> None:
    journal = repo.commit()
    assert repo.whole() == "new"
    assert (journal.state, journal.started_at, journal.finished_at) == ("committed",) + ("2026-04-23T05:00:00Z",) * 2
    assert [file.path for file in journal.files] == list(OLD)
    assert {file.path: (repo.folder / file.backup).read_bytes() for file in journal.files} == OLD
    assert json.loads((repo.folder / "journal.json").read_text())["schema_version"] == 1
    assert read_journal(repo.folder) == journal


@pytest.mark.rule("DSC-13", "APL-24")
def test_no_other_file_is_touched(repo: Repo) -> None:
    other = repo.root / "tests/test_c.py"
    other.write_bytes(b"A = 0.81\n")
    before = other.stat()
    repo.commit()
    after = other.stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size)


def test_an_unchanged_content_is_not_written_again(repo: Repo) -> None:
    path = repo.root / "tests/test_a.py"
    inode = path.stat().st_ino
    same = FileChange(path, sha256_bytes(OLD["tests/test_a.py"]), OLD["tests/test_a.py"])
    assert commit(repo.folder, repo.root, [same], now).state == "committed"
    assert path.stat().st_ino == inode
    assert repo.undo().state == "rolled_back"
    assert path.stat().st_ino == inode


def test_a_new_file_never_looks_as_old_as_the_compiled_one_of_the_file_before(repo: Repo) -> None:
    path = repo.root / "tests/test_a.py"
    before = int(path.stat().st_mtime)
    repo.commit()
    applied = int(path.stat().st_mtime)
    repo.undo()
    assert before < applied < int(path.stat().st_mtime)


def test_a_symbolic_link_stays_and_its_target_is_written(repo: Repo) -> None:
    link = repo.root / "tests/link.py"
    link.symlink_to("test_a.py")
    change = FileChange(link, sha256_bytes(OLD["tests/test_a.py"]), NEW["tests/test_a.py"])
    journal = commit(repo.folder, repo.root, [change], now)
    assert link.is_symlink()
    assert journal.files[0].path == "tests/test_a.py"
    assert (repo.root / "tests/test_a.py").read_bytes() == NEW["tests/test_a.py"]


def test_a_repository_that_is_reached_through_a_link_is_the_same_repository(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(repo.root)
    change = FileChange(tmp_path / "alias/tests/test_a.py", sha256_bytes(OLD["tests/test_a.py"]), b"A = 1\n")
    assert commit(repo.folder, tmp_path / "alias", [change], now).files[0].path == "tests/test_a.py"


# -- refused before the first write ----------------------------------------------------------------------------------


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize("name", list(OLD))
def test_one_file_that_changed_since_the_plan_stops_all(repo: Repo, name: str) -> None:
    (repo.root / name).write_bytes(b"A = 0.5\n")
    before = repo.contents()
    assert name in refused(repo.commit).message
    assert repo.contents() == before
    assert repo.recover() is None


@pytest.mark.rule("APL-24")
def test_a_file_that_is_gone_or_no_file_stops_all(repo: Repo) -> None:
    path = repo.root / "tests/test_b.py"
    path.unlink()
    refused(repo.commit)
    path.mkdir()
    refused(repo.commit)
    path.rmdir()
    path.symlink_to("test_b.py")
    refused(repo.commit)
    assert (repo.root / "tests/test_a.py").read_bytes() == OLD["tests/test_a.py"]


def test_a_link_that_leads_out_of_the_repository_is_refused(repo: Repo, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_bytes(b"A = 1\n")
    (repo.root / "tests/out.py").symlink_to(outside)
    for path in (repo.root / "tests/out.py", outside, repo.root / "tests/../../outside.py"):
        change = FileChange(path, sha256_bytes(b"A = 1\n"), b"A = 2\n")
        refused(lambda change=change: commit(repo.folder, repo.root, [*repo.changes(), change], now), Code.OUTSIDE_REPO)
    assert outside.read_bytes() == b"A = 1\n"
    assert repo.whole() == "old"


def test_a_file_with_two_hard_links_is_refused(repo: Repo, tmp_path: Path) -> None:
    os.link(repo.root / "tests/test_b.py", tmp_path / "other.py")
    assert "2 hard links" in refused(repo.commit, Code.OUTSIDE_REPO).message
    assert repo.whole() == "old"


def test_one_file_named_twice_is_refused_also_through_a_link(repo: Repo) -> None:
    (repo.root / "tests/link.py").symlink_to("test_a.py")
    change = FileChange(repo.root / "tests/link.py", sha256_bytes(OLD["tests/test_a.py"]), b"A = 1\n")
    refused(lambda: commit(repo.folder, repo.root, [*repo.changes(), change], now), Code.INVALID_ARGUMENT)
    assert repo.whole() == "old"


def test_a_relative_path_is_refused(repo: Repo) -> None:
    change = FileChange(Path("tests/test_a.py"), "", b"")
    refused(lambda: commit(repo.folder, repo.root, [change], now), Code.INVALID_ARGUMENT)


def test_a_plan_is_applied_once(repo: Repo) -> None:
    repo.commit()
    refused(repo.commit, Code.STALE_PLAN)
    assert repo.whole() == "new"


def test_a_second_applier_is_refused_by_every_verb_while_the_first_is_at_work(repo: Repo) -> None:
    repo.commit()
    lock = FileLock.take(repo.folder / "apply.lock", {})
    assert lock is not None
    for act in (repo.commit, repo.recover, repo.undo):
        refused(act, Code.RUN_ACTIVE)
    lock.release()
    assert repo.undo().state == "rolled_back"


# -- a failure in the process ----------------------------------------------------------------------------------------


class Disk:
    """``os.replace`` that fails at one call, before or after the rename itself."""

    def __init__(self, step: int, after: bool = False) -> None:
        self.left = step
        self.after = after

    def __call__(self, source: Path, target: Path) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise OSError("no space left")
        source.replace(target)
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_failure_rolls_back_at_once_and_is_raised_again(repo: Repo, step: int, after: bool) -> None:
    with pytest.raises(KeyboardInterrupt if after else OSError) as caught:
        repo.commit(Disk(step, after))
    assert not hasattr(caught.value, "__notes__")
    assert repo.whole() == "old"
    journal = repo.recover()
    assert journal is not None
    assert journal.state == "rolled_back"
    assert repo.commit().state == "committed"
    assert repo.whole() == "new"


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize("name", list(OLD)[1:])
def test_a_file_saved_by_an_editor_during_the_commit_is_not_overwritten(repo: Repo, name: str) -> None:
    def replace(source: Path, target: Path) -> None:
        source.replace(target)
        (repo.root / name).write_bytes(b"mine = 1\n")

    assert name in refused(lambda: repo.commit(replace)).message
    assert repo.contents() == OLD | {name: b"mine = 1\n"}
    assert repo.leftovers() == []


@pytest.mark.rule("APL-24")
def test_a_file_saved_behind_the_rename_is_left_alone_when_the_rest_rolls_back(repo: Repo) -> None:
    calls: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            (repo.root / "tests/test_a.py").write_bytes(b"mine = 1\n")
            raise OSError("no space left")
        source.replace(target)

    with pytest.raises(OSError, match="no space") as caught:
        repo.commit(replace)
    assert "tests/test_a.py" in caught.value.__notes__[0]
    assert repo.contents() == OLD | {"tests/test_a.py": b"mine = 1\n"}
    refused(repo.recover)


def test_a_rollback_that_fails_too_is_noted_and_left_to_recover(repo: Repo) -> None:
    calls: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > 2:
            raise OSError("read-only file system")
        source.replace(target)

    with pytest.raises(OSError, match="read-only") as caught:
        repo.commit(replace)
    assert "rolling back failed too" in caught.value.__notes__[0]
    refused(repo.commit, Code.STALE_PLAN)
    journal = repo.recover()
    assert journal is not None
    assert journal.state == "rolled_back"
    assert repo.whole() == "old"


# -- a crash at every step -------------------------------------------------------------------------------------------


class Dead(BaseException):
    """The process was killed: nothing that it would still do happens."""


# Without ftruncate and pwrite, which only describe the lock's holder: a dead process gives its lock back by itself,
# this one would keep it.
CALLS = ("open", "replace", "mkdir", "unlink", "fsync", "fchmod", "utime")


class Power:
    """Counts the calls that reach the file system; from the given one on, every further call is dead too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, after: bool) -> None:
        self.calls = 0
        self.step = step
        self.after = after
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wired(getattr(os, name)))

    def wired(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.calls += 1
            if self.calls > self.step or (self.calls == self.step and not self.after):
                raise Dead
            found = real(*arguments, **options)
            if self.calls == self.step:
                if real.__name__ == "open" and isinstance(found, int):
                    os.close(found)
                raise Dead
            return found

        return call


def crash(act: Callable[[], object], step: int, after: bool) -> bool:
    """Run ``act`` and kill it at ``step``; False when it was done before."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        power = Power(monkeypatch, step, after)
        try:
            act()
        except Dead:
            return True
        return power.calls >= step


def calls_of(act: Callable[[], object]) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        power = Power(monkeypatch, sys.maxsize, after=False)
        act()
        return power.calls


# A little more than each act has (a clock that ticks in between saves some): see the test of these numbers below.
COMMIT_STEPS, RECOVER_STEPS, UNDO_STEPS = 82, 42, 56
SIDES = pytest.mark.parametrize("after", [False, True], ids=["before", "behind"])


@pytest.mark.rule("APL-24")
@SIDES
@pytest.mark.parametrize("step", range(1, COMMIT_STEPS))
def test_a_crash_at_any_step_of_a_commit_leaves_all_old_or_all_new_after_recover(
    repo: Repo, step: int, after: bool
) -> None:
    crashed = crash(lambda: repo.commit(own_replace), step, after)
    first = repo.recover()
    state = repo.whole()
    assert first is None or first.state == {"old": "rolled_back", "new": "committed"}[state]
    assert repo.recover() == first
    assert crashed or state == "new"
    if state == "old":
        assert repo.commit().state == "committed"
    assert repo.undo().state == "rolled_back"
    assert repo.whole() == "old"


def own_replace(source: Path, target: Path) -> None:
    """``Path.replace`` looks ``os.replace`` up at the call, so ``Power`` is in it."""
    source.replace(target)


def test_the_steps_that_are_tried_are_all_steps(repo: Repo) -> None:
    assert COMMIT_STEPS - 8 < calls_of(lambda: repo.commit(own_replace)) < COMMIT_STEPS
    assert UNDO_STEPS - 10 < calls_of(lambda: undo(repo.folder, repo.root, now, own_replace)) < UNDO_STEPS
    half(repo)
    assert RECOVER_STEPS - 10 < calls_of(lambda: recover(repo.folder, repo.root, now, own_replace)) < RECOVER_STEPS


def nothing(*_: object) -> None:
    """What a dead process does about its failure."""


def half(repo: Repo) -> None:
    """A commit that was killed behind its second rename."""

    def replace(source: Path, target: Path) -> None:
        source.replace(target)
        if target.name == "test_b.py":
            raise Dead

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Dead):
        monkeypatch.setattr("tune_mcp.apply.transaction._Transaction.roll_back", nothing)
        repo.commit(replace)
    assert repo.contents() not in (OLD, NEW)


@pytest.mark.rule("APL-24")
@SIDES
@pytest.mark.parametrize("step", range(1, RECOVER_STEPS))
def test_a_crash_at_any_step_of_a_recovery_is_recovered_in_turn(repo: Repo, step: int, after: bool) -> None:
    half(repo)
    crash(lambda: recover(repo.folder, repo.root, now, own_replace), step, after)
    journal = repo.recover()
    assert journal is not None
    assert journal.state == "rolled_back"
    assert repo.whole() == "old"


@pytest.mark.rule("APL-24")
@SIDES
@pytest.mark.parametrize("step", range(1, UNDO_STEPS))
def test_a_crash_at_any_step_of_an_undo_leaves_all_old_or_all_new_after_recover(
    repo: Repo, step: int, after: bool
) -> None:
    repo.commit()
    crash(lambda: undo(repo.folder, repo.root, now, own_replace), step, after)
    journal = repo.recover()
    assert journal is not None
    assert journal.state == {"old": "rolled_back", "new": "committed"}[repo.whole()]
    assert repo.undo().state == "rolled_back"
    assert repo.whole() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{source!r}, {tests!r}]
import importlib.util
spec = importlib.util.spec_from_file_location("t", {this!r})
t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
repo = t.Repo(Path(sys.argv[1]))
left = int(sys.argv[2])
def replace(source, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    source.replace(target)
repo.commit(replace)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize(("renames", "outcome"), [(0, "old"), (1, "old"), (2, "old"), (3, "new")])
def test_a_process_that_is_really_killed_leaves_no_lock_and_no_mixture(
    tmp_path: Path, renames: int, outcome: str
) -> None:
    here = Path(__file__)
    script = KILLED.format(source=str(here.parents[2]), tests=str(here.parents[1]), this=str(here))
    command = [sys.executable, "-c", script, str(tmp_path / "repo"), str(renames)]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "repo/.tune-runs/20260423T050000Z_x/apply/0123456789abcdef"
    journal = recover(folder, tmp_path / "repo", now)
    assert journal is not None
    found = {name: (tmp_path / "repo" / name).read_bytes() for name in OLD}
    assert found == {"old": OLD, "new": NEW}[outcome]
    assert list((tmp_path / "repo").rglob(".*.tmp")) == []


def test_a_crash_behind_the_last_rename_is_finished(repo: Repo) -> None:
    journal = repo.commit()
    prepared = journal.model_copy(update={"state": "prepared", "finished_at": None})
    (repo.folder / "journal.json").write_text(prepared.model_dump_json())
    assert repo.recover() == journal
    assert repo.whole() == "new"


# -- recover and undo ------------------------------------------------------------------------------------------------


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize("name", list(OLD))
def test_a_file_changed_between_the_crash_and_recover_is_named_and_nothing_is_touched(repo: Repo, name: str) -> None:
    half(repo)
    (repo.root / name).write_bytes(b"mine = 1\n")
    before = repo.contents()
    found = refused(repo.recover)
    assert found.details["files"] == [name]
    assert name in found.message
    assert repo.contents() == before
    backup = next(
        file.backup
        for file in Journal.model_validate_json((repo.folder / "journal.json").read_bytes()).files
        if file.path == name
    )
    assert str(repo.folder / backup) in found.next
    (repo.root / name).write_bytes((repo.folder / backup).read_bytes())
    journal = repo.recover()
    assert journal is not None
    assert journal.state == "rolled_back"
    assert repo.contents() == OLD


@pytest.mark.parametrize("name", ["tests/test_a.py", "tests/test_b.py"])
def test_a_file_replaced_by_a_link_is_not_written_through(repo: Repo, name: str) -> None:
    half(repo)
    other = repo.root / "tests/other.py"
    other.write_bytes(NEW[name])
    (repo.root / name).unlink()
    (repo.root / name).symlink_to("other.py")
    assert refused(repo.recover).details["files"] == [name]
    assert other.read_bytes() == NEW[name]


def test_a_folder_replaced_by_a_link_out_of_the_repository_is_not_entered(repo: Repo, tmp_path: Path) -> None:
    half(repo)
    (repo.root / "tests").rename(tmp_path / "moved")
    (repo.root / "tests").symlink_to(tmp_path / "moved")
    refused(repo.recover, Code.OUTSIDE_REPO)


def test_recover_has_nothing_to_do_where_nothing_was_begun(repo: Repo) -> None:
    assert repo.recover() is None
    assert not repo.folder.exists()
    repo.folder.mkdir(parents=True)
    assert repo.recover() is None
    assert read_journal(repo.folder) is None


def test_a_damaged_backup_is_never_put_back(repo: Repo) -> None:
    half(repo)
    (repo.folder / read_backup(repo, "tests/test_a.py")).write_bytes(b"torn")
    before = repo.contents()
    refused(repo.recover)
    assert repo.contents() == before


def read_backup(repo: Repo, name: str) -> str:
    journal = read_journal(repo.folder)
    assert journal is not None
    return next(file.backup for file in journal.files if file.path == name)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 2}', '{"state": "done"}'])
def test_a_journal_that_is_not_ours_is_refused_by_every_verb(repo: Repo, text: str) -> None:
    repo.commit()
    (repo.folder / "journal.json").write_text(text)
    for act in (repo.commit, repo.recover, repo.undo, lambda: read_journal(repo.folder)):
        refused(act, Code.PLAN_TAMPERED)
    assert repo.whole() == "new"


def test_undo_puts_the_files_before_back_and_a_second_one_changes_nothing(repo: Repo) -> None:
    repo.commit()
    first = repo.undo()
    assert first.state == "rolled_back"
    assert repo.whole() == "old"
    assert repo.undo() == first
    assert repo.recover() == first


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize("name", list(OLD))
def test_undo_refuses_when_a_file_is_neither_its_old_nor_its_new_self(repo: Repo, name: str) -> None:
    repo.commit()
    (repo.root / name).write_bytes(b"mine = 1\n")
    before = repo.contents()
    assert refused(repo.undo).details["files"] == [name]
    assert repo.contents() == before
    journal = read_journal(repo.folder)
    assert journal is not None
    assert journal.state == "committed"


def test_undo_takes_a_file_that_is_old_already_as_it_is(repo: Repo) -> None:
    repo.commit()
    (repo.root / "tests/test_b.py").write_bytes(OLD["tests/test_b.py"])
    assert repo.undo().state == "rolled_back"
    assert repo.contents() == OLD


def test_undo_without_an_apply_is_refused(repo: Repo) -> None:
    refused(repo.undo, Code.INVALID_ARGUMENT)
    repo.folder.mkdir(parents=True)
    refused(repo.undo, Code.INVALID_ARGUMENT)
