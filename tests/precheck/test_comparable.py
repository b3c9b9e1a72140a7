"""Another GPU or another CUDA is another machine, whatever it is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from precheck.machine import gaps, subject

from tune_mcp.config.fields import CiMachine
from tune_mcp.gpus import Gpu, GpuReading, Presence
from tune_mcp.precheck.hardware import comparable_checks as checks
from tune_mcp.precheck.imports import Imports, ModuleFact
from tune_mcp.precheck.subject import Needs, Subject

H20 = CiMachine(gpu="NVIDIA H20", cuda="13")


def asking(root: Path, machine: CiMachine = H20, gpus: int = 2) -> Subject:
    return replace(subject(root, Needs(ci_machine=machine)), gpus_per_test={"test_x_ci": gpus})


def reading(*names: str) -> GpuReading:
    gpus = tuple(Gpu(n, f"GPU-{n}", name, 0, 97871, 0, ()) for n, name in enumerate(names))
    return GpuReading(Presence.PRESENT, gpus)


def built_for(cuda: str | None) -> Imports:
    return Imports({"torch": ModuleFact(version="2.11.0", cuda=cuda)})


@pytest.mark.rule("SCP-01", "SCP-02")
@pytest.mark.parametrize("names", [("NVIDIA A100",), ("NVIDIA H20", "NVIDIA A100"), ("NVIDIA H20-3e",), ("H200",)])
def test_another_gpu_is_a_mismatch(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert [*gaps(checks(asking(tmp_path), reading(*names), built_for("13.0")))] == ["host.gpu_model"]


@pytest.mark.rule("SCP-01", "SCP-02")
@pytest.mark.parametrize("cuda", ["12.9", "130.1", "1", None])
def test_another_cuda_is_a_mismatch(tmp_path: Path, cuda: str | None) -> None:
    assert [*gaps(checks(asking(tmp_path), reading("NVIDIA H20"), built_for(cuda)))] == ["host.cuda"]


@pytest.mark.parametrize("cuda", ["13", "13.0", "13.2"])
def test_the_machine_of_ci_is_ok(tmp_path: Path, cuda: str) -> None:
    found = list(checks(asking(tmp_path), reading("NVIDIA H20", "NVIDIA H20"), built_for(cuda)))

    assert [(check.id, check.status) for check in found] == [("host.gpu_model", "ok"), ("host.cuda", "ok")]


@pytest.mark.parametrize("machine", [CiMachine(), H20])
def test_what_is_not_named_or_not_needed_or_not_there_is_no_gap_of_this_gate(
    tmp_path: Path, machine: CiMachine
) -> None:
    nothing = Imports()

    assert gaps(checks(asking(tmp_path, machine, gpus=0), reading("NVIDIA A100"), nothing)) == {}
    assert gaps(checks(asking(tmp_path, CiMachine()), reading("NVIDIA A100"), built_for("11.8"))) == {}
    assert gaps(checks(asking(tmp_path, machine), GpuReading(Presence.NONE), nothing)) == {}
