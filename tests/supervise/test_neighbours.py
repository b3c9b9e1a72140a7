"""Two measuring runs on one machine see each other, also when a lock file was deleted or another folder was named."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy

from tune_mcp.errors import Refusal
from tune_mcp.run_dir import utc_now
from tune_mcp.session import events, state
from tune_mcp.supervise import host_lock, neighbours, noting
from tune_mcp.supervise.job import Job
from tune_mcp.supervise.journal import RunJournal
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.start_run import start_run


def overlaps(run_path: Path) -> list[str]:
    return [event.text for event in events.read(run_path / "events.jsonl") if event.kind == "overlap"]


@pytest.mark.rule("GPU-14", "STR-18")
def test_a_deleted_lock_file_lets_no_second_run_start(tmp_path: Path) -> None:
    first, second = toy.make_toy(tmp_path / "first"), toy.make_toy(tmp_path / "second")
    run = toy.start_and_hold(first, 1)
    host_lock.lock_path().unlink()

    (check,) = (check for check in precheck(second, toy.MODEL).checks if check.id == "host.free")
    with pytest.raises(Refusal, match=r"HOST_BUSY.*although nobody holds its lock") as caught:
        start_run(second, toy.MODEL, repeats=1)

    assert check.status == "busy" and run.run_id in check.detail
    assert str(run.path) in caught.value.message
    assert not (second.repo_root / ".tune-runs").exists()
    toy.let_go(first, 1)
    assert toy.wait_until_rest(first, run.run_id).strict_complete


@pytest.mark.rule("GPU-14")
def test_a_run_under_another_lock_folder_is_on_record_in_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = toy.make_toy(tmp_path / "first"), toy.make_toy(tmp_path / "second")
    one = toy.start_and_hold(first, 1)
    monkeypatch.setenv("TUNE_LOCK_DIR", str(tmp_path / "other-locks"))

    (check,) = (check for check in precheck(second, toy.MODEL).checks if check.id == "host.free")
    two = toy.start_and_hold(second, 1)

    assert check.status == "warn" and str(one.path) in check.detail
    toy.wait_for(lambda: any(str(one.path) in text for text in overlaps(two.path)), what="the second to see the first")
    toy.let_go(first, 1)
    toy.let_go(second, 1)
    assert toy.wait_until_rest(second, two.run_id).strict_complete
    assert toy.wait_until_rest(first, one.run_id).strict_complete


@dataclass
class Hours:
    """A clock on which time passes when it is told to."""

    seconds: float = 0.0
    now = staticmethod(utc_now)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


@pytest.mark.rule("GPU-14")
def test_a_run_that_comes_later_is_on_record_once_when_the_process_table_is_looked_at_again(tmp_path: Path) -> None:
    jobs: list[Job] = []
    run = toy.finished_run(toy.make_toy(tmp_path / "repo"), 1, lambda job: jobs.append(job) or toy.measured(job))
    clock, others = Hours(noting.NEIGHBOURS_S), list[neighbours.Neighbour]()
    notes = noting.Notes(RunJournal(run, clock, state.owner(os.getpid())), lambda: others)

    notes.look(jobs[0])
    others.append(neighbours.Neighbour(7, "/other/run", "/locks"))
    for clock.seconds in (1.9 * noting.NEIGHBOURS_S, 2 * noting.NEIGHBOURS_S, 3 * noting.NEIGHBOURS_S):
        notes.look(jobs[0])
        assert len(overlaps(run.path)) == (clock.seconds >= 2 * noting.NEIGHBOURS_S)

    (told,) = overlaps(run.path)
    assert told == "test_toy_ci run 1: another run measures on this machine at the same time: /other/run (process 7)"


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "input()", "-m", "tune_mcp.supervise", "/run", "3", "4"],
        ["-m", "this", "tune_mcp.supervise", "/run", "3", "4"],
        ["-P", "-c", "input()", "tune_mcp.supervise"],
        ["-c", "input()", *neighbours.SHOWN],
    ],
)
def test_a_program_that_only_names_the_supervisor_is_none(words: list[str]) -> None:
    with subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.pid not in {one.pid for one in neighbours.measuring()}
        process.communicate()


def test_a_supervisor_is_seen_before_and_after_it_shows_its_own_command_line(tmp_path: Path) -> None:
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "cmdline").write_bytes(b"python\0-P\0-m\0tune_mcp.supervise\0/run\0005\0006\0")
    (tmp_path / "7" / "fd" / "5").symlink_to("/repo/.tune-runs/r/supervisor.lock")
    (tmp_path / "7" / "fd" / "6").symlink_to("/locks/host.lock (deleted)")
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "cmdline").write_bytes("\0".join(neighbours.SHOWN).encode() + b"\0\0\0")

    assert neighbours.measuring(tmp_path) == (
        neighbours.Neighbour(7, "/repo/.tune-runs/r", "/locks"),
        neighbours.Neighbour(8, None, None),
    )


def test_a_supervisor_whose_launches_a_cluster_places_is_no_neighbour(tmp_path: Path) -> None:
    for pid, words in {
        7: ("python", "-P", "-m", "tune_mcp.supervise", "/run", "5"),
        8: (*neighbours.ELSEWHERE, ""),
    }.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes("\0".join(words).encode() + b"\0")

    assert neighbours.measuring(tmp_path) == ()


@pytest.mark.parametrize("open_still", [{}, {"0": "/dev/null", "5": "/repo/.tune-runs/r/supervisor.lock"}])
def test_a_supervisor_that_ends_while_it_is_looked_at_is_no_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_still: dict[str, str]
) -> None:
    """Its files are closed already; as one whose locks cannot be read it would refuse every start on the machine."""
    cmdline = tmp_path / "7" / "cmdline"
    (tmp_path / "7" / "fd").mkdir(parents=True)
    cmdline.write_bytes("\0".join(neighbours.SHOWN).encode() + b"\0")
    for fd, name in open_still.items():
        (tmp_path / "7" / "fd" / fd).symlink_to(name)
    look = neighbours._folders_of_open_locks

    def ends(pid: int, proc: Path) -> dict[str, str]:
        cmdline.write_bytes(b"")
        return look(pid, proc)

    monkeypatch.setattr(neighbours, "_folders_of_open_locks", ends)

    assert neighbours.measuring(tmp_path) == ()


def test_a_supervisor_whose_lock_cannot_be_read_counts_as_one_of_this_machine() -> None:
    unknown = neighbours.Neighbour(1, "/run", None)
    other = neighbours.Neighbour(2, "/run", "/another")

    assert neighbours.under(Path("/locks"), (unknown, other)) == (unknown,)


def test_a_copy_of_a_supervisor_that_becomes_another_program_is_no_neighbour(tmp_path: Path) -> None:
    """Between fork and exec it shows its parent's command line, and has closed its parent's locks."""
    code = (
        "import os, sys; from tune_mcp.supervise import neighbours, processes;"
        "processes.plain_command_line(*neighbours.SHOWN);"
        "child = os.fork();"
        "child and print(child, flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        for pid in (process.pid, child):
            (tmp_path / str(pid)).symlink_to(f"/proc/{pid}")
        seen = {one.pid for one in neighbours.measuring(tmp_path)}
        process.communicate()

    assert process.pid in seen and child not in seen
