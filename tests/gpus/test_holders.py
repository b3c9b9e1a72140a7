"""Who holds a GPU is named as far as it can be known, and nobody is named who does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tune_mcp.gpus import Gpu, GpuProcess
from tune_mcp.gpus.holders import GpuHolder, describe, holders, stuck


class Proc:
    """A /proc of a few processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, pid: int, command: str, state: str = "S", opens: tuple[str, ...] = ("/dev/null",)) -> None:
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        name = command.partition(" ")[0]
        (folder / "stat").write_text(f"{pid} ({name}) {state} " + " ".join(["1"] * 40))
        (folder / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
        for number, target in enumerate(opens):
            (folder / "fd" / str(number)).symlink_to(target)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def busy(*pids: int, used: int | None = 17000, minor: int | None = 3, trouble: str = "") -> Gpu:
    """GPU 0 of the system, which is /dev/nvidia3: index and minor number are two things."""
    processes = tuple(GpuProcess(pid, 16500) for pid in pids)
    return Gpu(0, "GPU-0", "H20", used, 97871, 0, processes, minor=minor, trouble=trouble)


@pytest.mark.rule("GPU-13")
def test_a_process_is_named_with_its_command_and_memory(proc: Proc) -> None:
    proc.add(12, "python train.py", opens=("/dev/null", "/dev/nvidia3"))

    assert describe(busy(12), proc.root) == "GPU 0: 17000/97871 MiB, held by pid 12 python train.py (16500 MiB)"
    assert not stuck(busy(12), proc.root)


@pytest.mark.rule("GPU-10")
def test_memory_that_nvml_lists_no_process_for_is_traced_by_the_open_device(proc: Proc) -> None:
    proc.add(12, "spawn_main worker", opens=("/dev/nvidiactl", "/dev/nvidia3"))
    proc.add(13, "other", opens=("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia33"))
    proc.add(14, "gone")
    (proc.root / "14" / "stat").unlink()
    (proc.root / "self").symlink_to(proc.root / "12")

    assert holders(busy(), proc.root) == (GpuHolder(12, "spawn_main worker"),)


@pytest.mark.rule("GPU-10")
def test_memory_that_nobody_here_holds_says_so(proc: Proc) -> None:
    proc.add(12, "other", opens=("/dev/nvidia0",))

    assert "no holder visible from here" in describe(busy(), proc.root)
    assert "held" not in describe(busy(used=4), proc.root)


@pytest.mark.rule("FAIL-06")
@pytest.mark.parametrize("here", [False, True])
def test_a_pid_of_another_namespace_is_never_mistaken_for_one_of_ours(proc: Proc, here: bool) -> None:
    """NVML gives the host's pids; the process of the same number in this container has nothing to do with it."""
    if here:
        proc.add(12, "bash innocent")
    proc.add(40, "python in_this_container", opens=("/dev/nvidia3",))

    told = describe(busy(12), proc.root)

    assert "pid 12 of another pid namespace (16500 MiB), pid 40 python in_this_container" in told
    assert "innocent" not in told


def test_where_open_files_cannot_be_seen_the_pid_is_taken_at_its_word(proc: Proc) -> None:
    proc.add(12, "python theirs")
    (proc.root / "12" / "fd" / "0").unlink()
    (proc.root / "12" / "fd").rmdir()

    assert "pid 12 python theirs" in describe(busy(12), proc.root)
    assert "pid 12 python theirs" in describe(busy(12, minor=None), proc.root)


@pytest.mark.parametrize(("state", "said"), [("D", "in uninterruptible sleep"), ("Z", "a zombie")])
def test_a_holder_that_no_signal_ends_is_told_apart(proc: Proc, state: str, said: str) -> None:
    opens = ("/dev/nvidia3",) if state == "D" else ()
    proc.add(12, "python server.py", state, opens)
    (proc.root / "12" / "cmdline").unlink()
    os.mkfifo(proc.root / "12" / "cmdline")  # reading it would hang, as it does for such a process

    assert f"pid 12 python (16500 MiB), {said}: host recovery needed" in describe(busy(12), proc.root)
    assert stuck(busy(12), proc.root)


def test_what_could_not_be_read_is_said(proc: Proc) -> None:
    assert describe(busy(trouble="GPU is lost"), proc.root) == "GPU 0: GPU is lost"
    assert describe(busy(used=None), proc.root) == "GPU 0: NVML does not report its memory"


def test_this_machines_own_processes_can_be_looked_through() -> None:
    assert os.getpid() not in [holder.pid for holder in holders(busy(minor=2**19))]
