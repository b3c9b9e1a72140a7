"""A threshold without a value: measured as any other, asked about, filled byte for byte, and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import toy

from tune_mcp.contract.apply_plan import PlanRow
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.apply import apply, undo
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.status import status

TABLE = '_TOY_P95 = {\n    2: {"throughput_qps": 1.0, "latency_mean_s": 9.0},\n}\n'
BARE = "TOY_ACC_MIN = 0.5  # a bare threshold\n"


def project_with(folder: Path, *changes: tuple[str, str]) -> Project:
    source = toy.toy_source()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return toy.make_toy(folder / "repo", test_source=source)


def source_of(project: Project) -> str:
    return (project.repo_root / toy.TEST_FILE).read_bytes().decode()


def measured(project: Project) -> RunDir:
    """Two repeats by a real runner and a real pytest."""
    run = toy.finished_run(project, 2, toy.real_pytest)
    assert status(project, run.run_id).state == "finished", toy.told(run)
    return run


def rows_of(project: Project, run: RunDir) -> dict[str, PlanRow]:
    report(project, run.run_id)
    return {row.metric_key: row for row in apply_plan(project, run.run_id).rows}


FORMS: Sequence[tuple[str, str, str, set[str]]] = [
    (BARE, "TOY_ACC_MIN = None  # not yet\n", "TOY_ACC_MIN = 0.625  # not yet\n", {"accuracy"}),
    (
        BARE,
        "TOY_ACC_MIN: float | None = None  # not yet\n",
        "TOY_ACC_MIN: float | None = 0.625  # not yet\n",
        {"accuracy"},
    ),
    (
        TABLE,
        "_TOY_P95 = {}  # empty\n",
        '_TOY_P95 = {2: {"latency_mean_s": 0.25, "throughput_qps": 10.25}}  # empty\n',
        {"throughput_qps", "latency_mean_s"},
    ),
    (
        TABLE,
        "_TOY_P95: dict[int, dict[str, float]] = {2: {}}\n",
        '_TOY_P95: dict[int, dict[str, float]] = {2: {"latency_mean_s": 0.25, "throughput_qps": 10.25}}\n',
        {"throughput_qps", "latency_mean_s"},
    ),
    (
        TABLE,
        '_TOY_P95 = {\n    CONCURRENCY: {  # at two\n        "throughput_qps": 1.0,  # per second\n    },\n}\n',
        '_TOY_P95 = {\n    CONCURRENCY: {  # at two\n        "throughput_qps": 10.25,  # per second\n'
        '        "latency_mean_s": 0.25,\n    },\n}\n',
        {"latency_mean_s"},
    ),
    (
        TABLE,
        "_TOY_P95 = {2: {'throughput_qps': 1.0}}\n",
        "_TOY_P95 = {2: {'throughput_qps': 10.25, 'latency_mean_s': 0.25}}\n",
        {"latency_mean_s"},
    ),
    (
        TABLE,
        '_TOY_P95 = {2: {"throughput_qps": 1.0, "latency_mean_s": None}}\n',
        '_TOY_P95 = {2: {"throughput_qps": 10.25, "latency_mean_s": 0.25}}\n',
        {"latency_mean_s"},
    ),
]


@pytest.mark.rule("APL-15")
@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(("old", "blank", "filled", "first"), FORMS, ids=lambda value: None)
def test_a_threshold_without_a_value_goes_the_whole_way(
    tmp_path: Path, old: str, blank: str, filled: str, first: set[str]
) -> None:
    project = project_with(tmp_path, (old, blank))
    found = discover(project, toy.MODEL)
    assert not found.needs_config and not [line for line in found.problems if "not calibrated" in line]
    before = source_of(project)

    run = measured(project)

    told = report(project, run.run_id)
    assert (told.first, told.failed_tests) == (len(first), ())
    rows = rows_of(project, run)
    assert {key for key, row in rows.items() if row.direction == "first baseline"} == first
    assert {(rows[key].decision, rows[key].current_raw) for key in first} == {("ask", None)}
    plan = apply_plan(project, run.run_id)
    for mode in ("smart", "full"):
        with pytest.raises(Refusal) as caught:
            apply(project, run.run_id, plan.plan_id, mode)
        assert caught.value.code is Code.DECISION_MISSING
        missing = {one["metric_key"] for one in caught.value.details["missing"]}  # pyright: ignore
        assert first <= missing
    assert source_of(project) == before

    reply = apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    assert source_of(project) == before.replace(blank, filled).replace(
        "TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = 0.625 "
    ).replace(TABLE, TABLE.replace("1.0", "10.25").replace("9.0", "0.25"))
    assert {(one.metric_key, one.old) for one in reply.applied if one.metric_key in first} == {
        (key, None) for key in first
    }
    assert {row.direction for row in rows_of(project, run).values()} == {"equal"}
    assert "first baseline" in run.report_md.read_text()
    undo(project, run.run_id, plan.plan_id)
    assert source_of(project) == before


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize(
    ("old", "odd", "why"),
    [
        (BARE, "TOY_ACC_MIN, TOY_OTHER = None, None\n", "several targets"),
        (BARE, "TOY_ACC_MIN = TOY_OTHER = None\n", "several targets"),
        (BARE, "if NUM_SAMPLES:\n    TOY_ACC_MIN = None\n", "defined under a condition"),
        (TABLE, "_TOY_P95 = dict()\n", "derived by an expression"),
        (TABLE, "_TOY_P95 = {}\n_TOY_P95.update({})\n", "changed in place"),
        (TABLE, "_TOY_P95 = {2: None}\n", "not a number"),
    ],
)
def test_a_place_that_is_beyond_plain_assignment_is_named_and_never_filled(
    tmp_path: Path, old: str, odd: str, why: str
) -> None:
    project = project_with(tmp_path, (old, odd))

    found = discover(project, toy.MODEL)

    symbol = "TOY_ACC_MIN" if old == BARE else "_TOY_P95"
    assert any(symbol in line and "not calibrated" in line and why in line for line in found.problems), found.problems
    sources = [m.source for stage in project.places.stages(toy.MODEL).values() for m in stage.metrics.values()]
    assert not [source for source in sources if source.startswith(symbol)]


@pytest.mark.rule("APL-17")
def test_a_blank_that_the_module_fills_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    project = project_with(
        tmp_path, (BARE, 'TOY_ACC_MIN = None\nglobals_of = vars\nglobals_of()["TOY_ACC_MIN"] = 0.5\n')
    )
    run = measured(project)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)
    before = source_of(project)

    with pytest.raises(Refusal) as caught:
        apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    assert (caught.value.code, source_of(project)) == (Code.THRESHOLD_UNKNOWN, before)
    assert "the loaded module has 0.5" in caught.value.message


@pytest.mark.rule("RTY-04")
@pytest.mark.parametrize(
    ("blank", "call"),
    [
        ("TOY_ACC_MIN = None\n", "float(results['summary']['missing'] or 0)"),
        ("TOY_ACC_MIN = None\n", "len(None)"),
    ],
)
def test_an_error_on_another_line_or_of_another_key_stays_a_failure_that_is_no_thresholds(
    tmp_path: Path, blank: str, call: str
) -> None:
    line = '    assert results["summary"]["accuracy"] >= TOY_ACC_MIN\n'
    project = project_with(tmp_path, (BARE, blank), (line, f"    assert {call} >= 0\n{line}"))
    run = measured(project)
    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)

    with pytest.raises(Refusal) as caught:
        apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    assert caught.value.code is Code.TEST_FAILED


def test_a_test_that_guards_its_missing_value_passes_and_gets_one(tmp_path: Path) -> None:
    line = '    assert results["summary"]["accuracy"] >= TOY_ACC_MIN\n'
    guarded = f"    if TOY_ACC_MIN is not None:\n    {line}"
    project = project_with(tmp_path, (BARE, "TOY_ACC_MIN = None\n"), (line, guarded))
    run = toy.finished_run(project)

    row = rows_of(project, run)["accuracy"]

    assert (row.direction, row.decision, row.write_value) == ("first baseline", "ask", 0.625)
