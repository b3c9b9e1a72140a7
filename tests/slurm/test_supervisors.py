"""Supervisors of runs on Slurm: they die, they are jobs themselves, several share a machine, and the page says how."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from calibrations import end_supervisor, finished, held, jobs_of, make, results
from cluster import NODES, Cluster

from tune_mcp.run_dir import list_runs
from tune_mcp.session import state
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.stop_run import stop_run

PAGE = (Path(__file__).parents[2] / "docs/how-to/slurm.md").read_text()
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


SUBMIT = "sbatch --time=2-00:00:00 --output=/shared/supervisor-%j.log --wrap "


def of_the_page(beginning: str, project: Project, run_id: str = "RUN", host: str = "cluster") -> str:
    """The page's command that begins so, as it is for the toy."""
    (command,) = (line for line in COMMANDS if line.startswith(beginning))
    meant = {
        "/shared/tune/bin": str(Path(sys.executable).parent), "/shared/sglang-omni": str(project.repo_root),
        "/shared/supervisor": f"{project.repo_root}-supervisor", "qwen3-omni-v1": toy.MODEL,
        "--repeats 5": "--repeats 2", "RUN": run_id, "=cluster": f"={host}",
    }  # fmt: skip
    for there, here in meant.items():
        command = command.replace(there, here)
    return command


def printed(project: Project, *commands: str) -> str:
    """What a shell of the repository prints for these commands; each must end well."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)],
        cwd=project.repo_root,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_of_the_page_lead_from_an_empty_site_to_a_report(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    (profile,) = (
        block for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "name:" in block
    )
    for there, here in {
        "/shared/sglang-omni": str(project.repo_root), "/shared/omni/bin/python": sys.executable,
        "/shared/hf": str(tmp_path), "gpu:h100": "gpu:fake", "--cpus-per-task=16": "--cpus-per-task=4",
    }.items():  # fmt: skip
        assert there in profile
        profile = profile.replace(there, here)
    (project.repo_root / ".tune/hosts/cluster.yaml").write_text(profile)
    toy.commit(project, "the profile")

    def page(*beginnings: str, run_id: str = "RUN") -> str:
        return printed(project, *(of_the_page(one, project, run_id) for one in beginnings))

    assert all(node in page("sinfo") for node in NODES)
    told = page("cd", "export TUNE_HOST", "tune-mcp doctor")
    assert "precheck toy: ok" in told and "slurm.class: constraint h100" in told
    assert "finished" in page("export TUNE_HOST", "tune-mcp run")
    (run,) = list_runs(project.repo_root)
    assert {len(one.engine.gpus) for one in results(run) if one.engine} == {4}, "a node of its own, with all its GPUs"
    told = page("squeue", "tune-mcp watch", "tune-mcp audit", "tune-mcp report", run_id=run.run_id)
    assert "STRICT + GIT: READY" in told and "report.md" in told


def test_a_supervisor_that_is_a_job_is_cancelled_and_another_job_goes_on_with_what_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    project = make(cluster, tmp_path / "repo")
    toy.hold(project, 1)
    submitted = of_the_page(f"{SUBMIT}'TUNE_HOST", project, host="site")
    job = printed(project, submitted).split()[-1]
    toy.wait_for(lambda: toy.launches(project, 1), 90, "the first launch")
    (run,) = list_runs(project.repo_root)

    cluster.asked("scancel", job)

    toy.wait_for(lambda: state.conclude(run).state is state.RunState.LOST, 60, "the end of the supervisor")
    assert {*jobs_of(cluster, run).values()} == {"RUNNING"}, "the launch goes on"
    printed(project, of_the_page(f"{SUBMIT}'export", project, run.run_id, host="site"))
    toy.wait_for(lambda: state.conclude(run).active, 60, "the next supervisor")
    toy.let_go(project, 1)
    finished(project, run)
    assert len(toy.launches(project, 1)) == 1
    assert [number for number, _ in run.attempts(toy.TEST_KEY, 1)] == [1]


def test_two_runs_from_one_machine_go_on_side_by_side_and_neither_takes_its_lock(
    cluster: Cluster, tmp_path: Path
) -> None:
    project = make(cluster, tmp_path / "repo")
    here = Project.resolve(Options(repo=toy.make_toy(tmp_path / "here").repo_root))
    runs = [held(project)[0], toy.start(project, 1)]
    toy.wait_for(lambda: len(toy.launches(project, 1)) == 2, 90, "both launches")
    runs_here = toy.start(here, 1)

    assert toy.wait_until_rest(here, runs_here.run_id).strict_complete
    assert all(state.conclude(run).active for run in runs)
    toy.let_go(project, 1)
    for run in runs:
        finished(project, run)
        assert [number for number, _ in run.attempts(toy.TEST_KEY, 1)] == [1]


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


def test_a_lost_run_is_given_up_with_all_that_slurm_still_has_of_it(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo")
    run, node = held(project)
    end_supervisor(run)

    assert stop_run(project, run.run_id, "lunch").state == "stopped"

    toy.wait_for(lambda: not cluster.pids(node), 60, "the end of every process of the job")
    assert results(run) == []
