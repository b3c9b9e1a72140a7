"""One short, private TMPDIR for each attempt; what is ours is removed, and nothing else. Real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import toy
from toy import STAGES, TEST_KEY

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.supervise import scratch
from tune_mcp.verbs.status import status

LITTER = """
    import socket, tempfile
    folder = tempfile.mkdtemp(prefix="mmsu_audio_")
    for number in range(300):
        open(f"{folder}/{number}.wav", "wb").write(b"x" * 1024)
    locked = tempfile.mkdtemp(prefix="zz_locked_")
    open(f"{locked}/inside", "w").close()
    os.symlink("/", f"{locked}/root")
    os.chmod(locked, 0)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tempfile.mkdtemp()}/a_socket_with_a_name_of_some_length.sock")
    facts = os.stat(os.environ["TMPDIR"])
    print("TMPDIR", os.environ["TMPDIR"], oct(facts.st_mode & 0o777), flush=True)
"""


def source(*statements: str) -> str:
    head = "def test_speed(results):\n"
    return toy.toy_source().replace(head, head + "".join(statements))


def tmpdirs(run: RunDir, repeats: int = 2) -> list[tuple[str, str]]:
    """The TMPDIR that each repeat printed, and its mode."""
    lines = [line for k in range(1, repeats + 1) for line in run.log(TEST_KEY, k).read_text().splitlines()]
    found = [line.partition("TMPDIR ")[2].split() for line in lines if "TMPDIR " in line]
    return [(path, mode) for path, mode in found]


@pytest.mark.rule("GPU-17", "GPU-20")
def test_what_tests_leave_in_their_short_private_tmpdir_is_removed_and_named_once(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / ("a long way down " * 5) / "repo", test_source=source(LITTER))

    run = toy.finished_run(project, 2, toy.real_pytest)

    assert status(project, run.run_id).strict_complete, toy.told(run)
    used = tmpdirs(run)
    assert len({path for path, _ in used}) == 2, "each attempt has its own"
    for path, mode in used:
        assert (len(path) < 40, mode) == (True, "0o700")
        assert not Path(path).parent.exists()
    (told,) = [event.text for event in events.read(run.events) if event.kind == "left_behind"]
    assert "302 files, 0.3 MiB" in told or "303 files, 0.3 MiB" in told
    assert "mmsu_audio_" in told
    assert Path("/usr").is_dir(), "no link was followed"


@pytest.mark.rule("GPU-20", "RTY-02")
@pytest.mark.usefixtures("warm")
def test_a_killed_runner_leaves_no_tmpdir_and_its_attempt_is_made_again(tmp_path: Path) -> None:
    once = tmp_path / "once"
    kill = (
        "    import tempfile, signal; tempfile.mkdtemp()\n"
        f"    if not os.path.exists({str(once)!r}):\n"
        f"        open({str(once)!r}, 'w').write(os.environ['TMPDIR'])\n"
        "        os.kill(os.getppid(), signal.SIGKILL)\n"
        "        time.sleep(60)\n"
    )
    project = toy.make_toy(tmp_path / "repo", test_source=source(kill))

    run = toy.start(project, 1)
    now = toy.wait_until_rest(project, run.run_id)

    assert now.strict_complete, toy.told(run)
    assert not Path(once.read_text()).parent.exists()
    assert not list(run.path.rglob(scratch.RECORD_FILE))
    (retry,) = [event.text for event in events.read(run.events) if event.kind == "retry"]
    assert "SIGKILL" in retry
    assert "from outside" in retry


def test_a_folder_that_the_name_does_not_prove_ours_stays(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "20260423T050000Z_toy")
    attempt = run.attempt(TEST_KEY, 1, 1)
    attempt.mkdir(parents=True)
    made = scratch.make(run, attempt, {}, {"TMPDIR": str(tmp_path)})
    stranger = tmp_path / "tune-0123456789ab"
    (stranger / "t").mkdir(parents=True)
    (attempt / scratch.RECORD_FILE).write_text(str(stranger))

    assert (scratch.clear(run, attempt), scratch.sweep(run)) == (None, ())
    assert stranger.is_dir()

    (attempt / scratch.RECORD_FILE).write_text(str(made.folder))
    aside = made.folder.rename(made.folder.with_name(f"{made.folder.name}-aside"))
    made.folder.symlink_to(stranger)
    assert scratch.clear(run, attempt) is None
    assert (stranger / "t").is_dir()

    made.folder.unlink()
    aside.rename(made.folder)
    (made.tmp / "link").symlink_to(stranger)
    left = scratch.clear(run, attempt)
    assert left is not None
    assert (left.files, left.names, made.folder.exists(), stranger.is_dir()) == (1, ("link",), False, True)


@pytest.mark.parametrize(
    ("settings", "caller", "expected"),
    [
        ("", "/nowhere", "/tmp"),
        ("", "@LONG@", "/tmp"),
        ("/var/tmp", "/tmp", "/var/tmp"),
        ("relative", "", "/tmp"),
    ],
)
def test_the_tmpdir_lies_where_it_is_short_and_can_be_written(
    settings: str, caller: str, expected: str, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "20260423T050000Z_toy")
    attempt = run.attempt(TEST_KEY, 1, 1)
    attempt.mkdir(parents=True)
    named = str(tmp_path) if caller == "@LONG@" else caller

    made = scratch.make(run, attempt, {"TMPDIR": settings}, {"TMPDIR": named})
    try:
        assert (str(made.folder.parent), len(str(made.tmp)) < 40) == (expected, True)
    finally:
        scratch.clear(run, attempt)
    assert not made.folder.exists()


@pytest.mark.rule("GPU-16", "GPU-20")
def test_the_suites_own_cleanup_finds_no_process_of_ours_by_a_name_in_a_path_or_label(tmp_path: Path) -> None:
    look = (
        "    shown, pid = [], os.getpid()\n"
        "    while pid > 1 and len(shown) < 3:\n"
        "        shown.append(open(f'/proc/{pid}/cmdline').read().split(chr(0)))\n"
        "        pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])\n"
        "    print('SHOWN', json.dumps(shown), flush=True)\n"
    )
    repo = tmp_path / "sgl-omni serve" / "stage_process" / "repo"
    project = toy.make_toy(repo, test_source=source(look))

    run = toy.start(project, 1, STAGES, "stage_process")
    now = toy.wait_until_rest(project, run.run_id)

    assert now.strict_complete, toy.told(run)
    (line,) = [line for line in run.log(TEST_KEY, 1).read_text().splitlines() if "SHOWN " in line]
    shown = json.loads(line.partition("SHOWN ")[2])
    assert ["tune_mcp.supervise.runner" in words for words in shown] == [False, True, False]
    assert ["tune_mcp.supervise" in words for words in shown] == [False, False, True]
    for words in shown:
        assert not any(name in " ".join(words) for name in ("sgl-omni", "stage_process", os.fspath(tmp_path)))


def test_what_was_left_is_named_with_dots_only_where_there_is_more() -> None:
    assert scratch.Left(files=1, size_bytes=0, names=("a",)).sentence() == "1 file, 0.0 MiB (a)"
    assert scratch.Left(files=9, size_bytes=0, names=("a", "b", "c")).sentence() == "9 files, 0.0 MiB (a, b, c, ...)"
