"""From discover over a finished run to the report: limits are what the tests compare with, or said to be unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.report import report

PLAIN = 'assert results["summary"]["accuracy"] >= TOY_ACC_MIN'
ACCURACY = 'results["summary"]["accuracy"]'


def accuracy_facts(folder: Path, assertion: str, config: dict[str, Any] | None = None) -> tuple[dict[str, Any], str]:
    """The accuracy's facts in report.json, and report.md, after three repeats of 0.75, 0.625 and 0.875."""
    source = toy.toy_source()
    assert PLAIN in source
    files = {"tests/test_toy_ci.py": source.replace(PLAIN, assertion)}
    project = toy.make_toy(folder / "repo", files=files, config=config)
    run = toy.finished_run(project, 3, toy.measured)
    report(project, run.run_id)
    apply_plan(project, run.run_id)
    found = json.loads(RunDir(run.path).report_json.read_text())
    metrics = {metric["key"]: metric for stage in found["stages"] for metric in stage["metrics"]}
    return metrics["accuracy"], RunDir(run.path).report_md.read_text()


@pytest.mark.parametrize(
    "assertion",
    [
        f"assert {ACCURACY} > TOY_ACC_MIN",
        f"assert not {ACCURACY} <= TOY_ACC_MIN",
        f"if {ACCURACY} <= TOY_ACC_MIN:\n        pytest.fail('low')",
    ],
)
def test_a_strict_comparison_fails_the_worst_repeat_of_its_own_proposal(tmp_path: Path, assertion: str) -> None:
    facts, _ = accuracy_facts(tmp_path, assertion)
    assert (facts["asserted"]["strict"], facts["limit_proposed"], facts["write_value"]) == (True, 0.625, 0.625)
    assert facts["asserted"]["tests"] == ["test_accuracy"]
    assert facts["present_misses"] == 0


@pytest.mark.parametrize(
    "assertion",
    [
        f"assert abs({ACCURACY} - TOY_ACC_MIN) <= 0.4",
        f"assert {ACCURACY} == pytest.approx(TOY_ACC_MIN, abs=0.4)",
        f"assert TOY_ACC_MIN - 0.4 <= {ACCURACY} <= TOY_ACC_MIN + 0.4",
    ],
)
def test_a_reference_that_is_compared_from_both_sides_has_no_limit(tmp_path: Path, assertion: str) -> None:
    facts, text = accuracy_facts(tmp_path, assertion)
    assert (facts["asserted"], facts["limit_proposed"], facts["present_misses"]) == (None, None, None)
    assert facts["unread"].startswith("TOY_ACC_MIN is no bound: compared from both sides")
    assert "limit unknown: TOY_ACC_MIN is no bound: compared from both sides" in text


@pytest.mark.parametrize(
    ("assertion", "present", "proposed"),
    [
        (f"assert {ACCURACY} * 2 >= TOY_ACC_MIN", 0.25, 0.3125),
        (f"assert {ACCURACY} / TOY_ACC_MIN >= 0.5", 0.25, 0.3125),
        (f"assert TOY_ACC_MIN - {ACCURACY} <= 0.125", 0.375, 0.5),
    ],
)
def test_slack_on_the_measured_side_is_solved_for_the_measured_value(
    tmp_path: Path, assertion: str, present: float, proposed: float
) -> None:
    facts, _ = accuracy_facts(tmp_path, assertion)
    assert (facts["limit_present"], facts["limit_proposed"], facts["present_misses"]) == (present, proposed, 0)


def test_a_limit_that_every_value_passes_is_told_with_the_reason(tmp_path: Path) -> None:
    facts, text = accuracy_facts(tmp_path, f"assert {ACCURACY} >= TOY_ACC_MIN if TOY_ACC_MIN > 5 else True")
    assert (facts["limit_proposed"], facts["present_misses"]) == (None, 0)
    assert facts["unread"].startswith("with 0.625 every value passes (tests/test_toy_ci.py:")
    assert "limit unknown: with 0.625 every value passes" in text


def test_slack_from_the_environment_of_every_launch_is_read(tmp_path: Path) -> None:
    config = {**toy.CONFIG, "auto_env": {**toy.CONFIG.get("auto_env", {}), "TOY_SLACK": "0.5"}}
    assertion = f"import os\n    assert {ACCURACY} >= TOY_ACC_MIN * float(os.environ['TOY_SLACK'])"
    facts, _ = accuracy_facts(tmp_path, assertion, config)
    assert (facts["limit_proposed"], facts["present_misses"]) == (0.3125, 0)
