"""A run belongs to the repository and the launch settings that it was measured with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import toy
import yaml

from tune_mcp.contract.apply import ApplyReply
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.stop_run import stop_run

pytestmark = pytest.mark.usefixtures("warm")


def config_of(project: Project) -> Path:
    return project.repo_root / f".tune/models/{toy.MODEL}/config.yaml"


def configure(project: Project, **keys: object) -> None:
    path = config_of(project)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


@pytest.mark.rule("SES-06")
def test_a_copied_run_goes_on_only_where_it_was_measured_and_is_applied_once(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "first")
    run = toy.finished_run(project, 2)
    for name in ("second", "third"):
        shutil.copytree(project.repo_root, tmp_path / name)
    second, third = (toy.open_project(tmp_path / name) for name in ("second", "third"))

    def applied(where: Project) -> ApplyReply:
        report(where, run.run_id)
        plan_id = apply_plan(where, run.run_id).plan_id
        return apply(where, run.run_id, plan_id, "full", otherwise="apply")

    with pytest.raises(Refusal, match=rf"FOREIGN_ARTIFACT.* Next: work in {project.repo_root}"):
        resume_run(second, run.run_id)
    assert any("a copy of a run that was measured in" in one for one in applied(second).warnings)
    assert not any("a copy of" in one for one in applied(project).warnings)
    before = (third.repo_root / toy.TEST_FILE).read_bytes()
    with pytest.raises(Refusal, match=r"FOREIGN_ARTIFACT.*it was applied there already"):
        applied(third)
    assert (third.repo_root / toy.TEST_FILE).read_bytes() == before


@pytest.mark.rule("SES-06")
def test_a_run_of_a_moved_repository_is_read_and_not_continued(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "first")
    run = toy.finished_run(project, 2)
    project.repo_root.rename(tmp_path / "moved")
    moved = toy.open_project(tmp_path / "moved")

    assert report(moved, run.run_id).run_id == run.run_id
    with pytest.raises(Refusal, match=r"FOREIGN_ARTIFACT.* Next: move the repository back"):
        resume_run(moved, run.run_id)


def arguments_of(run: RunDir) -> list[list[str]]:
    jobs = sorted(run.path.glob("_pytest/*/attempts/*/job.json"))
    return [json.loads(job.read_text())["pytest_extra_args"] for job in jobs]


@pytest.mark.rule("HLT-02")
@pytest.mark.usefixtures("warm")
def test_fixed_pytest_arguments_are_used_by_the_resumed_run(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    configure(project, pytest_extra_args={"test_toy_ci.py": ["--no-such-option"]})
    toy.commit(project)
    run = toy.start(project, 1)
    assert toy.wait_until_rest(project, run.run_id).state == "halted"
    configure(project, pytest_extra_args={"test_toy_ci.py": ["--durations=1"]})
    toy.commit(project)

    resume_run(toy.open_project(project.repo_root), run.run_id)

    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert arguments_of(run)[-1] == ["--durations=1"]


@pytest.mark.parametrize(
    "keys",
    [{"pytest_extra_args": {"test_toy_ci.py": ["--durations=1"]}}, {"auto_env": {"MODE": "2"}}],
    ids=["arguments", "environment"],
)
@pytest.mark.rule("HLT-08")
@pytest.mark.usefixtures("warm")
def test_a_test_with_a_complete_repeat_is_not_continued_under_other_launch_settings(
    tmp_path: Path, keys: dict[str, object]
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.start_and_hold(project, 2, repeat=2)
    stop_run(project, run.run_id, "the settings change")
    configure(project, **keys)

    with pytest.raises(Refusal, match=r"STAGES_CHANGED.*have changed, and it has strict repeats"):
        resume_run(toy.open_project(project.repo_root), run.run_id)
