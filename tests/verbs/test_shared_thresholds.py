"""A literal that more than one test reads: never written for one of them behind the other's back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.contract.apply import Decision
from tune_mcp.contract.apply_plan import ApplyPlanReply
from tune_mcp.errors import Refusal
from tune_mcp.verbs import gates
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

pytestmark = pytest.mark.usefixtures("warm")

LIMITS = "tests/limits.py"
TEXT = 'CONCURRENCY = 2\nTOY_ACC_MIN = 0.5\n_TOY_P95 = {2: {"throughput_qps": 99.0, "latency_mean_s": 9.0}}\n'
SOURCE = "from tests.limits import CONCURRENCY, TOY_ACC_MIN, _TOY_P95\n"
NAMES = ("test_a_ci.py", "test_b_ci.py")


@pytest.fixture
def shared(tmp_path: Path) -> Project:
    """Two tests of one threshold file."""
    source = {**toy.CONFIG["metric_sources"]["test_toy_ci.py"], "threshold_file": LIMITS, "expected_samples": 4}
    config = {
        **toy.CONFIG,
        "test_globs": ["tests/test_?_ci.py"],
        "gpus_per_test": dict.fromkeys(NAMES, 0),
        "metric_sources": dict.fromkeys(NAMES, source),
    }
    files = {LIMITS: TEXT, **{f"tests/{name}": SOURCE for name in NAMES}}
    return toy.make_toy(tmp_path / "repo", config=config, files=files)


def planned(project: Project, *stages: str) -> tuple[str, ApplyPlanReply]:
    with toy.supervised_here():
        run_id = toy.start(project, 2, stages or ("ALL",)).run_id
    report(project, run_id)
    return run_id, apply_plan(project, run_id)


def limits(project: Project) -> str:
    return (project.repo_root / LIMITS).read_text()


def decide(choice: str, stage: str, metric: str, value: Any = None) -> Decision:
    return Decision.model_validate({"stage_key": stage, "metric_key": metric, "choice": choice, "value": value})


@pytest.mark.rule("APL-11", "APL-17")
def test_two_metrics_of_one_literal_are_a_conflict_and_neither_is_written(shared: Project) -> None:
    run_id, plan = planned(shared)
    assert {(row.direction, row.decision) for row in plan.rows} == {("unknown", "skip")}
    assert "a_accuracy/accuracy too" in next(row.reason for row in plan.rows if row.stage_key == "b_accuracy")
    assert plan.diff == ""

    reply = apply(shared, run_id, plan.plan_id, "full", otherwise="apply")

    assert reply.applied == () and len(reply.warnings) == len(plan.rows) == 6
    for choice, value in (("apply", None), ("custom", "0.1")):
        with pytest.raises(Refusal, match=r"^THRESHOLD_UNKNOWN"):
            wanted = [decide(choice, "a_accuracy", "accuracy", value)]
            apply(shared, run_id, plan.plan_id, "full", wanted, otherwise="apply")
    assert limits(shared) == TEXT


@pytest.mark.rule("APL-11")
@pytest.mark.parametrize("mode", ["smart", "full"])
def test_a_limit_that_a_stage_outside_the_run_reads_too_is_not_tightened_but_loosened(
    shared: Project, mode: str
) -> None:
    run_id, plan = planned(shared, "a_accuracy", "a_speed")
    rows = {row.metric_key: row for row in plan.rows}
    assert (rows["accuracy"].direction, rows["accuracy"].decision) == ("tightens", "skip")
    assert "stage b_accuracy reads it too" in rows["accuracy"].reason
    assert (rows["throughput_qps"].direction, rows["throughput_qps"].decision) == ("loosens", "ask")

    reply = apply(shared, run_id, plan.plan_id, mode, [decide("apply", "a_speed", "throughput_qps")])

    assert [one.metric_key for one in reply.applied] == ["throughput_qps"]
    assert [warning.split(" ")[0] for warning in reply.warnings] == ["a_accuracy/accuracy", "a_speed/latency_mean_s"]
    assert limits(shared) == TEXT.replace("99.0", "10.25")


@pytest.mark.rule("APL-11")
def test_a_person_may_tighten_it_all_the_same(shared: Project) -> None:
    run_id, plan = planned(shared, "a_accuracy")

    reply = apply(shared, run_id, plan.plan_id, "smart", [decide("apply", "a_accuracy", "accuracy")])

    assert limits(shared) == TEXT.replace("= 0.5", "= 0.625")
    assert reply.warnings == ()


ASSERTS = "\n\ndef test_accuracy(results):\n    assert results['summary']['accuracy'] >= TOY_ACC_MIN\n"


@pytest.mark.rule("APL-11")
@pytest.mark.parametrize(("reads", "decision"), [(ASSERTS, "skip"), ("", "auto")])
def test_so_is_one_that_another_test_of_the_run_reads_without_a_metric_of_it(
    tmp_path: Path, reads: str, decision: str
) -> None:
    source = {**toy.CONFIG["metric_sources"]["test_toy_ci.py"], "threshold_file": LIMITS, "expected_samples": 4}
    config = {
        **toy.CONFIG,
        "test_globs": ["tests/test_?_ci.py"],
        "gpus_per_test": dict.fromkeys(NAMES, 0),
        "metric_sources": {NAMES[0]: source, NAMES[1]: {**source, "ignored_constants": ["TOY_ACC_MIN"]}},
    }
    files = {LIMITS: TEXT, f"tests/{NAMES[0]}": SOURCE + ASSERTS, f"tests/{NAMES[1]}": SOURCE + reads}
    project = toy.make_toy(tmp_path / "repo", config=config, files=files)

    _, plan = planned(project)

    (row,) = [row for row in plan.rows if row.metric_key == "accuracy"]
    assert (row.direction, row.decision) == ("tightens", decision)
    assert ("tests/test_b_ci.py reads it too and was not measured" in row.reason) == (decision == "skip")


@pytest.mark.rule("APL-11")
@pytest.mark.parametrize(
    ("text", "barred"),
    [
        ("from tests.test_toy_ci import TOY_ACC_MIN\n", {"accuracy"}),
        ("from .test_toy_ci import TOY_ACC_MIN as LIMIT\n", {"accuracy"}),
        ("from tests import test_toy_ci\nprint(test_toy_ci.TOY_ACC_MIN)\n", {"accuracy"}),
        ("import tests.test_toy_ci as t\nprint(t._TOY_P95)\n", {"throughput_qps", "latency_mean_s"}),
        ("import tests.test_toy_ci\nprint(tests.test_toy_ci._TOY_P95)\n", {"throughput_qps", "latency_mean_s"}),
        ("from tests.test_toy_ci import *\n", {"accuracy", "throughput_qps", "latency_mean_s"}),
        ("from tests.test_toy_ci import repeat\n# TOY_ACC_MIN\n", set[str]()),
        ("TOY_ACC_MIN = 0.5\nprint('test_toy_ci')\n", set[str]()),
        ("from tests.test_toy_ci import TOY_ACC_MIN =\n", set[str]()),
    ],
)
def test_so_is_one_that_another_test_file_imports(tmp_path: Path, text: str, barred: set[str]) -> None:
    project = toy.make_toy(tmp_path / "repo", files={"tests/unit/test_other.py": text})
    _, plan = planned(project)

    assert {row.metric_key for row in plan.rows if row.decision == "skip"} == barred
    assert all("tests/unit/test_other.py reads it too" in row.reason for row in plan.rows if row.decision == "skip")


@pytest.mark.rule("APL-14", "APL-26")
def test_a_reader_that_appears_after_the_plan_makes_the_plan_stale(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run_id, plan = planned(project)
    (project.repo_root / "tests/test_other.py").write_text("from tests.test_toy_ci import TOY_ACC_MIN\n")

    with pytest.raises(Refusal, match=r"^STALE_PLAN"):
        apply(project, run_id, plan.plan_id, "full", otherwise="apply")


def changed(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    ("change", "unknown"),
    [
        (changed("_TOY_P95[CONCURRENCY]", "_TOY_P95[STREAM]"), True),
        (changed("_TOY_P95[CONCURRENCY]", "_TOY_P95[4]"), True),
        (changed("_TOY_P95[CONCURRENCY]", "_TOY_P95[2]"), False),
        (changed("_TOY_P95[CONCURRENCY]", "_TOY_P95[max(CONCURRENCY, 4)]"), False),
        (changed("_TOY_P95[CONCURRENCY]", "chosen(_TOY_P95)"), False),
        (lambda text: text + "\n\ndef test_more():\n    assert _TOY_P95[4]\n", False),
    ],
)
def test_a_nested_threshold_is_never_written_at_a_concurrency_that_the_code_does_not_read(
    tmp_path: Path, change: Callable[[str], str], unknown: bool
) -> None:
    """CONCURRENCY is 2, but a test that reads another entry is held to that one."""
    text = toy.toy_source().replace("CONCURRENCY = 2", "CONCURRENCY = 2\nSTREAM = 4")
    entry = '"throughput_qps": 1.0, "latency_mean_s": 9.0},'
    text = change(text.replace(f"2: {{{entry}", f"2: {{{entry}\n    4: {{{entry}"))
    project = toy.make_toy(tmp_path / "repo", test_source=text)
    run_id, plan = planned(project)
    speed = [row for row in plan.rows if row.stage_key == "toy_speed"]

    assert {row.direction == "unknown" for row in speed} == {unknown}
    apply(project, run_id, plan.plan_id, "full", otherwise="apply", failures_agreed=True)
    after = (project.repo_root / toy.TEST_FILE).read_text()
    assert f"4: {{{entry}" in after
    assert (f"2: {{{entry}" in after) is unknown


@pytest.mark.rule("SMP-09", "TTS-07", "APL-26")
@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({"protected": ("TOY_ACC_.*",)}, "PROTECTED_CONSTANT"),
        ({"preset_filters": {toy.TEST_KEY: "^OTHER_"}}, "PRESET_MISMATCH"),
    ],
)
def test_a_forbidden_symbol_is_refused_by_the_name_of_its_rule(
    tmp_path: Path, update: dict[str, Any], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    gated = gates.gated

    def forbidding(*words: Any) -> Any:
        found = gated(*words)
        return replace(found, audit=replace(found.audit, plan=found.plan.model_copy(update=update)))

    monkeypatch.setattr(gates, "gated", forbidding)
    run_id, plan = planned(project)
    row = next(row for row in plan.rows if row.metric_key == "accuracy")

    assert (row.direction, row.decision, row.current_raw) == ("unknown", "skip", None)
    assert row.reason.startswith(code)
    with pytest.raises(Refusal, match=rf"^{code} \[APL-17\]"):
        apply(project, run_id, plan.plan_id, "full", [decide("apply", "toy_accuracy", "accuracy")], otherwise="apply")


@pytest.mark.rule("DSC-02")
def test_after_an_apply_discover_finds_nothing_changed(shared: Project) -> None:
    run_id, plan = planned(shared, "a_accuracy")
    apply(shared, run_id, plan.plan_id, "full", [decide("apply", "a_accuracy", "accuracy")], otherwise="apply")

    found = discover(shared, toy.MODEL)

    assert (found.added, found.removed, found.changed) == ((), (), ())
    assert not any(stage.stale for stage in catalog(shared, toy.MODEL).stages)
