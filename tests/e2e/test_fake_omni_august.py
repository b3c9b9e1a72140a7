"""The families that the repository gained by August 2026, under the shipped models of that month."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import omni
import pytest
import toy

from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.strict_audit import strict_audit


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


@pytest.mark.rule("DSC-11", "DSC-12", "DSC-13", "STR-04")
@pytest.mark.parametrize(
    ("model", "change", "stages"),
    [
        ("asr", omni.without_gpus, {
            "multi_speaker_diarization", "multi_speaker_speed", "aishell4_long_diarization", "aishell4_long_speed",
            "googletime_diarization", "googletime_speed",
            "multi_speaker_stream_diarization", "multi_speaker_stream_speed",
            "seedtts_fun_en_wer", "seedtts_fun_en_speed", "seedtts_fun_zh_wer",
            "seedtts_qwen3_en_wer", "seedtts_qwen3_en_speed", "seedtts_qwen3_zh_wer",
        }),
        ("tts@2026-08", serving_only, {
            f"tts_serving_mixed_{one}_speed"
            for one in ("speech_normal", "rest_stream", "batch32", "ws_normal", "ws_stream", "long")
        }),
    ],
    ids=["meetings and recognisers", "serving"],
)  # fmt: skip
def test_every_family_of_august_is_strict(tmp_path: Path, model: str, change: omni.Change, stages: set[str]) -> None:
    machine = omni.make(tmp_path, [model], change, august=True)
    project = machine.project()
    name = model.partition("@")[0]

    reply = start_run(project, name, repeats=2)
    now = toy.wait_until_rest(project, reply.run_id)

    run = project.run(reply.run_id)
    assert now.state == "finished", toy.told(run)
    audit = strict_audit(project, run.run_id)
    assert audit.ready and {one.stage_key for one in audit.stages} == stages
    report(project, run.run_id)
    unknown = [line for line in run.report_md.read_text().splitlines() if "(slack unknown)" in line]
    assert all("delta_cer_percent" in line for line in unknown), "its gate is off, so nothing asserts it"
