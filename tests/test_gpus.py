"""What the NVML probe says is believed only when it is whole; everything else is unknown, and unknown is never idle."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tune_mcp import gpus
from tune_mcp.gpus import Gpu, GpuReading, Presence, parse, read_gpus

ROW: dict[str, Any] = {
    "index": 0, "uuid": "GPU-1", "name": "NVIDIA H20", "memory_used_mib": 4, "memory_total_mib": 97871,
    "utilization": 0, "pids": [], "mig": False,
}  # fmt: skip


def answer(**changed: object) -> str:
    return json.dumps({"presence": "present", "gpus": [ROW | changed], "driver": "580.1", "reason": ""})


def test_a_whole_answer_is_read() -> None:
    reading = parse(answer(pids=[7, 8], utilization=None))

    assert reading.presence is Presence.PRESENT
    assert reading.driver == "580.1"
    assert reading.gpus[0] == Gpu(0, "GPU-1", "NVIDIA H20", 4, 97871, None, (7, 8))


@pytest.mark.rule("GPU-15")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "null",
        "[]",
        "{}",
        '{"presence": "maybe"}',
        '{"presence": "present"}',
        '{"presence": "present", "gpus": null}',
        '{"presence": "present", "gpus": [{}]}',
        '{"presence": "present", "gpus": [[]]}',
        answer(memory_used_mib=None),
        answer(memory_used_mib="4"),
        answer(memory_used_mib=-1),
        answer(memory_used_mib=True),
        answer(memory_used_mib=0.5),
        answer(pids=None),
        answer(pids=["x"]),
    ],
)
def test_a_garbled_answer_is_never_a_free_gpu(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse(text)


def test_absence_and_ignorance_are_two_things() -> None:
    none = parse('{"presence": "none", "gpus": [], "reason": "no driver"}')
    unknown = parse('{"presence": "unknown", "gpus": [], "reason": "NVML_ERROR_UNKNOWN"}')

    assert (none.presence, none.summary()) == (Presence.NONE, "no GPU (CPU only)")
    assert (unknown.presence, unknown.summary()) == (Presence.UNKNOWN, "unknown: NVML_ERROR_UNKNOWN")


@pytest.mark.rule("GPU-01")
@pytest.mark.parametrize(
    ("used", "pids", "free"), [(2048, (), True), (2049, (), False), (0, (1,), False), (0, (), True)]
)
def test_a_gpu_is_free_up_to_2048_mib_and_without_processes(used: int, pids: tuple[int, ...], free: bool) -> None:
    assert Gpu(0, "u", "n", used, 97871, 0, pids).free is free


def test_the_summary_counts_by_model() -> None:
    rows = tuple(Gpu(number, str(number), name, 0, 1, 0, ()) for number, name in enumerate(["B", "A", "B"]))

    assert GpuReading(Presence.PRESENT, rows).summary() == "1× A, 2× B"


class Probe:
    """A child that never answers, or answers ``out``."""

    def __init__(self, out: str | None) -> None:
        self.out = out
        self.killed = False

    def communicate(self, timeout: float) -> tuple[str, None]:
        if self.out is None:
            raise subprocess.TimeoutExpired("probe", timeout)
        return self.out, None

    def kill(self) -> None:
        self.killed = True


@pytest.mark.parametrize("out", [None, "", "Traceback", "[]"])
def test_a_probe_that_hangs_or_breaks_leaves_the_gpus_unknown(monkeypatch: pytest.MonkeyPatch, out: str | None) -> None:
    probe = Probe(out)
    monkeypatch.setattr(gpus.Path, "exists", lambda _: True)
    monkeypatch.setattr(gpus.subprocess, "Popen", lambda *_, **__: probe)

    reading = read_gpus(deadline_s=0.5)

    assert reading.presence is Presence.UNKNOWN
    assert reading.reason
    assert probe.killed is (out is None)


def test_a_machine_without_the_driver_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.Path, "exists", lambda _: False)
    monkeypatch.setattr(gpus.subprocess, "Popen", lambda *_, **__: pytest.fail("asked"))

    assert read_gpus().presence is Presence.NONE
