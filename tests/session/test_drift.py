"""Whether a tree is the one that was planned, and whether it was another one in between: real repositories."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from tune_mcp.files import sha256_file
from tune_mcp.session import drift, provenance
from tune_mcp.session.drift import Baseline
from tune_mcp.session.provenance import GitState

TEST = "tests/test_a_ci.py"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name, text in {
        TEST: "LIMIT = 1\n",
        "code.py": "BATCH = 64\n",
        "README.md": "words\n",
        ".gitignore": "ignored/\n.tune-runs/\n",
        ".tune/models/a/stages.yaml": "a: {}\nlast_discovered_at: now\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    toy.git(root, "init", "-q", "-b", "main")
    toy.git(root, "add", "-A")
    toy.git(root, "commit", "-q", "-m", "first")
    (root / "notes.txt").write_text("untracked before the run")
    return root


def planned(repo: Path) -> tuple[GitState, Baseline]:
    now = provenance.read(repo)
    stages = repo / ".tune/models/a/stages.yaml"
    return now, Baseline(
        git_sha=now.head,
        changed=now.changed,
        untracked=now.untracked,
        file_sha256={TEST: sha256_file(repo / TEST)},
        config_sha256={str(stages): drift.config_digest(stages)},
    )


def put(name: str, text: str = "x") -> Callable[[Path], object]:
    def change(repo: Path) -> None:
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text(text)

    return change


def committed(repo: Path) -> None:
    toy.git(repo, "commit", "-q", "--allow-empty", "-m", "next")


@pytest.mark.rule("SES-11", "VCS-09")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (committed, "HEAD is "),
        (put(TEST, "LIMIT = 2\n"), f"{TEST} is not the file that was planned"),
        (lambda repo: (repo / TEST).unlink(), f"{TEST} is not the file that was planned"),
        (put("code.py", "BATCH = 1\n"), "code.py was changed"),
        (lambda repo: (repo / "code.py").unlink(), "code.py was changed"),
        (lambda repo: (repo / "code.py").chmod(0o755), "code.py was changed"),
        (put("conftest.py"), "conftest.py appeared"),
        (put("pytest.ini"), "pytest.ini appeared"),
        (put("deep/er/plugin.so"), "deep/er/plugin.so appeared"),
        (put("run.sh"), "run.sh appeared"),
        (put(".env"), ".env appeared"),
        (put("notes.txt", "other"), "notes.txt was changed"),
        (lambda repo: (repo / "notes.txt").unlink(), "notes.txt is gone"),
        (put(".tune/models/a/stages.yaml", "a: {worst: max}\n"), ".tune/models/a/stages.yaml is not the file"),
        (lambda repo: (repo / ".tune/models/a/stages.yaml").unlink(), ".tune/models/a/stages.yaml is not the file"),
    ],
)
def test_whatever_could_change_a_measurement_is_named(repo: Path, change: Callable[[Path], object], told: str) -> None:
    _, baseline = planned(repo)

    change(repo)

    found = drift.moved(repo, provenance.read(repo), baseline)
    assert any(told in one for one in found) and len(found) == 1, found


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize(
    "change",
    [
        put("ignored/anything.py"),
        put(".tune-runs/x/conftest.py"),
        put("__pycache__/code.cpython-311.pyc"),
        put(".pytest_cache/v/cache/lastfailed"),
        put("server.log"),
        put(".tune/models/a/notes.md"),
        put(".tune/models/a/stages.yaml", "a: {}\nlast_discovered_at: later\n"),
        lambda repo: toy.git(repo, "gc", "-q"),
        lambda repo: os.utime(repo / "code.py", (1, 1)),
        lambda repo: None,
    ],
)
def test_what_a_run_leaves_behind_anyway_is_no_change(repo: Path, change: Callable[[Path], object]) -> None:
    _, baseline = planned(repo)

    change(repo)

    assert drift.moved(repo, provenance.read(repo), baseline) == ()


def test_a_new_data_file_is_taken_for_a_tests_output_and_told(repo: Path) -> None:
    _, baseline = planned(repo)

    put("out/results.json")(repo)

    now = provenance.read(repo)
    assert drift.moved(repo, now, baseline) == ()
    assert drift.appeared(now, baseline) == ("out/results.json",)


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize("name", ["tests/it's [x]*.py", "tests/a\\b?.py", "#!two\nlines.py"])
def test_the_way_out_lets_git_ignore_a_new_file_whatever_it_is_called(repo: Path, name: str) -> None:
    _, baseline = planned(repo)
    put(name)(repo)
    assert drift.moved(repo, provenance.read(repo), baseline) == (f"{name} appeared",)

    command = drift.way_out([], [name], baseline).partition(": ")[2]
    subprocess.run(["bash", "-c", command], cwd=repo, check=True)

    assert drift.moved(repo, provenance.read(repo), baseline) == ()


def test_staging_a_file_changes_none(repo: Path) -> None:
    put("code.py", "BATCH = 32\n")(repo)
    _, baseline = planned(repo)

    toy.git(repo, "add", "code.py")

    assert drift.moved(repo, provenance.read(repo), baseline) == ()


def rewritten(repo: Path) -> None:
    text = (repo / "code.py").read_text()
    (repo / "code.py").write_text("BATCH = 1\n")
    (repo / "code.py").write_text(text)


def there_and_back(repo: Path) -> None:
    head = toy.git(repo, "rev-parse", "HEAD")
    committed(repo)
    toy.git(repo, "reset", "-q", "--hard", head)


def stashed(repo: Path) -> None:
    put("code.py", "BATCH = 2\n")(repo)
    toy.git(repo, "stash", "-q")
    toy.git(repo, "checkout", "-q", "--", ".")


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (there_and_back, "HEAD moved and came back"),
        (lambda repo: toy.git(repo, "checkout", "-q", "-b", "other"), "HEAD moved and came back"),
        (stashed, "HEAD moved and came back"),
        (rewritten, "code.py was written"),
        (lambda repo: os.utime(repo / TEST, (1, 1)), f"{TEST} was written"),
    ],
)
def test_a_tree_that_was_another_one_in_between_is_noticed(
    repo: Path, change: Callable[[Path], object], told: str
) -> None:
    before, baseline = planned(repo)

    change(repo)

    after = provenance.read(repo)
    assert drift.moved(repo, after, baseline) == (), "it looks as if nothing had happened"
    assert any(told in one for one in drift.touched(before, after, baseline))


@pytest.mark.parametrize(
    "change",
    [
        lambda repo: toy.git(repo, "gc", "-q"),
        lambda repo: toy.git(repo, "pack-refs", "--all"),
        lambda repo: toy.git(repo, "reflog", "expire", "--all"),
        lambda repo: toy.git(repo, "status"),
        put(".tune/models/a/stages.yaml", "a: {}\n"),
    ],
)
def test_housekeeping_in_between_is_no_move(repo: Path, change: Callable[[Path], object]) -> None:
    before, baseline = planned(repo)

    change(repo)

    assert drift.touched(before, provenance.read(repo), baseline) == ()


def test_a_change_inside_a_submodule_and_inside_a_repository_that_git_does_not_know_is_seen(
    repo: Path, tmp_path: Path
) -> None:
    for name in ("inner", "unknown"):
        other = (tmp_path if name == "inner" else repo) / name
        other.mkdir()
        toy.git(other, "init", "-q", "-b", "main")
        (other / "lib.py").write_text("A = 1\n")
        toy.git(other, "add", "-A")
        toy.git(other, "commit", "-q", "-m", "inner")
    toy.git(repo, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "inner"), "sub")
    toy.git(repo, "commit", "-q", "-m", "with a submodule")
    (repo / "sub/lib.py").write_text("A = 2\n")
    _, baseline = planned(repo)
    assert drift.moved(repo, provenance.read(repo), baseline) == ()

    (repo / "sub/lib.py").write_text("A = 3\n")
    (repo / "unknown/lib.py").write_text("A = 3\n")

    assert set(drift.moved(repo, provenance.read(repo), baseline)) == {"sub was changed", "unknown/ was changed"}
