"""What NVML says is believed only when it is whole; everything else is unknown, and unknown is never idle.

The probe is a real process with a recorded NVML on its path.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nvml
import psutil
import pytest
import toy
from nvml import Recorded

from tune_mcp.gpus import Condition, Gpu, GpuProcess, GpuReading, Presence, Probe, accepting, parse
from tune_mcp.gpus.nvml import look

ROW: dict[str, Any] = {
    "index": 0, "uuid": "GPU-1", "name": "NVIDIA H20", "memory_used_mib": 4, "memory_total_mib": 97871,
    "utilization": 0, "processes": [], "mig": False,
}  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Recorded]:
    with nvml.recorded(tmp_path / "nvml.json") as found:
        yield found


def answer(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"presence": "present", "gpus": [ROW | row for row in rows], "driver": "580.1"}).encode()


def test_everything_nvml_tells_is_read(machine: Recorded) -> None:
    machine.machine({"processes": [[7, 2**20], [8, None]], "slowed": 0x1 | 0x40 | 0x4}, {"mig": 1})

    reading = Probe()()

    assert (reading.presence, reading.driver, reading.summary()) == (Presence.PRESENT, "580.65.06", "2× NVIDIA H20")
    assert reading.gpus[0] == Gpu(
        0, "GPU-0", "NVIDIA H20", 4, 97871, 0, (GpuProcess(7, 1), GpuProcess(8)), minor=0,
        condition=Condition(31, 72, 345, 2619, ("power cap", "hardware thermal slowdown")),
    )  # fmt: skip
    assert [gpu.mig for gpu in reading.gpus] == [False, True]


@pytest.mark.rule("GPU-01")
@pytest.mark.parametrize(
    "silent", ["mps", "mig", "utilization", "power_mw", "temperature", "clocks", "slowed", "minor"]
)
def test_what_a_gpu_does_not_support_is_left_open(machine: Recorded, silent: str) -> None:
    machine.machine({silent: {"error": 3}})

    (gpu,) = Probe()().gpus

    assert gpu.free and not gpu.trouble


@pytest.mark.rule("GPU-01", "GPU-06")
@pytest.mark.parametrize("fact", ["used", "processes", "mps", "mig"])
@pytest.mark.parametrize("error", [nvml.TROUBLE, nvml.NOT_FOUND])
def test_a_gpu_of_which_one_needed_answer_fails_is_not_free(
    machine: Recorded, fact: str, error: dict[str, int]
) -> None:
    machine.machine({fact: error}, {})

    broken, other = Probe()().gpus

    assert not broken.free and broken.trouble in ("Unknown Error", "Not Found")
    assert other.free


@pytest.mark.rule("GPU-06", "GPU-01")
@pytest.mark.parametrize("fact", ["used", "processes"])
def test_memory_and_processes_are_needed_even_where_they_are_not_supported(machine: Recorded, fact: str) -> None:
    machine.machine({fact: {"error": 3}})

    assert not Probe()().gpus[0].free


@pytest.mark.rule("GPU-06", "GPU-01")
@pytest.mark.parametrize(
    ("facts", "unreported", "free"),
    [
        ({"used": {"error": 3}}, ("memory",), True),
        ({"processes": {"error": 3}}, ("processes",), True),
        ({"used": {"error": 13}, "processes": {"error": 4}}, ("memory", "processes"), True),
        ({"used": 0, "total": 0}, ("memory",), True),
        ({"used": {"error": 3}, "processes": [[7, None]]}, ("memory",), False),
        ({"used": 3 * nvml.GIB, "processes": {"error": 3}}, ("processes",), False),
        ({"used": {"error": 3}, "processes": nvml.TROUBLE}, ("memory",), False),
    ],
)
def test_what_nvml_does_not_report_counts_as_unused_only_where_the_host_accepts_that(
    machine: Recorded, facts: dict[str, Any], unreported: tuple[str, ...], free: bool
) -> None:
    machine.machine(facts)

    (plain,) = Probe()().gpus
    (accepted,) = accepting(Probe(), True)().gpus

    assert (plain.unreported, plain.free, plain.unknown_accepted) == (unreported, False, False)
    assert (accepted.free, accepted.unknown_accepted) == (free, True)
    assert accepting(Probe(), False)().gpus == (plain,)
    assert "accepted by the host profile" in accepting(Probe(), True)().summary()


@pytest.mark.rule("GPU-06", "GPU-15")
@pytest.mark.parametrize(
    "whole",
    [
        {"behaviour": "crash"},
        {"behaviour": "garbage"},
        {"behaviour": "exit"},
        {"init": nvml.TROUBLE},
        {"gpus": [nvml.LOST]},
        {"gpus": [nvml.H20 | {"uuid": "GPU-0", "minor": 0}] * 2},
        {"gpus": [nvml.H20 | {"uuid": "GPU-0", "minor": 0, "used": -nvml.GIB}]},
        {"gpus": [nvml.H20 | {"uuid": "GPU-0", "minor": 0, "used": "4"}]},
        {"gpus": [nvml.H20 | {"uuid": "", "minor": 0}]},
    ],
)
def test_an_nvml_that_breaks_or_lies_leaves_the_gpus_unknown(machine: Recorded, whole: dict[str, Any]) -> None:
    machine.machine({})
    machine.say(**whole)

    reading = Probe()()

    assert (reading.presence, reading.gpus) == (Presence.UNKNOWN, ())
    assert reading.reason


def test_more_memory_in_use_than_there_is_is_not_free() -> None:
    assert not Gpu(0, "u", "n", 10, 9, 0).free
    assert not Gpu(0, "u", "n", 0, None, 0).free


@pytest.mark.rule("GPU-06")
def test_a_hanging_nvml_is_unknown_is_asked_once_at_a_time_and_leaves_no_zombie(machine: Recorded) -> None:
    machine.machine({}, behaviour="hang")
    probe = Probe(deadline_s=0.3)

    first = probe()

    assert (first.presence, "did not answer within 0.3 s" in first.reason) == (Presence.UNKNOWN, True)
    toy.wait_for(
        lambda: not [p for p in psutil.Process().children() if p.pid in machine.asked], what="the reaped probe"
    )
    machine.machine({})
    assert Probe()().presence is Presence.PRESENT, "and the next question finds an answer again"


@pytest.mark.rule("GPU-06")
def test_while_a_killed_probe_does_not_end_nothing_else_is_asked(
    machine: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the kernel's uninterruptible sleep a process outlives SIGKILL; here the kill is removed instead."""
    machine.machine({}, behaviour="hang")
    probe = Probe(deadline_s=0.3)
    monkeypatch.setattr("subprocess.Popen.kill", lambda _self: None)
    assert probe().presence is Presence.UNKNOWN
    (pid,) = machine.asked
    machine.machine({})

    answers: list[GpuReading] = []
    asking = [threading.Thread(target=lambda: answers.append(probe())) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(timeout=60)

    assert [found.reason for found in answers] == ["NVML still has not answered an earlier question"] * 3
    assert machine.asked == [pid]
    os.kill(pid, 9)
    toy.wait_for(lambda: probe().presence is Presence.PRESENT, what="an answer, now that the old probe has ended")


@pytest.mark.parametrize(("devices", "presence"), [(False, "none"), (True, "unknown")])
@pytest.mark.parametrize("error", [9, 12])
def test_no_driver_is_no_gpu_unless_the_machine_has_the_devices(
    machine: Recorded, monkeypatch: pytest.MonkeyPatch, devices: bool, presence: str, error: int
) -> None:
    machine.machine(init={"error": error})
    monkeypatch.syspath_prepend(str(Path(nvml.__file__).with_name("recorded_nvml")))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)

    assert look(importlib.import_module("pynvml"), devices=devices)["presence"] == presence


def test_a_machine_without_gpus_is_a_plain_machine(machine: Recorded) -> None:
    machine.machine(init={"error": 12})

    reading = Probe()()

    assert (reading.presence, reading.summary()) == (Presence.NONE, "no GPU (CPU only)")


@pytest.mark.rule("GPU-15", "GPU-06")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"\xff\x00",
        b"null",
        b"[]",
        b"{}",
        b'{"presence": "maybe"}',
        b'{"presence": "present"}',
        b'{"presence": "present", "gpus": null}',
        b'{"presence": "present", "gpus": [{}]}',
        b'{"presence": "none", "gpus": [1]}',
        answer({}) + answer({}),
        answer({"memory_used_mib": "4"}),
        answer({"memory_used_mib": -1}),
        answer({"memory_used_mib": True}),
        answer({"memory_used_mib": 0.5}),
        answer({"processes": None}),
        answer({"processes": [{"pid": "x"}]}),
        answer({"surprise": 1}),
        answer({}, {"index": 1}),
        answer({}, {"uuid": "GPU-2"}),
    ],
)
def test_a_garbled_answer_is_never_a_free_gpu(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse(data)


@pytest.mark.rule("GPU-01")
@pytest.mark.parametrize(
    ("used", "pids", "free"),
    [(2048, (), True), (2049, (), False), (0, (1,), False), (0, (), True), (None, (), False)],
)
def test_a_gpu_is_free_up_to_2048_mib_and_without_processes(
    used: int | None, pids: tuple[int, ...], free: bool
) -> None:
    assert Gpu(0, "u", "n", used, 97871, 0, tuple(GpuProcess(pid) for pid in pids)).free is free


@pytest.mark.rule("GPU-01")
def test_one_byte_above_the_limit_is_above_the_limit(machine: Recorded) -> None:
    machine.machine({"used": 2 * nvml.GIB}, {"used": 2 * nvml.GIB + 1})

    assert [gpu.free for gpu in Probe()().gpus] == [True, False]


def test_the_summary_counts_by_model() -> None:
    rows = tuple(Gpu(number, str(number), name, 0, 1, 0, ()) for number, name in enumerate(["B", "A", "B"]))

    assert GpuReading(Presence.PRESENT, rows).summary() == "1× A, 2× B"
