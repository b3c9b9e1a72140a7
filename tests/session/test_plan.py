"""plan.json is written once and never changed; whoever changes it is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from pydantic import ValidationError

from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import ChangedLiteral, Equivalence, LaunchSettings, Plan
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


@pytest.mark.rule("POL-10")
def test_a_launch_that_config_says_nothing_of_takes_no_risk_and_is_looked_at_within_two_minutes() -> None:
    settings = LaunchSettings()

    assert (settings.allow_mig, settings.accept_unknown_gpus) == (False, False)
    assert settings.poll_interval_max_s == 120
    for ceiling in (0, 121):
        with pytest.raises(ValidationError):
            LaunchSettings(poll_interval_max_s=ceiling)


@pytest.mark.parametrize("change", [{"stages": ()}, {"repeats": 0}, {"lanes": -1}])
def test_a_plan_of_nothing_is_none(finished: tuple[Project, RunDir], change: dict[str, object]) -> None:
    project, run = finished
    document = project.plan(run).model_dump()

    with pytest.raises(ValidationError):
        Plan.model_validate(document | change)
    plain = Plan.model_validate({name: value for name, value in document.items() if name not in ("lanes", "dirty")})
    assert (plain.lanes, plain.dirty, plain.legacy) == (1, False, False)
    assert "legacy" not in document, "it is a run of the older script that has no such plan"


def test_what_was_proved_equivalent_is_told_with_the_literals_that_changed() -> None:
    literal = ChangedLiteral(file="tests/a.py", source="ACC_MIN", old="0.5", new="0.6")
    facts = {"git_sha": "b" * 40, "calibration_git_sha": "a" * 40, "proved_at": "", "files": (), "config_files": ("c",)}

    one = Equivalence.model_validate({**facts, "literals": (literal,)})
    none = Equivalence.model_validate({**facts, "literals": ()})

    assert "1 threshold literal of this plan changed (tests/a.py:ACC_MIN 0.5 -> 0.6), 1 file of" in one.sentence()
    assert "0 threshold literals of this plan changed, 1 file of" in none.sentence()


def test_a_file_that_this_runs_tests_rewrote_is_no_part_of_the_tree_of_its_launches(
    finished: tuple[Project, RunDir],
) -> None:
    project, run = finished
    plan = project.plan(run).model_copy(update={"untracked": {"out.csv": "1", "notes.txt": "1"}, "apart": ("tee.txt",)})

    events.append(run, "appeared", utc_now(), "rewritten", rewritten=["out.csv", "never planned.csv"])

    assert plans.launch_tree(run, plan).apart == ("tee.txt", "out.csv")


def test_a_plan_that_waits_for_its_place_is_put_there_before_the_next(finished: tuple[Project, RunDir]) -> None:
    project, run = finished
    plan = project.plan(run)
    plans.amend(run, plan.model_copy(update={"fixed": ("one",)}), utc_now(), "first")
    ready = run.plan.read_bytes()
    run.plan.replace(run.next_plan)  # as a crash leaves it between ledger and rename
    run.plan.write_bytes(b"the plan before")

    assert project.plan(run).fixed == ("one",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "write_atomic", crash)
        with pytest.raises(KeyboardInterrupt):
            plans.amend(run, plan, utc_now(), "second")
    assert run.plan.read_bytes() == ready, "nothing is lost when the next one is never written"


def crash(*_: object) -> None:
    raise KeyboardInterrupt
