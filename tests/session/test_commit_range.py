"""What lies between two commits, from a real repository."""

from __future__ import annotations

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
    return root


def commit(repo: Path, message: str, **files: str | bytes) -> str:
    for name, content in files.items():
        path = repo / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    toy.git(repo, "add", "-A")
    toy.git(repo, "commit", "-q", "--allow-empty", "-m", message)
    return toy.git(repo, "rev-parse", "HEAD")


@pytest.mark.rule("PRF-01")
def test_commits_come_newest_first_and_files_with_their_lines(repo: Path) -> None:
    before = commit(repo, "first", a="1\n2\n")
    commit(repo, "second | with a bar\n\nand a body", a="1\n3\n4\n", deep__er__k="x\n")
    after = commit(repo, "third", b=b"\0\1")

    found = provenance.between(repo, before, after)

    assert found is not None
    assert [one.subject for one in found.commits] == ["third", "second | with a bar"]
    assert found.commits[0].sha == after and len(found.commits[0].day) == 10
    assert [(one.path, one.added, one.removed) for one in found.files] == [
        ("a", 2, 1),
        ("b", None, None),
        ("deep/er/k", 1, 0),
    ]


@pytest.mark.rule("PRF-02")
@pytest.mark.parametrize(
    ("globs", "paths"),
    [
        (["kernels/**"], ["kernels/fused.cu", "kernels/x/graph.py"]),
        (["**/graph*.py"], ["kernels/x/graph.py"]),
        (["kernels/*"], ["kernels/fused.cu"]),
        (["kernels/*.cu", "README"], ["README", "kernels/fused.cu"]),
        (["*.py"], []),
    ],
)
def test_globs_choose_among_the_changed_files(repo: Path, globs: list[str], paths: list[str]) -> None:
    before = commit(repo, "first", README="x")
    after = commit(repo, "second", README="y", **{"kernels__x__graph.py": "1", "kernels__fused.cu": "2"})

    assert [one.path for one in provenance.changed(repo, before, after, globs)] == paths


def test_a_file_that_was_moved_is_one_gone_and_one_new(repo: Path) -> None:
    before = commit(repo, "first", old="same\n")
    toy.git(repo, "mv", "old", "new")
    after = commit(repo, "moved")

    assert {one.path for one in provenance.changed(repo, before, after)} == {"old", "new"}


def test_a_commit_that_is_not_here_gives_no_range_and_no_guess(repo: Path) -> None:
    here = commit(repo, "first", a="1")

    assert provenance.between(repo, "f" * 40, here) is None
    with pytest.raises(Refusal, match="NO_HEAD"):
        provenance.changed(repo, "f" * 40, here)
