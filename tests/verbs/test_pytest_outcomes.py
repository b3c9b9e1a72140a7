"""What a test asserts, held against what pytest reported: nothing that contradicts it is printed or written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.contract.apply import Decision
from tune_mcp.contract.apply_plan import PlanRow
from tune_mcp.contract.report import Cause
from tune_mcp.discover.assertions import AssertionReader
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.status import status

ASSERT = '    assert results["summary"]["accuracy"] >= TOY_ACC_MIN\n'
Make = Callable[..., tuple[Project, RunDir]]


def project_with(folder: Path, *changes: tuple[str, str], config: dict[str, Any] | None = None) -> Project:
    """A toy whose test file has these texts replaced."""
    source = toy.toy_source()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return toy.make_toy(folder / "repo", test_source=source, config=config)


def reported(project: Project, run: RunDir) -> dict[str, PlanRow]:
    report(project, run.run_id)
    return {row.metric_key: row for row in apply_plan(project, run.run_id).rows}


def refused(project: Project, run: RunDir, mode: str, **more: Any) -> Refusal:
    plan_id = apply_plan(project, run.run_id).plan_id
    with pytest.raises(Refusal) as caught:
        apply(project, run.run_id, plan_id, mode, **more)
    return caught.value


def source_of(project: Project) -> str:
    return (project.repo_root / toy.TEST_FILE).read_text()


def metric(run: RunDir, key: str) -> dict[str, Any]:
    stages = json.loads(run.report_json.read_text())["stages"]
    return next(one for stage in stages for one in stage["metrics"] if one["key"] == key)


STRICT = [
    (ASSERT, '    assert results["summary"]["accuracy"] > TOY_ACC_MIN\n'),
    (ASSERT, '    assert not results["summary"]["accuracy"] <= TOY_ACC_MIN\n'),
    (ASSERT, '    assert not (TOY_ACC_MIN >= results["summary"]["accuracy"])\n'),
    (ASSERT, '    assert TOY_ACC_MIN < results["summary"]["accuracy"]\n'),
]


@pytest.mark.rule("APL-11", "APL-05")
@pytest.mark.parametrize("change", STRICT)
@pytest.mark.parametrize("mode", ["smart", "full"])
def test_a_limit_that_its_own_repeats_do_not_pass_is_never_written_by_a_mode(
    tmp_path: Path, change: tuple[str, str], mode: str
) -> None:
    project = project_with(tmp_path, change)
    run = toy.finished_run(project, 3, lambda job: toy.measured(job, summary={"accuracy": 0.8125}))
    row = reported(project, run)["accuracy"]

    assert (row.direction, row.decision) == ("tightens", "ask")
    assert "repeats 1, 2, 3 would not pass 0.8125" in row.reason and "0.8124 would pass" in row.reason
    before = source_of(project)
    found = refused(project, run, mode)
    assert found.code == "DECISION_MISSING" and "0.8124 would pass" in found.message
    assert source_of(project) == before
    custom = Decision(stage_key="toy_accuracy", metric_key="accuracy", choice="custom", value="0.8124")
    plan_id = apply_plan(project, run.run_id).plan_id
    apply(project, run.run_id, plan_id, mode, [custom])
    assert "TOY_ACC_MIN = 0.8124 " in source_of(project)


def test_a_strict_comparison_whose_slack_lets_the_worst_pass_is_written_without_a_question(tmp_path: Path) -> None:
    project = project_with(tmp_path, (ASSERT, ASSERT.replace(">= TOY_ACC_MIN", "> TOY_ACC_MIN * 0.95")))
    run = toy.finished_run(project, 3, lambda job: toy.measured(job, summary={"accuracy": 0.8125}))

    assert reported(project, run)["accuracy"].decision == "auto"


TWO_SIDED = [
    '    assert abs(results["summary"]["accuracy"] - TOY_ACC_MIN) <= 0.5\n',
    '    assert TOY_ACC_MIN - 0.5 <= results["summary"]["accuracy"] <= TOY_ACC_MIN + 0.5\n',
    '    assert results["summary"]["accuracy"] == pytest.approx(TOY_ACC_MIN, abs=0.5)\n',
]


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize("line", TWO_SIDED)
@pytest.mark.parametrize("mode", ["smart", "full"])
def test_a_reference_that_is_compared_from_both_sides_is_no_bound_and_never_written(
    tmp_path: Path, line: str, mode: str
) -> None:
    project = project_with(tmp_path, (ASSERT, line))
    run = toy.finished_run(project, 3)
    row = reported(project, run)["accuracy"]

    assert (row.direction, row.decision) == ("unknown", "skip") and "is no bound" in row.reason
    plan_id = apply_plan(project, run.run_id).plan_id
    reply = apply(project, run.run_id, plan_id, mode, otherwise="apply")
    assert "TOY_ACC_MIN = 0.5 " in source_of(project)
    assert any("toy_accuracy/accuracy was not edited" in warning for warning in reply.warnings)


@pytest.mark.parametrize(
    "line",
    [
        '    assert results["summary"]["accuracy"] * 2 >= TOY_ACC_MIN\n',
        '    assert results["summary"]["accuracy"] + 1 >= TOY_ACC_MIN\n',
        '    assert results["summary"]["accuracy"] >= TOY_ACC_MIN / 2\n',
    ],
)
def test_slack_on_either_side_is_read_and_fails_no_repeat_that_pytest_passed(tmp_path: Path, line: str) -> None:
    project = project_with(tmp_path, (ASSERT, line), ("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = 0.9 "))
    run = toy.finished_run(project, 3)
    row = reported(project, run)["accuracy"]

    assert row.direction == "loosens" and row.decision == "auto", row.reason
    assert metric(run, "accuracy")["present_misses"] in (0, None)


def hidden(job: Any) -> Any:
    """The value in the result file is not the one that the test asserts about."""
    return toy.measured(job, summary={"accuracy": 0.25})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('    assert max(results["summary"]["accuracy"], 0.75) >= TOY_ACC_MIN\n', "pytest passed"),
        ('    assert min(results["summary"]["accuracy"], 0.25) >= TOY_ACC_MIN\n', "pytest failed"),
    ],
)
@pytest.mark.parametrize("mode", ["smart", "full"])
def test_a_reading_that_pytest_contradicts_is_thrown_away_loudly(
    tmp_path: Path, line: str, told: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is made to read every such line as the plain comparison."""
    plain = project_with(tmp_path / "plain")
    right = AssertionReader.gate

    def misread(self: Any, test: str, thresholds: str, source: str, concurrency: Any, env: Any = None) -> Any:
        return right(AssertionReader(plain.repo_root), test, thresholds, source, concurrency, env)

    monkeypatch.setattr(AssertionReader, "gate", misread)
    project = project_with(tmp_path, (ASSERT, line))
    run = toy.finished_run(project, 2, hidden if told == "pytest passed" else toy.measured)
    row = reported(project, run)["accuracy"]

    assert row.decision == "ask" and "WHAT THE TEST ASSERTS IS UNKNOWN" in row.reason and told in row.reason
    one = metric(run, "accuracy")
    assert (one["asserted"], one["limit_present"], one["limit_proposed"], one["present_misses"]) == (None,) * 4
    assert "UNKNOWN" in run.report_md.read_text()
    if told == "pytest passed":
        assert refused(project, run, mode).code == "DECISION_MISSING"


FAILING = [
    ('raise ConnectionResetError("peer")', "ConnectionResetError: peer", "not an assertion"),
    ('assert "hello" == "help", "transcript"', "transcript", "the test reads no calibrated threshold"),
    ('pytest.fail("server log has errors")', "server log has errors", "the test reads no calibrated threshold"),
    ("assert results['summary']['total_samples'] == 5", "AssertionError", "the test reads no calibrated threshold"),
]


def failing_project(folder: Path, statement: str, **config: Any) -> Project:
    more = f"\n\ndef test_other(results):\n    {statement}\n"
    return toy.make_toy(
        folder / "repo", test_source=toy.toy_source() + more, config={**copy.deepcopy(toy.CONFIG), **config}
    )


@pytest.mark.rule("RTY-04")
@pytest.mark.parametrize(("statement", "message", "cause"), FAILING)
@pytest.mark.parametrize("mode", ["smart", "full"])
def test_a_failure_that_is_no_thresholds_is_named_everywhere_and_apply_refuses(
    tmp_path: Path, statement: str, message: str, cause: str, mode: str
) -> None:
    project = failing_project(tmp_path, statement)
    run = toy.finished_run(project)
    now = status(project, run.run_id)
    shown = report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    for text in (now.text(), shown.text(), plan.text(), run.report_md.read_text(), run.report_html.read_text()):
        assert "tests/test_toy_ci.py::test_other" in text and message in text
    assert now.strict_complete, "the values count all the same"
    assert [(one.cause, one.repeats, one.allowed) for one in plan.failed_tests] == [(cause, (1, 2), "")]
    before = source_of(project)
    found = refused(project, run, mode, otherwise="apply")
    assert found.code == "TEST_FAILED" and "test_other" in found.message and message in found.message
    assert source_of(project) == before
    assert apply(project, run.run_id, plan.plan_id, "report").applied == ()


TWICE = """    if results["summary"]["accuracy"] < TOY_ACC_MIN:
        pytest.fail("accuracy too low")
    if "hello" != "help":
        pytest.fail("transcript is help")
"""
ONCE = """    low = ["accuracy too low"] if results["summary"]["accuracy"] < TOY_ACC_MIN else []
    pytest.fail("\\n".join([*low, "transcript is help"]))
"""


@pytest.mark.rule("RTY-04")
@pytest.mark.parametrize(
    ("present", "lines", "first", "cause"),
    [
        ("0.9", TWICE, "accuracy too low", Cause.MISSED_TOO),
        ("0.5", TWICE, "transcript is help", Cause.PASSES),
        ("0.9", ONCE, "accuracy too low", Cause.UNCLEAR),
        ("0.5", ONCE, "transcript is help", Cause.UNCLEAR),
    ],
)
def test_a_pytest_fail_that_may_stand_for_a_threshold_and_for_more_is_named_by_its_first_line(
    tmp_path: Path, present: str, lines: str, first: str, cause: Cause
) -> None:
    project = project_with(tmp_path, (ASSERT, lines), ("TOY_ACC_MIN = 0.5 ", f"TOY_ACC_MIN = {present} "))
    run = toy.finished_run(project, 2, toy.real_pytest)
    now = status(project, run.run_id)
    shown = report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    log = "\n".join(event.text for event in events.read(run.events, "observed"))
    for text in (log, now.text(), shown.text(), plan.text(), run.report_md.read_text()):
        assert f"tests/test_toy_ci.py::test_accuracy: Failed: {first}" in text or f": Failed: {first}; " in text
    assert "threshold_assertion" not in log
    assert [one.cause for one in plan.failed_tests] == [cause]
    if cause is Cause.MISSED_TOO:
        assert apply(project, run.run_id, plan.plan_id, "full", otherwise="apply").applied
    else:
        assert refused(project, run, "full", otherwise="apply").code == "TEST_FAILED"


def test_a_status_reads_again_what_config_accepts(tmp_path: Path) -> None:
    project = failing_project(tmp_path, FAILING[0][0])
    run = toy.finished_run(project)
    before = status(project, run.run_id).failed_tests
    path = project.repo_root / ".tune/models/toy/config.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "allowed_pytest_failure": ["test_other"]}))

    assert len(before) == 1 and "accepted" not in before[0]
    assert "accepted: test_other" in status(project, run.run_id).failed_tests[0]


@pytest.mark.parametrize(
    "word",
    [
        {"allowed_pytest_failure": ["test_other"]},
        {"allowed_pytest_failure": "tests/test_toy_ci.py::test_other"},
        {"allowed_pytest_failure": [{"test": "test_o.*", "reason": "known"}]},
        {"allowed_pytest_failure": {"test_other": "known"}},
    ],
)
def test_config_may_accept_it_after_the_run(tmp_path: Path, word: dict[str, Any]) -> None:
    project = failing_project(tmp_path, FAILING[0][0], **word)
    run = toy.finished_run(project)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    assert plan.failed_tests[0].allowed and "accepted" in plan.text()
    assert len(apply(project, run.run_id, plan.plan_id, "smart").applied) == 3


@pytest.mark.parametrize(("flag", "accepted"), [(True, True), (False, False), ("true", False), (None, False)])
def test_a_boolean_of_the_result_file_may_accept_it(tmp_path: Path, flag: object, accepted: bool) -> None:
    config = copy.deepcopy(toy.CONFIG)
    config["metric_sources"]["test_toy_ci.py"]["allowed_pytest_failure"] = "toy0/result.json::summary.expected_failure"
    project = failing_project(tmp_path, FAILING[0][0], **config)
    run = toy.finished_run(project, 2, lambda job: toy.measured(job, summary={"expected_failure": flag}))
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    assert bool(plan.failed_tests[0].allowed) is accepted


def test_a_failed_threshold_stays_a_valid_observation_and_is_no_such_failure(tmp_path: Path) -> None:
    project = project_with(tmp_path, ('"throughput_qps": 1.0', '"throughput_qps": 99.0'))
    run = toy.finished_run(project)
    rows = reported(project, run)

    assert apply_plan(project, run.run_id).failed_tests == ()
    assert status(project, run.run_id).failed_tests == ()
    assert rows["throughput_qps"].decision == "ask" and "UNKNOWN" not in rows["throughput_qps"].reason


def test_an_assertion_that_passes_by_our_reading_and_failed_all_the_same_is_named(tmp_path: Path) -> None:
    """A second assertion of the threshold's own test, about something else."""
    project = project_with(tmp_path, (ASSERT, ASSERT + '    assert "hello" == "help", "transcript"\n'))
    run = toy.finished_run(project)
    rows = reported(project, run)
    plan = apply_plan(project, run.run_id)

    assert [one.nodeid for one in plan.failed_tests] == ["tests/test_toy_ci.py::test_accuracy"]
    assert rows["accuracy"].decision == "ask"


@pytest.mark.rule("APL-05")
@pytest.mark.parametrize("slack", ["", " * 1.5", " * 1.1 + 0.0"])
def test_a_bound_at_its_natural_edge_is_remarked_and_asked(tmp_path: Path, slack: str) -> None:
    config = copy.deepcopy(toy.CONFIG)
    config["metric_sources"]["test_toy_ci.py"]["paths"]["corpus_wer"] = "summary.wer"
    project = project_with(
        tmp_path,
        ("TOY_ACC_MIN = 0.5 ", "TOY_WER_MAX_CORPUS = 0.5\nTOY_ACC_MIN = 0.5 "),
        (ASSERT, ASSERT + f'    assert results["summary"]["wer"] <= TOY_WER_MAX_CORPUS{slack}\n'),
        config=config,
    )
    run = toy.finished_run(project, 3, lambda job: toy.measured(job, summary={"wer": 0.0}))
    row = reported(project, run)["corpus_wer"]

    assert row.decision == "ask" and "best possible value" in row.reason
    assert refused(project, run, "smart").code == refused(project, run, "full").code == "DECISION_MISSING"


@pytest.mark.parametrize(("present", "asked"), [("0.63", False), ("0.9", True)])
def test_a_quality_metric_that_loosens_beyond_its_own_slack_is_asked_whatever_its_group_says(
    tmp_path: Path, present: str, asked: bool
) -> None:
    line = ASSERT.replace(">= TOY_ACC_MIN", ">= TOY_ACC_MIN * 0.9")
    project = project_with(tmp_path, (ASSERT, line), ("TOY_ACC_MIN = 0.5 ", f"TOY_ACC_MIN = {present} "))
    run = toy.finished_run(project, 3)
    row = reported(project, run)["accuracy"]

    assert row.direction == "loosens"
    assert (row.decision == "ask", "beyond its own slack" in row.reason) == (asked, asked)


def test_a_value_that_stands_already_stays_though_its_spelling_differs(tmp_path: Path) -> None:
    project = project_with(tmp_path, ("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = 0.70 "))
    run = toy.finished_run(project, 3, lambda job: toy.measured(job, summary={"accuracy": 0.7}))
    row = reported(project, run)["accuracy"]

    assert (row.direction, row.decision) == ("equal", "skip")
    plan_id = apply_plan(project, run.run_id).plan_id
    apply(project, run.run_id, plan_id, "full", otherwise="apply")
    assert "TOY_ACC_MIN = 0.70 " in source_of(project)


def test_real_pytest_processes_tell_the_same(tmp_path: Path) -> None:
    project = failing_project(tmp_path, FAILING[0][0])
    run = toy.finished_run(project, 2, toy.real_pytest)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    assert [one.text for one in plan.failed_tests] == [
        "tests/test_toy_ci.py::test_other in repeats 1, 2: ConnectionResetError: peer; not an assertion"
    ]
    assert {row.decision for row in plan.rows} == {"auto"}


def test_a_run_without_records_of_pytest_says_once_that_nothing_was_checked(tmp_path: Path) -> None:
    project = project_with(tmp_path)
    run = toy.finished_run(project)
    for pattern in ("_pytest/*/guard_run*.jsonl", "_pytest/*/attempts/*/result.json"):
        for record in run.path.glob(pattern):
            record.unlink()
    report(project, run.run_id)
    text = apply_plan(project, run.run_id).text()

    assert text.count("could not be checked") == 1 and "no reading of an assertion" in run.report_md.read_text()


@pytest.mark.parametrize(
    ("present", "line"),
    [
        ("50.0", '    assert results["summary"]["accuracy"] * 100 >= TOY_ACC_MIN\n'),
        ("50.0", '    assert results["summary"]["accuracy"] >= TOY_ACC_MIN / 100\n'),
        ("0.0005", '    assert results["summary"]["accuracy"] >= TOY_ACC_MIN * 1000\n'),
    ],
)
@pytest.mark.parametrize("mode", ["smart", "full"])
def test_a_constant_in_another_unit_than_its_metric_is_never_written(
    tmp_path: Path, present: str, line: str, mode: str
) -> None:
    project = project_with(tmp_path, (ASSERT, line), ("TOY_ACC_MIN = 0.5 ", f"TOY_ACC_MIN = {present} "))
    run = toy.finished_run(project, 3)
    row = reported(project, run)["accuracy"]

    assert (row.direction, row.decision) == ("unknown", "skip") and "in another unit" in row.reason
    plan_id = apply_plan(project, run.run_id).plan_id
    apply(project, run.run_id, plan_id, mode, otherwise="apply")
    assert f"TOY_ACC_MIN = {present} " in source_of(project)


UNREADABLE = [
    '    match results["summary"]["accuracy"] > TOY_ACC_MIN:\n        case False: raise AssertionError\n',
    "    assert float(f\"{results['summary']['accuracy']:.1f}\") >= TOY_ACC_MIN\n",
    '    import functools\n    functools.partial(ok, results["summary"]["accuracy"])(TOY_ACC_MIN)\n',
    ASSERT + '    assert results["summary"]["accuracy"] > TOY_ACC_MIN\n',
]


@pytest.mark.parametrize("line", UNREADABLE)
def test_a_tighter_value_is_asked_where_no_assertion_could_be_read(tmp_path: Path, line: str) -> None:
    helper = "def ok(value, limit):\n    assert value > limit\n\n\ndef test_accuracy("
    project = project_with(tmp_path, (ASSERT, line), ("def test_accuracy(", helper))
    run = toy.finished_run(project, 3)
    row = reported(project, run)["accuracy"]

    assert (row.direction, row.decision) == ("tightens", "ask"), row.reason
    assert refused(project, run, "smart").code == refused(project, run, "full").code == "DECISION_MISSING"


def test_a_number_of_ones_own_that_fails_a_repeat_is_refused_and_one_applied_by_word_is_warned_of(
    tmp_path: Path,
) -> None:
    project = project_with(tmp_path, STRICT[0])
    run = toy.finished_run(project, 3)
    reported(project, run)
    own = Decision(stage_key="toy_accuracy", metric_key="accuracy", choice="custom", value="0.625")
    refusal = refused(project, run, "smart", decisions=[own], otherwise="keep")
    assert refusal.code == "DECISION_INVALID" and "repeat 2 would not pass 0.625" in refusal.message

    plan_id = apply_plan(project, run.run_id).plan_id
    reply = apply(project, run.run_id, plan_id, "smart", otherwise="apply")
    assert any("repeat 2 would not pass 0.625" in warning for warning in reply.warnings)


@pytest.mark.parametrize("swapped", ['results["speed"]["latency_mean_s"]', 'results["speed"].get("latency_mean_s")'])
def test_a_constant_that_is_held_against_another_metrics_value_is_asked(tmp_path: Path, swapped: str) -> None:
    """The path in config is not what the test asserts."""
    line = f"    assert {swapped} >= TOY_ACC_MIN\n"
    project = project_with(tmp_path, (ASSERT, line), ("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = 0.0625 "))
    run = toy.finished_run(project, 3)
    rows = reported(project, run)

    assert rows["accuracy"].decision == "ask" and "which is latency_mean_s" in rows["accuracy"].reason
    assert "which is" not in rows["latency_mean_s"].reason, rows["latency_mean_s"].reason


@pytest.mark.rule("RTY-04")
def test_a_record_of_pytest_that_was_changed_after_its_attempt_was_sealed_hides_no_failure(tmp_path: Path) -> None:
    broken = '    raise ConnectionResetError("peer")\n'
    project = project_with(tmp_path, (ASSERT, ASSERT + broken))
    run = toy.finished_run(project, 2, toy.measured)
    for repeat in (1, 2):
        record = run.guard_record(toy.TEST_KEY, repeat)
        kept = [line for line in record.read_text().splitlines() if '"failure"' not in line]
        record.write_text("\n".join(kept).replace('"failed"', '"passed"') + "\n")

    told = report(project, run.run_id)

    assert [one.repeats for one in told.failed_tests] == [(1, 2)]
    assert sum("is not as it was sealed" in note for note in told.notes) == 2
    assert any("is not as it was sealed" in note for note in apply_plan(project, run.run_id).notes)
    assert refused(project, run, "full", otherwise="apply").code == "TEST_FAILED"


def test_what_full_alone_asks_about_is_named_with_how_far_it_loosens(tmp_path: Path) -> None:
    line = ASSERT.replace(">= TOY_ACC_MIN", ">= TOY_ACC_MIN * 0.9")
    project = project_with(tmp_path, (ASSERT, line), ("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = 0.64 "))
    run = toy.finished_run(project, 3)
    assert reported(project, run)["accuracy"].decision == "auto"

    assert "toy_accuracy/accuracy: 0.64 -> 0.625 loosens (-2.3%)" in refused(project, run, "full").message
