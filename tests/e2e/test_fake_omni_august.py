"""The families that the repository gained by August 2026, under the shipped models of that month."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nvml
import omni
import pytest
import toy
import yaml

from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.gpu import gate
from tune_mcp.supervise.job import AttemptResult
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.usefixtures("warm")


def serving_only(config: dict[str, Any]) -> None:
    """The repository of this test has none of the other speech tests of that month."""
    omni.without_gpus(config)
    test = "test_tts_serving_ci.py"
    config["test_globs"] = [f"tests/test_model/{test}"]
    config["metric_sources"] = {test: config["metric_sources"][test]}
    config["gpus_per_test"] = {test: 0}
    config["pytest_extra_args"] = {test: toy.FEWER_PLUGINS}
    config.pop("hf_model_ids_by_test", None)
    config["requires_speaker_sim_by_test"] = {test: False}
    config["hf_datasets_by_test"] = {test: []}


def asserted_families(project: Project, run: RunDir, stages: set[str], unasserted: list[str]) -> None:
    """Each stage is strict, and every limit in the report is read from the assertions, but for those that have none."""
    audit = strict_audit(project, run.run_id)
    assert audit.ready and {one.stage_key for one in audit.stages} == stages
    report(project, run.run_id)
    text = run.report_md.read_text()
    assert "slack unknown" not in text and "limit unknown" not in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if "(nothing asserts it)" in line] == unasserted


@pytest.mark.rule("DSC-11", "DSC-12", "DSC-13", "STR-04")
def test_every_family_of_serving_under_load_is_strict(tmp_path: Path) -> None:
    machine = omni.make(tmp_path, ["tts@2026-08"], serving_only, august=True)
    project = machine.project()

    reply = start_run(project, "tts", repeats=1)
    now = toy.wait_until_rest(project, reply.run_id)

    run = project.run(reply.run_id)
    assert now.state == "finished", toy.told(run)
    loads = ("speech_normal", "rest_stream", "batch32", "ws_normal", "ws_stream", "long")
    asserted_families(project, run, {f"tts_serving_mixed_{one}_speed" for one in loads}, [])


@pytest.mark.rule("GPU-13", "GPU-14", "STR-04", "DSC-11", "DSC-12", "DSC-13")
def test_the_h100_machine_measures_meetings_and_recognisers_on_its_four_pairs_of_gpus_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lanes as shipped, had CI no pair of its own, but for their CPUs, which are not on this machine."""
    monkeypatch.setattr(gate, "HOLD_S", 0.3)
    profile = yaml.safe_load((omni.HOSTS / "sglang-h100-ci.yaml").read_text())
    lanes = [{key: value for key, value in lane.items() if key != "cpus"} for lane in profile["lanes"]]

    def without_pins(config: dict[str, Any]) -> None:
        omni.with_fewer_plugins(config)
        config["needs_lane"] = False

    machine = omni.make(tmp_path, ["asr"], without_pins, august=True, lanes=lanes)
    project = machine.project()

    with nvml.recorded(tmp_path / "nvml.json") as recorded:
        recorded.machine(*[{"name": "NVIDIA H100 80GB HBM3", "total": 81559 * 2**20}] * 8)
        checks = precheck(project, "asr")
        reply = start_run(project, "asr", repeats=3, lanes=4)
        now = toy.wait_until_rest(project, reply.run_id)

    run = project.run(reply.run_id)
    assert checks.ok, checks.text()
    assert now.strict_complete, toy.told(run)
    results = [AttemptResult.model_validate_json(path.read_bytes()) for path in run.path.glob("**/result.json")]
    used = {one.lane.name: tuple(gpu.index for gpu in one.gpus_at_start) for one in results if one.lane}
    assert len(results) == 3 * 3, "meetings, and a recogniser each of the two"
    assert used == {lane["name"]: tuple(lane["gpus"]) for lane in lanes}
    families = (
        "multi_speaker_diarization", "multi_speaker_speed", "aishell4_long_diarization", "aishell4_long_speed",
        "googletime_diarization", "googletime_speed", "multi_speaker_stream_diarization", "multi_speaker_stream_speed",
        "seedtts_fun_en_wer", "seedtts_fun_en_speed", "seedtts_fun_zh_wer",
        "seedtts_qwen3_en_wer", "seedtts_qwen3_en_speed", "seedtts_qwen3_zh_wer",
    )  # fmt: skip
    asserted_families(project, run, {*families}, ["delta_cer_percent"])  # this gate is off
