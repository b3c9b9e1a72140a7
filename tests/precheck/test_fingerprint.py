"""What makes two machines comparable, and how cheaply it is looked at again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tune_mcp.gpus import Gpu, GpuReading, Presence
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.fingerprint import Environment
from tune_mcp.precheck.venv import VenvFacts

VENV = VenvFacts(versions={"python": "3.11.9"}, freeze_sha256="a" * 64)


def gpu(uuid: str, name: str = "NVIDIA H20") -> Gpu:
    return Gpu(index=int(uuid[-1]), uuid=uuid, name=name, memory_used_mib=0, memory_total_mib=97871, utilization=0)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    packages = tmp_path / "venv/lib/python3.11/site-packages"
    for name in ("torch-2.9.0.dist-info", "sglang-0.5.0.dist-info", "torch"):
        (packages / name).mkdir(parents=True)
    (tmp_path / "venv/bin").mkdir()
    (tmp_path / "venv/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    return tmp_path / "venv/bin/python"


@pytest.fixture
def planned(python: Path) -> Environment:
    reading = GpuReading(Presence.PRESENT, (gpu("GPU-0"), gpu("GPU-1")), "550.1")
    return fingerprint.read_machine(reading, VENV, {"A": "1"}, python).model_copy(update={"gpu_driver": "550.1"})


def never() -> VenvFacts:
    raise AssertionError("the interpreter is not started while no package folder changed")


@pytest.mark.rule("SCP-02")
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("kernel", "6.0"), ("cpu_model", "other"), ("cpu_count", 1), ("cpu_set", (0,)), ("gpu_driver", "551.0"),
        ("image_digest", "sha256:1"), ("python", "3.12.0"), ("venv_freeze_sha256", "b" * 64),
        ("launch_env", {"A": "2"}), ("inherited_env", {"LD_LIBRARY_PATH": "/other"}),
    ],
)  # fmt: skip
def test_whatever_moves_numbers_makes_two_machines_incomparable(planned: Environment, name: str, other: object) -> None:
    found = fingerprint.differences(planned, planned.model_copy(update={name: other}))

    assert len(found) == 1 and found[0].startswith(f"{name} is ")


@pytest.mark.rule("SCP-02", "SCP-03")
def test_a_containers_name_and_what_could_not_be_read_are_no_difference(planned: Environment) -> None:
    now = planned.model_copy(update={"hostname": "another", "memory_mib": 1, "gpu_driver": None, "gpus": ()})

    assert fingerprint.differences(planned, now) == ()


@pytest.mark.rule("SCP-02")
def test_another_gpu_is_named_also_one_of_the_same_model(planned: Environment) -> None:
    other = fingerprint.GpuIdentity(name="NVIDIA H20", uuid="GPU-9", memory_total_mib=97871)

    found = fingerprint.differences(planned, planned.model_copy(update={"gpus": (other,)}))

    assert found == ("GPU NVIDIA H20 GPU-9 is not one of the run's",)


def test_an_unchanged_machine_is_looked_at_without_starting_the_interpreter(planned: Environment, python: Path) -> None:
    now = fingerprint.reread_machine(planned.model_copy(update={"gpu_driver": None}), python, never)

    assert fingerprint.differences(planned, now) == ()


@pytest.mark.rule("SCP-02")
def test_a_package_that_was_installed_meanwhile_is_noticed(planned: Environment, python: Path) -> None:
    packages = python.parents[1] / "lib/python3.11/site-packages"
    (packages / "torch-2.9.0.dist-info").rename(packages / "torch-2.9.1.dist-info")

    now = fingerprint.reread_machine(planned, python, lambda: VenvFacts(versions=VENV.versions, freeze_sha256="c" * 64))

    assert [one.partition(" ")[0] for one in fingerprint.differences(planned, now)] == ["venv_freeze_sha256"]


def test_packages_that_were_only_touched_are_read_again_and_found_the_same(planned: Environment, python: Path) -> None:
    os.utime(python.parents[1] / "lib/python3.11/site-packages/torch-2.9.0.dist-info", (1, 1))
    asked: list[bool] = []

    now = fingerprint.reread_machine(planned, python, lambda: asked.append(True) or VENV)

    assert asked and fingerprint.differences(planned, now) == ()


def test_packages_of_the_system_count_where_they_show_through(python: Path, tmp_path: Path) -> None:
    alone = fingerprint.venv_stamp(python)
    system = tmp_path / "system"
    (system / "lib/python3/dist-packages/numpy-2.0.dist-info").mkdir(parents=True)
    settings = python.parents[1] / "pyvenv.cfg"
    settings.write_text(f"home = {system}/bin\ninclude-system-site-packages = true\n")

    first = fingerprint.venv_stamp(python)
    (system / "lib/python3/dist-packages/scipy-1.0.dist-info").mkdir()

    assert len({alone, first, fingerprint.venv_stamp(python)}) == 3


@pytest.mark.rule("SCP-02")
def test_another_limit_of_the_kernel_is_named_and_one_that_nobody_recorded_is_no_difference(
    planned: Environment,
) -> None:
    before = planned.model_copy(update={"limits": {"CPU governor": "performance", "CPU quota": "none", "gone": "1"}})
    now = planned.model_copy(update={"limits": {"CPU governor": "powersave", "CPU quota": "none", "new": "1"}})

    assert fingerprint.differences(before, now) == ("CPU governor is powersave, was performance",)
