"""Several lanes at once, with real supervisors, runners and pytests: the numbers are those of one lane."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import laned
import nvml
import psutil
import pytest
import toy

from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.supervise import own_pids
from tune_mcp.supervise.gpu import gate
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.stop_run import stop_run

warm = pytest.mark.usefixtures("warm")


def counted(run: RunDir) -> dict[tuple[str, int], int]:
    """How often each repeat was kept."""
    found: dict[tuple[str, int], int] = {}
    for event in events.read(run.events):
        if event.kind == "observed" and " PASS" in event.text:
            key = (str(event.facts["test"]), int(str(event.facts["repeat"])))
            found[key] = found.get(key, 0) + 1
    return found


def refused(project: Project, **words: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        start_run(project, toy.MODEL, **words)
    return caught.value


@pytest.mark.rule("STR-19", "GPU-14", "GPU-17", "CIP-01")
@warm
def test_two_lanes_measure_what_one_does_side_by_side_each_on_its_own_cpus(tmp_path: Path) -> None:
    two = laned.make(tmp_path / "two")
    laned.hold(two, "a", 1)
    laned.hold(two, "b", 1)

    run = toy.start(two, 2, lanes=2)
    laned.wait_for(two, run, ("a", 1), ("b", 1))
    toy.wait_for(lambda: len(status(two, run.run_id).lanes) == 2, what="a status with both lanes")
    now = status(two, run.run_id)
    laned.let_go(two, "a", 1)
    laned.let_go(two, "b", 1)

    assert toy.wait_until_rest(two, run.run_id).strict_complete, toy.told(run)
    assert {(work.lane, work.test) for work in now.lanes} == {("left", "test_a_ci"), ("right", "test_b_ci")}
    assert "left: test_a_ci run 1" in now.text() and "right: test_b_ci run 1" in now.text()
    assert laned.worst(two, run) == laned.WORST
    assert set(counted(run).values()) == {1} and len(counted(run)) == 4
    assert laned.pairs_at_once(two)
    for first, second in laned.pairs_at_once(two):
        assert not {*first["cpus"]} & {*second["cpus"]}
        assert first["tmp"] != second["tmp"] and not {*first["caches"].values()} & {*second["caches"].values()}


@pytest.mark.rule("STR-19")
@warm
def test_the_other_repeats_of_a_file_wait_until_its_first_one_is_strict(tmp_path: Path) -> None:
    project = laned.make(tmp_path / "repo", ["a"])
    for repeat in (1, 2, 3):
        laned.hold(project, "a", repeat)

    run = toy.start(project, 3, lanes=0)
    laned.wait_for(project, run, ("a", 1))
    toy.wait_for(lambda: status(project, run.run_id).current, what="a record of it")
    assert laned.began(project) == [("a", 1)]
    laned.let_go(project, "a", 1)
    laned.wait_for(project, run, ("a", 2), ("a", 3))
    laned.let_go(project, "a", 2)
    laned.let_go(project, "a", 3)

    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)


@pytest.mark.rule("RTY-03", "GPU-16")
@warm
def test_a_killed_runner_takes_nothing_with_it_that_another_lane_has(tmp_path: Path) -> None:
    project = laned.make(tmp_path / "repo")
    laned.hold(project, "a", 1)
    laned.hold(project, "b", 1)
    run = toy.start(project, 1, lanes=2)
    laned.wait_for(project, run, ("a", 1), ("b", 1))
    pids = {fact["test"]: fact["pid"] for fact in laned.seen(project)}
    other = psutil.Process(pids["test_b_ci"])

    psutil.Process(psutil.Process(pids["test_a_ci"]).ppid()).send_signal(signal.SIGKILL)
    toy.wait_for(lambda: laned.began(project).count(("a", 1)) == 2, 60, "the next attempt on the killed lane")
    assert other.is_running() and not psutil.pid_exists(pids["test_a_ci"])
    laned.let_go(project, "a", 1)
    laned.let_go(project, "b", 1)

    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert counted(run) == {("test_a_ci", 1): 1, ("test_b_ci", 1): 1}
    launched = [(event.facts["test"], event.facts["attempt"]) for event in events.read(run.events, "launched")]
    assert sorted(launched) == [("test_a_ci", 1), ("test_a_ci", 2), ("test_b_ci", 1)]


@pytest.mark.rule("SUP-13", "GPU-20", "RES-04")
@warm
def test_a_stop_ends_both_lanes_keeps_what_is_complete_and_resume_measures_the_rest_once(tmp_path: Path) -> None:
    project = laned.make(tmp_path / "repo")
    laned.hold(project, "a", 2)
    laned.hold(project, "b", 2)
    run = toy.start(project, 2, lanes=2)
    laned.wait_for(project, run, ("a", 2), ("b", 2))
    pids = [fact["pid"] for fact in laned.seen(project)]

    stopped = stop_run(project, run.run_id, "lunch")

    assert (stopped.state, stopped.kept_cells) == ("stopped", 4), toy.told(run)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    laned.let_go(project, "a", 2)
    laned.let_go(project, "b", 2)
    resume_run(project, run.run_id)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert set(counted(run).values()) == {1} and len(counted(run)) == 4


@pytest.mark.rule("HLT-04", "HLT-05", "POL-06")
@warm
def test_a_halt_lets_the_other_lane_finish_and_starts_nothing_new(tmp_path: Path) -> None:
    body = "    if Path(__file__).stem == 'test_a_ci':\n        return {}\n"
    project = laned.make(tmp_path / "repo", ["a", "b", "c"], body=body)
    laned.hold(project, "b", 1)
    run = toy.start(project, 2, lanes=2)
    laned.wait_for(project, run, ("a", 1), ("b", 1))
    toy.wait_for(lambda: run.observation("a_speed", 1).exists(), 60, "the verdict on a")  # twice the same defect
    laned.let_go(project, "b", 1)

    now = toy.wait_until_rest(project, run.run_id)

    assert now.state == "halted" and "KeyError" in now.reason, toy.told(run)
    assert {*laned.began(project)} == {("a", 1), ("b", 1)}
    assert counted(run) == {("test_b_ci", 1): 1}


@pytest.mark.rule("GPU-14", "STR-18")
def test_two_runs_on_lanes_of_their_own_live_at_the_same_time_and_a_third_is_refused(tmp_path: Path) -> None:
    first, second, bare = (laned.make(tmp_path / name, ["a"]) for name in ("first", "second", "bare"))
    (bare.repo_root / ".tune/hosts/lab.yaml").unlink()
    toy.commit(bare)
    bare = toy.open_project(bare.repo_root)
    for project in (first, second):
        laned.hold(project, "a", 1)

    one = toy.start(first, 1)
    laned.wait_for(first, one, ("a", 1))
    assert refused(second, lanes=0, repeats=1).code == Code.HOST_BUSY
    (check,) = (check for check in precheck(second, toy.MODEL).checks if check.id == "host.free")
    assert check.status == "ok" and "free: right" in check.detail
    two = toy.start(second, 1)
    laned.wait_for(second, two, ("a", 1))

    third, whole = refused(first, repeats=1), refused(bare, repeats=1)
    assert third.code in (Code.RUN_ACTIVE, Code.HOST_BUSY) and "free lanes: none" in third.message
    assert whole.code == Code.HOST_BUSY
    stop_run(first, one.run_id, "over")
    assert state.conclude(two).active, "a stop of one leaves the other alone"
    laned.let_go(second, "a", 1)
    assert toy.wait_until_rest(second, two.run_id).strict_complete, toy.told(two)
    assert [fact["cpus"] for fact in (*laned.seen(first), *laned.seen(second))] == [[laned.CPUS[0]], [laned.CPUS[-1]]]
    overlaps = [event.text for run in (one, two) for event in events.read(run.events) if event.kind == "overlap"]
    assert not [text for text in overlaps if str(one.path) in text or str(two.path) in text]


@pytest.mark.rule("GPU-14")
@pytest.mark.parametrize(("lanes", "code"), [(3, Code.LANE_UNKNOWN), (-1, Code.INVALID_ARGUMENT)])
def test_a_number_of_lanes_that_the_host_does_not_have_is_refused(tmp_path: Path, lanes: int, code: Code) -> None:
    project = laned.make(tmp_path / "repo", ["a"])

    refusal = refused(project, lanes=lanes)

    assert refusal.code == code
    assert code != Code.LANE_UNKNOWN or "left (no GPU; CPUs" in refusal.message
    assert not (project.repo_root / ".tune-runs").exists()


def test_more_than_one_lane_is_refused_where_no_profile_has_any(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")

    assert refused(project, lanes=2).code == Code.LANE_UNKNOWN
    with toy.supervised_here():
        run = toy.start(project, 1, lanes=0)
    assert status(project, run.run_id).strict_complete


@pytest.mark.rule("GPU-13", "GPU-14")
@warm
def test_lanes_with_gpus_share_no_gpu_cache_port_or_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HOLD_S", 0.1)
    lanes = [
        {"name": f"pair-{n}", "gpus": [2 * n, 2 * n + 1], "env": {"TOY_PORT": str(31000 + n)}, "cpus": lane["cpus"]}
        for n, lane in enumerate(laned.TWO)
    ]
    slice_root = tmp_path / "slice"
    slice_root.mkdir()
    host = {"physical": {"omni_ci_home": str(slice_root)}}
    model = {"cache_wipes": [".cache/toy"]}
    with nvml.recorded(tmp_path / "nvml.json") as machine:
        machine.machine(*[{}] * 4)
        project = laned.make(tmp_path / "repo", ["a", "b"], lanes, gpus=2, model=model, host=host)
        for name in ("a", "b"):
            laned.hold(project, name, 1)
        run = toy.start(project, 1, lanes=2)
        laned.wait_for(project, run, ("a", 1), ("b", 1))
        for name in ("a", "b"):
            laned.let_go(project, name, 1)
        assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)

    facts = laned.seen(project)
    assert sorted(fact["gpus"] for fact in facts) == ["0,1", "2,3"]
    assert len(laned.pairs_at_once(project)) == 1, "both ran at the same time"
    for name in ("tmp", "port"):
        assert len({fact[name] for fact in facts}) == 2
    for cache in laned.CACHES:
        assert len({fact["caches"][cache] for fact in facts}) == 2, cache
    results = [json.loads(path.read_text()) for path in run.path.glob("_pytest/*/attempts/*/result.json")]
    assert sorted(one["lane"]["name"] for one in results) == ["pair-0", "pair-1"]


KILLS_BY_NAME = """
    import subprocess, sys
    server = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60) # toy-server"])
    (STATE / f"server-{Path(__file__).stem}").write_text("up")
    if Path(__file__).stem == "test_a_ci":
        while not (STATE / "server-test_b_ci").exists():
            time.sleep(0.01)
        subprocess.run(["pkill", "-9", "-f", "toy-server"], check=True)
        (STATE / "killed").write_text("")
        assert server.wait() == -9
    else:
        while not (STATE / "killed").exists():
            time.sleep(0.01)
        assert server.poll() is None, "the other lane's cleanup ended it"
        server.kill()
"""


@warm
def test_a_suite_that_ends_processes_by_name_finds_none_of_another_lane(tmp_path: Path) -> None:
    project = laned.make(tmp_path / "repo", model={"tests_end_processes": "pkill of toy-server"}, body=KILLS_BY_NAME)
    assert own_pids.possible() == (os.geteuid() == 0)
    reply = start_run(project, toy.MODEL, repeats=1, lanes=2)
    run = project.run(reply.run_id)

    now = toy.wait_until_rest(project, run.run_id)

    alone = [note for note in reply.notes if "for itself" in note]
    assert bool(alone) == (not own_pids.possible())
    if not alone:
        assert now.strict_complete, toy.told(run)
        assert counted(run) == {("test_a_ci", 1): 1, ("test_b_ci", 1): 1}


@warm
def test_where_lanes_cannot_be_kept_apart_such_a_suite_has_the_machine_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_pids, "possible", lambda: False)
    project = laned.make(tmp_path / "repo", model={"tests_end_processes": "pkill of toy-server"})
    other = laned.make(tmp_path / "other")
    laned.hold(project, "a", 1)

    reply = start_run(project, toy.MODEL, repeats=1, lanes=2)
    run = project.run(reply.run_id)
    laned.wait_for(project, run, ("a", 1))

    assert any("end processes by name" in note for note in reply.notes)
    assert refused(other).code == Code.HOST_BUSY
    laned.let_go(project, "a", 1)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert laned.began(project) == [("a", 1), ("b", 1)] and not laned.pairs_at_once(project)
