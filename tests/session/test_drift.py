"""Whether a tree is the one that was planned, and whether it was another one in between: real repositories."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import toy

from tune_mcp.files import sha256_file
from tune_mcp.session import drift, provenance
from tune_mcp.session.drift import Baseline
from tune_mcp.session.provenance import GitState, Stamp

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


def state(changed: Mapping[str, str] = {}, untracked: Mapping[str, str] = {}, **written: int) -> GitState:
    stamps: dict[str, Stamp | None] = {f"{name}.json": (1, 0o644, 9, time) for name, time in written.items()}
    return GitState("a" * 40, "main", dict(changed), dict(untracked), "", stamps)


PLANNED = Baseline(
    git_sha="a" * 40,
    changed={},
    untracked={"notes.txt": "1", "helper.py": "1", "mine.txt": "1", "same.txt": "1"},
    file_sha256={TEST: "0" * 64, "limits.json": "0" * 64},
    config_sha256={},
    apart=("mine.txt",),
    test_outputs=("*.json",),
)


def test_what_the_tests_wrote_is_their_data_and_what_config_declares_never_what_is_loaded_or_measured() -> None:
    before = state(untracked=dict.fromkeys(PLANNED.untracked, "1"), baseline=1, limits=1, rest=1)
    after = state(untracked={**dict.fromkeys(PLANNED.untracked, "2"), "same.txt": "1"}, baseline=2, limits=2, rest=1)

    assert drift.outputs(before, after, PLANNED) == ("notes.txt", "baseline.json")
    assert drift.rewritten(before, after, PLANNED) == ("limits.json",), "a measured file is never an output"


def test_new_data_is_told_but_no_code_and_nothing_that_is_no_part_of_the_tree() -> None:
    new = ("data.csv", "code.py", "mine.txt", "run.log", ".vscode/settings.json", "notes.txt")

    assert drift.appeared(state(untracked=dict.fromkeys(new, "1")), PLANNED) == ("data.csv",)


def test_a_clients_own_tracked_file_may_change_at_the_top_and_not_below() -> None:
    now = state(changed={".vscode/settings.json": "2", "docs/.vscode/settings.json": "2"}, untracked=PLANNED.untracked)

    assert drift.dirt_moved(now, PLANNED) == ("docs/.vscode/settings.json was changed",)


def test_a_way_out_is_shown_for_data_that_may_be_declared_and_for_new_code_that_a_person_may_let_git_ignore() -> None:
    files = ["data.json", "code.py", "limits.json", ".tune/models/a/config.yaml"]

    assert drift.way_out(files, [], PLANNED) == (
        """if the tests write it, add test_outputs: ["data.json"] to the model's config.yaml"""
    )
    new = drift.way_out([], ["made.py", "data.json", TEST, ".tune/plugin.py"], PLANNED)
    assert new.startswith("if the tests make it, let git ignore it: printf '%s\\n' /made.py >> ")
    assert drift.way_out(["code.py"], ["data.json"], PLANNED) == ""


def test_our_own_output_is_what_this_session_writes_below_the_top_and_nothing_that_is_loaded(tmp_path: Path) -> None:
    project, elsewhere = tmp_path / "repo/part", tmp_path / "elsewhere.txt"
    project.mkdir(parents=True)
    read = project / "read.txt"
    read.write_text("x")
    files = [project / "calibration.txt", tmp_path / "repo/above.txt", project / "written.py", elsewhere]
    with ExitStack() as stack:
        opened = [stack.enter_context(path.open("w")) for path in files]
        opened.append(stack.enter_context(read.open()))
        writer = subprocess.Popen(["sleep", "60"], pass_fds=[one.fileno() for one in opened])
    try:
        assert drift.own_output(project, tmp_path / "repo") == ("../above.txt", "calibration.txt")
    finally:
        writer.kill()
        writer.wait()
    assert drift.own_output(project, tmp_path / "repo") == ()


def test_who_reads_what_we_print_writes_for_us_from_another_session_too(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; from pathlib import Path; from tune_mcp.session import drift; "
        "sys.stderr.write(repr(drift.own_output(Path(sys.argv[1]), Path(sys.argv[1]))))"
    )
    out = tmp_path / "calibration.txt"
    with out.open("w") as file:
        read, write = os.pipe()
        reader = subprocess.Popen(["cat"], stdin=read, stdout=file, start_new_session=True)
        os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], stdout=write, stderr=subprocess.PIPE, check=True, timeout=60
    )
    os.close(write)
    assert reader.wait(60) == 0
    assert done.stderr == b"('calibration.txt',)"
