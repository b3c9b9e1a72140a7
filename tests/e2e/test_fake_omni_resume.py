"""A wrong path in config.yaml for one of a test's stages: the run halts, and what was measured counts all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import omni
import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.strict_audit import strict_audit

KEY = "test_tts_ci__higgs"
STAGE = "tts_higgs_nonstream_utmos"


def wrong(config: dict[str, Any]) -> None:
    omni.without_gpus(config)
    paths = config["metric_sources"]["test_tts_ci.py"]["variants"]["nonstream"]["paths"]
    paths["utmos_mean"] = paths["utmos_mean"].replace("utmos_mean", "utmos_meen")


def utmos(run: RunDir, repeat: int) -> float:
    base = run.path / f"_pytest/test_tts_ci__higgs/basetemp_run{repeat}/test_voice_cloning_non_streami0"
    return json.loads((base / "vc_nonstream_c16/utmos_results.json").read_text())["summary"]["utmos_mean"]


@pytest.mark.usefixtures("warm")
def test_after_the_fix_the_sealed_repeat_is_read_again_and_nothing_is_launched_for_it(tmp_path: Path) -> None:
    machine = omni.make(tmp_path, ["tts"], wrong)
    project = machine.project()
    reply = start_run(project, "tts", ["tts_higgs"], repeats=2)
    now = toy.wait_until_rest(project, reply.run_id)
    run = project.run(reply.run_id)
    assert now.state == "halted", toy.told(run)
    seen = utmos(run, 1)

    (machine.repo / ".tune/models/tts/config.yaml").write_text(omni.shipped(machine, "tts", omni.without_gpus))
    discover(project, "tts")
    resumed = resume_run(project, reply.run_id)
    now = toy.wait_until_rest(project, reply.run_id)

    assert now.state == "finished", toy.told(run)
    assert (resumed.read_again, resumed.measured_again) == ({KEY: [1]}, {KEY: [2]}), resumed.text()
    attempts = run.path / "_pytest/test_tts_ci__higgs/attempts"
    assert sorted(path.name for path in attempts.iterdir()) == ["run1_a1", "run2_a1"], "each repeat was launched once"
    assert strict_audit(project, reply.run_id).ready
    report(project, reply.run_id)
    (stage,) = [one for one in json.loads(run.report_json.read_text())["stages"] if one["key"] == STAGE]
    assert [one["worst_raw"] for one in stage["metrics"]] == [min(seen, utmos(run, 2))], (
        "the worst of all that was measured"
    )
