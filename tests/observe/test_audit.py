"""The strict audit walks plan × catalogue; nothing that happens to be on disk can talk it into a ✓."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp import files
from tune_mcp.config.stages import GroupPolicy, Stage
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Refusal
from tune_mcp.files import sha256_file
from tune_mcp.observe.audit import Audit, AuditedStage, Fault, Provenance, audit, classify, judge
from tune_mcp.observe.observation import Broken, Counts, Missing, Stored, StoredObservation, load
from tune_mcp.observe.worst import worst_of_n
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.verbs import status as verb
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.strict_audit import strict_audit

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def run(project: Project) -> RunDir:
    return toy.finished_run(project, 3)


@pytest.fixture
def plan(project: Project, run: RunDir) -> Plan:
    return project.plan(run)


def audited(project: Project, run: RunDir) -> Audit:
    return audit(run, project.plan(run))


def stored(
    stage: Stage, total: int | None = 4, ok: int | None = 4, status: str = "ok", reason: str = "", **metrics: object
) -> Stored:
    content = StoredObservation.model_validate(
        {
            "status": status,
            "reason": reason,
            "metrics": dict.fromkeys(stage.metrics, 1.5) | metrics,
            "sample_counts": Counts(total=total, ok=ok).model_dump(),
        }
    )
    return Stored(content, "0" * 64)


@pytest.mark.rule("STR-04", "STR-05", "STR-06", "SMP-01", "SMP-06", "GAP-07", "GAP-09", "STR-08", "STR-17")
@pytest.mark.parametrize(
    ("facts", "cell", "why"),
    [
        ({}, Cell.STRICT, ""),
        ({"latency_mean_s": None}, Cell.FAILED, "no usable value for latency_mean_s"),
        ({"latency_mean_s": None, "status": "failed", "reason": "two runs"}, Cell.FAILED, "two runs (no usable value"),
        ({"latency_mean_s": float("nan")}, Cell.FAILED, "latency_mean_s"),
        ({"latency_mean_s": float("inf")}, Cell.FAILED, "latency_mean_s"),
        ({"latency_mean_s": True}, Cell.FAILED, "latency_mean_s"),
        ({"latency_mean_s": "0.5"}, Cell.FAILED, "latency_mean_s"),
        ({"latency_mean_s": 10**400}, Cell.FAILED, "latency_mean_s"),
        ({"latency_mean_s": None, "ok": 3}, Cell.FAILED, "latency_mean_s"),
        ({"ok": 3}, Cell.PARTIAL, "3/4 samples"),
        ({"ok": 0}, Cell.PARTIAL, "0/4 samples"),
        ({"ok": 3, "status": "failed"}, Cell.PARTIAL, "3/4 samples"),
        ({"ok": None}, Cell.FAILED, "sample counts missing"),
        ({"total": None}, Cell.FAILED, "sample counts missing"),
        ({"total": None, "ok": None}, Cell.FAILED, "sample counts missing"),
        ({"total": 0, "ok": 0}, Cell.FAILED, "zero samples"),
        ({"ok": 5}, Cell.FAILED, "more good samples than samples"),
        ({"total": 3, "ok": 3}, Cell.FAILED, "sample scope: 3 samples, 4 expected"),
        ({"total": 5, "ok": 5}, Cell.FAILED, "sample scope: 5 samples, 4 expected"),
        ({"status": "failed"}, Cell.FAILED, "status failed"),
        ({"status": "failed", "reason": "it did not run whole"}, Cell.FAILED, "it did not run whole"),
        ({"status": "OK"}, Cell.FAILED, "status OK"),
    ],
)
def test_every_kind_of_observation_has_its_glyph_and_reason(
    plan: Plan, facts: dict[str, Any], cell: Cell, why: str
) -> None:
    stage = plan.catalogue["toy_speed"]

    found, reason = classify(stage, stored(stage, **facts))

    assert found is cell
    assert why in reason


@pytest.mark.rule("SMP-07")
@pytest.mark.parametrize(
    ("samples", "ok", "cell"), [(2000, 2000, "strict"), (2000, 1999, "partial"), (20, 19, "partial")]
)
def test_one_sample_short_of_full_coverage_is_partial(plan: Plan, samples: int, ok: int, cell: str) -> None:
    stage = plan.catalogue["toy_speed"].model_copy(update={"expected_samples": samples})

    found, reason = classify(stage, stored(stage, total=samples, ok=ok))

    assert found is {"strict": Cell.STRICT, "partial": Cell.PARTIAL}[cell]
    assert ok == samples or f"{ok}/{samples} samples" in reason


@pytest.mark.rule("SMP-01")
def test_without_expected_samples_any_whole_scope_counts_but_never_zero(plan: Plan) -> None:
    stage = plan.catalogue["toy_speed"].model_copy(update={"expected_samples": None})

    assert classify(stage, stored(stage, 7, 7))[0] is Cell.STRICT
    assert classify(stage, stored(stage, 0, 0))[0] is Cell.FAILED


@pytest.mark.rule("STG-09")
def test_a_docs_stage_counts_by_its_status_alone(plan: Plan) -> None:
    docs = plan.catalogue["toy_speed"].model_copy(update={"metrics": {}, "sample_counts": None})

    assert classify(docs, stored(docs, None, None))[0] is Cell.STRICT
    assert classify(docs, stored(docs, None, None, status="failed"))[0] is Cell.FAILED


@pytest.mark.rule("STR-02", "STR-07")
def test_the_four_glyphs(plan: Plan) -> None:
    stage = plan.catalogue["toy_speed"]
    kinds = [
        judge(stage, 1, Missing(), plan, events.Ledger(None, {})),
        judge(stage, 1, Broken("not JSON"), plan, events.Ledger(None, {})),
        judge(stage, 1, stored(stage, ok=3), plan, events.Ledger(None, {})),
        judge(stage, 1, stored(stage), plan, None),
    ]

    assert [(one.cell.value, one.fault) for one in kinds] == [
        ("—", Fault.CONTENT), ("✗", Fault.CONTENT), ("△", Fault.CONTENT), ("✓", Fault.NONE)
    ]  # fmt: skip


@pytest.mark.rule("STR-03", "STR-13", "SES-12", "STR-10")
def test_the_text_of_a_ready_run(project: Project, run: RunDir) -> None:
    head = toy.git(project.repo_root, "rev-parse", "HEAD")

    assert strict_audit(project, run.run_id).text() == (
        f"calibration_git_sha: {head}\n"
        "GIT PROVENANCE: ok\n"
        "toy_accuracy: ✓✓✓ (3/3 strict, expected=4)\n"
        "toy_speed: ✓✓✓ (3/3 strict, expected=4)\n"
        "STRICT READY: 2/2 stages (3 repeats each)\n"
        "STRICT + GIT: READY"
    )


@pytest.mark.rule("STR-03", "STR-13", "SES-12", "STR-01", "STR-07")
def test_the_text_of_a_run_with_every_kind_of_gap(project: Project, run: RunDir) -> None:
    toy.rewrite_observation(run, "toy_accuracy", 2, lambda o: o["sample_counts"].update(ok=3))
    toy.rewrite_observation(run, "toy_speed", 1, lambda o: o["metrics"].update(latency_mean_s=None))
    run.observation("toy_speed", 3).unlink()

    text = strict_audit(project, run.run_id).text()

    assert text.splitlines()[1:] == [
        "GIT PROVENANCE: ok",
        "toy_accuracy: ✓△✓ (2/3 strict, expected=4)",
        "toy_speed: ✗✓— (1/3 strict, expected=4)",
        "STRICT READY: 0/2 stages (3 repeats each)",
    ]


@pytest.mark.rule("STR-13")
def test_a_stage_without_expected_samples_says_nothing_of_them(plan: Plan) -> None:
    stage = plan.catalogue["toy_speed"].model_copy(update={"expected_samples": None})
    cells = tuple(judge(stage, k, Missing(), plan, events.Ledger(None, {})) for k in (1, 2))

    assert AuditedStage(stage, cells).line() == "toy_speed: —— (0/2 strict)"


@pytest.mark.rule("STR-02", "STR-01")
@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"null",
        b"3",
        b'"ok"',
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"{}",
        b'{"status": "ok"}',
        b'{"metrics": [0.5]}',
        b"[" * 200_000,
    ],
)
def test_a_file_that_is_no_observation_is_a_failed_cell_and_the_audit_answers(
    project: Project, run: RunDir, data: bytes
) -> None:
    run.observation("toy_speed", 2).write_bytes(data)

    text = strict_audit(project, run.run_id).text()

    assert "toy_speed: ✓✗✓ (2/3 strict, expected=4)" in text
    assert "STRICT + GIT: READY" not in text
    assert verb.status(project, run.run_id).strict_ready == "1/2"


def test_a_folder_or_a_link_in_the_place_of_an_observation_is_no_observation(project: Project, run: RunDir) -> None:
    for repeat in (1, 2):
        run.observation("toy_speed", repeat).unlink()
    run.observation("toy_speed", 1).mkdir()
    run.observation("toy_speed", 2).symlink_to("nowhere.json")

    assert "toy_speed: ✗—✓" in strict_audit(project, run.run_id).text()


@pytest.mark.rule("STR-14", "SES-10", "STR-22")
@pytest.mark.parametrize(
    "change",
    [
        lambda o: o["metrics"].update(throughput_qps=99.0),
        lambda o: o.update(reason="nothing to see"),
        lambda o: o.update(duration_s=0.1),
        lambda o: None,
    ],
    ids=["value", "reason", "duration", "only the bytes"],
)
def test_an_artifact_that_was_edited_after_it_was_recorded_is_foreign(
    project: Project, run: RunDir, change: Change
) -> None:
    toy.rewrite_observation(run, "toy_speed", 2, change)

    found = audited(project, run)

    ((key, repeat, cell),) = found.open_cells()
    assert (key, repeat, cell.cell, cell.fault) == ("toy_speed", 2, Cell.FAILED, Fault.FOREIGN)
    assert cell.reason == "was changed after it was recorded"
    with pytest.raises(Refusal, match="FOREIGN_ARTIFACT"):
        report(project, run.run_id)


@pytest.mark.rule("SES-10", "SES-16", "STR-22")
def test_an_artifact_of_another_run_is_foreign_even_when_the_ledger_is_forged(project: Project, run: RunDir) -> None:
    other = toy.finished_run(project, 3)
    assert other.run_id != run.run_id
    shutil.copy(other.observation("toy_speed", 2), run.observation("toy_speed", 2))

    (gap,) = audited(project, run).open_cells()
    assert gap[2].reason == f"belongs to run {other.run_id}"

    sha = sha256_file(run.observation("toy_speed", 2))
    events.append(run, "recorded", toy.utc_now(), "forged", stage="toy_speed", repeat=2, sha256=sha)
    (gap,) = audited(project, run).open_cells()
    assert (gap[2].fault, gap[2].reason) == (Fault.FOREIGN, f"belongs to run {other.run_id}")


@pytest.mark.rule("SES-10", "STR-20")
def test_a_repeat_copied_over_another_is_foreign(project: Project, run: RunDir) -> None:
    shutil.copy(run.observation("toy_speed", 1), run.observation("toy_speed", 2))

    (gap,) = audited(project, run).open_cells()

    assert gap[:2] == ("toy_speed", 2) and gap[2].fault is Fault.FOREIGN


@pytest.mark.rule("SES-10")
def test_an_artifact_that_nobody_recorded_is_foreign(project: Project, run: RunDir) -> None:
    events.append(run, "withdrawn", toy.utc_now(), "taken back", stage="toy_speed", repeat=2)

    (gap,) = audited(project, run).open_cells()

    assert gap[2].reason == "was never recorded by this run's supervisor"


@pytest.mark.rule("SES-09", "SES-11", "SES-12")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda o: o.update(git_sha="1" * 40), "1 artifact of another commit: toy_speed/run2 (111111111111)"),
        (lambda o: o.pop("git_sha"), "1 artifact without git_sha: toy_speed/run2"),
        (lambda o: o.update(git_sha=None), "1 artifact without git_sha: toy_speed/run2"),
        (lambda o: o.update(git_sha=""), "1 artifact without git_sha: toy_speed/run2"),
    ],
)
def test_an_artifact_of_another_commit_fails_the_provenance(
    project: Project, run: RunDir, change: Change, why: str
) -> None:
    toy.rewrite_observation(run, "toy_speed", 2, change)

    lines = strict_audit(project, run.run_id).text().splitlines()

    assert lines[1] == f"GIT PROVENANCE: FAIL — {why}"
    assert lines[-1].startswith("STRICT READY: ")


def test_an_artifact_that_cannot_be_read_has_no_provenance(project: Project, run: RunDir) -> None:
    run.observation("toy_speed", 2).write_text("{")

    assert audited(project, run).git == Provenance(False, "1 artifact without git_sha: toy_speed/run2")


@pytest.mark.rule("STR-01", "STR-27")
def test_an_empty_matrix_is_never_ready(plan: Plan) -> None:
    stage = plan.catalogue["toy_speed"]

    assert not Audit(plan, (), Provenance(True)).ready
    assert not AuditedStage(stage, ()).ready
    assert not Audit(plan, (AuditedStage(stage, ()),), Provenance(True)).ready


@pytest.mark.rule("STR-02", "STR-14", "STR-20", "STR-27")
def test_any_single_harm_to_any_cell_makes_the_run_not_ready(tmp_path: Path, project: Project, run: RunDir) -> None:
    """Every cell × every defect: no repeat is skipped because the others are well."""
    harms: list[Change] = [
        lambda o: o["metrics"].update(dict.fromkeys(o["metrics"])),
        lambda o: o.update(metrics={}),
        lambda o: o["sample_counts"].update(ok=3),
        lambda o: o.update(sample_counts={}),
        lambda o: o.update(status="failed"),
        lambda o: o.update(run_id="20200101T000000Z_x"),
        lambda o: o.update(git_sha="2" * 40),
    ]
    plan = project.plan(run)
    for stage in toy.STAGES:
        for repeat in (1, 2, 3):
            whole = run.observation(stage, repeat).read_bytes()
            for harm in harms:
                toy.rewrite_observation(run, stage, repeat, harm)
                assert not audit(run, plan).ready, (stage, repeat)
            run.observation(stage, repeat).unlink()
            assert not audit(run, plan).ready
            run.observation(stage, repeat).write_bytes(whole)
    assert audit(run, plan).ready


@pytest.mark.rule("STR-02")
def test_files_that_the_plan_does_not_name_change_nothing(project: Project, run: RunDir) -> None:
    before = audited(project, run).text()
    for name in ("toy_speed/run4.json", "toy_speed/run0.json", "other_stage/run1.json"):
        (run.path / name).parent.mkdir(exist_ok=True)
        shutil.copy(run.observation("toy_speed", 1), run.path / name)

    assert audited(project, run).text() == before


@pytest.mark.rule("MET-04", "MET-08", "STR-11")
def test_worst_of_n_uses_exactly_n_strict_values(project: Project, run: RunDir) -> None:
    stages = {stage.stage.key: stage for stage in audited(project, run).stages}

    speed = {one.metric_key: one for one in worst_of_n(stages["toy_speed"], GroupPolicy(rounding="display"))}

    assert {key: one.worst_raw for key, one in speed.items()} == {"throughput_qps": 10.25, "latency_mean_s": 0.25}
    assert speed["throughput_qps"].per_run_raw == (12.5, 10.25, 11.125)
    assert (speed["throughput_qps"].worst_op, speed["latency_mean_s"].worst_op) == ("min", "max")


@pytest.mark.rule("MET-08", "STR-11", "STR-22")
@pytest.mark.parametrize("change", [lambda o: o["sample_counts"].update(ok=3), lambda o: o["metrics"].update(extra=0)])
def test_no_worst_of_n_is_made_of_a_stage_with_a_gap(project: Project, run: RunDir, change: Change) -> None:
    toy.rewrite_observation(run, "toy_speed", 3, change)
    speed = next(stage for stage in audited(project, run).stages if stage.stage.key == "toy_speed")

    with pytest.raises(ValueError, match="not strict-complete"):
        worst_of_n(speed, GroupPolicy())


@pytest.mark.rule("MET-05")
def test_an_observation_on_disk_has_all_that_the_contract_names(run: RunDir) -> None:
    value = json.loads(run.observation("toy_speed", 2).read_text())

    assert value["metrics"] == {"throughput_qps": 10.25, "latency_mean_s": 0.25}
    assert value["sample_counts"] == {"total": 4, "ok": 4}
    assert set(value) >= {
        "schema_version", "status", "reason", "metrics", "sample_counts", "duration_s", "attempts", "git_sha",
        "recorded_at", "pytest_rc", "pytest_log", "basetemp", "run_id", "history",
    }  # fmt: skip
    assert value["pytest_log"] == "_pytest/test_toy_ci/run2.log" and (run.path / value["pytest_log"]).is_file()
    assert value["basetemp"] == "_pytest/test_toy_ci/basetemp_run2" and (run.path / value["basetemp"]).is_dir()


@pytest.mark.rule("MET-05")
@pytest.mark.parametrize("value", ["10.25", True, float("nan"), float("inf"), [10.25], None, 10**400])
def test_what_is_no_finite_number_in_an_observation_is_no_value(project: Project, run: RunDir, value: object) -> None:
    toy.rewrite_observation(run, "toy_speed", 2, lambda o: o["metrics"].update(throughput_qps=value))

    found = load(run, "toy_speed", 2)

    assert isinstance(found, Stored) and found.content.metrics == {"throughput_qps": None, "latency_mean_s": 0.25}
    assert not audited(project, run).ready


@pytest.mark.rule("MET-06")
def test_a_worse_value_of_one_preset_leaves_the_rows_of_the_other(tmp_path: Path) -> None:
    source = toy.toy_source().replace("TOY_ACC_MIN = 0.5 ", "ONE_ACC_MIN = 0.5\nTWO_ACC_MIN = 0.5 ", 1)
    source = source.replace(" TOY_ACC_MIN", " (ONE_ACC_MIN if os.environ.get('PRESET') == 'one' else TWO_ACC_MIN)")
    presets = {
        name: {"constant_filter": f"^{name.upper()}_", "extra_env": {"PRESET": name}, "gpus": 0}
        for name in ("one", "two")
    }
    sources = {
        **toy.CONFIG["metric_sources"]["test_toy_ci.py"], "calibration_presets": presets,
        "ignored_constants": ["_TOY_P95"],
    }  # fmt: skip
    config = {**toy.CONFIG, "metric_sources": {"test_toy_ci.py": sources}}
    project = toy.make_toy(tmp_path / "repo", test_source=source, config=config)
    worst = {"one": 0.75, "two": 0.25}

    run = toy.finished_run(project, 2, lambda job: toy.measured(job, summary={"accuracy": worst[job.env["PRESET"]]}))

    plan = apply_plan(project, run.run_id)
    assert {row.symbol: row.worst_raw for row in plan.rows} == {"ONE_ACC_MIN": 0.75, "TWO_ACC_MIN": 0.25}
    toy.rewrite_observation(run, "toy_two_accuracy", 1, lambda o: o.update(status="failed", reason="x"))
    toy.rewrite_observation(run, "toy_two_accuracy", 1, lambda o: o["metrics"].update(accuracy=None))
    stages = {stage.stage.key: stage for stage in audited(project, run).stages}
    assert (stages["toy_one_accuracy"].ready, stages["toy_two_accuracy"].ready) == (True, False)


def test_counts_of_older_runs_that_are_whole_floats_are_counts(run: RunDir) -> None:
    for value, count in ((4.0, 4), (4.5, None), (-1, None), (float("inf"), None), (True, None), ("4", None)):
        toy.rewrite_observation(run, "toy_speed", 1, lambda o, v=value: o["sample_counts"].update(ok=v))
        found = load(run, "toy_speed", 1)
        assert isinstance(found, Stored) and found.content.sample_counts.ok == count


@pytest.mark.rule("STR-24")
def test_a_cell_that_was_recorded_after_the_ledger_was_read_is_not_taken_for_foreign(run: RunDir, plan: Plan) -> None:
    earlier = events.Ledger(events.ledger(run).plan_sha256, {})

    assert audit(run, plan, earlier).ready

    run.observation("toy_speed", 2).write_bytes(run.observation("toy_speed", 1).read_bytes())
    (_, _, cell), *rest = audit(run, plan, earlier).open_cells()
    assert (cell.fault, rest) == (Fault.FOREIGN, [])


@pytest.mark.rule("STR-24")
def test_one_audit_reads_the_ledger_once_and_every_artifact_once(
    project: Project, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = files.plain_handle
    monkeypatch.setattr(files, "plain_handle", lambda path, *a: opened.append(path.name) or read(path, *a))

    assert strict_audit(project, run.run_id).ready

    names = [name for name in opened if name == "events.jsonl" or name.startswith("run")]
    assert names.count("events.jsonl") == 1
    assert len(names) == 1 + len(toy.STAGES) * 3
