"""Whatever stands where a file belongs keeps nobody waiting: a clear refusal or a named bad cell, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
import toy

from tune_mcp.cli.main import main
from tune_mcp.errors import NotPlain
from tune_mcp.files import append_line, is_locked, open_plain, read_plain, read_text, sha256_file
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.supervise.noting import strays
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.strict_audit import strict_audit

_LIMIT_S = 60


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    """An open that waits for a pipe's other end is an error here, not an hour."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(_LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def bound(path: Path) -> None:
    """A socket; its name is longer than a socket's may be, so it is made from within the folder."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": bound,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


def replaced(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    KINDS[kind](path)


@pytest.mark.rule("POL-11")
@pytest.mark.parametrize("kind", KINDS)
def test_only_a_plain_file_is_ever_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    KINDS[kind](path)
    calls: tuple[Callable[[Path], object], ...] = (read_plain, read_text, open_plain, sha256_file, is_locked)

    for call in calls:
        if kind == "dangling link" and call is is_locked:
            assert call(path) is False
            continue
        with pytest.raises(FileNotFoundError if kind == "dangling link" else NotPlain):
            call(path)
    with pytest.raises(NotPlain):
        append_line(path, "a line")


def test_a_file_far_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.truncate(path, 1 << 40)

    with pytest.raises(NotPlain, match="larger than 256 MiB"):
        read_plain(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, RunDir]:
    project = toy.make_toy(tmp_path_factory.mktemp("toy") / "repo")
    run = toy.finished_run(project)
    strict_audit(project, run.run_id)
    return project, run


VERBS = ("status", "audit", "tail", "report", "plan", "stop", "resume")


def spoken(project: Project, verb: str, run: RunDir, capsys: pytest.CaptureFixture[str]) -> str:
    """What the verb prints; a bug would end with 3 and a traceback."""
    words = [verb, run.run_id, "--repo", str(project.repo_root)]
    words += ["--reason", "enough"] if verb == "stop" else []
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as end:
        code = int(str(end.code))
    said = "".join(capsys.readouterr())
    assert code in (0, 1, 2) and "Traceback" not in said and "INTERNAL" not in said, (verb, said)
    return said


@pytest.mark.rule("POL-11", "STR-14")
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "dangling link"])
@pytest.mark.parametrize(
    "name",
    [
        "stop.json", "gpus.json", "report.json", "report.md", "plan.json", "plan.next.json", "precheck.json",
        "environment.json", "supervisor.json", "supervisor.lock", "supervisor.marks", "events.jsonl", "run.log",
        "toy_speed/run1.json", "apply/x/answers.json", "apply/x/journal.json", "watched",
    ],
)  # fmt: skip
def test_no_verb_hangs_or_breaks_over_what_stands_in_a_run_directory(
    finished: tuple[Project, RunDir], capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    project, run = finished
    path = run.path / name
    (run.path / "apply/x").mkdir(parents=True, exist_ok=True)
    kept = path.read_bytes() if path.is_file() else None
    replaced(path, kind)
    try:
        with toy.supervised_here():
            for verb in VERBS:
                spoken(project, verb, run, capsys)
        text = strict_audit(project, run.run_id).text() if name == "toy_speed/run1.json" else ""
        assert "STRICT + GIT: READY" not in text or path.is_file(), "measured again, or not ready"
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        if kept is not None:
            path.write_bytes(kept)


@pytest.mark.rule("RES-06", "GAP-05")
def test_strays_in_a_run_directory_are_ignored_and_named(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2)
    strict_audit(project, run.run_id)
    attempts = run.test_folder(toy.TEST_KEY) / "attempts"
    folders = [attempts / "run2_a1.bak", attempts / "run2_ax", attempts / "run2_a", run.purged / "x"]
    for folder in folders:
        folder.mkdir(parents=True)
    files = [
        run.path / "plan.json~", run.path / "toy_speed/run03.json", run.path / "toy_speed/run1.json.bak",
        run.path / "toy_speed/run7.json", run.path / "toy_speed/run².json", attempts / "run1_a1 (copy)",
        run.test_folder(toy.TEST_KEY) / "run1.log.orig", run.test_folder(toy.TEST_KEY) / "runx.log",
    ]  # fmt: skip
    for file in files:
        file.write_text("{}")
    run.observation("toy_speed", 2).unlink()

    with toy.supervised_here():
        resume_run(project, run.run_id)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    told = [event.text for event in events.read(run.events) if event.kind == "ignored"]
    assert len(told) == 1 and "run2_a1.bak" in told[0]
    named = strays(run, toy.STAGES, 2)
    expected = {str(path.relative_to(run.path)) for path in [*folders, *files[:-2]]}
    assert {*named} == expected
    assert all(path.exists() for path in [*folders, *files])


@pytest.mark.rule("MOD-02")
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "socket"])
@pytest.mark.parametrize("name", [".tune/models/toy/config.yaml", ".tune/models/toy/stages.yaml", toy.TEST_FILE])
def test_a_config_or_test_file_that_is_no_file_is_refused_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    replaced(project.repo_root / name, kind)

    for verb in ("catalog", "discover", "precheck", "run"):
        capsys.readouterr()
        code = main([verb, "toy", "--repo", str(project.repo_root)])
        said = "".join(capsys.readouterr())
        assert "Traceback" not in said and "INTERNAL" not in said, said
        if verb == "discover":
            # discover puts a new catalogue in the place of a link that leads nowhere
            anew = kind == "dangling link" and name.endswith("stages.yaml")
            assert code == (0 if anew else 2) and Path(name).name in said, said
            assert "there is no model" not in said


@pytest.mark.rule("SES-03")
def test_a_colon_in_the_repositorys_path_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = toy.make_toy(tmp_path / "a:b" / "repo")

    code = main(["precheck", "toy", "--repo", str(project.repo_root)])

    assert code == 1 and "has a colon in it" in capsys.readouterr().out


@pytest.mark.rule("DSC-13")
@pytest.mark.parametrize("cookie", ["utf8", "UTF-8", "u8", "utf_8", "U8"])
def test_every_spelling_of_utf_8_in_a_test_file_is_utf_8(tmp_path: Path, cookie: str) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=f"# coding: {cookie}\n{toy.toy_source()}")

    assert strict_audit(project, toy.finished_run(project).run_id).ready
