"""What a client is given by poll after poll: short in both forms, news against its own last answer, and the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("warm")]


def happened(run: RunDir) -> None:
    line = {"t": "2026-04-23T05:00:00Z", "kind": "observed", "text": "test_toy_ci run 2: done", "test": toy.TEST_KEY}
    with run.events.open("a") as events:
        events.write(json.dumps(line) + "\n")


@pytest.mark.rule("POL-04", "STR-15")
async def test_a_poll_without_news_is_short_in_both_forms_and_still_counts(
    connect: Any, project: Project, era: str
) -> None:
    run = toy.finished_run(project)
    run.observation("toy_speed", 2).unlink()
    with toy.at_work(run):
        async with connect(project.repo_root, era) as session:
            whole_text, whole = await session.call("status", run_id=run.run_id)
            text, facts = await session.call("status", run_id=run.run_id, wait_s=0.1)

    assert "unchanged" not in whole_text and whole["stages"][1].startswith("toy_speed: ✓— ")
    assert text.startswith("STRICT 1/2 stages · 3/4 cells ✓ · 1/2 repeats whole · unchanged · running")
    assert (facts["unchanged"], facts["timed_out"], facts["strict_ready"]) == (True, True, "1/2")
    assert (facts["whole_repeats"], facts["ok"], facts["total"]) == ("1/2", 3, 4)
    assert facts["poll_within_s"] <= 120 and facts["next"]
    assert {"stages", "missing", "milestones", "gpus", "pytest_tail"} & set(facts) == set()
    assert len(text) < 320 and len(json.dumps(facts)) < 640


@pytest.mark.rule("STR-15")
async def test_unchanged_means_since_the_last_answer_to_this_client(connect: Any, project: Project, era: str) -> None:
    run = toy.finished_run(project)
    run.observation("toy_speed", 2).unlink()  # who has seen the last cell waits for the run's end
    with toy.at_work(run):
        async with connect(project.repo_root, era) as one, connect(project.repo_root, era) as other:
            await one.call("status", run_id=run.run_id)
            happened(run)
            first, _ = await other.call("status", run_id=run.run_id, wait_s=0.1)
            text, facts = await one.call("status", run_id=run.run_id, wait_s=30)
            again, _ = await one.call("status", run_id=run.run_id)

    assert "unchanged" not in first, "it has had no answer before"
    assert "unchanged" not in text and not facts["timed_out"], "news of the time between two polls are news"
    assert any("run 2: done" in line for line in facts["milestones"])
    assert "unchanged" in again


@pytest.mark.rule("STR-15", "STR-13", "SCP-05")
async def test_the_last_poll_holds_the_end_with_its_last_cell_and_the_strict_matrix(
    connect: Any, project: Project
) -> None:
    run = toy.start_and_hold(project, repeats=2, repeat=2)
    async with connect(project.repo_root) as session:
        before = (await session.call("status", run_id=run.run_id))[1]
        toy.let_go(project, 2)
        text, facts = await session.call("status", run_id=run.run_id, wait_s=50)
        audit, _ = await session.call("strict_audit", run_id=run.run_id)

    assert (before["state"], before["whole_repeats"]) == ("running", "1/2")
    assert (facts["state"], facts["whole_repeats"], facts["strict_ready"]) == ("finished", "2/2", "2/2")
    assert audit in text and "STRICT + GIT: READY" in audit
    assert facts["stages"] == [line for line in audit.splitlines() if line.startswith("toy_")]
    assert facts["next"].startswith(f"call report with run_id={run.run_id}")


async def test_the_reason_of_a_halt_is_said_once_however_many_stages_it_hits(connect: Any, tmp_path: Path) -> None:
    sources = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    wrong = {**sources, "paths": {name: f"nowhere.{name}" for name in sources["paths"]}}
    project = toy.make_toy(tmp_path / "repo", config={**toy.CONFIG, "metric_sources": {"test_toy_ci.py": wrong}})
    run = toy.finished_run(project)
    async with connect(project.repo_root) as session:
        text, facts = await session.call("status", run_id=run.run_id)

    assert facts["state"] == "halted" and text.count(facts["reason"]) == 1
    assert json.dumps(facts).count("pytest ended by itself") == 2, "in the reason and in the milestone"
    assert {gap["stage_key"] for gap in facts["missing"]} == set(toy.STAGES)
