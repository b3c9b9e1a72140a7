"""A launch runs on its lane: those GPUs, those CPUs, for pytest and everything that it starts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.config.host import HostProfile
from tune_mcp.config.lanes import Lane, Placement
from tune_mcp.gpus import Gpu, GpuReading, Presence
from tune_mcp.precheck.hardware import lane_checks
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.gpu.gate import GpuGate, Grant, lock_gpu
from tune_mcp.supervise.placing import pinned, unavailable

PAIRS = (Lane(name="a", gpus=(0, 1), cpus="0"), Lane(name="b", gpus=(2, 3), cpus="1"))
SPARE = max(os.sched_getaffinity(0))


def reading(*used: int) -> GpuReading:
    gpus = (Gpu(index, f"GPU-{index}", "NVIDIA H20", mib, 97871, 0, (), False) for index, mib in enumerate(used))
    return GpuReading(Presence.PRESENT, tuple(gpus))


def granted(found: GpuReading, placement: Placement, needed: int) -> Grant:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    gate = GpuGate(
        read=lambda: found,
        take=lambda gpu: lock_gpu(gpu, RunDir(Path("/repo/.tune-runs/20260423T050000Z_lanes"))),
        sleep=sleep,
        clock=lambda: now[0],
        waiting=lambda _: None,
        cancelled=lambda: False,
        placement=placement,
    )
    grant = gate.wait(needed)
    grant.release()
    return grant


@pytest.mark.rule("GPU-02")
def test_gpus_of_two_lanes_never_serve_one_launch() -> None:
    free = granted(reading(0, 0, 0, 0), Placement(lanes=PAIRS), 2)
    half = granted(reading(9000, 0, 0, 0), Placement(lanes=PAIRS), 2)
    mixed = granted(reading(9000, 0, 0, 9000), Placement(lanes=PAIRS), 2)

    assert ([gpu.index for gpu in free.gpus], free.lane) == ([0, 1], PAIRS[0])
    assert ([gpu.index for gpu in half.gpus], half.lane) == ([2, 3], PAIRS[1])
    assert (mixed.gpus, mixed.lane) == ((), None) and "2 GPUs" in mixed.refused


@pytest.mark.rule("GPU-02")
def test_a_gpu_that_the_host_withholds_is_never_granted() -> None:
    alone = granted(reading(0, 0, 0, 0), Placement(exclude=(0, 1)), 2)
    only = granted(reading(0, 0, 0, 0), Placement(include=(1, 3)), 2)
    lanes = granted(reading(0, 0, 0, 0), Placement(exclude=(1,), lanes=PAIRS), 2)
    none = granted(reading(0, 0, 0, 0), Placement(exclude=(1, 2), lanes=PAIRS), 2)

    assert [[gpu.index for gpu in one.gpus] for one in (alone, only, lanes)] == [[2, 3], [1, 3], [2, 3]]
    assert not none.retryable and "no lane of this host has 2 GPUs" in none.refused


def test_cpus_that_cannot_be_had_stop_a_launch_before_it_starts() -> None:
    before = os.sched_getaffinity(0)
    blocked = unavailable(Lane(name="far", cpus=f"{SPARE},900"))

    assert blocked is not None and not blocked.retryable and "CPUs [900] are not available here" in blocked.reason
    assert unavailable(Lane(name="away", cpus="900")) is not None
    assert unavailable(Lane(name="here", cpus=str(SPARE))) is None and unavailable(None) is None
    assert os.sched_getaffinity(0) == before
    with pinned(Lane(name="here", cpus=str(SPARE))):
        assert os.sched_getaffinity(0) == {SPARE}
    assert os.sched_getaffinity(0) == before


PINNED = toy.toy_source().replace(
    '    (folder / "result.json").write_text(json.dumps(found))\n',
    '    (folder / "result.json").write_text(json.dumps(found))\n'
    "    import subprocess, sys\n"
    "    look = \"import os; print(sorted(os.sched_getaffinity(0)), os.environ.get('OMNI_CI_CPUSET'))\"\n"
    '    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, start_new_session=True)\n'
    '    (STATE / f"seen{k}").write_text(said.stdout)\n',
)
HOST: dict[str, Any] = {"name": "lab", "hostname": os.uname().nodename, "lanes": [{"name": "cpu", "cpus": str(SPARE)}]}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toy.Project:
    monkeypatch.setenv("OMNI_CI_CPUSET", "0-63")
    host = {**HOST, "repo_root": str(tmp_path / "repo")}
    return toy.make_toy(tmp_path / "repo", test_source=PINNED, files={".tune/hosts/lab.yaml": json.dumps(host)})


@pytest.mark.rule("GPU-17")
@pytest.mark.usefixtures("warm")
def test_a_server_of_the_tests_runs_on_the_lane_and_reads_its_cpus_never_those_of_the_shell(lab: toy.Project) -> None:
    run = toy.start(lab, repeats=1)
    toy.wait_until_rest(lab, run.run_id)

    assert (toy.state_folder(lab) / "seen1").read_text().strip() == f"[{SPARE}] {SPARE}"
    results = [json.loads(path.read_text()) for path in run.path.glob("_pytest/*/attempts/*/result.json")]
    assert [one["lane"] for one in results] == [{"name": "cpu", "gpus": [], "cpus": str(SPARE), "env": {}}]


def test_a_model_that_holds_for_a_lane_is_refused_on_a_host_without(lab: toy.Project) -> None:
    model = lab.places.model(toy.MODEL)
    stages = tuple(lab.places.stages(toy.MODEL).values())
    subject = lab.subject(model.model_copy(update={"needs_lane": True}), stages)
    bare = replace(subject, placement=Placement())
    loose = replace(subject, placement=Placement(lanes=(Lane(name="gpus", gpus=(0,)),)))
    far = replace(subject, placement=Placement(lanes=(Lane(name="far", cpus="900"),)))

    assert [check.status for check in lane_checks(subject)] == ["ok"]
    for one, words in ((bare, "no host profile has lanes"), (loose, "has no CPUs of its own"), (far, "900")):
        (check,) = lane_checks(one)
        assert check.status == "missing" and words in check.detail and check.fix
    assert [*lane_checks(replace(bare, needs=replace(bare.needs, lane=False)))] == []


def test_the_shipped_host_of_august_has_three_lanes_of_32_cpus_and_one_that_stands_apart(lab: toy.Project) -> None:
    host: HostProfile = lab.places.host("sglang-h100-ci")

    assert [lane.name for lane in host.placement().usable_lanes()] == ["pair-2-3", "pair-4-5", "pair-0-1"]
    assert [lane.name for lane in host.placement().lanes_for(2)] == ["pair-2-3", "pair-4-5"]
