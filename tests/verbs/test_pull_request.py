"""What is ready for a pull request after an apply; tune-mcp never commits, pushes or leaves a patch behind."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest
import toy

from tune_mcp.contract.apply import ApplyReply, Decision
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.verbs import apply_recovery
from tune_mcp.verbs.apply import apply, declined, undo
from tune_mcp.verbs.apply_plan import apply_plan, proposal_for
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

ROOT = Path(__file__).parents[2]
KEEP = Decision(stage_key="toy_speed", metric_key="throughput_qps", choice="keep")


@pytest.fixture
def applied(mixed: tuple[Project, RunDir, str]) -> tuple[Project, RunDir, ApplyReply]:
    project, run, plan_id = mixed
    return project, run, apply(project, run.run_id, plan_id, "smart", [KEEP], "a person, at a terminal")


@pytest.mark.rule("VCS-07")
def test_the_pull_request_text_has_its_six_sections_in_order(applied: tuple[Project, RunDir, ApplyReply]) -> None:
    project, run, reply = applied
    assert reply.pull_request is not None
    text = Path(reply.pull_request).read_text()

    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert heads == [
        "Summary", "Calibration run directory", "Optimised paths (CUDA Graph) evidence", "Worst-of-N highlights",
        "Threshold-apply policy", "Tests and pre-commit",
    ]  # fmt: skip
    assert toy.git(project.repo_root, "rev-parse", "HEAD") in text
    assert "| toy_accuracy | `tests/test_toy_ci.py`: `TOY_ACC_MIN` | 0.5 | 0.625 | tightens (+25.0%) |" in text
    assert f"`.tune-runs/{run.run_id}`" in text and f"docs/calibration/{run.run_id}.md" in text
    assert "Mode smart, decided by a person, at a terminal" in text
    assert "left `_TOY_P95[2]['throughput_qps']` (toy_speed), loosens (-89.6%): a person decided so" in text
    assert "config names no optimisation" in text
    assert reply.pull_request in reply.text()


@pytest.mark.rule("VCS-07", "VCS-03")
def test_it_is_refused_without_a_finished_report(applied: tuple[Project, RunDir, ApplyReply]) -> None:
    project, run, _ = applied
    whole = run.report_md.read_text()
    run.report_md.write_text(whole + "{{CONTEXT: samples}}\n")
    with pytest.raises(Refusal, match=r"^UNRESOLVED_CONTEXT"):
        proposal_for(project, run.run_id)
    run.report_json.unlink()
    with pytest.raises(Refusal, match=r"^NOT_REPORTED"):
        proposal_for(project, run.run_id)


@pytest.mark.rule("VCS-04", "VCS-03")
def test_the_commit_holds_edits_catalogue_and_report_and_nothing_of_the_run_or_of_others(
    applied: tuple[Project, RunDir, ApplyReply],
) -> None:
    project, run, reply = applied
    (project.repo_root / "tests/unrelated.py").write_text("A = 1\n")

    assert reply.commit_files == (
        toy.TEST_FILE, ".tune/models/toy/stages.yaml", f"docs/calibration/{run.run_id}.md",
    )  # fmt: skip
    assert not (project.repo_root / "docs").exists(), "publishing is the person's"


@pytest.mark.rule("VCS-01", "VCS-05", "VCS-06", "VCS-08", "VCS-09")
def test_git_is_where_it_was_after_an_apply_and_an_undo(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    root = project.repo_root

    def state() -> tuple[str, ...]:
        reflog = toy.git(root, "reflog", "--all")
        return (
            reflog,
            toy.git(root, "symbolic-ref", "HEAD"),
            toy.git(root, "diff", "--cached"),
            ((root / ".git/config").read_text()),
        )

    before = state()
    apply(project, run.run_id, plan_id, "full", otherwise="apply")
    assert state() == before
    undo(project, run.run_id, plan_id)
    assert state() == before
    assert toy.git(root, "status", "--porcelain") == ""


@pytest.mark.rule("VCS-01", "VCS-05", "VCS-06", "VCS-08", "VCS-09", "SCP-07")
def test_no_line_of_ours_can_write_to_git_or_call_a_slack_function() -> None:
    writing = {
        "commit", "push", "checkout", "switch", "reset", "add", "stash", "merge", "rebase", "apply", "am", "restore",
        "--no-verify", "core.hooksPath",
    }  # fmt: skip
    found: list[str] = []
    calls = 0
    for path in sorted((ROOT / "tune_mcp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            words = {
                part.value
                for argument in node.args
                for part in ast.walk(argument)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
            runs_git = called in ("_git", "git", "read_git") or "git" in words
            calls += runs_git
            if "slack" in called.lower() and called.startswith("apply"):
                found.append(f"{path.name}:{node.lineno}: {called}")
            if runs_git and words & writing and "demo" not in path.name:
                found.append(f"{path.name}:{node.lineno}: {sorted(words & writing)}")
    assert found == []
    assert calls >= 5, "the calls of git were seen"


@pytest.mark.rule("SCP-07", "SCP-08", "APL-25")
def test_only_the_worst_values_are_written_and_no_patch_is_left(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    before = (project.repo_root / toy.TEST_FILE).read_text()

    apply(project, run.run_id, plan_id, "full", otherwise="apply")

    assert (project.repo_root / toy.TEST_FILE).read_text() == before.replace(
        "TOY_ACC_MIN = 0.5 ", f"TOY_ACC_MIN = {toy.WORST['accuracy']} "
    ).replace(
        toy.TIGHT, f'"throughput_qps": {toy.WORST["throughput_qps"]}, "latency_mean_s": {toy.WORST["latency_mean_s"]}'
    )
    assert [path for path in project.repo_root.rglob("*") if path.suffix in (".patch", ".diff", ".rej", ".orig")] == []


@pytest.mark.rule("APL-07")
@pytest.mark.parametrize("tail", ["", "# é, no line end", "\x0c\n", "# \u2028 \x85 \x1c\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_diff_of_the_plan_is_exactly_what_apply_writes_and_nothing_is_written_for_it(
    tmp_path: Path, tail: str, newline: str
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    path = project.repo_root / toy.TEST_FILE
    # The last threshold on the last line, so that a missing line end is part of the diff.
    body = path.read_text().replace("TOY_ACC_MIN = 0.5  # a bare threshold\n", "") + f"TOY_ACC_MIN = 0.5  {tail}"
    path.write_bytes(body.replace("\n", newline).encode())
    discover(project, toy.MODEL)
    toy.commit(project)
    run = toy.finished_run(project)
    report(project, run.run_id)
    files = sorted(run.path.rglob("*"))
    plan = apply_plan(project, run.run_id)
    assert sorted(run.path.rglob("*")) == files
    assert set(plan.model_dump()["rows"][0]) == {
        "stage_key", "metric_key", "stage_group", "calibration_preset", "variant", "file", "source", "source_kind",
        "symbol", "subkey", "concurrency", "worst_op", "per_run_raw", "worst_raw", "worst_rounded", "write_value",
        "current_raw", "direction", "decision", "reason",
    }  # fmt: skip

    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "tests").mkdir()
    (copy / toy.TEST_FILE).write_bytes(path.read_bytes())
    subprocess.run(
        ["git", "apply", "--unidiff-zero", "--whitespace=nowarn", "-"],
        cwd=copy, input=plan.diff.encode(), check=True, timeout=30,
    )  # fmt: skip
    apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    assert (copy / toy.TEST_FILE).read_bytes() == path.read_bytes()


@pytest.mark.rule("APL-03", "APL-02")
def test_a_plan_is_answered_once_and_a_run_that_is_not_strict_not_at_all(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    apply(project, run.run_id, plan_id, "full", otherwise="apply")
    with pytest.raises(Refusal, match=r"^STALE_PLAN"):
        proposal_for(project, run.run_id, plan_id)
    again = apply_plan(project, run.run_id).plan_id
    toy.rewrite_observation(run, "toy_speed", 1, lambda content: content["metrics"].update(throughput_qps=None))
    for mode in ("report", "smart", "full"):
        with pytest.raises(Refusal, match=r"^NOT_STRICT"):
            apply(project, run.run_id, again, mode)


def test_what_was_kept_and_why_is_on_record_also_when_nothing_was_written(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    keep = [
        Decision(stage_key=stage, metric_key=metric, choice="keep")
        for stage, metric in (("toy_accuracy", "accuracy"), ("toy_speed", "latency_mean_s"))
    ]
    apply(project, run.run_id, plan_id, "full", [KEEP, *keep], "a person, at a terminal")

    record = json.loads((run.apply_folder(plan_id) / "decision.json").read_text())
    assert record["decided_by"] == "a person, at a terminal" and record["applied"] == []
    assert {one["metric_key"]: one["why"] for one in record["kept"]} == dict.fromkeys(
        ("accuracy", "throughput_qps", "latency_mean_s"), "a person decided so"
    )
    declined(run, plan_id, "no")
    assert [event.facts["plan_id"] for event in events.read(run.events) if event.kind == "declined"] == [plan_id]


@pytest.mark.rule("APL-18", "RPT-04")
def test_a_lost_report_gets_its_applied_changes_back_from_the_journals(
    applied: tuple[Project, RunDir, ApplyReply],
) -> None:
    project, run, _ = applied
    section = run.report_md.read_text().partition("## Applied changes")[2].partition("## Provenance")[0]
    for path in (run.report_md, run.report_html, run.report_json):
        path.unlink()

    reply = report(project, run.run_id)

    assert run.report_md.read_text().partition("## Applied changes")[2].partition("## Provenance")[0] == section
    assert "2 of these values are written already: see Applied changes" in reply.notes


@pytest.mark.rule("APL-24")
def test_a_test_file_that_is_a_link_is_written_through_and_known_as_ours_afterwards(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    link = project.repo_root / toy.TEST_FILE
    (project.repo_root / "real").mkdir()
    link.rename(project.repo_root / "real/limits.py")
    link.symlink_to("../real/limits.py")
    toy.commit(project)
    run = toy.finished_run(project)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    assert link.is_symlink()
    assert {row.direction for row in apply_plan(project, run.run_id).rows} == {"equal"}
    undo(project, run.run_id, plan.plan_id)
    assert toy.git(project.repo_root, "status", "--porcelain") == ""
    assert apply_recovery.settle(project) == []
