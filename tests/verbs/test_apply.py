"""What apply writes for each mode and decision, and what it never accepts."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.apply import transaction
from tune_mcp.config import yaml_source
from tune_mcp.config.stages_yaml import dump_stages
from tune_mcp.contract.apply import Decision
from tune_mcp.errors import Refusal
from tune_mcp.files import sha256_file
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs import apply_recovery
from tune_mcp.verbs.apply import apply, undo
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.stop_run import stop_run


def source(project: Project) -> str:
    return (project.repo_root / toy.TEST_FILE).read_text()


def decide(choice: str, value: Any = None, metric: str = "throughput_qps", stage: str = "toy_speed") -> Decision:
    return Decision.model_validate({"stage_key": stage, "metric_key": metric, "choice": choice, "value": value})


@pytest.mark.rule("APL-05", "APL-07")
def test_the_plan_says_what_each_mode_does_and_why(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, _ = mixed
    plan = apply_plan(project, run.run_id)
    rows = {row.metric_key: row for row in plan.rows}

    assert {key: (row.direction, row.decision) for key, row in rows.items()} == {
        "accuracy": ("tightens", "auto"),
        "throughput_qps": ("loosens", "ask"),
        "latency_mean_s": ("tightens", "auto"),
    }
    row = rows["throughput_qps"]
    assert (row.source_kind, row.symbol, row.subkey, row.concurrency) == ("nested", "_TOY_P95", "throughput_qps", 2)
    assert (row.worst_op, row.per_run_raw, row.worst_raw, row.current_raw) == ("min", (12.5, 10.25), 10.25, 99.0)
    assert (rows["accuracy"].source_kind, rows["accuracy"].subkey) == ("bare", None)
    shown = {key: (row.worst_raw, row.worst_rounded, row.write_value) for key, row in rows.items()}
    assert shown["accuracy"] == (0.625, 62.5, 0.625), "the rounded one is for display: percent"
    assert shown["throughput_qps"] == (10.25, 10.25, 10.25)
    assert plan.text().index("throughput_qps") < plan.text().index("accuracy"), "what loosens stands first"
    assert "a person decides" in row.reason


@pytest.mark.rule("APL-05", "APL-12")
def test_smart_writes_nothing_until_every_loosening_metric_is_decided(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    before = source(project)

    asked = r"^DECISION_MISSING \[APL-05\]: .*1 loosening metric: toy_speed/throughput_qps"
    with pytest.raises(Refusal, match=asked) as caught:
        apply(project, run.run_id, plan_id, "smart")

    assert "tune-mcp apply" in caught.value.next
    assert source(project) == before
    assert not any(run.applies.glob("*/journal.json"))


@pytest.mark.rule("APL-05", "APL-13")
@pytest.mark.parametrize(
    ("decision", "written"),
    [
        (decide("keep"), "99.0"),
        (decide("apply"), "10.25"),
        (decide("custom", "8.50"), "8.50"),
        (decide("custom", 8), "8"),
        (decide("custom", 8.5), "8.5"),
        (decide("custom", "1e1"), "1e1"),
        (decide("custom", " 10.25 "), "10.25"),
        (decide("custom", "-3"), "-3"),
    ],
)
def test_a_decision_is_written_as_the_person_gave_it(
    mixed: tuple[Project, RunDir, str], decision: Decision, written: str
) -> None:
    project, run, plan_id = mixed
    before = source(project)

    apply(project, run.run_id, plan_id, "smart", [decision])

    assert source(project) == before.replace("MIN = 0.5 ", "MIN = 0.625 ").replace(
        toy.TIGHT, f'"throughput_qps": {written}, "latency_mean_s": 0.25'
    )


@pytest.mark.rule("APL-13", "APL-11")
@pytest.mark.parametrize(
    "value",
    [
        None, "", "fast", "nan", "NaN", "inf", "-inf", "Infinity", "1e999", "1" + "0" * 400, "-" + "9" * 5000,
        "10.26", 10.26, 11, "0x8", "8,5", "8.5s", "1__0", "1_", "007", "٨", "8; import os", "--8",
    ],
)  # fmt: skip
def test_a_custom_value_that_is_no_plain_number_or_tighter_than_observed_is_refused(
    mixed: tuple[Project, RunDir, str], value: Any
) -> None:
    project, run, plan_id = mixed
    before = source(project)

    with pytest.raises(Refusal, match=r"^DECISION_INVALID"):
        apply(project, run.run_id, plan_id, "smart", [decide("custom", value)])

    assert source(project) == before


@pytest.mark.rule("APL-13")
@pytest.mark.parametrize("value", [True, False, [8], {"value": 8}])
def test_a_custom_value_of_another_type_is_no_decision_at_all(value: Any) -> None:
    with pytest.raises(ValueError, match="value"):
        decide("custom", value)


@pytest.mark.rule("APL-26", "APL-13")
@pytest.mark.parametrize(
    ("decisions", "why"),
    [
        ([decide("keep"), decide("apply")], "is decided twice"),
        ([decide("keep"), decide("keep")], "is decided twice"),
        ([decide("keep", metric="nope")], "no metric toy_speed/nope"),
        ([decide("keep", stage="nope")], "no metric nope/throughput_qps"),
        ([decide("keep", "8")], "the choice is keep"),
        ([decide("apply", 8)], "the choice is apply"),
    ],
)
@pytest.mark.parametrize("mode", ["report", "smart", "full"])
def test_decisions_that_make_no_sense_are_refused_in_every_mode(
    mixed: tuple[Project, RunDir, str], decisions: list[Decision], why: str, mode: str
) -> None:
    project, run, plan_id = mixed
    before = source(project)

    with pytest.raises(Refusal, match=r"^DECISION_INVALID") as caught:
        apply(project, run.run_id, plan_id, mode, decisions)

    assert why in caught.value.message
    assert source(project) == before


@pytest.mark.rule("APL-04", "SCP-06")
def test_mode_report_touches_nothing(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    before = source(project), run.report_md.read_bytes(), run.events.read_bytes()

    reply = apply(project, run.run_id, plan_id, "report")

    assert (reply.applied, reply.undo_command) == ((), None)
    assert (source(project), run.report_md.read_bytes(), run.events.read_bytes()) == before
    assert not any(run.applies.glob("*/journal.json"))


@pytest.mark.rule("APL-05", "APL-06")
def test_full_writes_everything_but_what_the_person_keeps(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed

    reply = apply(
        project,
        run.run_id,
        plan_id,
        "full",
        [decide("keep", stage="toy_accuracy", metric="accuracy"), decide("apply")],
    )

    assert '"throughput_qps": 10.25, "latency_mean_s": 0.25' in source(project)
    assert "TOY_ACC_MIN = 0.5 " in source(project)
    assert reply.kept == ("toy_accuracy/accuracy",)


@pytest.mark.rule("APL-23")
def test_the_answer_lists_each_change_as_file_symbol_and_value(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed

    text = apply(project, run.run_id, plan_id, "full", otherwise="apply").text()

    assert [line for line in text.splitlines() if line.startswith("  tests/")] == [
        "  tests/test_toy_ci.py:TOY_ACC_MIN = 0.625 (was 0.5, tightens (+25.0%))",
        "  tests/test_toy_ci.py:_TOY_P95[2]['latency_mean_s'] = 0.25 (was 9.0, tightens (-97.2%))",
        "  tests/test_toy_ci.py:_TOY_P95[2]['throughput_qps'] = 10.25 (was 99.0, loosens (-89.6%))",
    ]


@pytest.mark.rule("APL-26")
def test_a_title_that_names_another_symbol_moves_nothing(tmp_path: Path) -> None:
    text = toy.toy_source().replace("TOY_ACC_MIN = 0.5 ", "OTHER_ACC_MIN = 0.5\nTOY_ACC_MIN = 0.5 ", 1)
    sources = {**toy.CONFIG["metric_sources"]["test_toy_ci.py"], "ignored_constants": ["OTHER_ACC_MIN"]}
    config = {**toy.CONFIG, "metric_sources": {"test_toy_ci.py": sources}}
    project = toy.make_toy(tmp_path / "repo", test_source=text, config=config)
    stages = {
        key: stage.model_copy(update={"title": "OTHER_ACC_MIN"}) for key, stage in project.places.stages("toy").items()
    }
    (project.repo_root / ".tune/models/toy/stages.yaml").write_bytes(dump_stages(stages))
    toy.commit(project)
    run = toy.finished_run(project)
    report(project, run.run_id)

    apply(project, run.run_id, apply_plan(project, run.run_id).plan_id, "smart")

    assert "\nOTHER_ACC_MIN = 0.5\nTOY_ACC_MIN = 0.625 " in source(project)


@pytest.mark.rule("APL-14", "APL-18")
def test_a_plan_that_was_applied_cannot_be_applied_again(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    apply(project, run.run_id, plan_id, "full", otherwise="apply")
    after = source(project)
    assert "TOY_ACC_MIN = 0.625 " in after

    with pytest.raises(Refusal, match=r"^STALE_PLAN"):
        apply(project, run.run_id, plan_id, "full", otherwise="apply")
    again = apply_plan(project, run.run_id)
    assert "nothing" in again.next
    reply = apply(project, run.run_id, again.plan_id, "full", otherwise="apply")

    assert reply.applied == ()
    assert source(project) == after


@pytest.mark.rule("APL-18", "APL-19", "APL-20", "APL-21")
def test_a_second_smaller_apply_adds_to_the_list_of_changes(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    apply(project, run.run_id, plan_id, "smart", [decide("keep")])
    again = apply_plan(project, run.run_id)
    assert {row.metric_key: row.direction for row in again.rows} == {
        "accuracy": "equal", "latency_mean_s": "equal", "throughput_qps": "loosens",
    }  # fmt: skip

    apply(project, run.run_id, again.plan_id, "full", otherwise="apply")

    text = run.report_md.read_text()
    assert text.count("## Applied changes") == 1
    section = text[text.index("## Applied changes") : text.index("## Provenance")]
    assert section.splitlines()[4:-1] == [
        "| toy_accuracy | TOY_ACC_MIN | 0.5 | 0.625 | tightens (+25.0%) |",
        "| toy_speed | _TOY_P95[2]['latency_mean_s'] | 9 | 0.25 | tightens (-97.2%) |",
        "| toy_speed | _TOY_P95[2]['throughput_qps'] | 99 | 10.25 | loosens (-89.6%) |",
    ]


@pytest.mark.rule("DSC-02")
def test_stages_yaml_learns_the_new_hashes_and_nothing_else(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    before = project.places.stages("toy")
    apply(project, run.run_id, plan_id, "full", otherwise="apply")

    after = toy.open_project(project.repo_root).places.stages("toy")
    sha = {stage.test_file_sha256 for stage in after.values()}
    assert len(sha) == 1 and sha != {stage.test_file_sha256 for stage in before.values()}
    undone = {
        key: stage.model_copy(
            update={
                "test_file_sha256": before[key].test_file_sha256,
                "threshold_file_sha256": before[key].threshold_file_sha256,
            }
        )
        for key, stage in after.items()
    }
    assert dump_stages(undone) == dump_stages(before)


@pytest.mark.rule("APL-22", "APL-18")
def test_undo_puts_every_byte_back_and_the_plan_can_be_applied_anew(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    before = {path: path.read_bytes() for path in (project.repo_root / toy.TEST_FILE, run.report_md)}
    table = project.places.stages("toy")
    apply(project, run.run_id, plan_id, "full", otherwise="apply")

    reply = undo(project, run.run_id, plan_id)

    assert reply.files == (toy.TEST_FILE, ".tune/models/toy/stages.yaml")
    assert (project.repo_root / toy.TEST_FILE).read_bytes() == before[project.repo_root / toy.TEST_FILE]
    assert "## Applied changes" not in run.report_md.read_text()
    assert toy.open_project(project.repo_root).places.stages("toy") == table
    undo(project, run.run_id, plan_id)
    assert apply_plan(project, run.run_id).plan_id == plan_id
    assert len(apply(project, run.run_id, plan_id, "full", otherwise="apply").applied) == 3


@pytest.mark.rule("APL-24")
def test_undo_refuses_what_was_never_applied_and_files_that_changed_since(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    for bad in ("../../etc", "0" * 15, "", "0" * 16, plan_id):
        with pytest.raises(Refusal, match=r"^INVALID_ARGUMENT"):
            undo(project, run.run_id, bad)
    apply(project, run.run_id, plan_id, "full", otherwise="apply")
    path = project.repo_root / toy.TEST_FILE
    path.write_text(path.read_text() + "# edited since\n")
    edited = path.read_bytes()

    with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED"):
        undo(project, run.run_id, plan_id)
    assert path.read_bytes() == edited


@pytest.mark.rule("APL-18")
def test_undoing_the_second_of_two_applies_keeps_the_first_in_the_report(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    apply(project, run.run_id, plan_id, "smart", [decide("keep")])
    first = source(project)
    again = apply_plan(project, run.run_id).plan_id
    apply(project, run.run_id, again, "full", otherwise="apply")

    undo(project, run.run_id, again)

    assert source(project) == first
    text = run.report_md.read_text()
    section = text[text.index("## Applied changes") : text.index("## Provenance")]
    assert "TOY_ACC_MIN" in section and "['throughput_qps']" not in section


@pytest.mark.rule("APL-17")
def test_a_threshold_that_cannot_be_located_is_never_edited_nor_guessed(tmp_path: Path) -> None:
    """The nested thresholds have no entry for the concurrency that the test runs at."""
    text = toy.toy_source().replace("CONCURRENCY = 2", "CONCURRENCY = 4")
    project = toy.make_toy(tmp_path / "repo", test_source=text)
    run = toy.finished_run(project)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)
    row = next(row for row in plan.rows if row.metric_key == "throughput_qps")
    assert (row.direction, row.decision, row.current_raw) == ("unknown", "skip", None)
    for choice, value in (("apply", None), ("custom", "0.1")):
        with pytest.raises(Refusal, match=r"^THRESHOLD_UNKNOWN"):
            apply(project, run.run_id, plan.plan_id, "full", [decide(choice, value)], otherwise="apply")

    reply = apply(project, run.run_id, plan.plan_id, "full", otherwise="apply", failures_agreed=True)

    assert source(project) == text.replace("MIN = 0.5 ", "MIN = 0.625 ")
    assert any("toy_speed/throughput_qps was not edited" in warning for warning in reply.warnings)


@pytest.mark.rule("APL-24")
def test_the_bytes_of_an_apply_that_was_undone_are_no_longer_ours(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed
    apply(project, run.run_id, plan_id, "full", otherwise="apply")
    applied = source(project)
    apply_plan(project, run.run_id)
    undo(project, run.run_id, plan_id)

    (project.repo_root / toy.TEST_FILE).write_text(applied)

    with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED"):
        apply_plan(project, run.run_id)


@pytest.mark.rule("APL-19", "APL-23")
def test_a_custom_value_that_stands_already_is_no_change(mixed: tuple[Project, RunDir, str]) -> None:
    project, run, plan_id = mixed

    decisions = [decide("custom", "0.5", "accuracy", "toy_accuracy")]
    reply = apply(project, run.run_id, plan_id, "full", decisions, otherwise="apply")

    assert "TOY_ACC_MIN" not in " ".join(row.symbol for row in reply.applied)
    assert (
        len(reply.applied) == 2
        and "TOY_ACC_MIN" not in run.report_md.read_text().split("## Provenance")[0].split("## Applied changes")[1]
    )


def test_a_catalogue_that_the_disk_does_not_give_is_named_and_refreshed_by_the_next_start(
    mixed: tuple[Project, RunDir, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run, plan_id = mixed
    committing, reading, failing = transaction.commit, yaml_source.read_plain, [False]

    def commit(*arguments: Any, **options: Any) -> Any:
        done = committing(*arguments, **options)
        failing[0] = True
        return done

    def read(path: Path, *more: Any) -> bytes:
        if failing[0] and path.name == "stages.yaml":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return reading(path, *more)

    monkeypatch.setattr(transaction, "commit", commit)
    monkeypatch.setattr(yaml_source, "read_plain", read)

    reply = apply(project, run.run_id, plan_id, "full", otherwise="apply")

    assert any("stages.yaml of toy was not refreshed" in warning for warning in reply.warnings), reply.warnings
    assert (run.apply_folder(plan_id) / "unsettled").exists()
    failing[0] = False
    apply_recovery.settle(toy.open_project(project.repo_root))
    sha = sha256_file(project.repo_root / toy.TEST_FILE)
    stages = toy.open_project(project.repo_root).places.stages("toy").values()
    assert {stage.test_file_sha256 for stage in stages} == {sha}
    assert not (run.apply_folder(plan_id) / "unsettled").exists()


def test_after_an_apply_resume_names_the_file_that_was_written_and_stop_says_what_is_next(
    mixed: tuple[Project, RunDir, str],
) -> None:
    project, run, plan_id = mixed
    apply(project, run.run_id, plan_id, "full", otherwise="apply")

    with pytest.raises(Refusal, match=rf"^STAGES_CHANGED.*{toy.TEST_FILE} was edited.*commit it") as refused:
        resume_run(project, run.run_id)
    stopped = stop_run(project, run.run_id, "too slow")

    assert "defined differently" not in refused.value.text()
    assert "too slow" not in stopped.text() and "the thresholds of this run are written" in str(stopped.next)


@pytest.mark.rule("APL-17")
def test_a_whole_number_that_no_float_holds_exactly_keeps_only_its_own_threshold_from_being_written(
    tmp_path: Path,
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, attempt=lambda job: toy.measured(job, speed={"throughput_qps": 2**53 + 1}))
    report(project, run.run_id)

    plan = apply_plan(project, run.run_id)
    reply = apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    (row,) = [row for row in plan.rows if row.metric_key == "throughput_qps"]
    assert (row.decision, "cannot be written" in row.reason) == ("skip", True)
    assert {one.metric_key for one in reply.applied} == {"accuracy", "latency_mean_s"}
