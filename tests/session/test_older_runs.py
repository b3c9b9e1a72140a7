"""Run directories of the script that tune-mcp replaces (tune.py 0.6.0) are read, never continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan, askable
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.strict_audit import strict_audit

RUN_ID = "20250601T080000Z_toy_r2"


def older_run(project: Project, change: Callable[[dict[str, Any]], object] = lambda _: None) -> RunDir:
    """plan.json and run{k}.json exactly as tune.py 0.6.0 wrote them."""
    sha = toy.git(project.repo_root, "rev-parse", "HEAD")
    run = RunDir(project.repo_root / ".tune-runs" / RUN_ID)
    plan: dict[str, Any] = {
        "model": "toy",
        "stages": list(toy.STAGES),
        "repeats": 2,
        "timestamp": "20250601T080000Z",
        "calibration_started_at": "2025-06-01T08:00:00Z",
        "calibration_git_sha": sha,
        "git_sha": sha,
        "git_branch": "main",
        "dirty": False,
        "venv_python": "/opt/venv/bin/python",
        "tune_version": "0.6.0",
    }
    change(plan)
    run.path.mkdir(parents=True)
    run.plan.write_text(json.dumps(plan, indent=2))
    for k in (1, 2):
        accuracy, throughput, latency = toy.VALUES[k - 1]
        for stage, metrics in (
            ("toy_accuracy", {"accuracy": accuracy}),
            ("toy_speed", {"throughput_qps": throughput, "latency_mean_s": latency}),
        ):
            path = run.observation(stage, k)
            path.parent.mkdir(exist_ok=True)
            observation = {
                "status": "ok",
                "reason": None if k == 1 else "threshold_assertion",
                "metrics": metrics,
                "sample_counts": {"total": 4.0, "ok": 4},
                "duration_s": 1.5,
                "attempts": 1,
                "git_sha": sha,
                "recorded_at": "2025-06-01T08:01:00Z",
                "pytest_rc": 0,
                "pytest_log": "_pytest/test_toy_ci/run1.log",
                "basetemp": "_pytest/test_toy_ci/basetemp_run1",
            }
            path.write_text(json.dumps({key: value for key, value in observation.items() if value is not None}))
    return run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


def test_an_older_run_is_audited_with_the_present_catalogue(project: Project) -> None:
    older_run(project)

    audited = strict_audit(project, RUN_ID)

    assert audited.ready
    assert audited.text().splitlines()[1:] == [
        "GIT PROVENANCE: ok",
        "toy_accuracy: ✓✓ (2/2 strict, expected=4)",
        "toy_speed: ✓✓ (2/2 strict, expected=4)",
        "STRICT READY: 2/2 stages (2 repeats each)",
        "STRICT + GIT: READY",
    ]


def test_an_older_run_is_over_for_every_reader(project: Project) -> None:
    older_run(project)

    now = status(project, RUN_ID)

    assert (now.state, now.terminal, now.strict_ready) == ("finished", True, "2/2")
    assert [(run.run_id, run.state) for run in list_runs(project).runs] == [(RUN_ID, "finished")]


def test_an_older_run_can_be_reported_planned_and_read_again(project: Project) -> None:
    older_run(project)

    reported = report(project, RUN_ID)
    plan = apply_plan(project, RUN_ID)

    assert reported.metrics == 3
    assert {entry.metric_key: entry.write_value for entry in plan.rows} == toy.WORST
    assert strict_audit(project, RUN_ID).ready


@pytest.mark.rule("MET-06", "MET-08", "RPT-04")
def test_the_report_of_an_older_run_has_the_worst_of_n_rows_that_a_hand_computes(project: Project) -> None:
    run = older_run(project)
    for repeat, accuracy, throughput, latency in ((1, 0.7, 11.6, 1.2346), (2, 0.696549, 11.5588, 0.5)):
        toy.rewrite_observation(run, "toy_accuracy", repeat, lambda o, v=accuracy: o["metrics"].update(accuracy=v))
        speed = {"throughput_qps": throughput, "latency_mean_s": latency}
        toy.rewrite_observation(run, "toy_speed", repeat, lambda o, v=speed: o["metrics"].update(v))

    report(project, RUN_ID)

    rows = [line for line in run.report_md.read_text().splitlines() if f"| `{toy.TEST_FILE}`: `" in line]
    place = f"`{toy.TEST_FILE}`: `"
    assert rows == [
        f"| accuracy | {place}TOY_ACC_MIN` | min | 0.696549 | 0.696549 | 0.5 | tightens (+39.3%) "
        "| auto: accuracy follows the worst of N |",
        f"| throughput_qps | {place}_TOY_P95[2]['throughput_qps']` | min | 11.5588 | 11.5588 | 1 | tightens (+1055.9%) "
        "| auto: speed tightens |",
        f"| latency_mean_s | {place}_TOY_P95[2]['latency_mean_s']` | max | 1.2346 | 1.235 | 9 | tightens (-86.3%) "
        "| auto: speed tightens |",
    ]


@pytest.mark.rule("STR-24", "STR-02")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda o: o["metrics"].update(latency_mean_s=None), "toy_speed: ✓✗ (1/2 strict, expected=4)"),
        (lambda o: o["metrics"].pop("latency_mean_s"), "toy_speed: ✓✗ (1/2 strict, expected=4)"),
        (lambda o: o["metrics"].update(latency_mean_s=float("nan")), "toy_speed: ✓✗ (1/2 strict, expected=4)"),
        (lambda o: o["sample_counts"].update(ok=3), "toy_speed: ✓△ (1/2 strict, expected=4)"),
        (lambda o: o.update(status="failed"), "toy_speed: ✓✗ (1/2 strict, expected=4)"),
        (lambda o: o.update(git_sha="1" * 40), "GIT PROVENANCE: FAIL"),
        (lambda o: o.pop("git_sha"), "GIT PROVENANCE: FAIL"),
    ],
)
def test_an_older_run_is_audited_as_strictly_as_a_new_one(
    project: Project, change: Callable[[dict[str, Any]], object], line: str
) -> None:
    run = older_run(project)
    toy.rewrite_observation(run, "toy_speed", 2, change)

    audited = strict_audit(project, RUN_ID)

    assert not audited.ready
    assert line in audited.text()


@pytest.mark.rule("RES-01", "SES-06")
def test_an_older_run_is_never_continued_and_nothing_is_written(project: Project) -> None:
    run = older_run(project)
    before = sorted(path.name for path in run.path.rglob("*"))

    with pytest.raises(Refusal, match=r"FOREIGN_ARTIFACT \[SES-06\].*0\.6\.0"):
        resume_run(project, RUN_ID)

    assert sorted(path.name for path in run.path.rglob("*")) == before


@pytest.mark.rule("SES-06", "STR-24", "STR-14")
@pytest.mark.parametrize("mode", ["report", "smart", "full"])
def test_numbers_that_no_supervisor_recorded_are_never_written_however_strict_they_look(
    project: Project, mode: str
) -> None:
    older_run(project)
    before = (project.repo_root / toy.TEST_FILE).read_bytes()
    report(project, RUN_ID)
    plan = apply_plan(project, RUN_ID)
    assert "never applied" in plan.next

    for call in (
        lambda: apply(project, RUN_ID, plan.plan_id, mode),
        lambda: askable(project, RUN_ID, plan.plan_id),
    ):
        with pytest.raises(Refusal, match=r"^FOREIGN_ARTIFACT \[SES-06\].*not continued or applied"):
            call()

    assert (project.repo_root / toy.TEST_FILE).read_bytes() == before


def test_an_older_run_of_unknown_stages_says_so(project: Project) -> None:
    older_run(project, lambda plan: plan.update(stages=["toy_speed", "gone_speed"]))

    with pytest.raises(Refusal, match=r"STAGES_CHANGED.*gone_speed"):
        strict_audit(project, RUN_ID)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(repeats=0),
        lambda plan: plan.update(repeats=True),
        lambda plan: plan.update(stages=[]),
        lambda plan: plan.update(stages="toy_speed"),
        lambda plan: plan.pop("stages"),
        lambda plan: (plan.pop("calibration_git_sha"), plan.pop("git_sha")),
    ],
)
def test_an_older_plan_that_names_no_matrix_or_commit_is_never_ready(
    project: Project, change: Callable[[dict[str, Any]], object]
) -> None:
    older_run(project, change)

    with pytest.raises(Refusal, match="PLAN_TAMPERED"):
        strict_audit(project, RUN_ID)


def test_a_fresh_run_starts_beside_an_older_one(project: Project) -> None:
    older_run(project)

    run = toy.finished_run(project)

    assert strict_audit(project, run.run_id).ready
    assert [entry.run_id for entry in list_runs(project).runs] == [run.run_id, RUN_ID]
