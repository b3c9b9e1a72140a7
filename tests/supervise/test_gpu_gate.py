"""The gate before a launch: free twice, never on a guess, never for ever."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from tune_mcp.gpus import Gpu, GpuReading, Presence
from tune_mcp.supervise.gpu_gate import HOLD_S, LOOK_EVERY_S, WAIT_LIMIT_S, Grant, wait_for_gpus

UNKNOWN = GpuReading(Presence.UNKNOWN, reason="NVML did not answer within 15 s")
NONE = GpuReading(Presence.NONE)


def gpu(index: int, used: int = 0, pids: tuple[int, ...] = (), mig: bool = False) -> Gpu:
    return Gpu(index, f"GPU-{index}", "NVIDIA H20", used, 97871, 0, pids, mig)


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

    def ask(self, needed: int) -> Grant:
        return wait_for_gpus(
            needed, self.read, self.sleep, lambda: self.now, self.said.append, lambda: self.now >= self.cancel_after_s
        )


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


@pytest.mark.rule("GPU-01", "GPU-15")
def test_the_free_ones_are_chosen_wherever_they_are() -> None:
    reading = machine(gpu(0, used=2049), gpu(1, used=2048), gpu(2, pids=(7,)), gpu(3))
    assert [one.index for one in World([reading]).ask(2).gpus] == [1, 3]


@pytest.mark.rule("GPU-06", "GPU-02", "GPU-15", "POL-08")
@pytest.mark.parametrize("reading", [machine(gpu(0, used=17 * 1024)), machine(gpu(0, pids=(1,))), UNKNOWN, NONE])
def test_a_gpu_that_is_not_known_to_be_free_never_launches_and_the_wait_is_bounded(reading: GpuReading) -> None:
    world = World([reading])

    grant = world.ask(1)

    assert not grant.gpus and grant.refused
    assert WAIT_LIMIT_S <= world.now <= WAIT_LIMIT_S + LOOK_EVERY_S
    assert world.said == [grant.refused], "one reason is told once"


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
    world = World([machine(gpu(0), gpu(1, used=9000, pids=(42,)))], cancel_after_s=1)

    grant = world.ask(2)

    assert "2 GPU(s) at or below 2048 MiB needed, 1 free (GPU 1: 9000 MiB, pids [42])" in grant.refused


def test_a_split_gpu_is_never_granted() -> None:
    assert not World([machine(gpu(0, mig=True))], cancel_after_s=1).ask(1).gpus


def test_a_wait_that_is_cancelled_ends_at_the_next_look() -> None:
    world = World([machine(gpu(0, used=9000))], cancel_after_s=12)

    assert not world.ask(1).gpus
    assert world.now <= 12 + LOOK_EVERY_S


def test_each_new_reason_is_told() -> None:
    world = World([UNKNOWN, machine(gpu(0, used=9000)), machine(gpu(0))])

    assert world.ask(1).gpus
    assert [word.split()[0] for word in world.said] == ["1", "1"] and len(set(world.said)) == 2
