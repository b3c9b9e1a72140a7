"""A run goes on with the configuration of the place that it was planned with, and with no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from tune_mcp.cli.main import main
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit


def wrong() -> dict[str, object]:
    found = json.loads(json.dumps(toy.CONFIG))
    found["metric_sources"]["test_toy_ci.py"]["paths"]["latency_mean_s"] = "speed.latency"
    return found


def opened(repo: Path, config: Path | None = None) -> Project:
    return Project.resolve(Options(repo=repo, config=config))


@pytest.fixture
def halted(tmp_path: Path) -> tuple[Path, Path, RunDir]:
    """The repository, the folder given as --config, and a run that its wrong path halted; .tune has the right one."""
    repo, place = toy.make_toy(tmp_path / "repo").repo_root, tmp_path / "place"
    shutil.copytree(repo / ".tune", place)
    (place / "models/toy/config.yaml").write_text(json.dumps(wrong()))
    project = opened(repo, place)
    discover(project, toy.MODEL)
    run = toy.finished_run(project, 2)
    assert status(project, run.run_id).state == "halted"
    return repo, place, run


def refused(project: Project, run: RunDir) -> Refusal:
    with pytest.raises(Refusal) as error, toy.supervised_here() as executor:
        resume_run(project, run.run_id)
    assert executor.jobs == []
    return error.value


@pytest.mark.parametrize("ask", [report, apply_plan])
def test_what_needs_a_whole_run_says_what_a_halted_one_waits_for(
    halted: tuple[Path, Path, RunDir], ask: Callable[[Project, str], object]
) -> None:
    repo, place, run = halted
    project = opened(repo, place)

    with pytest.raises(Refusal, match=r"^NOT_STRICT") as error:
        ask(project, run.run_id)

    assert str(error.value.next) == str(status(project, run.run_id).next)
    assert "fix metric_sources" in str(error.value.next)


@pytest.mark.rule("RES-01", "HLT-02")
def test_without_a_place_the_recorded_one_counts_and_another_folder_is_no_fix(
    halted: tuple[Path, Path, RunDir],
) -> None:
    repo, place, run = halted

    why = refused(opened(repo), run)

    assert str(why.code) == "HALT_UNRESOLVED" and str(place) in why.text()
    (place / "models/toy/config.yaml").write_text(json.dumps(toy.CONFIG))
    discover(opened(repo, place), toy.MODEL)
    with toy.supervised_here() as executor:
        reply = resume_run(opened(repo), run.run_id)
    assert [job.repeat for job in executor.jobs] == [2]
    assert f"configuration: {place}, as planned" in reply.text()
    assert strict_audit(opened(repo), run.run_id).ready


@pytest.mark.rule("RES-01")
@pytest.mark.parametrize("other", ["copy", "the repository's own"])
def test_another_place_is_said_and_refused_with_the_command_that_works(
    halted: tuple[Path, Path, RunDir], tmp_path: Path, other: str
) -> None:
    repo, place, run = halted
    named = repo / ".tune"
    if other == "copy":
        named = Path(shutil.copytree(place, tmp_path / "other"))

    why = refused(opened(repo, named), run)

    assert str(why.code) == "INVALID_ARGUMENT"
    assert str(place) in why.message and str(named) in why.message
    assert f"tune-mcp resume {run.run_id} --repo {repo} --config {place}" in why.next


@pytest.mark.rule("RES-01")
def test_a_place_for_a_run_that_was_planned_without_one_is_refused(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)
    place = Path(shutil.copytree(project.repo_root / ".tune", tmp_path / "place"))

    why = refused(opened(project.repo_root, place), run)

    assert "(without --config)" in why.next
    with toy.supervised_here():
        resume_run(opened(project.repo_root, project.repo_root / ".tune"), run.run_id)


def test_a_recorded_place_that_is_gone_is_named(halted: tuple[Path, Path, RunDir]) -> None:
    repo, place, run = halted
    shutil.rmtree(place)

    why = refused(opened(repo), run)

    assert str(why.code) == "INVALID_CONFIG" and f"{place}, and that folder is gone" in why.message


@pytest.mark.rule("RES-01")
def test_the_terminal_refuses_the_same(halted: tuple[Path, Path, RunDir], capsys: pytest.CaptureFixture[str]) -> None:
    repo, place, run = halted

    code = main(["resume", run.run_id, "--repo", str(repo), "--config", str(repo / ".tune")])

    assert code == 2 and f"--config {place}" in capsys.readouterr().err
