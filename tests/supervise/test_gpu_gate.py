"""The gate before a launch: free twice, never on a guess, never for ever."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tune_mcp.files import FileLock, is_locked
from tune_mcp.gpus import Gpu, GpuProcess, GpuReading, Presence
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise import host_lock
from tune_mcp.supervise.gpu.gate import HOLD_S, LOOK_EVERY_S, WAIT_LIMIT_S, GpuGate, Grant, lock_gpu

UNKNOWN = GpuReading(Presence.UNKNOWN, reason="NVML did not answer within 15 s")
NONE = GpuReading(Presence.NONE)


NOBODY = 2**22 + 7
"""A pid that no process can have here."""


def gpu(index: int, used: int | None = 0, pids: tuple[int, ...] = (), mig: bool = False, uuid: str = "") -> Gpu:
    processes = tuple(GpuProcess(pid) for pid in pids)
    return Gpu(index, uuid or f"GPU-{index}", "NVIDIA H20", used, 97871, 0, processes, mig)


def machine(*gpus: Gpu) -> GpuReading:
    return GpuReading(Presence.PRESENT, gpus)


FREE2 = machine(gpu(0), gpu(1))


@dataclass
class World:
    """Readings in order, the last one for ever; time passes only in sleeps."""

    readings: Iterable[GpuReading]
    cancel_after_s: float = float("inf")
    now: float = 0.0
    said: list[str] = field(default_factory=list)
    looks: int = 0

    def __post_init__(self) -> None:
        self._iterator: Iterator[GpuReading] = iter(self.readings)
        self._last = NONE

    def read(self) -> GpuReading:
        self.looks += 1
        self._last = next(self._iterator, self._last)
        return self._last

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def ask(self, needed: int, *, run: str = "20260423T050000Z_mine", allow_mig: bool = False) -> Grant:
        return GpuGate(
            read=self.read,
            take=lambda gpu: lock_gpu(gpu, RunDir(Path("/repo/.tune-runs") / run)),
            sleep=self.sleep,
            clock=lambda: self.now,
            waiting=self.said.append,
            cancelled=lambda: self.now >= self.cancel_after_s,
            allow_mig=allow_mig,
        ).wait(needed)


def locked() -> list[str]:
    """The GPUs that somebody has the lock of."""
    return [path.stem for path in sorted(host_lock.lock_folder().glob("gpu-*.lock")) if is_locked(path)]


@pytest.mark.rule("GPU-01")
def test_a_stage_without_gpus_asks_nobody() -> None:
    world = World([])
    assert world.ask(0) == Grant()
    assert (world.looks, world.now) == (0, 0.0)


@pytest.mark.rule("GPU-04", "GPU-03")
def test_free_gpus_are_granted_after_they_stayed_free() -> None:
    world = World([FREE2])

    grant = world.ask(1)

    assert [one.index for one in grant.gpus] == [0]
    assert (world.looks, world.now, world.said) == (2, HOLD_S, [])


@pytest.mark.rule("GPU-01")
def test_the_free_ones_are_chosen_wherever_they_are() -> None:
    reading = machine(gpu(0, used=2049), gpu(1, used=2048), gpu(2, pids=(7,)), gpu(3))
    assert [one.index for one in World([reading]).ask(2).gpus] == [1, 3]


@pytest.mark.rule("GPU-06", "GPU-02", "GPU-10", "POL-08")
@pytest.mark.parametrize(
    "reading",
    [machine(gpu(0, used=75_000)), machine(gpu(0, pids=(1,))), machine(gpu(0, used=None)), UNKNOWN, NONE],
)
def test_a_gpu_that_is_not_known_to_be_free_never_launches_and_the_wait_is_bounded(reading: GpuReading) -> None:
    world = World([reading])

    grant = world.ask(1)

    assert not grant.gpus and grant.refused
    assert WAIT_LIMIT_S <= world.now <= WAIT_LIMIT_S + LOOK_EVERY_S
    assert world.said == [grant.refused], "one reason is told once"
    assert locked() == []


@pytest.mark.rule("GPU-04", "GPU-06")
def test_a_gpu_that_is_taken_while_it_is_held_is_not_granted() -> None:
    world = World([machine(gpu(0)), machine(gpu(0, used=5000)), machine(gpu(0))])

    grant = world.ask(1)

    assert [one.index for one in grant.gpus] == [0]
    assert "did not stay free" in world.said[0]
    assert world.now == HOLD_S + LOOK_EVERY_S + HOLD_S


@pytest.mark.rule("GPU-04")
@pytest.mark.parametrize("second", [UNKNOWN, NONE])
def test_a_second_look_that_says_nothing_grants_nothing(second: GpuReading) -> None:
    world = World([machine(gpu(0)), second], cancel_after_s=4)
    assert not world.ask(1).gpus


def test_another_gpu_that_is_free_the_second_time_does_not_stand_in() -> None:
    """Held means the same GPU twice, not one free GPU twice."""
    first, second = machine(gpu(0), gpu(1, used=9000)), machine(gpu(0, used=9000), gpu(1))
    world = World([first, second], cancel_after_s=HOLD_S)

    grant = world.ask(1)

    assert not grant.gpus and "did not stay free" in grant.refused


def test_a_gpu_that_stayed_free_is_granted_although_a_better_one_became_free() -> None:
    world = World([machine(gpu(0, used=9000), gpu(1)), machine(gpu(0), gpu(1))])

    assert [one.index for one in world.ask(1).gpus] == [1]
    assert world.said == []


def test_too_few_gpus_say_how_many_and_which_are_busy() -> None:
    world = World([machine(gpu(0), gpu(1, used=9000, pids=(NOBODY,)))], cancel_after_s=1)

    grant = world.ask(2)

    assert grant.refused == (
        "2 GPUs at or below 2048 MiB needed, 1 free "
        f"(GPU 1: 9000/97871 MiB, held by pid {NOBODY} of another pid namespace)"
    )
    assert locked() == [], "both or none"


def test_a_split_gpu_is_granted_only_where_the_host_profile_allows_it() -> None:
    split = machine(gpu(0, mig=True))

    refused = World([split], cancel_after_s=1).ask(1)

    assert not refused.gpus and "GPU 0 is split (MIG)" in refused.refused
    assert [one.index for one in World([split]).ask(1, allow_mig=True).gpus] == [0]


def test_a_wait_that_is_cancelled_ends_at_the_next_look() -> None:
    world = World([machine(gpu(0, used=9000))], cancel_after_s=12)

    assert not world.ask(1).gpus
    assert world.now <= 12 + LOOK_EVERY_S


def test_each_new_reason_is_told() -> None:
    world = World([UNKNOWN, machine(gpu(0, used=9000)), machine(gpu(0))])

    assert world.ask(1).gpus
    assert [word.split()[0] for word in world.said] == ["1", "1"] and len(set(world.said)) == 2


def test_a_few_mib_more_or_less_are_no_new_reason() -> None:
    world = World([machine(gpu(0, used=mib)) for mib in (9000, 9004, 9001)] + [machine(gpu(0))])

    assert world.ask(1).gpus
    assert len(world.said) == 1


@pytest.mark.rule("GPU-04")
def test_a_gpu_that_was_renumbered_while_it_was_held_is_another_gpu() -> None:
    """The index is what pytest is given, so it must still be that GPU's."""
    first, second = machine(gpu(0), gpu(1, used=9000)), machine(gpu(0, used=9000, uuid="GPU-1"), gpu(1, uuid="GPU-0"))
    world = World([first, second], cancel_after_s=HOLD_S)

    assert not world.ask(1).gpus
    assert locked() == []


@pytest.mark.rule("GPU-14", "GPU-19")
def test_a_gpu_of_another_run_is_waited_for_like_a_busy_one_and_its_run_is_named() -> None:
    other = lock_gpu(gpu(1), RunDir(Path("/other/.tune-runs/20260423T060000Z_theirs")))
    assert isinstance(other, FileLock)
    world = World([FREE2], cancel_after_s=20)

    one = world.ask(1)
    both = World([FREE2], cancel_after_s=20).ask(2)

    assert [gpu.index for gpu in one.gpus] == [0]
    assert "0 free" in both.refused and "GPU 1: taken by run 20260423T060000Z_theirs of /other" in both.refused
    assert "GPU 0: taken by run 20260423T050000Z_mine of /repo" in both.refused
    one.release()
    assert locked() == ["gpu-GPU-1"], "a stage that did not get both keeps none"
    other.release()
    both = World([FREE2]).ask(2)
    assert ([gpu.index for gpu in both.gpus], locked()) == ([0, 1], ["gpu-GPU-0", "gpu-GPU-1"])
    both.release()


@pytest.mark.rule("GPU-14")
def test_the_lock_of_a_granted_gpu_lives_as_long_as_any_process_that_was_handed_it() -> None:
    grant = World([FREE2]).ask(1)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.handle for lock in grant.locks]
    )

    grant.release()

    assert locked() == ["gpu-GPU-0"]
    child.communicate(b"\n", timeout=60)
    assert locked() == []


def test_a_lock_that_cannot_be_asked_is_somebodys(tmp_path: Path) -> None:
    (host_lock.lock_folder() / "gpu-GPU-0.lock").mkdir()

    grant = World([machine(gpu(0))], cancel_after_s=1).ask(1)

    assert not grant.gpus and "taken by somebody unknown" in grant.refused


@pytest.mark.parametrize(
    ("readings", "retryable"),
    [
        ([machine(gpu(0, used=9000))], True),
        ([UNKNOWN], True),
        ([machine(gpu(0), gpu(1)), machine(gpu(0, used=9000), gpu(1))], True),
        ([NONE], False),
        ([machine(gpu(0, mig=True))], False),
    ],
)
def test_only_a_machine_that_can_never_do_is_not_asked_again(readings: list[GpuReading], retryable: bool) -> None:
    assert World(readings, cancel_after_s=HOLD_S).ask(1).retryable is retryable
