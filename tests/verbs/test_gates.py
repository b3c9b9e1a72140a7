"""What is not strict, not of one commit, not ours or not shown never becomes a threshold."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.apply import transaction
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.strict_audit import strict_audit

Change = Callable[[dict[str, Any]], object]
NO_PLAN = "0" * 16


def tree(project: Project) -> dict[str, bytes]:
    """Every file of the repository but the runs."""
    skipped = {".git", ".tune-runs", "__pycache__"}
    return {
        str(path): path.read_bytes()
        for path in project.repo_root.rglob("*")
        if path.is_file() and not skipped & set(path.relative_to(project.repo_root).parts)
    }


def codes(project: Project, run: RunDir, plan_id: str = NO_PLAN) -> list[str]:
    """The refusals of report, apply_plan and apply, which leave every byte of the tree and of the evidence."""
    before, evidence = tree(project), {path: path.read_bytes() for path in run.path.rglob("*.json") if path.is_file()}
    found: list[str] = []
    for verb in (
        lambda: report(project, run.run_id),
        lambda: apply_plan(project, run.run_id),
        lambda: apply(project, run.run_id, plan_id, "full", otherwise="apply"),
    ):
        with pytest.raises(Refusal) as caught:
            verb()
        found.append(str(caught.value.code))
    assert tree(project) == before
    assert {path: path.read_bytes() for path in run.path.rglob("*.json") if path.is_file()} == evidence
    return found


def planned(project: Project, run: RunDir) -> str:
    report(project, run.run_id)
    return apply_plan(project, run.run_id).plan_id


def test_a_finished_run_that_lost_a_file_does_not_say_that_every_repeat_is_strict(
    project: Project, run: RunDir
) -> None:
    assert "every stage × repeat is strict" in status(project, run.run_id).reason

    run.observation("toy_speed", 1).unlink()

    now = status(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", False)
    assert "lost or changed since" in now.reason and "is strict" not in now.text().splitlines()[1]


@pytest.mark.rule("STR-01", "STR-04", "STR-05", "STR-11", "RPT-10", "GAP-09", "SMP-01", "STR-21")
@pytest.mark.parametrize(
    "change",
    [
        lambda o: o["metrics"].pop("throughput_qps"),
        lambda o: o["metrics"].update(throughput_qps=None),
        lambda o: o["metrics"].update(throughput_qps=float("nan")),
        lambda o: o["metrics"].update(throughput_qps=float("-inf")),
        lambda o: o["metrics"].update(throughput_qps="12.5"),
        lambda o: o["metrics"].update(throughput_qps=True),
        lambda o: o.update(metrics={}),
        lambda o: o["sample_counts"].update(ok=3),
        lambda o: o["sample_counts"].update(ok=None),
        lambda o: o["sample_counts"].update(ok=0, total=0),
        lambda o: o["sample_counts"].update(ok=5),
        lambda o: o["sample_counts"].update(ok=5, total=5),
        lambda o: o.update(status="failed"),
    ],
)
def test_one_cell_that_is_not_strict_refuses_everything(project: Project, run: RunDir, change: Change) -> None:
    plan_id = planned(project, run)
    toy.rewrite_observation(run, "toy_speed", 2, change)

    assert codes(project, run, plan_id) == ["NOT_STRICT"] * 3
    assert "STRICT + GIT: READY" not in strict_audit(project, run.run_id).text()


@pytest.mark.rule("STR-01", "STR-11")
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"metrics": {}, "metrics": {}}'])
def test_a_file_that_is_no_observation_refuses_everything(project: Project, run: RunDir, data: bytes) -> None:
    run.observation("toy_accuracy", 1).write_bytes(data)

    assert codes(project, run) == ["NOT_STRICT"] * 3


@pytest.mark.rule("STR-01", "POL-11")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_refuses_everything_and_keeps_nobody_waiting(
    project: Project, run: RunDir, make: Callable[[Path], object]
) -> None:
    run.observation("toy_accuracy", 1).unlink()
    make(run.observation("toy_accuracy", 1))
    run.supervisor.unlink()
    make(run.supervisor)

    assert codes(project, run) == ["NOT_STRICT"] * 3


@pytest.mark.rule("SES-06", "SES-10", "SES-16")
@pytest.mark.parametrize("again", [shutil.copytree, shutil.move, lambda old, new: new.symlink_to(old)])
def test_a_run_under_another_name_is_no_run(
    project: Project, run: RunDir, again: Callable[[Path, Path], object]
) -> None:
    other = RunDir(run.path.with_name("20300101T000000Z_other"))
    again(run.path, other.path)

    assert codes(project, other) == ["PLAN_TAMPERED"] * 3
    assert not any(other.path.rglob("report.md"))


@pytest.mark.rule("STR-14", "STR-24")
def test_a_run_is_not_made_an_older_one_by_taking_its_ledger_away(project: Project, run: RunDir) -> None:
    plan = json.loads(run.plan.read_text())
    kept = ("model", "repeats", "stages", "calibration_git_sha", "calibration_started_at", "git_branch", "venv_python")
    run.plan.write_text(json.dumps({name: plan[name] for name in kept}))
    run.events.unlink()
    run.supervisor.unlink()

    assert codes(project, run) == ["FOREIGN_ARTIFACT"] * 3


@pytest.mark.rule("APL-24", "SCP-06")
def test_a_test_file_that_became_a_link_out_of_the_repository_is_refused_by_name(project: Project, run: RunDir) -> None:
    file, elsewhere = project.repo_root / toy.TEST_FILE, project.repo_root.parent / "elsewhere.py"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)

    assert codes(project, run) == ["OUTSIDE_REPO"] * 3


@pytest.mark.rule("SES-09", "SES-11", "SES-12")
@pytest.mark.parametrize("change", [lambda o: o.update(git_sha="0" * 40), lambda o: o.pop("git_sha")])
def test_an_artifact_of_another_commit_refuses_everything(project: Project, run: RunDir, change: Change) -> None:
    toy.rewrite_observation(run, "toy_accuracy", 1, change)

    assert codes(project, run) == ["GIT_PROVENANCE"] * 3
    assert status(project, run.run_id).git_provenance.startswith("FAIL — ")


@pytest.mark.rule("STR-14", "STR-24", "SES-10")
@pytest.mark.parametrize(
    "change",
    [
        lambda o: o["metrics"].update(throughput_qps=11.0),
        lambda o: o.update(run_id="20200101T000000Z_other"),
        lambda o: o.update(duration_s=1.0),
    ],
)
def test_an_edited_artifact_refuses_everything(project: Project, run: RunDir, change: Change) -> None:
    toy.rewrite_observation(run, "toy_speed", 1, change)

    assert codes(project, run) == ["FOREIGN_ARTIFACT"] * 3


@pytest.mark.rule("STR-14", "SES-10")
def test_an_artifact_that_was_swapped_for_another_repeats_refuses_everything(project: Project, run: RunDir) -> None:
    run.observation("toy_speed", 2).write_bytes(run.observation("toy_speed", 1).read_bytes())

    assert set(codes(project, run)) <= {"FOREIGN_ARTIFACT", "NOT_STRICT"}


@pytest.mark.rule("SES-13", "STR-20")
@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(repeats=1),
        lambda plan: plan["stages"].pop(),
        lambda plan: plan["catalogue"]["toy_speed"].update(expected_samples=3),
        lambda plan: plan.update(calibration_git_sha="0" * 40),
        lambda plan: plan.update(protected=[]),
    ],
)
def test_an_edited_plan_refuses_everything(project: Project, run: RunDir, change: Change) -> None:
    plan = json.loads(run.plan.read_text())
    change(plan)
    run.plan.write_text(json.dumps(plan))

    assert codes(project, run) == ["PLAN_TAMPERED"] * 3
    for verb in (strict_audit, status):
        with pytest.raises(Refusal, match=r"^PLAN_TAMPERED"):
            verb(project, run.run_id)
    assert "PLAN_TAMPERED" in list_runs(project).runs[0].problem


@pytest.mark.rule("SES-08", "SES-06", "RES-02")
def test_a_moved_head_refuses_everything(project: Project, run: RunDir) -> None:
    plan_id = planned(project, run)
    toy.commit(project)

    assert codes(project, run, plan_id) == ["COMMIT_MOVED"] * 3


@pytest.mark.rule("APL-24", "DSC-02")
@pytest.mark.parametrize("edit", ["MIN = 0.5 ->MIN = 0.6 ", "# a bare->#  a bare", "gone"])
def test_a_threshold_file_that_changed_refuses_plan_and_apply(project: Project, run: RunDir, edit: str) -> None:
    plan_id = planned(project, run)
    path = project.repo_root / toy.TEST_FILE
    old, _, new = edit.partition("->")
    if new:
        path.write_text(path.read_text().replace(old, new))
    else:
        path.unlink()
    before = tree(project)

    for verb in (
        lambda: apply_plan(project, run.run_id),
        lambda: apply(project, run.run_id, plan_id, "full", otherwise="apply"),
    ):
        with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED \[APL-24\]") as caught:
            verb()
        assert toy.TEST_FILE in caught.value.message
    assert tree(project) == before


@pytest.mark.rule("APL-01", "RPT-05", "POL-09", "APL-14", "APL-26", "CTX-07", "RPT-04")
def test_apply_needs_a_report_that_was_shown_and_is_as_new_as_the_artifacts(project: Project, run: RunDir) -> None:
    def code(plan_id: str, mode: str = "full") -> str:
        with pytest.raises(Refusal) as caught:
            apply(project, run.run_id, plan_id, mode)
        return str(caught.value.code)

    before = tree(project)
    plan_id = apply_plan(project, run.run_id).plan_id
    assert code(plan_id) == "NOT_REPORTED"
    assert planned(project, run) == plan_id
    assert code(NO_PLAN) == "STALE_PLAN"
    assert code("") == "STALE_PLAN"
    assert code(plan_id.upper()) == "STALE_PLAN" or plan_id == plan_id.upper()
    kept = run.report_json.read_text()
    run.report_json.write_text(kept.replace(json.loads(kept)["artifacts_digest"], "0" * 64))
    assert code(plan_id) == "STALE_REPORT"
    run.report_json.write_text("{}")
    assert code(plan_id) in ("NOT_REPORTED", "STALE_REPORT")
    run.report_json.write_text(kept)
    text = run.report_md.read_text()
    run.report_md.write_text(text + "\n{{CONTEXT:samples}}\n")
    assert code(plan_id) == "UNRESOLVED_CONTEXT"
    run.report_md.write_text("# A short summary of the report\n")
    assert code(plan_id) == "STALE_REPORT"
    run.report_md.unlink()
    assert code(plan_id) == "NOT_REPORTED"
    report(project, run.run_id)
    run.report_json.unlink()
    assert code(plan_id) == "NOT_REPORTED"
    assert tree(project) == before


@pytest.mark.rule("RPT-03", "RPT-10")
def test_a_report_exists_exactly_when_the_gates_pass(project: Project, run: RunDir) -> None:
    files = (run.report_md, run.report_json, run.report_html)
    path = run.observation("toy_speed", 2)
    whole = path.read_bytes()
    toy.rewrite_observation(run, "toy_speed", 2, lambda o: o.update(status="failed"))
    with pytest.raises(Refusal, match=r"^NOT_STRICT"):
        report(project, run.run_id)
    assert not any(file.exists() for file in files)

    path.write_bytes(whole)
    report(project, run.run_id)
    assert all(file.is_file() for file in files)


@pytest.mark.rule("RPT-05")
def test_the_user_is_told_where_the_report_is(project: Project, run: RunDir) -> None:
    said = report(project, run.run_id).text()

    assert f"report: {run.report_md}\n        {run.report_html}\n" in said
    assert "tell the user the report's path" in said
    assert [event.text for event in events.read(run.events)][-1] == f"report written to {run.report_md}"


@pytest.mark.rule("PRF-03", "PRF-04")
def test_an_optimisation_that_config_names_and_no_log_shows_is_told_with_the_report(
    project: Project, run: RunDir
) -> None:
    path = project.repo_root / ".tune/models/toy/config.yaml"
    optimisations = {"graph": {"evidence": "cuda graph: True"}, "cache": {"evidence": "cache hit"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "optimisations": optimisations}))
    for repeat in (1, 2):
        run.log("test_toy_ci", repeat).write_text("cache hit\n")

    notes = report(project, run.run_id).notes

    told = [note for note in notes if "configured" in note]
    assert len(told) == 1 and told[0].startswith("graph is configured but in no log of test_toy_ci: check the config")
    assert any("a clean run of the suite" in note and "would miss a limit" in note for note in notes)


@pytest.mark.rule("APL-01", "POL-09")
def test_a_repeat_that_was_measured_again_makes_report_and_plan_stale(project: Project, run: RunDir) -> None:
    from tune_mcp.verbs.resume_run import resume_run

    plan_id = planned(project, run)
    before = tree(project)
    run.observation("toy_speed", 2).unlink()
    run.observation("toy_accuracy", 2).unlink()
    (run.attempt("test_toy_ci", 2, 1) / "result.json").unlink()  # or it would be read again from there
    with toy.supervised_here(lambda job: toy.measured(job, speed={"throughput_qps": 9.0})):
        resume_run(project, run.run_id)

    with pytest.raises(Refusal, match=r"^STALE_REPORT"):
        apply(project, run.run_id, plan_id, "full", otherwise="apply")
    report(project, run.run_id)
    with pytest.raises(Refusal, match=r"^STALE_PLAN"):
        apply(project, run.run_id, plan_id, "full", otherwise="apply")
    assert tree(project) == before
    assert apply_plan(project, run.run_id).plan_id != plan_id


@pytest.mark.rule("APL-24")
def test_a_crash_in_the_middle_of_an_apply_is_mended_by_the_next_report(
    project: Project, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_id = planned(project, run)
    before = tree(project)

    class PowerCut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(transaction._Transaction, "swap", cut)
        patch.setattr(transaction._Transaction, "roll_back", cut)
        with pytest.raises(PowerCut):
            apply(project, run.run_id, plan_id, "full", otherwise="apply")

    with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED .*call report"):
        apply_plan(project, run.run_id)
    report(project, run.run_id)
    assert tree(project) == before
    assert apply_plan(project, run.run_id).plan_id == plan_id
    assert len(apply(project, run.run_id, plan_id, "full", otherwise="apply").applied) == 3


@pytest.mark.rule("APL-24", "STR-18")
def test_a_run_that_is_active_gives_no_report(project: Project, run: RunDir) -> None:
    plan_id = planned(project, run)
    with toy.at_work(run):
        assert codes(project, run, plan_id) == ["RUN_ACTIVE"] * 3
