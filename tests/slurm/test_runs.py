"""Whole runs through a real Slurm of two nodes: every repeat counts exactly once, whatever breaks on the way."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import toy
from calibrations import finished, held, jobs_of, make, overlapping, results, usage
from cluster import NODES, Cluster

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.supervise.executor import batch
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit


def test_a_run_goes_through_slurm_on_the_gpus_that_it_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", partition="gpu", constraint="h100", gres="gpu:fake")
    run = toy.start(project, 2)

    now = toy.wait_until_rest(project, run.run_id, 120)

    assert now.state == "finished", toy.told(run)
    assert strict_audit(project, run.run_id).ready
    assert [(len(one["opened"]), one["visible"]) for one in usage(project)] == [(2, "0,1")] * 2


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

    toy.wait_for(lambda: (cluster.put_back(), state.conclude(run).state.at_rest)[1], 150, "the end of the run")
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


def left_with_another_kind(cluster: Cluster, folder: Path) -> tuple[Project, RunDir, str, str]:
    """A run whose first repeat ends on a node that takes no more; the other one has GPUs of another kind."""
    project = make(cluster, folder / "repo")
    run, node = held(project, 2)
    (other,) = {*NODES} - {node}
    cluster.gpus(other, name="NVIDIA L40")
    cluster.asked("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    toy.let_go(project, 1)
    return project, run, node, other


def test_a_node_of_another_kind_is_named_and_left_out_before_pytest_starts(cluster: Cluster, tmp_path: Path) -> None:
    project, run, node, other = left_with_another_kind(cluster, tmp_path)
    toy.wait_for(lambda: batch.left_out(run) == (other,), 90, "a refusal")
    cluster.asked("scontrol", "update", f"nodename={node}", "state=resume")

    finished(project, run)

    refused = [one for one in results(run) if one.incomparable]
    assert [(one.engine and one.engine.node, one.pytest_rc) for one in refused] == [(other, None)]
    assert "NVIDIA L40" in refused[0].incomparable
    assert len(toy.launches(project, 2)) == 1
    (row,) = (one for one in strict_audit(project, run.run_id).hosts if one.host == other)
    assert not row.repeats and ["NVIDIA L40" in told for told in row.quarantined] == [True]


@pytest.mark.rule("GPU-14")
def test_a_job_for_which_only_a_node_out_of_service_is_left_is_an_alert_until_that_node_is_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    project, run, node, other = left_with_another_kind(cluster, tmp_path)
    toy.wait_for(lambda: status(project, run.run_id).alerts, 90, "an alert")

    now = status(project, run.run_id)
    cluster.asked("scontrol", "update", f"nodename={node}", "state=resume")

    assert now.state == "running" and now.current and now.current.phase.startswith("no_node: ")
    (alert,) = now.alerts
    assert f"{node} is drained" in alert and f"{other} was left out after a refusal" in alert
    finished(project, run)
    assert not status(project, run.run_id).alerts


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


def test_a_job_that_slurm_will_never_take_halts_the_run_with_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", constraint="h900")
    run = toy.start(project, 1)

    now = toy.wait_until_rest(project, run.run_id, 90)

    assert now.state == "halted" and "Invalid feature" in now.text(), toy.told(run)
    assert [one.facts["code"] for one in events.read(run.events, "halted")] == ["EXECUTOR_UNAVAILABLE"]


def test_doctor_reads_the_site_and_asks_no_gpu_of_the_submitting_machine(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", partition="gpu", constraint="h100", gres="gpu:fake")

    found = {check.id: check for check in precheck(project, toy.MODEL).checks}

    assert {found[f"slurm.{name}"].status for name in ("controller", "processes", "devices", "nodes", "class")} == {
        "ok"
    }
    assert f"2 in partition gpu: {', '.join(NODES)}" in found["slurm.nodes"].detail
    assert not {"gpu.free", "host.lanes"} & {*found}
