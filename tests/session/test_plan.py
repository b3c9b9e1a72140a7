"""plan.json is written once and never changed; whoever changes it is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import plan as plans
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.strict_audit import strict_audit


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Project, RunDir]:
    project = toy.make_toy(tmp_path / "repo")
    return project, toy.finished_run(project)


def change_plan(run: RunDir, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(run.plan.read_text())
    change(value)
    run.plan.write_text(json.dumps(value))


def change_nothing_but_the_bytes(_: dict[str, Any]) -> None:
    """json.dumps writes it otherwise than we do."""


@pytest.mark.rule("SES-13", "STR-20", "SES-16")
@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(repeats=1),
        lambda plan: plan.update(stages=["toy_speed"]),
        lambda plan: plan.update(calibration_git_sha="0" * 40),
        lambda plan: plan["catalogue"]["toy_speed"].update(expected_samples=3),
        lambda plan: plan["catalogue"]["toy_speed"]["metrics"]["latency_mean_s"].update(worst="min"),
        lambda plan: plan["catalogue"]["toy_speed"]["metrics"].pop("latency_mean_s"),
        lambda plan: plan.update(schema_version=None),
        lambda plan: plan.pop("schema_version"),
        lambda plan: plan.update(extra=1),
        lambda plan: plan.pop("catalogue"),
        change_nothing_but_the_bytes,
    ],
    ids=[
        "repeats",
        "stages",
        "sha",
        "samples",
        "worst",
        "metric",
        "no version",
        "as if older",
        "extra",
        "half",
        "bytes",
    ],
)
def test_an_edited_plan_is_found_out_by_every_reader(
    finished: tuple[Project, RunDir], change: Callable[[dict[str, Any]], object]
) -> None:
    project, run = finished

    change_plan(run, change)

    for read in (strict_audit, status):
        with pytest.raises(Refusal, match=r"PLAN_TAMPERED \[SES-13\]"):
            read(project, run.run_id)
    (entry,) = list_runs(project).runs
    assert "PLAN_TAMPERED" in entry.problem, "the list of runs still answers"


@pytest.mark.rule("SES-13")
@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b"{", b'{"schema_version": 1}', b"1e999"])
def test_a_plan_that_is_no_plan_is_a_refusal_not_a_traceback(finished: tuple[Project, RunDir], data: bytes) -> None:
    project, run = finished
    run.plan.write_bytes(data)

    with pytest.raises(Refusal, match="PLAN_TAMPERED"):
        strict_audit(project, run.run_id)


@pytest.mark.rule("SES-13")
def test_a_plan_without_its_entry_in_the_ledger_proves_nothing(finished: tuple[Project, RunDir]) -> None:
    project, run = finished
    run.events.unlink()

    with pytest.raises(Refusal, match=r"has no entry in events\.jsonl"):
        strict_audit(project, run.run_id)


@pytest.mark.rule("SES-04", "SES-13")
def test_a_plan_is_written_once(finished: tuple[Project, RunDir]) -> None:
    project, run = finished
    plan, before = project.plan(run), (run.plan.read_bytes(), run.events.read_bytes())

    with pytest.raises(Refusal, match=r"PLAN_EXISTS \[SES-04\]"):
        plans.write(run, plan, utc_now(), "again")

    assert (run.plan.read_bytes(), run.events.read_bytes()) == before


@pytest.mark.rule("SES-13", "SES-03")
def test_a_plan_holds_commit_stages_repeats_and_the_digests_of_what_it_measures(
    finished: tuple[Project, RunDir],
) -> None:
    project, run = finished

    plan = project.plan(run)

    assert plan.calibration_git_sha == toy.git(project.repo_root, "rev-parse", "HEAD")
    assert (plan.model, plan.stages, plan.repeats, plan.run_id) == ("toy", toy.STAGES, 2, run.run_id)
    assert set(plan.file_sha256) == {toy.TEST_FILE}
    assert plan.catalogue == project.places.stages("toy")
    assert (plan.dirty, plan.untracked, plan.legacy) == (False, {}, False)


@pytest.mark.rule("STR-16", "STG-06")
def test_one_pytest_feeds_all_stages_of_its_file_and_preset(finished: tuple[Project, RunDir]) -> None:
    project, run = finished
    plan = project.plan(run)
    speed = plan.catalogue["toy_speed"]
    other = speed.model_copy(update={"key": "toy_higgs_speed", "calibration_preset": "higgs"})

    both = plan.model_copy(
        update={"catalogue": plan.catalogue | {other.key: other}, "stages": (*plan.stages, other.key)}
    )

    tests = both.tests()
    assert {test: [stage.key for stage in stages] for test, stages in tests.items()} == {
        "test_toy_ci": ["toy_accuracy", "toy_speed"],
        "test_toy_ci__higgs": ["toy_higgs_speed"],
    }


def test_the_digest_of_a_catalogue_does_not_depend_on_when_it_was_made(finished: tuple[Project, RunDir]) -> None:
    project, run = finished
    table = project.plan(run).table()
    later = {key: stage.model_copy(update={"last_discovered_at": "2030-01-01"}) for key, stage in table.items()}
    other = {key: stage.model_copy(update={"expected_samples": 5}) for key, stage in table.items()}

    assert plans.stages_digest(later) == plans.stages_digest(table) != plans.stages_digest(other)


def test_a_dirty_tree_is_recorded_with_the_run(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", files={"lib.py": "X = 1\n"})
    (project.repo_root / "lib.py").write_text("X = 2\n")
    (project.repo_root / "new.py").write_text("Y = 1\n")

    run = toy.finished_run(project)

    plan = project.plan(run)
    assert plan.dirty and set(plan.untracked) == {"new.py"}
    assert b"+X = 2" in run.workspace_diff.read_bytes()
    assert any("dirty" in alert for alert in status(project, run.run_id).alerts)
