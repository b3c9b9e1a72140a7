"""A run goes on after its host profile changed, where its launches stay the same measurement, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import laned
import pytest
import toy

from tune_mcp.config.lanes import Lane, Placement
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.supervise.job import AttemptResult, Blocked, Job
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status

LEFT, RIGHT = laned.TWO
MORE = f"{laned.CPUS[0]},{laned.CPUS[-1]}"


def half_done(folder: Path) -> tuple[Project, RunDir]:
    """One test file is strict, the other halted the run; the host profile lies outside the repository."""
    project = laned.make(folder / "repo")
    (folder / "repo/.tune/hosts/lab.yaml").rename(folder / "lab.yaml")
    toy.commit(project)

    def attempt(job: Job) -> AttemptResult:
        blocked = Blocked(code="GPU_NOT_CLEAR", rule="GPU-02", reason="stuck", next="free it", retryable=False)
        return toy.measured(job).model_copy(update={"blocked": blocked if job.test_key == "test_b_ci" else None})

    project = on(folder, lambda profile: None)
    with toy.supervised_here(attempt):
        run = toy.start(project, 1, lanes=2)
    assert status(project, run.run_id).state == "halted" and status(project, run.run_id).whole_repeats == "1/2"
    return project, run


def on(folder: Path, change: Callable[[dict[str, Any]], object]) -> Project:
    """The project with a changed host profile."""
    profile = json.loads((folder / "lab.yaml").read_text())
    change(profile)
    place = folder / "repo/.tune/hosts/lab.yaml"
    place.write_text(json.dumps(profile))
    return toy.open_project(folder / "repo")


def resumed(project: Project, run: RunDir) -> None:
    with toy.supervised_here():
        resume_run(project, run.run_id)


def test_a_lane_that_is_gone_leaves_its_repeats_to_the_others(tmp_path: Path) -> None:
    _, run = half_done(tmp_path)
    project = on(tmp_path, lambda profile: profile.update(lanes=[RIGHT]))

    resumed(project, run)

    assert status(project, run.run_id).strict_complete, toy.told(run)
    launched = [event.facts["lane"] for event in events.read(run.events, "launched")]
    assert launched[-1] == "right"


@pytest.mark.rule("SCP-02", "GPU-17")
@pytest.mark.parametrize(
    "change",
    [
        {"lanes": []},
        {"lanes": [{"name": "wide", "cpus": MORE}]},
        {"lanes": [{"name": "gpus", "gpus": [0]}]},
        {"cpu_set_variable": "OTHER_CPUSET"},
    ],
    ids=["no lanes", "more CPUs", "any CPU", "another variable"],
)
def test_strict_repeats_are_not_mixed_with_those_of_other_cpus(tmp_path: Path, change: dict[str, Any]) -> None:
    _, run = half_done(tmp_path)
    project = on(tmp_path, lambda profile: profile.update(change))

    with pytest.raises(Refusal) as refused:
        resumed(project, run)

    assert refused.value.code == Code.STAGES_CHANGED and "CPUs of test_a_ci have changed" in refused.value.message


def test_how_many_cpus_a_launch_gets_is_known_from_the_profile() -> None:
    lanes = (Lane(name="a", gpus=(0, 1), cpus="0-3"), Lane(name="b", cpus="4-5"), Lane(name="c", gpus=(2,)))

    assert Placement(lanes=lanes).cpus_for(2) == 4 and Placement(lanes=lanes).cpus_for(0) == 2
    assert Placement(lanes=lanes, exclude=(0,)).cpus_for(1) is None is Placement().cpus_for(1)
