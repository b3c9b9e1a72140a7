"""The process table as every part of the product reads it: nothing raises, nothing is taken for another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tune_mcp import procfs

WAITING = [sys.executable, "-S", "-c", "input()"]


def test_a_process_is_what_the_kernel_says_whatever_its_name(tmp_path: Path) -> None:
    program = tmp_path / "a) S (1\n b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as child:
        try:
            found = procfs.process(child.pid)
            assert found is not None
            assert (found.pid, found.parent, found.session) == (child.pid, os.getpid(), os.getsid(0))
            assert found.alive and not found.exiting and procfs.is_ours(child.pid)
            assert found.identity == (child.pid, procfs.start_ticks(child.pid))
            assert (found.identity, found.name) in [(one.identity, one.name) for one in procfs.processes()]
        finally:
            child.kill()


def test_a_zombie_is_seen_but_is_not_alive() -> None:
    child = subprocess.Popen(WAITING, stdin=subprocess.PIPE)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = procfs.process(child.pid)

    assert found is not None and found.exiting and not found.alive
    assert procfs.start_ticks(child.pid) is None
    assert procfs.words(child.pid) == ()
    child.wait()
    assert child.stdin
    child.stdin.close()


def test_nothing_is_known_of_a_process_that_is_gone() -> None:
    child = subprocess.Popen(["/bin/true"])
    child.wait()

    assert (procfs.process(child.pid), procfs.words(child.pid), procfs.command(child.pid)) == (None, (), "")
    assert procfs.open_files(child.pid) is None and not procfs.is_written(child.pid, "1")
    assert procfs.environ(child.pid) == {b""} and not procfs.is_ours(child.pid)


def test_open_files_are_named_and_those_for_writing_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "read").touch()
    with (tmp_path / "read").open() as read, (tmp_path / "written").open("w") as written:
        found = procfs.open_files(os.getpid())
        assert found is not None
        assert found[str(read.fileno())] == str(tmp_path / "read")
        assert found[str(written.fileno())] == str(tmp_path / "written")
        assert not procfs.is_written(os.getpid(), str(read.fileno()))
        assert procfs.is_written(os.getpid(), str(written.fileno()))


def test_kills_for_lack_of_memory_are_those_of_the_own_cgroup_else_of_the_machine_else_none(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroups / "job.slice").mkdir(parents=True)
    assert procfs.oom_kills(proc, cgroups) == 0
    (proc / "vmstat").write_text("pgfault 7\noom_kill 5\n")
    (proc / "self/cgroup").write_text("8:pids:/\n0::/job.slice\n")
    assert procfs.oom_kills(proc, cgroups) == 5
    (cgroups / "job.slice/memory.events").write_text("oom 3\noom_kill 2\noom_group_kill 1\n")
    assert procfs.oom_kills(proc, cgroups) == 2
    (cgroups / "job.slice/memory.events").write_text("oom_kill many\n")
    assert procfs.oom_kills(proc, cgroups) == 0
    assert procfs.oom_kills() >= 0
