"""What is not strict, not of one commit, or not ours never becomes a report or a threshold."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sample_project as toy

from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs import answers
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.verbs.undo import undo

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> toy.Calibrated:
    return toy.Calibrated.once(tmp_path_factory)


@pytest.fixture
def calibrated(measured: toy.Calibrated, tmp_path: Path) -> tuple[Project, RunDir]:
    return measured.copy(tmp_path / "repo")


def bytes_of(project: Project) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted((project.repo_root / "tests").rglob("*.py"))}


def refused_everywhere(project: Project, run: RunDir) -> set[str]:
    """The codes of report, apply_plan and apply; no test file may change."""
    before = bytes_of(project)
    codes: set[str] = set()
    for verb in (
        lambda: report(project, run.run_id),
        lambda: apply_plan(project, run.run_id),
        lambda: apply(project, run.run_id, "0" * 16, "full", otherwise="apply"),
    ):
        with pytest.raises(Refusal) as caught:
            verb()
        codes.add(str(caught.value.code))
    assert bytes_of(project) == before
    return codes


@pytest.mark.rule("STR-01", "STR-04", "STR-05", "STR-11", "RPT-10", "GAP-09", "SMP-01")
@pytest.mark.parametrize(
    ("change", "glyph"),
    [
        (lambda o: o["metrics"].update(throughput_qps=None), "✗"),
        (lambda o: o["metrics"].pop("throughput_qps"), "✗"),
        (lambda o: o["metrics"].update(throughput_qps=float("nan")), "✗"),
        (lambda o: o["metrics"].update(throughput_qps=float("inf")), "✗"),
        (lambda o: o["metrics"].update(throughput_qps=True), "✗"),
        (lambda o: o["metrics"].update(throughput_qps="12.5"), "✗"),
        (lambda o: o["sample_counts"].update(ok=3), "△"),
        (lambda o: o["sample_counts"].update(ok=0, total=0), "✗"),
        (lambda o: o["sample_counts"].update(ok=5, total=5), "✗"),
        (lambda o: o["sample_counts"].update(total=None), "✗"),
        (lambda o: o.update(status="failed"), "✗"),
    ],
)
def test_a_repeat_that_is_not_whole_refuses_report_plan_and_apply(
    calibrated: tuple[Project, RunDir], change: Change, glyph: str
) -> None:
    project, run = calibrated
    toy.rewrite(run, "toy_speed", 2, change)

    audited = strict_audit(project, run.run_id)

    assert f"toy_speed: ✓{glyph} (1/2 strict, expected=4)" in audited.text()
    assert "STRICT + GIT: READY" not in audited.text()
    assert refused_everywhere(project, run) == {"NOT_STRICT"}


@pytest.mark.rule("SES-09", "SES-11", "SES-12", "SES-10")
@pytest.mark.parametrize("change", [lambda o: o.update(git_sha="0" * 40), lambda o: o.pop("git_sha")])
def test_an_artifact_of_another_commit_fails_the_git_gate(calibrated: tuple[Project, RunDir], change: Change) -> None:
    project, run = calibrated
    toy.rewrite(run, "toy_accuracy", 1, change)

    assert "GIT PROVENANCE: FAIL — " in strict_audit(project, run.run_id).text()
    assert refused_everywhere(project, run) == {"GIT_PROVENANCE"}


@pytest.mark.rule("STR-14", "STR-24")
def test_an_edited_value_is_a_failed_cell_however_plausible(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    toy.rewrite(run, "toy_speed", 1, lambda o: o["metrics"].update(throughput_qps=11.5))

    assert "toy_speed: ✗✓" in strict_audit(project, run.run_id).text()
    assert refused_everywhere(project, run) == {"FOREIGN_ARTIFACT"}


@pytest.mark.rule("SES-10", "SES-16")
def test_an_artifact_of_another_run_does_not_count(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    other = toy.finished(project)
    shutil.copy(other.observation("toy_speed", 1), run.observation("toy_speed", 1))

    assert "toy_speed: ✗✓" in strict_audit(project, run.run_id).text()
    assert refused_everywhere(project, run) == {"FOREIGN_ARTIFACT"}


@pytest.mark.rule("SES-13", "STR-20")
def test_an_edited_plan_is_refused_by_every_reader(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    plan = json.loads(run.plan.read_text())
    plan["repeats"] = 1
    run.plan.write_text(json.dumps(plan))

    assert refused_everywhere(project, run) == {"PLAN_TAMPERED"}
    with pytest.raises(Refusal, match="PLAN_TAMPERED"):
        strict_audit(project, run.run_id)


@pytest.mark.rule("SES-08", "SES-06", "RES-02")
def test_a_moved_head_refuses_the_report(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    toy.git(project.repo_root, "commit", "-q", "--allow-empty", "-m", "moved")

    assert refused_everywhere(project, run) == {"COMMIT_MOVED"}


@pytest.mark.rule("APL-24", "DSC-02")
def test_a_test_file_that_changed_since_the_run_refuses_the_plan(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    report(project, run.run_id)
    path = project.repo_root / "tests/test_toy_ci.py"
    path.write_text(path.read_text().replace("TOY_ACC_MIN = 0.5", "TOY_ACC_MIN = 0.6"))

    with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED \[APL-24\]"):
        apply_plan(project, run.run_id)


@pytest.mark.rule("APL-01", "RPT-05", "POL-09")
def test_apply_needs_a_report_that_is_as_new_as_the_artifacts(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    plan = apply_plan(project, run.run_id)
    with pytest.raises(Refusal, match=r"^NOT_REPORTED"):
        apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")
    report(project, run.run_id)
    facts = json.loads(run.report_json.read_text())
    facts["artifacts_digest"] = "0" * 64
    run.report_json.write_text(json.dumps(facts))

    with pytest.raises(Refusal, match=r"^STALE_REPORT"):
        apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")
    report(project, run.run_id)
    with pytest.raises(Refusal, match=r"^STALE_PLAN"):
        apply(project, run.run_id, "0" * 16, "full", otherwise="apply")


class Blank(ast.NodeTransformer):
    """Every number becomes 0, so that two trees can be compared but for their numbers."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        is_number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return ast.copy_location(ast.Constant(0), node) if is_number else node


@pytest.mark.rule("APL-06", "APL-08", "APL-09", "APL-11", "APL-15", "APL-16", "APL-18", "APL-20", "APL-21", "APL-23")
def test_after_apply_only_the_planned_literals_changed_and_a_new_plan_says_equal(
    calibrated: tuple[Project, RunDir],
) -> None:
    project, run = calibrated
    path = project.repo_root / "tests/test_toy_ci.py"
    before = path.read_text()
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    reply = apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    after = path.read_text()
    expected = (
        before.replace("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = 0.76 ")
        .replace("TOY_WER_MAX_CORPUS = 0.0100", "TOY_WER_MAX_CORPUS = 0.0124")
        .replace('"throughput_qps": 1.0', '"throughput_qps": 11.0')
        .replace('"latency_mean_s": 0.001', '"latency_mean_s": 0.252')
    )
    assert after == expected
    assert ast.dump(Blank().visit(ast.parse(after))) == ast.dump(Blank().visit(ast.parse(before)))
    assert len(reply.applied) == 4
    assert "tests/test_toy_ci.py:_TOY_P95[2]['latency_mean_s'] = 0.252 (was 0.001, loosens (+25100.0%))" in reply.text()
    text = run.report_md.read_text()
    assert text.index("## Applied changes") < text.index("## Provenance")
    assert text.count("\n## ", text.index("## Applied changes")) == 1
    assert "| toy_accuracy | TOY_ACC_MIN | 0.5 | 0.76 | tightens (+52.0%) |" in text
    again = apply_plan(project, run.run_id)
    assert {row.direction for row in again.rows} == {"equal"}
    assert again.diff == ""


@pytest.mark.rule("APL-05", "APL-10", "APL-12", "APL-13", "APL-19")
def test_smart_writes_nothing_until_every_loosening_speed_metric_is_decided(
    calibrated: tuple[Project, RunDir],
) -> None:
    project, run = calibrated
    path = project.repo_root / "tests/test_toy_ci.py"
    before = path.read_bytes()
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    def decide(choice: str, value: str | float | None = None) -> apply.ApplyReply:
        decision = {"stage_key": "toy_speed", "metric_key": "latency_mean_s", "choice": choice, "value": value}
        decided = answers.Decision.model_validate(decision)
        return apply(project, run.run_id, plan.plan_id, "smart", [decided])

    with pytest.raises(Refusal, match=r"^DECISION_MISSING .*toy_speed/latency_mean_s"):
        apply(project, run.run_id, plan.plan_id, "smart")
    for value in ("fast", "nan", "inf", "0.2", "", None):
        with pytest.raises(Refusal, match=r"^DECISION_INVALID"):
            decide("custom", value)
    assert path.read_bytes() == before

    reply = decide("custom", "3e-1")

    assert '"latency_mean_s": 3e-1,' in path.read_text()
    assert len(reply.applied) == 4


@pytest.mark.rule("APL-04", "SCP-06")
def test_mode_report_touches_nothing(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    before = bytes_of(project)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    reply = apply(project, run.run_id, plan.plan_id, "report")

    assert reply.applied == ()
    assert bytes_of(project) == before


@pytest.mark.rule("APL-22", "SCP-06")
def test_undo_puts_every_byte_back(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    before = bytes_of(project)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)
    apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    undo(project, run.run_id, plan.plan_id)

    assert bytes_of(project) == before
    assert "## Applied changes" not in run.report_md.read_text()
    assert {row.direction for row in apply_plan(project, run.run_id).rows} == {"loosens", "tightens"}
