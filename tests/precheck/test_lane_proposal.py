"""``doctor`` proposes lanes from what the machine says of its cores and GPUs."""

from __future__ import annotations

from pathlib import Path

import yaml

from tune_mcp.config.lanes import Lane, problem
from tune_mcp.gpus import Gpu
from tune_mcp.precheck.lane_proposal import propose, text


def machine(folder: Path, nodes: list[str], siblings: dict[int, str], gpus: dict[str, str]) -> tuple[Path, Path]:
    """/sys and /proc with these NUMA nodes, threads of a core by CPU, and CPUs beside each GPU (UUID -> list)."""
    sys, proc = folder / "sys", folder / "proc"
    for number, cpus in enumerate(nodes):
        (sys / f"devices/system/node/node{number}").mkdir(parents=True)
        (sys / f"devices/system/node/node{number}/cpulist").write_text(f"{cpus}\n")
    for cpu, threads in siblings.items():
        (sys / f"devices/system/cpu/cpu{cpu}/topology").mkdir(parents=True)
        (sys / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").write_text(f"{threads}\n")
    for number, (uuid, cpus) in enumerate(gpus.items()):
        name = f"0000:0{number}:00.0"
        (proc / "driver/nvidia/gpus" / name).mkdir(parents=True)
        (proc / "driver/nvidia/gpus" / name / "information").write_text(f"Model: H20\nGPU UUID: \t {uuid}\n")
        (sys / "bus/pci/devices" / name).mkdir(parents=True)
        (sys / "bus/pci/devices" / name / "local_cpulist").write_text(f"{cpus}\n")
    return sys, proc


def cards(count: int) -> list[Gpu]:
    return [Gpu(index, f"GPU-{index}", "NVIDIA H20", 0, 97871, 0, (), False) for index in range(count)]


SIXTEEN = {cpu: f"{cpu % 8},{cpu % 8 + 8}" for cpu in range(16)}
"""Eight cores of two threads; cores 0-3 are node 0, 4-7 node 1."""


def test_each_pair_of_gpus_gets_whole_cores_of_its_own_node(tmp_path: Path) -> None:
    near = {f"GPU-{n}": "0-3,8-11" if n < 4 else "4-7,12-15" for n in range(8)}
    sys, proc = machine(tmp_path, ["0-3,8-11", "4-7,12-15"], SIXTEEN, near)

    lanes = propose(cards(8), 2, range(16), sys, proc)

    assert [(lane.gpus, lane.cpus) for lane in lanes] == [
        ((0, 1), "0-1,8-9"), ((2, 3), "2-3,10-11"), ((4, 5), "4-5,12-13"), ((6, 7), "6-7,14-15"),
    ]  # fmt: skip
    assert problem(lanes) == ""
    written = yaml.safe_load(text(lanes))["lanes"]
    assert tuple(Lane.model_validate(one) for one in written) == lanes


def test_a_core_of_which_one_thread_is_taken_away_is_in_no_lane_and_all_lanes_are_alike(tmp_path: Path) -> None:
    sys, proc = machine(tmp_path, ["0-15"], SIXTEEN, {"GPU-0": "0-15", "GPU-1": "0-15"})

    lanes = propose(cards(2), 1, {*range(16)} - {8, 13}, sys, proc)

    assert [lane.cpus for lane in lanes] == ["1-3,9-11", "4,6-7,12,14-15"]


def test_a_machine_without_gpus_gets_a_lane_for_each_node_or_two_halves(tmp_path: Path) -> None:
    two = machine(tmp_path / "two", ["0-3,8-11", "4-7,12-15"], SIXTEEN, {})
    one = machine(tmp_path / "one", ["0-1"], {}, {})

    assert [lane.cpus for lane in propose([], 1, range(16), *two)] == ["0-3,8-11", "4-7,12-15"]
    assert [lane.cpus for lane in propose([], 1, {0, 1}, *one)] == ["0", "1"]
    assert propose([], 1, {0}, *one) == (), "one CPU is one lane, and needs no profile"
    assert propose(cards(1), 1, {0, 1}, *one) == ()
