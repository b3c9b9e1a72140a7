"""Which commit, and how far the tree is from it; git is only read."""

from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize(("name", "mode"), [("a.txt", "100644"), ("run.sh", "100755")])
def test_a_changed_file_has_the_mode_that_it_has_in_the_tree_behind_an_upstream_branch_too(
    repo: Path, name: str, mode: str
) -> None:
    toy.git(repo, "branch", "other")
    toy.git(repo, "branch", "--set-upstream-to", "other")  # git tells two lines more before the first file
    (repo / name).write_text("two\n")
    (repo / name).chmod(int(mode, 8) & 0o777)
    toy.git(repo, "add", "--intent-to-add", name)

    assert provenance.read(repo).changed[name].partition(" ")[0] == mode


def test_a_file_in_conflict_is_a_changed_file_by_its_name_mode_and_bytes(repo: Path) -> None:
    (repo / "b c.txt").write_text("one\n")
    toy.git(repo, "add", "-A")
    toy.git(repo, "commit", "-q", "-m", "base")
    toy.git(repo, "checkout", "-q", "-b", "theirs")
    (repo / "b c.txt").chmod(0o755)
    (repo / "b c.txt").write_text("theirs\n")
    toy.git(repo, "commit", "-q", "-a", "-m", "theirs")
    toy.git(repo, "checkout", "-q", "main")
    (repo / "b c.txt").write_text("ours\n")
    toy.git(repo, "commit", "-q", "-a", "-m", "ours")
    with pytest.raises(subprocess.CalledProcessError):
        toy.git(repo, "merge", "theirs")

    state = provenance.read(repo)

    assert {name: entry.partition(" ")[0] for name, entry in state.changed.items()} == {"b c.txt": "100755"}
    before = state.changed["b c.txt"]
    (repo / "b c.txt").write_text("something else\n")
    assert provenance.read(repo).changed["b c.txt"] != before


@pytest.mark.parametrize(
    ("name", "of_client"),
    [
        (".cursor/rules.md", True),
        (".aider.chat.history.md", True),
        ("../.claude/settings.json", True),
        ("docs/.cursor/rules.md", False),
        ("aider.md", False),
    ],
)
def test_what_clients_keep_at_the_top_is_theirs(name: str, of_client: bool) -> None:
    assert provenance.of_client(name) is of_client


def test_changes_and_files_that_hold_a_word_are_named_from_the_projects_folder(repo: Path) -> None:
    project = repo / "part"
    project.mkdir()
    (project / "a.py").write_text("LIMIT = 1\n")
    (repo / "above.py").write_text("LIMITED = 1\n")
    toy.git(repo, "add", "-A")
    toy.git(repo, "commit", "-q", "-m", "second")
    old, new = toy.git(repo, "rev-parse", "HEAD~"), toy.git(repo, "rev-parse", "HEAD")

    assert {(one.path, one.old_mode, one.new_mode) for one in provenance.changes(project, old, new)} == {
        ("a.py", provenance.ABSENT, "100644"),
        ("../above.py", provenance.ABSENT, "100644"),
    }
    assert provenance.holding(project, new, "LIMIT") == {"a.py": b"LIMIT = 1\n"}
    assert provenance.holding(project, new, "NOTHING") == {}
    with pytest.raises(Refusal, match="NO_HEAD"):
        provenance.holding(project, "0" * 40, "LIMIT")


def test_a_folder_with_a_repository_that_has_no_commit_yet_is_told_apart_from_a_file(repo: Path) -> None:
    inner = repo / "inner"
    inner.mkdir()
    toy.git(inner, "init", "-q")
    (inner / "data.txt").write_text("x")

    assert provenance.read(repo).untracked == {"inner/": "repository:no commit"}
