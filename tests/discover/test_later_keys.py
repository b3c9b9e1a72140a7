"""The keys that the project's own configuration gained in 2026: what each one means is done, not only parsed."""

from __future__ import annotations

from pathlib import Path

import pytest
from discover.conftest import Project

from tune_mcp.config.stages import Location
from tune_mcp.config.stages_yaml import dump_stages, load_stages
from tune_mcp.errors import Refusal
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


SHARED = """\
MAX_FAILED_REQUESTS = 16
VC_RTF_MEAN_MAX = 0.3
VC_STREAM_RTF_MEAN_MAX = 0.4

def test_whole(results):
    assert results["failed"] <= MAX_FAILED_REQUESTS
    assert results["rtf"] <= VC_RTF_MEAN_MAX

def test_stream(results):
    assert results["failed"] <= MAX_FAILED_REQUESTS
    assert results["rtf"] <= VC_STREAM_RTF_MEAN_MAX
"""
TREES = """\
metric_sources:
  test_speech_ci.py:
    variants:
      whole:
        constant_filter: "^VC_(?!STREAM_).*|^MAX_FAILED_REQUESTS$"
        json_file: whole/speed.json
        sample_counts: {total: n, ok: ok}
        paths: {rtf_mean: rtf, failed_requests: failed}
      stream:
        constant_filter: "^VC_STREAM_.*|^MAX_FAILED_REQUESTS$"
        json_file: stream/speed.json
        sample_counts: {total: n, ok: ok}
        paths: {rtf_mean: rtf, failed_requests: failed}
"""


@pytest.mark.rule("DSC-11")
def test_a_constant_that_two_filters_write_out_belongs_to_both_variants(project: Project) -> None:
    project.write("tests/test_speech_ci.py", SHARED)

    stages = project.discover(TREES).stages

    files = {key: stage.metrics["failed_requests"].json_file for key, stage in stages.items() if "reliab" in key}
    assert files == {
        "speech_whole_reliability": "whole/speed.json",
        "speech_stream_reliability": "stream/speed.json",
    }


@pytest.mark.rule("DSC-11")
@pytest.mark.parametrize(
    "stray",
    ["MAX_FAILED", "MAX_FAILED_.*", "MAX_FAILED_REQUESTS.*", "(?=MAX_FAILED_REQUESTS)", "[MAX_FAILED_REQUESTS]+", ".*"],
)
def test_a_filter_that_only_happens_to_fit_a_constant_of_another_variant_is_refused(
    project: Project, stray: str
) -> None:
    project.write("tests/test_speech_ci.py", SHARED)
    with pytest.raises(Refusal, match="MAX_FAILED_REQUESTS fits whole and stream") as refused:
        project.discover(TREES.replace("^VC_STREAM_.*|^MAX_FAILED_REQUESTS$", f"^VC_STREAM_.*|^{stray}"))
    assert refused.value.rules == ("DSC-11",)


@pytest.mark.rule("SMP-01", "DSC-07")
def test_a_group_whose_counts_can_never_differ_is_never_strict_and_the_others_are(project: Project) -> None:
    project.write("tests/test_speech_ci.py", SHARED)
    same = TREES.replace("{total: n, ok: ok}", "{total: n, ok: n}")
    counted = "sample_counts_by_group: {reliability: {total: n, ok: ok}}"
    by_group = same.replace("json_file: whole", f"{counted}\n        json_file: whole")

    found = project.discover(by_group)

    assert {key for key, stage in found.stages.items() if stage.sample_counts} == {"speech_whole_reliability"}
    told = [line for line in found.problems if "same place" in line]
    assert [line.partition(":")[0] for line in told] == [
        key for key in found.stages if key != "speech_whole_reliability"
    ]
    with pytest.raises(Refusal, match="same place") as refused:
        project.discover(same)
    assert refused.value.rules == ("SMP-01",)


@pytest.mark.rule("DSC-10")
def test_a_gate_that_is_off_is_not_filled_and_its_reference_counts_where_config_has_its_path(project: Project) -> None:
    code = """\
MOVIES_RTF_P95_REF = 0.4
MOVIES_RTF_P95_MAX: float | None = None
NEW_RTF_P95_MAX = None

def test_all(results):
    if MOVIES_RTF_P95_MAX is not None:
        assert results["rtf"] <= MOVIES_RTF_P95_MAX
"""
    sources = "metric_sources: {test_speech_ci.py: {json_file: r.json, paths: {rtf_p95: rtf}}}\n"
    project.write("tests/test_speech_ci.py", code)
    off = project.discover(sources)
    project.write("tests/test_speech_ci.py", code.replace("MOVIES_RTF_P95_REF = 0.4", "SAMPLES = 4"))
    first = project.discover(sources)

    project.write("tests/test_speech_ci.py", code)
    without = project.discover("")

    assert off.stages["speech_speed"].metrics["rtf_p95"].source == "MOVIES_RTF_P95_REF"
    assert any("MOVIES_RTF_P95_REF is calibrated, but MOVIES_RTF_P95_MAX" in line for line in off.problems)
    assert not without.stages and any("MOVIES_RTF_P95_REF is not calibrated" in line for line in without.problems)
    for found in (off, without):
        assert any("MOVIES_RTF_P95_MAX is not calibrated" in x and "off on purpose" in x for x in found.problems)
    assert first.stages["speech_speed"].metrics["rtf_p95"].source == "MOVIES_RTF_P95_MAX"


@pytest.mark.rule("DSC-11", "STG-07")
def test_a_constant_of_no_variant_does_not_take_the_name_of_a_variants_stages(project: Project) -> None:
    code = TEST.replace("CHUNK_", "OTHER_RTF_MEAN_MAX = 0.5\nMEETING_DELTA_CER_PERCENT_REF = 2.0\nCHUNK_", 1)
    code += "    assert got['delta'] <= MEETING_DELTA_CER_PERCENT_REF\n    assert got['rtf'] <= OTHER_RTF_MEAN_MAX\n"
    project.write("tests/test_speech_ci.py", code)

    found = project.discover(SOURCES.replace("stage_base_override: meeting", "stage_base_override: speech"))

    assert list(found.stages) == ["speech_diarization", "long_meeting_diarization", "speech_stream_speed"]
    assert list(found.stages["speech_diarization"].metrics) == ["cer_percent"]
    told = [line for line in found.problems if "fits no variant" in line]
    assert len(told) == 2 and "OTHER_RTF_MEAN_MAX" in told[0] + told[1]


@pytest.mark.rule("DSC-10")
def test_a_limit_that_is_made_of_a_calibrated_reference_needs_no_word(project: Project) -> None:
    code = """\
A_RTF_MEAN_REF = 0.04
A_RTF_MEAN_MAX = round(A_RTF_MEAN_REF * 1.1, 4)
A_RTF_P95_MAX = round(0.04 * 1.1, 4)

def test_all(results):
    assert results["rtf"] <= A_RTF_MEAN_MAX
    assert results["p95"] <= A_RTF_P95_MAX
"""
    project.write("tests/test_speech_ci.py", code)

    found = project.discover("metric_sources: {test_speech_ci.py: {json_file: r.json, paths: {rtf_mean: rtf}}}\n")

    assert [line for line in found.problems if "derived by an expression" in line] == [
        "tests/test_speech_ci.py:3: A_RTF_P95_MAX is not calibrated: it is derived by an expression"
    ]
