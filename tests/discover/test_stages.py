"""The catalogue: what discover makes of test files and configuration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml

from tune_mcp.config.stages import Stage
from tune_mcp.config.stages_yaml import dump_stages
from tune_mcp.discover.aliases import aliases
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_bytes

if TYPE_CHECKING:
    from tests.discover.conftest import Project

TALKER = """\
import pytest
from benchmarks.eval.benchmark_omni_mmmu import run

MAX_SAMPLES = 20
CONCURRENCY = 16
MMMU_MIN_ACCURACY = 0.7
MMMU_WER_BELOW_50_CORPUS_MAX = 0.28
MMMU_WER_BELOW_50_CORPUS_THRESHOLD_DERIVED = slack(MMMU_WER_BELOW_50_CORPUS_MAX)
MMMU_N_ABOVE_50_MAX = 5
_MMMU_P95 = {
    16: {
        "latency_mean_s": 16.8,
        "throughput_qps": 0.58,
    },
}
MMMU_THRESHOLDS = slack(_MMMU_P95)

def test_mmmu(tmp_path):
    found = run(output_dir=tmp_path / "mmmu")
    assert found["accuracy"] >= MMMU_MIN_ACCURACY
    assert found["wer"] <= MMMU_WER_BELOW_50_CORPUS_THRESHOLD_DERIVED
    assert found["above"] <= MMMU_N_ABOVE_50_MAX
    assert_speed(found, MMMU_THRESHOLDS[CONCURRENCY])
"""

CONFIGURED = """\
metric_sources:
  test_mmmu_ci.py:
    json_file: test_mmmu0/mmmu/mmmu_results.json
    sample_counts: {total: summary.total_samples, ok: speed.completed_requests}
    paths:
      accuracy: summary.accuracy
      wer_below_50_corpus: wer.summary.wer_below_50_corpus
      n_above_50: wer.summary.n_above_50_pct_wer
      throughput_qps: speed.throughput_qps
      latency_mean_s: speed.latency_mean_s
"""

TTS_TEST = """\
FULLSET_SAMPLES = 1088
STREAMING_MAX_SAMPLES: int | None = None
TTS_SIMILARITY_MAX_SAMPLES = 12
WER_TIMEOUT = 600
"""

PRESET = """\
{0}_VC_WER_MAX_CORPUS = 0.012
{0}_VC_WER_CORPUS_THRESHOLD = slack({0}_VC_WER_MAX_CORPUS)
{0}_VC_STREAM_WER_MAX_CORPUS = 0.011
{0}_VC_SIMILARITY_MEAN_MIN = 66.9
{0}_VC_UTMOS_MEAN_REFERENCE = 4.15
_{0}_VC_NON_STREAM_P95 = {{16: {{"throughput_qps": 14.7, "rtf_mean": 0.23}}}}
_{0}_VC_STREAM_P95 = {{16: {{"throughput_qps": 14.8}}}}
"""
SLACKS = "THRESHOLD_SLACK_HIGHER = 0.75\n"

TTS_CONFIG = """\
metric_sources:
  test_tts_ci.py:
    threshold_file: tests/tts_ci_config.py
    calibration_presets:
      higgs: {constant_filter: ^HIGGS_VC_, extra_env: {MODEL: higgs}, gpus: 2, hf_model_ids: [org/higgs]}
      moss: {constant_filter: ^MOSS_VC_, extra_env: {MODEL: moss}, gpus: 1}
    variants:
      nonstream:
        constant_filter: .*_VC_(?!STREAM_)
        json_file: non0/speed_results.json
        sample_counts: {total: summary.total_requests, ok: summary.completed_requests}
        sample_counts_by_group:
          wer: {total: "non0/wer_results.json::summary.total", ok: "non0/wer_results.json::summary.ok"}
        paths:
          throughput_qps: summary.throughput_qps
          rtf_mean: summary.rtf_mean
          corpus_wer: non0/wer_results.json::summary.wer
          similarity_mean: non0/sim_results.json::summary.mean
          utmos_mean: non0/utmos_results.json::summary.mean
      stream:
        constant_filter: .*_VC_STREAM_
        json_file: str0/speed_results.json
        sample_counts: {total: summary.total_requests, ok: summary.completed_requests}
        paths:
          throughput_qps: summary.throughput_qps
          corpus_wer: str0/wer_results.json::summary.wer
"""


def source(stage: Stage, metric: str) -> str:
    return stage.metrics[metric].source


@pytest.fixture
def tts(project: Project) -> Project:
    project.write("tests/test_tts_ci.py", TTS_TEST)
    project.write("tests/tts_ci_config.py", SLACKS + PRESET.format("HIGGS") + PRESET.format("MOSS"))
    return project


@pytest.mark.rule("DSC-01", "STG-07", "MET-04")
def test_a_test_becomes_one_stage_a_group(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    found = project.discover(CONFIGURED, "gpus_per_test: {test_mmmu_ci.py: 2}\nhf_model_id: org/m")
    assert list(found.stages) == ["mmmu_accuracy", "mmmu_wer", "mmmu_speed"]
    speed = found.stages["mmmu_speed"]
    assert list(speed.metrics) == ["throughput_qps", "latency_mean_s"]
    assert speed.metrics["throughput_qps"].source == "_MMMU_P95['throughput_qps']"
    assert (speed.metrics["throughput_qps"].worst, speed.metrics["latency_mean_s"].worst) == ("min", "max")
    assert (speed.gpus, speed.hf_model_ids, speed.expected_samples) == (2, ("org/m",), 20)
    assert speed.context_vars == ("MAX_SAMPLES", "CONCURRENCY")
    assert speed.test_file_sha256 == sha256_bytes(TALKER.encode())
    assert (speed.threshold_file, speed.threshold_file_sha256) == (None, None)
    assert speed.metrics["latency_mean_s"].json_path == "speed.latency_mean_s"
    assert found.added == list(found.stages)
    assert (found.needs_config, found.collisions, found.unrecognised, found.conflicts, found.problems) == ([],) * 5
    assert found.suggestions == {}


@pytest.mark.rule("DSC-01")
def test_twice_the_same_files_are_the_same_bytes_and_keep_their_date(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    first = project.discover(CONFIGURED)
    again = project.discover(CONFIGURED, previous=first.stages, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert dump_stages(again.stages) == dump_stages(first.stages)
    assert (again.added, again.removed, again.changed) == ([], [], [])


@pytest.mark.rule("DSC-01", "SMP-08")
def test_a_changed_test_shows_which_stages_changed_and_dates_them_anew(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    project.write("tests/test_b_ci.py", "B_ACC_MIN = 1\n")
    first = project.discover(CONFIGURED)
    project.write(
        "tests/test_mmmu_ci.py",
        TALKER.replace("MAX_SAMPLES = 20", "MAX_SAMPLES = 40").replace("_MIN_ACCURACY", "_MIN_X"),
    )
    later = datetime(2026, 5, 1, tzinfo=UTC)
    again = project.discover(CONFIGURED, previous=first.stages, now=later)
    assert (again.added, again.removed, again.changed) == ([], ["mmmu_accuracy"], ["mmmu_wer", "mmmu_speed"])
    assert again.stages["mmmu_wer"].expected_samples == 40
    assert again.stages["mmmu_wer"].last_discovered_at == "2026-05-01T00:00:00Z"
    assert again.stages["b_accuracy"] == first.stages["b_accuracy"]


@pytest.mark.rule("DSC-03", "DSC-05", "MOD-06")
def test_without_an_entry_inference_gives_the_same_stages_and_a_block_to_copy(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    configured = project.discover(CONFIGURED)
    inferred = project.discover()
    assert inferred.stages == configured.stages
    text = inferred.suggestions["test_mmmu_ci.py"]
    assert list(yaml.safe_load(text)["metric_sources"]) == ["test_mmmu_ci.py"]
    pasted = project.discover(text)
    assert pasted.stages == configured.stages
    assert pasted.suggestions == {}
    assert pasted.conflicts == []


@pytest.mark.rule("MOD-05", "MOD-06", "DSC-07")
def test_what_cannot_be_inferred_needs_config_even_after_the_blank_block_is_copied(project: Project) -> None:
    code = "A_ACC_MIN = 0.5\ndef test_a(tmp_path_factory):\n    assert run(tmp_path_factory.mktemp(NAME)) > A_ACC_MIN\n"
    project.write("tests/test_a_ci.py", code)
    found = project.discover()
    assert found.needs_config == ["a_accuracy/accuracy: A_ACC_MIN"]
    assert found.stages["a_accuracy"].metrics["accuracy"].status == "NEEDS_CONFIG"
    assert "sample_counts are not known" in found.problems[0]
    pasted = project.discover(found.suggestions["test_a_ci.py"])
    assert pasted.suggestions == {}
    assert pasted.needs_config == found.needs_config


@pytest.mark.rule("DSC-06", "DSC-07")
def test_config_wins_over_inference_and_the_difference_is_told(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    found = project.discover(CONFIGURED.replace("summary.accuracy", "other.accuracy"))
    assert found.stages["mmmu_accuracy"].metrics["accuracy"].json_path == "other.accuracy"
    assert len(found.conflicts) == 1
    assert "paths.accuracy" in found.conflicts[0]
    elsewhere = project.discover("metric_sources: {test_mmmu_ci.py: {json_file: mine.json}}")
    assert len(elsewhere.needs_config) == 5


@pytest.mark.rule("DSC-08", "DSC-17", "DSC-09")
def test_a_metric_may_stand_in_another_file_and_counts_differ_by_group(project: Project) -> None:
    project.write("tests/test_a_ci.py", "A_ACC_MIN = 0.5\nA_WER_MAX_CORPUS = 0.1\n")
    found = project.discover(
        "metric_sources:\n  test_a_ci.py:\n    json_file: speed.json\n"
        "    sample_counts: {total: a.total, ok: a.ok}\n"
        '    sample_counts_by_group: {wer: {total: "wer.json::b.total", ok: b.ok}}\n'
        '    paths: {accuracy: a.acc, corpus_wer: "wer.json::b.wer"}\n'
    )
    wer = found.stages["a_wer"]
    assert (wer.metrics["corpus_wer"].json_file, wer.metrics["corpus_wer"].json_path) == ("wer.json", "b.wer")
    assert wer.sample_counts is not None
    assert [wer.sample_counts.total.json_file, wer.sample_counts.ok.json_file] == ["wer.json", "speed.json"]
    assert found.stages["a_accuracy"].metrics["accuracy"].json_file == "speed.json"


@pytest.mark.rule("DSC-12", "DSC-13", "STG-03", "TTS-01", "TTS-03", "TTS-05", "TTS-06", "TTS-07", "TTS-08")
def test_presets_and_variants_own_their_constants(tts: Project) -> None:
    found = tts.discover(TTS_CONFIG)
    assert list(found.stages) == [
        f"tts_{preset}_{variant}_{group}"
        for variant, groups in (("nonstream", ("wer", "similarity", "utmos", "speed")), ("stream", ("wer", "speed")))
        for preset in ("higgs", "moss")
        for group in groups
    ]
    for preset in ("higgs", "moss"):
        name = preset.upper()
        stages = {key.removeprefix(f"tts_{preset}_"): stage for key, stage in found.stages.items() if preset in key}
        assert source(stages["nonstream_wer"], "corpus_wer") == f"{name}_VC_WER_MAX_CORPUS"
        assert source(stages["stream_wer"], "corpus_wer") == f"{name}_VC_STREAM_WER_MAX_CORPUS"
        assert source(stages["nonstream_similarity"], "similarity_mean") == f"{name}_VC_SIMILARITY_MEAN_MIN"
        assert source(stages["nonstream_utmos"], "utmos_mean") == f"{name}_VC_UTMOS_MEAN_REFERENCE"
        assert source(stages["nonstream_speed"], "rtf_mean") == f"_{name}_VC_NON_STREAM_P95['rtf_mean']"
        assert source(stages["stream_speed"], "throughput_qps") == f"_{name}_VC_STREAM_P95['throughput_qps']"
        assert all(stage.extra_env == {"MODEL": preset} for stage in stages.values())
        assert all(stage.threshold_file == "tests/tts_ci_config.py" for stage in stages.values())
        assert {stage.test_key for stage in stages.values()} == {f"test_tts_ci__{preset}"}
    assert found.stages["tts_higgs_stream_wer"].metrics["corpus_wer"].json_file == "str0/wer_results.json"
    assert (found.stages["tts_moss_stream_wer"].gpus, found.stages["tts_higgs_stream_wer"].gpus) == (1, 2)
    assert found.stages["tts_moss_nonstream_similarity"].expected_samples == 12
    assert found.stages["tts_moss_stream_speed"].expected_samples == 1088
    assert len(aliases(found.stages)["tts"]) == 12
    assert found.problems == []


@pytest.mark.rule("TTS-05")
def test_a_threshold_that_one_preset_lacks_leaves_a_stage_that_is_never_applied(tts: Project) -> None:
    tts.write("tests/tts_ci_config.py", PRESET.format("HIGGS") + PRESET.format("MOSS").replace("MOSS_VC_UTMOS", "# "))
    found = tts.discover(TTS_CONFIG)
    assert found.stages["tts_moss_nonstream_utmos"].is_docs
    assert "tts_moss_nonstream_utmos" in found.problems[0]
    assert not found.stages["tts_higgs_nonstream_utmos"].is_docs


@pytest.mark.rule("DSC-11", "DSC-12")
@pytest.mark.parametrize(
    ("change", "rule"), [(("_VC_(?!STREAM_)", "_VC_"), "DSC-11"), (("^MOSS_VC_", "_VC_"), "DSC-12")]
)
def test_a_constant_that_fits_two_filters_is_refused(tts: Project, change: tuple[str, str], rule: str) -> None:
    with pytest.raises(Refusal) as caught:
        tts.discover(TTS_CONFIG.replace(*change))
    assert caught.value.code is Code.INVALID_CONFIG
    assert caught.value.rules == (rule,)


@pytest.mark.rule("DSC-11", "DSC-12")
@pytest.mark.parametrize(
    ("change", "owner"),
    [
        (("^MOSS_VC_", "^MOSSY_VC_"), "calibration_presets.moss"),
        ((".*_VC_STREAM_", ".*_VC_STREAMED_"), "variants.stream"),
    ],
)
def test_a_filter_that_fits_nothing_is_refused(tts: Project, change: tuple[str, str], owner: str) -> None:
    with pytest.raises(Refusal) as caught:
        tts.discover(TTS_CONFIG.replace(*change))
    assert caught.value.code is Code.INVALID_CONFIG
    assert caught.value.details["key"] == f"metric_sources.test_tts_ci.py.{owner}.constant_filter"


@pytest.mark.rule("TTS-05", "TTS-09")
def test_a_preset_that_gates_on_nothing_yet_may_have_no_thresholds(tts: Project) -> None:
    scaffold = TTS_CONFIG.replace("constant_filter: ^MOSS_VC_", "gate_thresholds: false, constant_filter: ^NEW_VC_")
    assert scaffold != TTS_CONFIG

    found = tts.discover(scaffold)

    assert {stage.is_docs for key, stage in found.stages.items() if "_moss_" in key} == {True}


@pytest.mark.rule("DSC-12")
def test_a_threshold_of_no_preset_is_told_and_taken_by_none(tts: Project) -> None:
    tts.write("tests/tts_ci_config.py", "".join(map(PRESET.format, ("HIGGS", "MOSS", "OTHER"))))
    found = tts.discover(TTS_CONFIG)
    assert not any("OTHER" in m.source for stage in found.stages.values() for m in stage.metrics.values())
    assert any("OTHER_VC_WER_MAX_CORPUS fits no preset" in problem for problem in found.problems)


@pytest.mark.rule("DSC-11")
def test_constants_of_no_variant_stay_with_the_test_itself(project: Project) -> None:
    project.write("tests/test_a_ci.py", "A_ACC_MIN = 0.5\nA_STREAM_ACC_MIN = 0.4\n")
    found = project.discover(
        "metric_sources:\n  test_a_ci.py:\n    json_file: all.json\n    paths: {accuracy: a.acc}\n"
        "    variants:\n      stream: {constant_filter: .*_STREAM_, json_file: stream.json, paths: {accuracy: s.acc}}\n"
    )
    places = {key: stage.metrics["accuracy"] for key, stage in found.stages.items()}
    assert {key: (m.source, m.json_file, m.json_path) for key, m in places.items()} == {
        "a_accuracy": ("A_ACC_MIN", "all.json", "a.acc"),
        "a_stream_accuracy": ("A_STREAM_ACC_MIN", "stream.json", "s.acc"),
    }
    assert aliases(found.stages)["a"] == ("a_accuracy", "a_stream_accuracy")


@pytest.mark.rule("DSC-10")
def test_two_constants_that_claim_one_metric_are_a_question(project: Project) -> None:
    code = TALKER + "    assert found['latency'] < MMMU_LATENCY_MEAN_MAX_S\nMMMU_LATENCY_MEAN_MAX_S = 9.0\n"
    project.write("tests/test_mmmu_ci.py", code)
    found = project.discover(CONFIGURED)
    metric = found.stages["mmmu_speed"].metrics["latency_mean_s"]
    assert (metric.status, metric.json_file, metric.json_path) == ("NEEDS_CONFIG", None, None)
    assert found.collisions[0].endswith(" by _MMMU_P95['latency_mean_s'], MMMU_LATENCY_MEAN_MAX_S")
    assert found.needs_config[0].startswith("mmmu_speed/latency_mean_s: ")
    nested = "_MMMU_P95['latency_mean_s']"
    for ignored, left in (("MMMU_LATENCY_MEAN_MAX_S", nested), (f'"{nested}"', "MMMU_LATENCY_MEAN_MAX_S")):
        config = CONFIGURED.replace("    paths:", f"    ignored_constants: [{ignored}]\n    paths:")
        decided = project.discover(config)
        assert decided.collisions == []
        assert source(decided.stages["mmmu_speed"], "latency_mean_s") == left


@pytest.mark.rule("DSC-14", "DSC-16")
def test_a_name_that_nothing_recognises_is_listed_until_data_knows_it(project: Project) -> None:
    project.write("tests/test_a_ci.py", 'FOO_BLEU_MIN = 1\n_FOO_P95 = {4: {"ttft_ms": 3, "rtf_mean": 1}}\nPORT = 80\n')
    found = project.discover()
    assert found.unrecognised == ["tests/test_a_ci.py: FOO_BLEU_MIN", "tests/test_a_ci.py: _FOO_P95['ttft_ms']"]
    assert list(found.stages) == ["a_speed"]
    known = project.discover(
        metrics="metrics:\n  bleu: {group: accuracy, worst: min, label: BLEU}\n"
        "  ttft_ms: {group: speed, worst: max, label: TTFT, nested: true}\n"
        "names: [{pattern: .*_BLEU_MIN, metric: bleu}]\n"
    )
    assert known.unrecognised == []
    assert list(known.stages) == ["a_accuracy", "a_speed"]
    assert list(known.stages["a_speed"].metrics) == ["rtf_mean", "ttft_ms"]


@pytest.mark.rule("DSC-14")
def test_a_dict_of_known_metrics_under_an_unknown_name_is_listed(project: Project) -> None:
    project.write("tests/test_a_ci.py", '_A_TABLE = {4: {"rtf_mean": 1}}\n_B_TABLE = {4: {"rows": 1}}\n')
    found = project.discover()
    assert found.unrecognised == ["tests/test_a_ci.py: _A_TABLE"]
    assert (found.stages, found.without) == ({}, ["tests/test_a_ci.py"])


@pytest.mark.rule("SMP-09", "APL-17")
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("A_ACC_MIN = None", "it has no value"),
        ("A_ACC_MIN: float | None = None", "it has no value"),
        ("A_ACC_MIN = 0.5 * 2", "expression"),
        ("A_ACC_MIN = slack(B)", "expression"),
        ("A_ACC_MIN = '0.5'", "string"),
        ("A_ACC_MIN = [0.5]", "not a number"),
        ("A_ACC_MIN = 0.5\nA_ACC_MIN = 0.6", "assigned 2 times"),
        ("if X:\n    A_ACC_MIN = 0.5", "condition"),
        ("from tests.other import A_ACC_MIN", "threshold_file"),
        ('_A_P95 = {4: {"rtf_mean": 1 + 1}}', "expression"),
        ("_A_P95 = build()", "expression"),
        ('_A_P95 = {4: {"rtf_mean": 1}}\n_A_P95 = {4: {"rtf_mean": 2}}', "assigned 2 times"),
    ],
)
def test_what_is_no_plain_number_is_told_and_not_calibrated(project: Project, line: str, why: str) -> None:
    project.write("tests/test_a_ci.py", line + "\n")
    found = project.discover()
    assert all(not stage.metrics for stage in found.stages.values())
    assert why in found.problems[0]


@pytest.mark.rule("SMP-09", "TTS-08")
def test_protected_and_lower_case_names_are_passed_over(project: Project) -> None:
    project.write("tests/test_a_ci.py", "SIMILARITY_MAX_SAMPLES_MIN = 5\nA_SLACK_ACC_MIN = 1\nb_ACC_MIN = 2\n")
    found = project.discover()
    assert found.stages == {}
    assert (found.unrecognised, found.problems) == ([], [])


@pytest.mark.rule("STG-09")
def test_a_test_in_a_docs_folder_without_thresholds_is_a_docs_stage(project: Project) -> None:
    project.write("tests/docs/test_pages_ci.py", "def test_a(): pass\n")
    found = project.discover(more='test_globs: ["tests/**/test_*_ci.py"]')
    assert list(found.stages) == ["pages_docs"]
    assert found.stages["pages_docs"].group == "docs"
    assert found.without == []


@pytest.mark.rule("STG-09")
def test_a_test_without_thresholds_is_a_gap_until_config_says_that_it_has_none(project: Project) -> None:
    project.write("tests/test_smoke_ci.py", "def test_a(): pass\n")
    found = project.discover()
    assert (found.stages, found.without) == ({}, ["tests/test_smoke_ci.py"])
    pasted = project.discover(found.suggestions["test_smoke_ci.py"])
    assert list(pasted.stages) == ["smoke_docs"]
    assert (pasted.without, pasted.unrecognised) == ([], [])
    named = project.discover(more="stage_base_docs_override: tts_docs")
    assert list(named.stages) == ["tts_docs"]
    project.write("tests/test_more_ci.py", "def test_b(): pass\n")
    two = project.discover(more="stage_base_docs_override: tts_docs")
    assert two.without == ["tests/test_more_ci.py", "tests/test_smoke_ci.py"]


@pytest.mark.rule("MOD-02", "MOD-07")
def test_names_in_config_that_mean_nothing_are_told(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    sources = CONFIGURED.replace("accuracy: summary", "acuracy: summary") + (
        "    sample_counts_by_group: {wrr: {total: a.b, ok: a.c}}\n"
    )
    more = 'gpus_per_test: {test_mmu_ci.py: 2}\ntest_globs: ["tests/test_*_ci.py", "tests/none_*.py"]\n'
    problems = "\n".join(project.discover(sources, more).problems)
    assert "metric acuracy, which does not exist; did you mean accuracy?" in problems
    assert "group wrr, which does not exist; did you mean wer?" in problems
    assert "test_mmu_ci.py, which no test_globs entry finds; did you mean test_mmmu_ci.py?" in problems
    assert "tests/none_*.py finds no file" in problems


def test_a_file_that_two_globs_find_is_discovered_once(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    more = 'test_globs: ["tests/test_*_ci.py", "tests/test_mmmu_ci.py", "**/test_mmmu_ci.py"]\n'
    assert len(project.discover(CONFIGURED, more).stages) == 3


@pytest.mark.rule("STG-07")
@pytest.mark.parametrize(
    ("files", "more"),
    [
        (("tests/test_a_ci.py", "tests/deep/test_a_ci.py"), 'test_globs: ["tests/**/test_*_ci.py"]'),
        (("tests/test_a_ci.py", "tests/test_a.py"), 'test_globs: ["tests/test_a*.py"]'),
        (("tests/test__ci.py",), ""),
    ],
)
def test_stages_that_could_not_be_told_apart_are_refused(project: Project, files: tuple[str, ...], more: str) -> None:
    for file in files:
        project.write(file, "A_ACC_MIN = 1\n")
    with pytest.raises(Refusal) as caught:
        project.discover(more=more)
    assert caught.value.rules == ("STG-07",)


@pytest.mark.rule("DSC-13")
@pytest.mark.parametrize("text", [None, "X = (\n"])
def test_a_threshold_file_that_is_missing_or_no_python_is_refused(project: Project, text: str | None) -> None:
    project.write("tests/test_a_ci.py", "")
    if text is not None:
        project.write("tests/a_config.py", text)
    with pytest.raises(Refusal) as caught:
        project.discover("metric_sources: {test_a_ci.py: {threshold_file: tests/a_config.py}}")
    assert caught.value.code is Code.INVALID_CONFIG
    assert "a_config.py" in caught.value.message


def test_a_threshold_file_outside_the_repository_is_refused(project: Project) -> None:
    project.write("tests/test_a_ci.py", "")
    (project.root.parent / "secret.py").write_text("A_ACC_MIN = 1\n")
    (project.root / "tests/link.py").symlink_to(project.root.parent / "secret.py")
    with pytest.raises(Refusal):
        project.discover("metric_sources: {test_a_ci.py: {threshold_file: tests/link.py}}")


def test_the_clock_changes_nothing_but_the_date(project: Project) -> None:
    project.write("tests/test_mmmu_ci.py", TALKER)
    first = project.discover(CONFIGURED)
    other = project.discover(CONFIGURED, now=datetime(2026, 4, 23, tzinfo=UTC) + timedelta(days=9))
    lines = zip(dump_stages(first.stages).splitlines(), dump_stages(other.stages).splitlines(), strict=True)
    assert {one.split(b":")[0].strip() for one, two in lines if one != two} == {b"last_discovered_at"}


EMPTY = """\
_A_P95 = {{}}
def test_a(got, load):
    {body}
"""


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize(
    ("body", "claimed"),
    [
        ('row = _A_P95.get(8)\n    if row is not None:\n        assert got["r"] <= row["rtf_mean"]', ["rtf_mean"]),
        ('row = _A_P95.get(load) or {}\n    assert got["r"] <= row.get("rtf_mean", 9)', ["rtf_mean"]),
        ('row = _A_P95[load]\n    if "rtf_mean" in row:\n        assert got["r"] <= row["rtf_mean"]', ["rtf_mean"]),
        ('assert got["r"] <= _A_P95[8]["rtf_mean"]', ["rtf_mean"]),
        ("row = _A_P95.get(8)\n    check(got, row)", ["throughput_qps", "rtf_mean"]),
        ("check(got, _A_P95)", ["throughput_qps", "rtf_mean"]),
        ("for load, row in _A_P95.items():\n        check(got, row)", ["throughput_qps", "rtf_mean"]),
    ],
)
def test_of_an_empty_table_only_keys_that_the_test_may_ask_for_get_a_first_value(
    project: Project, body: str, claimed: list[str]
) -> None:
    project.write("tests/test_a_ci.py", EMPTY.format(body=body))
    sources = "metric_sources: {test_a_ci.py: {json_file: r.json, paths: {throughput_qps: q, rtf_mean: r}}}"

    found = project.discover(sources)

    assert [key for stage in found.stages.values() for key in stage.metrics] == claimed
