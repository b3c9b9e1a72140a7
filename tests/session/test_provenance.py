"""Which commit, and how far the tree is from it; git is only read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import toy

from tune_mcp.errors import Refusal
from tune_mcp.session import provenance


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    root.mkdir()
    toy.git(root, "init", "-q", "-b", "main")
    (root / "a.txt").write_text("one\n")
    (root / ".gitignore").write_text("ignored/\n")
    toy.git(root, "add", "-A")
    toy.git(root, "commit", "-q", "-m", "first")
    return root


@pytest.mark.rule("SES-03")
def test_a_clean_tree_is_its_commit(repo: Path) -> None:
    state = provenance.read(repo)

    assert state.head == toy.git(repo, "rev-parse", "HEAD") == provenance.head(repo)
    assert len(state.head) == 40
    assert (state.branch, state.dirty, state.changed, state.untracked) == ("main", False, {}, {})
    assert provenance.diff(repo) == b""


def test_a_detached_head_has_no_branch(repo: Path) -> None:
    toy.git(repo, "checkout", "-q", "--detach")
    assert provenance.read(repo).branch == "HEAD"


@pytest.mark.parametrize("staged", [False, True])
def test_a_changed_file_makes_the_tree_dirty_and_the_diff_is_kept(repo: Path, staged: bool) -> None:
    (repo / "a.txt").write_text("two\n")
    if staged:
        toy.git(repo, "add", "-A")

    state = provenance.read(repo)

    assert state.dirty and set(state.changed) == {"a.txt"}
    diff = provenance.diff(repo)
    assert b"-one" in diff and b"+two" in diff


@pytest.mark.rule("SES-01", "SES-11")
@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_change_that_git_was_told_not_to_look_at_makes_the_tree_dirty(repo: Path, flag: str) -> None:
    toy.git(repo, "update-index", flag, "a.txt")
    before = provenance.read(repo)
    (repo / "a.txt").write_text("two\n")
    assert toy.git(repo, "status", "--porcelain") == ""

    state = provenance.read(repo)

    assert state.dirty and set(state.changed) == {"a.txt"}
    assert state.changed != before.changed


@pytest.mark.rule("SES-01")
def test_a_file_that_a_sparse_checkout_leaves_out_is_no_change(repo: Path) -> None:
    (repo / "kept").mkdir()
    (repo / "kept/b.txt").write_text("b\n")
    (repo / "left").mkdir()
    (repo / "left/c.txt").write_text("c\n")
    toy.git(repo, "add", "-A")
    toy.git(repo, "commit", "-q", "-m", "second")
    toy.git(repo, "sparse-checkout", "set", "kept")
    assert not (repo / "left/c.txt").exists()

    assert not provenance.read(repo).dirty


def test_an_untracked_file_makes_the_tree_dirty_and_an_ignored_one_does_not(repo: Path) -> None:
    (repo / "ignored").mkdir()
    (repo / "ignored" / "x").write_text("x")
    assert not provenance.read(repo).dirty

    (repo / "new dir").mkdir()
    (repo / "new dir" / "ü\n.txt").write_text("one")
    first = provenance.read(repo)
    (repo / "new dir" / "ü\n.txt").write_text("two")
    second = provenance.read(repo)

    assert first.dirty and not first.changed
    assert set(first.untracked) == {"new dir/ü\n.txt"} and first.untracked != second.untracked


def test_a_file_name_that_is_no_text_and_odd_files_are_told_apart(repo: Path) -> None:
    (repo / os.fsdecode(b"bad-\xff")).write_text("x")
    (repo / "link").symlink_to("/nowhere")
    (repo / "large").write_bytes(b"")
    os.truncate(repo / "large", 17 * 1024 * 1024)

    found = provenance.read(repo).untracked

    assert set(found) == {"bad-\\xff", "link", "large"}
    assert found["link"] == "link:/nowhere"
    assert found["large"].startswith(f"size:{17 * 1024 * 1024}:")


@pytest.mark.rule("SES-03")
def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    toy.git(tmp_path, "init", "-q")
    for ask in (provenance.head, provenance.read):
        with pytest.raises(Refusal, match=r"NO_HEAD \[SES-03\]"):
            ask(tmp_path)


def test_a_folder_without_git_and_a_machine_without_git_are_refused(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refusal, match="NO_HEAD"):
        provenance.head(tmp_path)
    assert provenance.top_level(tmp_path) is None

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match="NO_HEAD"):
        provenance.head(repo)


@pytest.mark.rule("VCS-09")
def test_reading_changes_nothing_in_the_repository(repo: Path) -> None:
    (repo / "a.txt").write_text("two\n")
    os.utime(repo / ".gitignore", (1, 1))  # the same bytes at another time: git would like to write that down

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((repo / ".git").rglob("*")) if path.is_file()}

    before = files()
    provenance.read(repo)
    assert files() == before


def test_the_callers_git_variables_and_pagers_do_not_lead_elsewhere(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent inside a git hook has GIT_DIR set; the commit must still be that of the named repository."""
    other = tmp_path / "other"
    other.mkdir()
    toy.git(other, "init", "-q", "-b", "main")
    toy.git(other, "commit", "-q", "--allow-empty", "-m", "elsewhere")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))

    found = provenance.head(repo)

    monkeypatch.delenv("GIT_DIR")
    assert found == provenance.head(repo)


def test_a_text_conversion_of_the_users_never_hides_a_change(repo: Path) -> None:
    toy.git(repo, "config", "diff.blind.textconv", "true")
    toy.git(repo, "config", "color.ui", "always")
    (repo / ".git" / "info" / "attributes").write_text("*.txt diff=blind\n")
    (repo / "a.txt").write_text("two\n")

    diff = provenance.diff(repo)

    assert b"+two" in diff and b"\x1b" not in diff


def test_the_top_level_is_found_from_below(repo: Path) -> None:
    (repo / "deep" / "er").mkdir(parents=True)
    assert provenance.top_level(repo / "deep" / "er") == repo
