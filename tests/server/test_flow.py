"""The whole calibration as clients drive it: with real processes over stdio, in both eras."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml

from tune_mcp.files import sha256_file
from tune_mcp.verbs.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("warm")]


class Blank(ast.NodeTransformer):
    """Every number becomes 0, so that two trees can be compared but for their numbers."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return ast.copy_location(ast.Constant(0), node) if number else node


def numbers(text: str) -> dict[str, object]:
    """Every module-level constant that can be evaluated."""
    found: dict[str, object] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


async def wait_until_rest(session: Any, run_id: str) -> dict[str, Any]:
    """Long polls until the run has ended; bounded by the client's own limit."""
    while True:
        text, facts = await session.call("status", run_id=run_id, wait_s=5)
        assert text.startswith("STRICT ")
        assert 0 < facts["poll_within_s"] <= 120
        if facts["terminal"]:
            return facts


async def calibrate(session: Any, project: Project) -> str:
    """Catalog to apply; returns the run's id."""
    repo = project.repo_root
    head = toy.git(repo, "rev-parse", "HEAD")
    before = (repo / toy.TEST_FILE).read_text()

    text, catalog = await session.call("catalog", model="toy")
    assert [stage["key"] for stage in catalog["stages"]] == list(toy.STAGES)
    assert "precheck" in catalog["next"]
    _, found = await session.call("discover", model="toy")
    assert (found["added"], found["removed"], found["changed"], found["written"]) == ([], [], [], False)
    _, checked = await session.call("precheck", model="toy")
    assert checked["ok"] and "start_run" in checked["next"]

    text, run = await session.call("start_run", model="toy", repeats=2, label="flow")
    run_id = run["run_id"]
    assert (
        text.splitlines()[0]
        == run["plan_line"]
        == (f"Running toy: toy_accuracy,toy_speed, 2 repeats on commit {head}, run-dir {run['run_dir']}")
    )
    assert "then call status" in run["next"]
    assert run["watch_command"] in text and run["tail_command"] in text
    assert run_id.endswith("_flow") and Path(run["run_dir"]).parent == repo / ".tune-runs"
    facts = await wait_until_rest(session, run_id)
    assert (facts["state"], facts["strict_ready"], facts["strict_complete"]) == ("finished", "2/2", True)
    assert (facts["ok"], facts["total"], facts["missing"], facts["git_provenance"]) == (4, 4, [], "ok")
    assert facts["next"] == f"call report with run_id={run_id}"

    text, audited = await session.call("strict_audit", run_id=run_id)
    assert text.splitlines() == [
        f"calibration_git_sha: {head}",
        "GIT PROVENANCE: ok",
        "toy_accuracy: ✓✓ (2/2 strict, expected=4)",
        "toy_speed: ✓✓ (2/2 strict, expected=4)",
        "STRICT READY: 2/2 stages (2 repeats each)",
        "STRICT + GIT: READY",
    ]
    assert audited["ready"] is True and "call report" in audited["next"]

    first, tail = await session.call("tail_pytest", run_id=run_id, test=toy.TEST_KEY, repeat=1, lines=1)
    assert "passed" in first
    again, more = await session.call("tail_pytest", run_id=run_id, cursor=tail["cursor"])
    assert more["log_lines"] == [] and more["cursor"] == tail["cursor"]

    text, report = await session.call("report", run_id=run_id)
    assert report["report_md"] in text and report["tightens"] == 3 and "then call apply_plan" in report["next"]
    for kind in ("report_md", "report_json", "report_html"):
        assert Path(report[kind]).is_file()
    text, plan = await session.call("apply_plan", run_id=run_id)
    assert {row["metric_key"]: row["worst_raw"] for row in plan["rows"]} == toy.WORST
    assert plan["plan_id"] in text and plan["plan_id"] in plan["next"]
    assert (repo / toy.TEST_FILE).read_text() == before
    text, applied = await session.call("apply", run_id=run_id, plan_id=plan["plan_id"], mode="full", otherwise="apply")
    for row in applied["applied"]:
        assert f"{row['file']}:{row['symbol']} = {row['new']!r} (was {row['old']!r}" in text

    check_tree(project, before)
    _, again = await session.call("apply_plan", run_id=run_id)
    assert {row["direction"] for row in again["rows"]} == {"equal"}
    assert again["diff"] == "" and again["plan_id"] != plan["plan_id"]
    stages = (await session.call("catalog", model="toy"))[1]["stages"]
    assert [stage["stale"] for stage in stages] == [False, False]
    _, runs = await session.call("status")
    assert [entry["run_id"] for entry in runs["runs"]] == [run_id]
    return run_id


def check_tree(project: Project, before: str) -> None:
    """Only the three thresholds changed, to the worst of two; every other byte of the file and every file stays."""
    repo = project.repo_root
    after = (repo / toy.TEST_FILE).read_text()
    assert ast.dump(Blank().visit(ast.parse(after))) == ast.dump(Blank().visit(ast.parse(before)))
    old, new = numbers(before), numbers(after)
    assert new == {
        **old,
        "TOY_ACC_MIN": toy.WORST["accuracy"],
        "_TOY_P95": {2: {"throughput_qps": 10.25, "latency_mean_s": 0.25}},
    }
    assert after == before.replace("MIN = 0.5 ", "MIN = 0.625 ").replace(
        '"throughput_qps": 1.0, "latency_mean_s": 9.0', '"throughput_qps": 10.25, "latency_mean_s": 0.25'
    )
    assert toy.git(repo, "diff", "--name-only").splitlines() == [".tune/models/toy/stages.yaml", toy.TEST_FILE]
    table = yaml.safe_load((repo / ".tune/models/toy/stages.yaml").read_text())
    stages = table.get("stages", table)
    assert {stage["test_file_sha256"] for stage in stages.values()} == {sha256_file(repo / toy.TEST_FILE)}


def check_report(project: Project, run_id: str) -> None:
    report = project.run(run_id).report_md.read_text()
    titles = [line for line in report.splitlines() if line.startswith("## ")]
    assert titles.index("## Provenance") == titles.index("## Applied changes") + 1


@pytest.mark.rule("SCP-05", "STP-01", "ASK-10", "STR-13", "APL-06", "APL-15", "APL-18", "DSC-02")
@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_a_calibration_with_real_processes_changes_the_thresholds_and_nothing_else(
    connect: Any, project: Project, era: str, transport: str
) -> None:
    async with connect(project.repo_root, era, transport) as session:
        run_id = await calibrate(session, project)

    check_report(project, run_id)


@pytest.mark.rule(
    "STR-01", "STR-21", "APL-01", "SES-09", "STR-14", "SES-13", "SES-08", "APL-24", "RPT-05", "APL-14", "SCP-05"
)
async def test_every_gate_refuses_through_the_protocol_and_leaves_every_byte(
    connect: Any, project: Project, era: str
) -> None:
    run = toy.finished_run(project)
    path = project.repo_root / toy.TEST_FILE
    before = path.read_bytes()
    kept = {one: one.read_bytes() for one in run.path.rglob("*.json")}

    async def refused(session: Any, code: str, *tools: str) -> None:
        for tool in tools:
            more = {"plan_id": "0" * 16, "mode": "full"} if tool == "apply" else {}
            found = await session.refused(tool, run_id=run.run_id, **more)
            assert found["code"] == code, (tool, found)
        for one, data in kept.items():
            one.write_bytes(data)

    gates = ("report", "apply_plan", "apply")
    async with connect(project.repo_root, era) as session:
        await refused(session, "NOT_REPORTED", "apply")
        run.observation("toy_speed", 2).unlink()
        await refused(session, "NOT_STRICT", *gates)
        toy.rewrite_observation(run, "toy_speed", 1, lambda o: o["metrics"].update(throughput_qps=float("nan")))
        await refused(session, "NOT_STRICT", *gates)
        toy.rewrite_observation(run, "toy_speed", 1, lambda o: o["sample_counts"].update(ok=3))
        await refused(session, "NOT_STRICT", *gates)
        toy.rewrite_observation(run, "toy_speed", 1, lambda o: o.update(git_sha="0" * 40))
        await refused(session, "GIT_PROVENANCE", *gates)
        toy.rewrite_observation(run, "toy_speed", 1, lambda o: o["metrics"].update(throughput_qps=11.0))
        await refused(session, "FOREIGN_ARTIFACT", *gates)
        run.plan.write_bytes(run.plan.read_bytes().replace(b'"repeats": 2', b'"repeats": 1'))
        await refused(session, "PLAN_TAMPERED", "strict_audit", "status", *gates)
        await session.call("report", run_id=run.run_id)
        await refused(session, "STALE_PLAN", "apply")
        path.write_bytes(before + b"\n")
        await refused(session, "THRESHOLD_CHANGED", "apply_plan", "apply")
        path.write_bytes(before)
        toy.commit(project)
        await refused(session, "COMMIT_MOVED", *gates)

    assert path.read_bytes() == before
