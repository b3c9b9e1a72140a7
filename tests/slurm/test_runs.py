"""Whole runs through a real Slurm of two nodes: every repeat counts exactly once, whatever breaks on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pytest
import toy
from cluster import NODES, Cluster

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.slurm import Slurm
from tune_mcp.supervise.executor import batch
from tune_mcp.supervise.job import AttemptResult, parse_result
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

USAGE = '''"""Which GPUs a launch could open, and when; and children that get away, where a test asks for them."""

import errno, json, os, re, subprocess, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT.parent / (ROOT.name + "-state")
DEVICES = json.loads((STATE / "devices.json").read_text())
NODE = re.search(r"devices:/\\S*?(node[0-9])", Path("/proc/self/cgroup").read_text())
ESCAPED = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"


def opened():
    for device in DEVICES[NODE[1]] if NODE else ():
        try:
            os.close(os.open(device, os.O_RDWR))
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
        yield Path(device).name


@pytest.fixture(scope="session", autouse=True)
def used():
    if (STATE / "escape").exists():
        for word in (ESCAPED, ESCAPED.replace("600", "601")):
            subprocess.Popen([sys.executable, "-c", word], start_new_session=True)
    begin = time.time()
    yield
    facts = {"record": os.environ["TUNE_GUARD_RECORD"], "begin": begin, "end": time.time(),
             "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
    with (STATE / "usage.jsonl").open("a") as log:
        log.write(json.dumps({**facts, "opened": [*opened()]}) + "\\n")
'''


def make(cluster: Cluster, folder: Path, gpus: int = 2, **slurm: object) -> Project:
    config = deepcopy(toy.CONFIG)
    config["gpus_per_test"] = {"test_toy_ci.py": gpus}
    profile = {"name": "site", "hostname": "site", "repo_root": str(folder), "executor": "slurm", "slurm": slurm}
    files = {"tests/conftest.py": USAGE, ".tune/hosts/site.yaml": json.dumps(profile)}
    project = toy.make_toy(folder, config=config, files=files)
    devices = {node: [str(cluster.folder / f"gpu{n}") for n in cluster.numbers(node)] for node in NODES}
    (toy.state_folder(project) / "devices.json").write_text(json.dumps(devices))
    return Project.resolve(Options(repo=folder, host="site"))


def usage(project: Project) -> list[dict[str, Any]]:
    """What every launch that came to its end could open, in the order of the ends."""
    path = toy.state_folder(project) / "usage.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def results(run: RunDir) -> list[AttemptResult]:
    """Every sealed result."""
    return [parse_result(path.read_bytes()) for path in sorted(run.path.glob("_pytest/*/attempts/*/result.json"))]


def overlapping(project: Project) -> list[tuple[str, str]]:
    """Pairs of launches that could open one GPU at the same time."""
    made = [(one["record"], one["begin"], one["end"], {*one["opened"]}) for one in usage(project)]
    return [
        (first[0], second[0])
        for at, first in enumerate(made)
        for second in made[:at]
        if first[1] < second[2] and second[1] < first[2] and first[3] & second[3]
    ]


def test_a_run_goes_through_slurm_on_the_gpus_that_it_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", partition="gpu", constraint="h100", gres="gpu:fake")
    run = toy.start(project, 2)

    now = toy.wait_until_rest(project, run.run_id, 120)

    assert now.state == "finished", toy.told(run)
    assert strict_audit(project, run.run_id).ready
    assert [(len(one["opened"]), one["visible"]) for one in usage(project)] == [(2, "0,1")] * 2


def finished(project: Project, run: RunDir, limit_s: float = 150) -> None:
    """The run ends with every repeat strict and counted once, on what one attempt measured and no other."""
    now = toy.wait_until_rest(project, run.run_id, limit_s)
    assert now.state == "finished", toy.told(run)
    assert strict_audit(project, run.run_id).ready
    recorded = [(e.facts["stage"], e.facts["repeat"]) for e in events.read(run.events) if e.kind == "recorded"]
    assert len(recorded) == len(set(recorded)) == len(toy.STAGES) * now.total // len(toy.STAGES)


def held(project: Project, repeats: int = 1) -> tuple[RunDir, str]:
    """A run whose first pytest waits on a node: the run and the node."""
    run = toy.start_and_hold(project, repeats)
    job = run.attempt(toy.TEST_KEY, 1, 1)
    return run, Slurm().jobs([run.attempt_key(toy.TEST_KEY, 1, 1)])[0].node if job.is_dir() else ""


def jobs_of(cluster: Cluster, run: RunDir) -> dict[str, str]:
    """The state of every job that Slurm had of this run's test, by Slurm's id and our name."""
    return {name: now for name, now in cluster.jobs().items() if f"tune.{run.run_id}.{toy.TEST_KEY}." in name}


def end_supervisor(run: RunDir) -> None:
    """As a crash of the login node: no signal handler runs."""
    record = state.read_record(run)
    assert record and record.owner
    for child in psutil.Process(record.owner.pid).children(recursive=True):
        child.kill()
    os.kill(record.owner.pid, signal.SIGKILL)
    toy.wait_for(lambda: state.liveness(run) is state.Liveness.FREE, what="the end of the supervisor")


def test_a_new_supervisor_takes_over_what_runs_and_submits_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    run, _ = held(project)
    end_supervisor(run)

    resume_run(project, run.run_id)
    toy.let_go(project, 1)

    finished(project, run)
    assert len(toy.launches(project, 1)) == 1
    assert [number for number, _ in run.attempts(toy.TEST_KEY, 1)] == [1]


def test_a_supervisor_that_dies_while_sbatch_has_not_answered_yet_submits_nothing_twice(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make(cluster, tmp_path / "repo")
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(
        f"""#!/bin/sh
case "$*" in *precheck*) exec {shutil.which("sbatch")} "$@";; esac
{shutil.which("sbatch")} "$@"
mkdir {tmp_path}/accepted && sleep 600
"""
    )
    slow.chmod(0o755)
    toy.hold(project, 1)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
        run = toy.start(project, 1)
    toy.wait_for((tmp_path / "accepted").is_dir, 90, "the submission")
    end_supervisor(run)

    resume_run(project, run.run_id)
    toy.let_go(project, 1)

    finished(project, run)
    assert len(toy.launches(project, 1)) == 1
    assert len(jobs_of(cluster, run)) == 1


def test_what_ran_on_a_node_that_is_switched_off_is_measured_on_another(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    run, node = held(project)

    cluster.switch_off(node)
    toy.let_go(project, 1)

    finished(project, run)
    (engine,) = {one.engine.node for one in results(run)}
    assert engine != node
    assert len(toy.launches(project, 1)) == 2


def test_a_controller_that_is_killed_at_a_change_of_state_costs_no_repeat(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    toy.hold(project, 1)
    run = toy.start(project, 2)
    toy.wait_for(lambda: jobs_of(cluster, run), 90, "the submission")
    cluster.kill_controller()
    cluster.start_controller()
    toy.wait_for(lambda: toy.launches(project, 1), 90, "the first launch")
    cluster.kill_controller()
    toy.let_go(project, 1)
    cluster.start_controller()

    finished(project, run)
    assert not overlapping(project)


def test_a_stop_leaves_no_process_and_no_job(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    (toy.state_folder(project) / "escape").touch()
    run, node = held(project, 2)
    toy.wait_for(lambda: len(cluster.pids(node)) >= 4, what="runner, pytest and what escaped from it")

    stop_run(project, run.run_id, "lunch")

    now = toy.wait_until_rest(project, run.run_id, 90)
    assert (now.state, now.complete) == ("stopped", 0), toy.told(run)
    toy.wait_for(lambda: not cluster.pids(node), what="the end of every process of the job")
    assert {state for name, state in cluster.jobs().items() if run.run_id in name} <= {
        "COMPLETED",
        "FAILED",
        "CANCELLED",
    }


def test_fifteen_repeats_finish_on_two_nodes_without_sharing_a_gpu(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    run = toy.start(project, 15, lanes=0)

    finished(project, run, 240)

    assert not overlapping(project)
    assert {one.engine.node for one in results(run) if one.engine} == {*NODES}


def test_a_node_of_another_kind_is_named_and_left_out_before_pytest_starts(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    run, node = held(project, 2)
    (other,) = {*NODES} - {node}
    cluster.gpus(other, name="NVIDIA L40")
    cluster.asked("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    toy.let_go(project, 1)
    toy.wait_for(lambda: batch.left_out(run) == (other,), 90, "a refusal")
    cluster.asked("scontrol", "update", f"nodename={node}", "state=resume")

    finished(project, run)

    refused = [one for one in results(run) if one.incomparable]
    assert [(one.engine and one.engine.node, one.pytest_rc) for one in refused] == [(other, None)]
    assert "NVIDIA L40" in refused[0].incomparable
    assert len(toy.launches(project, 2)) == 1


def test_a_node_that_is_cut_off_writes_nothing_among_the_files_of_the_next_attempt(
    cluster: Cluster, tmp_path: Path
) -> None:
    project = make(cluster, tmp_path / "repo")
    run, node = held(project)
    (pid,) = toy.launches(project, 1)

    cluster.cut_off(node)
    toy.wait_for(lambda: len(toy.launches(project, 1)) == 2, 120, "the next attempt")
    toy.wait_for(lambda: not psutil.pid_exists(pid), 60, "the end of the cut-off one, by its tombstone")
    toy.let_go(project, 1)

    finished(project, run)
    assert [one.engine and one.engine.node for one in results(run)] == [*({*NODES} - {node})]
    assert run.log(toy.TEST_KEY, 1).readlink() == Path("attempts/run1_a2/run1.log")


def test_a_lost_run_is_given_up_with_all_that_slurm_still_has_of_it(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    run, node = held(project)
    end_supervisor(run)

    assert stop_run(project, run.run_id, "lunch").state == "stopped"

    toy.wait_for(lambda: not cluster.pids(node), 60, "the end of every process of the job")
    assert results(run) == []


def test_a_job_that_slurm_will_never_take_halts_the_run_with_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", constraint="h900")
    run = toy.start(project, 1)

    now = toy.wait_until_rest(project, run.run_id, 90)

    assert now.state == "halted" and "Invalid feature" in now.text(), toy.told(run)
    assert [one.facts["code"] for one in events.read(run.events, '"halted"')] == ["EXECUTOR_UNAVAILABLE"]


def test_doctor_reads_the_site_and_asks_no_gpu_of_the_submitting_machine(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", partition="gpu", constraint="h100", gres="gpu:fake")

    found = {check.id: check for check in precheck(project, toy.MODEL).checks}

    assert {found[f"slurm.{name}"].status for name in ("controller", "processes", "devices", "nodes", "class")} == {
        "ok"
    }
    assert "2 in partition gpu: node1, node2" in found["slurm.nodes"].detail
    assert not {"gpu.free", "host.lanes"} & {*found}
