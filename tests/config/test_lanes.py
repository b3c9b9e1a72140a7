"""Lanes: GPUs and CPUs that belong together, each in one lane only."""

from __future__ import annotations

from pathlib import Path

import pytest
from config.test_host import OLDER, load

from tune_mcp.config.lanes import Lane, Placement, parse_cpus
from tune_mcp.errors import Refusal


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("2-4,8", (2, 3, 4, 8)),
        ("8, 2-3", (2, 3, 8)),
        ("1,1-2", (1, 2)),
        ("", None),
        ("4-2", None),
        ("a", None),
        ("1,,2", None),
        ("-1", None),
        ("0-99999", None),
    ],
)
def test_a_list_of_cpus_is_read_as_taskset_reads_it(text: str, cpus: tuple[int, ...] | None) -> None:
    if cpus is None:
        with pytest.raises(ValueError, match="no list of CPUs"):
            parse_cpus(text)
    else:
        assert parse_cpus(text) == cpus


@pytest.mark.rule("HST-04")
def test_both_spellings_of_lanes_and_of_gpu_lists_mean_the_same(tmp_path: Path) -> None:
    older = load(tmp_path, OLDER + 'gpu_exclude: "6,7"\ngpu_group_cpusets:\n  "0,1": "2-3"\n  "6,7": "4-5"\n')
    lanes = '- {name: a, gpus: [0, 1], cpus: "2-3"}\n  - {name: b, gpus: "6,7", cpus: "4-5"}\n'
    later = load(tmp_path, OLDER + f"gpu_exclude: [6, 7]\nlanes:\n  {lanes}")

    for host in (older, later):
        (lane,) = host.placement().usable_lanes()
        assert (lane.gpus, lane.cpus) == ((0, 1), "2-3")
        assert (host.placement().allows(0), host.placement().allows(7)) == (True, False)
    only = load(tmp_path, OLDER + "gpu_include: [4]\n").placement()
    assert [index for index in range(8) if only.allows(index)] == [4]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("lanes: [{name: a, gpus: [0]}, {name: a, gpus: [1]}]", "two lanes are named a"),
        ("lanes: [{name: a, gpus: [0, 1]}, {name: b, gpus: [1]}]", "GPU 1 is in lane a and in lane b"),
        ('lanes: [{name: a, gpus: [0], cpus: 0-4}, {name: b, gpus: [1], cpus: "4"}]', "CPU 4 is in lane a"),
        ("lanes: [{name: a}]", "a lane needs gpus, cpus, or both"),
        ("lanes: [{name: a, gpus: [0], cpus: 4-2}]", "no list of CPUs"),
        ("gpu_group_cpusets: {a: 0-1}", "no list of GPUs"),
        ("gpu_group_cpusets: {'0': 0-1}\nlanes: [{name: a, gpus: [1]}]", "keep one of them"),
        ("gpu_exclude: [six]", "gpu_exclude"),
        ("gpu_exclude: '6;7'", "gpu_exclude"),
    ],
)
def test_lanes_that_cannot_be_told_apart_are_refused(tmp_path: Path, block: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        load(tmp_path, OLDER + block + "\n")


def test_a_launch_never_gets_another_number_of_cpus_than_the_first_lane_has() -> None:
    placement = Placement(
        exclude=(9,),
        lanes=(
            Lane(name="out", gpus=(8, 9), cpus="50-53"),
            Lane(name="a", gpus=(0, 1), cpus="0-3"),
            Lane(name="small", gpus=(2, 3), cpus="4-6"),
            Lane(name="b", gpus=(4, 5), cpus="8-11"),
            Lane(name="one", gpus=(6,), cpus="12-15"),
            Lane(name="cpu", cpus="20-21"),
        ),
    )

    assert [lane.name for lane in placement.lanes_for(2)] == ["a", "b"]
    assert [lane.name for lane in placement.lanes_for(1)] == ["a", "b", "one"]
    assert [lane.name for lane in placement.lanes_for(0)] == ["cpu"]
    assert placement.lanes_for(3) == ()
