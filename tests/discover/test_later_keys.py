"""The keys that the project's own configuration gained in 2026: what each one means is done, not only parsed."""

from __future__ import annotations

from pathlib import Path

import pytest
from discover.conftest import Project

from tune_mcp.config.stages import Location
from tune_mcp.config.stages_yaml import dump_stages, load_stages
from tune_mcp.precheck.subject import Needs

TEST = """\
import json

LONG_CI_SAMPLES = 7
CHUNK_CONCURRENCY = 4
MOVIES_CER_PERCENT_REF = 3.5
MOVIES_CER_PERCENT_MAX = round(MOVIES_CER_PERCENT_REF * 1.2, 4)
STREAM_TEXT_TTFT_P95_S_REF = 0.25
LONG_SPEAKER_TIMESTAMP_DER_PERCENT_REF = 12.0
UNUSED_DELTA_CER_PERCENT_REF = 1.0

def test_all(tmp_path):
    got = json.loads((tmp_path / "r.json").read_text())
    assert got["cer"] <= MOVIES_CER_PERCENT_MAX
    assert got["ttft"] <= STREAM_TEXT_TTFT_P95_S_REF * 1.2
    assert got["der"] <= LONG_SPEAKER_TIMESTAMP_DER_PERCENT_REF * 1.2
"""
SOURCES = """\
metric_sources:
  test_speech_ci.py:
    json_file: t0/movies.json
    observation_validity: t0/validation.json::valid
    sample_counts: {total: n, ok: rows.__len__}
    variants:
      movies:
        stage_base_override: meeting
        omit_variant_suffix: true
        constant_filter: MOVIES_
        paths: {cer_percent: cer}
      long:
        stage_base_override: long_meeting
        omit_variant_suffix: true
        constant_filter: LONG_
        context_vars: [CHUNK_CONCURRENCY, LONG_CI_SAMPLES]
        json_file: t0/long.json
        observation_validity: valid
        paths: {speaker_timestamp_der_percent: der}
      stream:
        constant_filter: STREAM_
        paths: {text_ttft_p95_s: ttft}
"""


@pytest.mark.rule("DSC-11", "SMP-02", "DSC-14")
def test_a_variant_may_name_its_stages_and_say_which_constants_are_its_context(project: Project) -> None:
    project.write("tests/test_speech_ci.py", TEST)

    found = project.discover(SOURCES)

    assert list(found.stages) == ["meeting_diarization", "long_meeting_diarization", "speech_stream_speed"]
    assert found.stages["meeting_diarization"].title == "MEETING diarization"
    assert found.stages["meeting_diarization"].metrics["cer_percent"].source == "MOVIES_CER_PERCENT_REF"
    long = found.stages["long_meeting_diarization"]
    assert (long.context_vars, long.expected_samples) == (("CHUNK_CONCURRENCY", "LONG_CI_SAMPLES"), 7)
    assert list(long.metrics) == ["speaker_timestamp_der_percent"]
    assert not found.needs_config


@pytest.mark.rule("DSC-10")
def test_two_variants_of_one_stage_name_are_refused(project: Project) -> None:
    project.write("tests/test_speech_ci.py", TEST)
    with pytest.raises(Exception, match="both make the stage meeting_diarization"):
        project.discover(SOURCES.replace("long_meeting", "meeting"))


def test_each_stage_knows_where_the_test_says_whether_the_repeat_is_valid(project: Project, tmp_path: Path) -> None:
    project.write("tests/test_speech_ci.py", TEST)
    stages = project.discover(SOURCES).stages

    places = {key: stage.observation_validity for key, stage in stages.items()}

    of_file = Location(json_file="t0/validation.json", json_path="valid")
    of_variant = Location(json_file="t0/long.json", json_path="valid")
    assert places == {
        "meeting_diarization": of_file,
        "long_meeting_diarization": of_variant,
        "speech_stream_speed": of_file,
    }
    path = tmp_path / "stages.yaml"
    path.write_bytes(dump_stages(stages))
    assert load_stages(path) == stages
    older = path.read_text().replace(
        "  group: speed\n", "  group: speed\n  allowed_pytest_failure: {json_file: v, json_path: x}\n"
    )
    path.write_text(older)
    assert "allowed_pytest_failure" in older and load_stages(path) == stages


@pytest.mark.rule("PRE-04", "PRE-06")
def test_data_sets_and_speaker_similarity_are_needed_by_the_tests_that_config_names(project: Project) -> None:
    project.write("tests/test_speech_ci.py", TEST)
    project.write("tests/test_other_ci.py", "OTHER_ACC_MIN = 0.5\ndef test_it():\n    assert 0.6 >= OTHER_ACC_MIN\n")
    more = (
        "hf_datasets: org/all\nhf_datasets_by_test: {test_speech_ci.py: [], test_other_ci.py: org/other}\n"
        "requires_speaker_sim_by_test: {test_speech_ci.py: true, test_other_ci.py: false}"
    )
    stages = project.discover(SOURCES, more).stages
    model = project.model(SOURCES, more)
    by_test = {
        test: [one for one in stages.values() if one.test.endswith(test)] for test in ("speech_ci.py", "other_ci.py")
    }

    speech, other = (Needs.of(model, None, chosen) for chosen in by_test.values())

    assert (speech.datasets, speech.speaker_sim) == ((), True)
    assert (other.datasets, other.speaker_sim) == (("org/other",), False)
    assert Needs.of(model, None, stages.values()).speaker_sim is True
    assert Needs.of(project.model(SOURCES, "hf_datasets: org/all"), None, stages.values()).datasets == ("org/all",)
