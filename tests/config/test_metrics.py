"""metrics.yaml: which constant bounds which metric, and how a model adds to that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.metrics import family, load_metric_rules
from tune_mcp.config.stages import GroupPolicy
from tune_mcp.errors import Code, Refusal

RULES = load_metric_rules()


@pytest.mark.rule("DSC-15", "MET-04")
@pytest.mark.parametrize(
    ("symbol", "metric", "worst"),
    [
        ("PARSE_ACC_MIN", "accuracy", "min"),
        ("MMMU_MIN_ACCURACY", "accuracy", "min"),
        ("_MMMU_MIN_ACCURACY", "accuracy", "min"),
        ("X_WER_MAX_CORPUS", "corpus_wer", "max"),
        ("X_CORPUS_WER_MAX", "corpus_wer", "max"),
        ("X_SAMPLE_WER_MAX", "per_sample_wer_max", "max"),
        ("X_WER_MAX_PER_SAMPLE", "per_sample_wer_max", "max"),
        ("X_WER_BELOW_50_CORPUS_MAX", "wer_below_50_corpus", "max"),
        ("X_N_ABOVE_50_MAX", "n_above_50", "max"),
        ("X_SIMILARITY_MEAN_MIN", "similarity_mean", "min"),
        ("X_UTMOS_MEAN_REFERENCE", "utmos_mean", "min"),
        ("X_THROUGHPUT_MIN", "throughput_qps", "min"),
        ("X_LATENCY_MEAN_MAX_S", "latency_mean_s", "max"),
        ("X_LATENCY_P95_MAX_S", "latency_p95_s", "max"),
        ("X_RTF_MEAN_MAX", "rtf_mean", "max"),
        ("X_RTF_P95_MAX", "rtf_p95", "max"),
        ("TTS_MAX_FAILED_REQUESTS", "failed_requests", "max"),
    ],
)
def test_a_threshold_name_is_recognised(symbol: str, metric: str, worst: str) -> None:
    spec = RULES.match(symbol, None)
    assert spec is not None
    assert (spec.key, spec.worst) == (metric, worst)


@pytest.mark.rule("DSC-15", "DSC-16")
def test_nested_keys_count_in_a_dict_of_the_known_name_only() -> None:
    spec = RULES.match("_X_NON_STREAM_P95", "throughput_qps")
    assert spec is not None
    assert spec.worst == "min"
    assert RULES.match("_X_NON_STREAM_P95", "ttft_ms") is None
    assert RULES.match("_X_NON_STREAM_P95", "accuracy") is None
    assert RULES.match("_X_TABLE", "throughput_qps") is None


@pytest.mark.rule("SMP-09")
@pytest.mark.parametrize(
    "symbol",
    [
        "SEEDTTS_EN_FULLSET_SAMPLES", "TTS_SIMILARITY_MAX_SAMPLES", "STREAMING_BENCHMARK_MAX_SAMPLES", "NUM_SAMPLES",
        "MAX_SAMPLES", "CONCURRENCY", "QWEN3_ASR_CONCURRENCY", "WER_TIMEOUT", "THRESHOLD_SLACK_LOWER", "MAX_TOKENS",
        "MAX_NEW_TOKENS", "_SIMILARITY_MAX_SAMPLES_MIN",
    ],
)  # fmt: skip
def test_scope_timeouts_and_slack_are_never_thresholds(symbol: str) -> None:
    assert RULES.protected(symbol)
    assert RULES.match(symbol, None) is None
    assert not RULES.looks_like_threshold(symbol)


@pytest.mark.parametrize("symbol", ["STARTUP", "X_WER_MAX_CORPUS_OLD", "WER_CORPUS_THRESHOLD_ENV2", "ACC_MINIMAL"])
def test_a_pattern_fits_whole_names_only(symbol: str) -> None:
    assert RULES.match(symbol, None) is None


@pytest.mark.rule("DSC-14")
@pytest.mark.parametrize(("symbol", "listed"), [("FOO_BLEU_MIN", True), ("X_THRESHOLD", True), ("PORT", False)])
def test_a_name_that_looks_like_a_threshold_is_worth_a_line(symbol: str, listed: bool) -> None:
    assert RULES.looks_like_threshold(symbol) is listed


SHIPPED = {
    "accuracy": ("accuracy", "min", 100, 2), "corpus_wer": ("wer", "max", 100, 2),
    "per_sample_wer_max": ("wer", "max", 100, 2), "wer_below_50_corpus": ("wer", "max", 100, 2),
    "n_above_50": ("wer", "max", 1, 0), "similarity_mean": ("similarity", "min", 1, 4),
    "utmos_mean": ("utmos", "min", 1, 4), "throughput_qps": ("speed", "min", 1, 3),
    "output_tok_per_req_s": ("speed", "min", 1, 1), "latency_mean_s": ("speed", "max", 1, 3),
    "latency_p95_s": ("speed", "max", 1, 3), "rtf_mean": ("speed", "max", 1, 4), "rtf_p95": ("speed", "max", 1, 4),
    "failed_requests": ("reliability", "max", 1, 0), "cer_percent": ("diarization", "max", 1, 2),
    "cer_no_spk_percent": ("diarization", "max", 1, 2), "cp_cer_percent": ("diarization", "max", 1, 2),
    "cer_no_spk_cp_valid_percent": ("diarization", "max", 1, 2), "delta_cer_percent": ("diarization", "max", 1, 2),
    "cer_no_spk_below_50_corpus": ("diarization", "max", 1, 2), "n_above_50_pct_cer": ("diarization", "max", 1, 0),
    "speaker_timestamp_der_percent": ("diarization", "max", 1, 2), "cer_valid_samples": ("diarization", "min", 1, 0),
    "cp_cer_valid_samples": ("diarization", "min", 1, 0), "latency_max_s": ("speed", "max", 1, 3),
    "tok_per_s_agg": ("speed", "min", 1, 1),
    "ttfa_p95_s": ("speed", "max", 1, 4), "text_ttft_p95_s": ("speed", "max", 1, 4),
    "inter_chunk_p95_s": ("speed", "max", 1, 4), "prompt_tokens_min": ("speed", "min", 1, 0),
    "completion_tokens_min": ("speed", "min", 1, 0), "audio_duration_min_s": ("speed", "min", 1, 3),
}  # fmt: skip
"""Metric -> group, worst, scale and digits of the display."""


@pytest.mark.rule("MET-03", "MET-04")
def test_the_shipped_metrics_have_these_groups_bounds_and_displays() -> None:
    found = {s.key: (s.group, s.worst, s.display.scale, s.display.digits) for s in RULES.metrics.values()}
    assert found == SHIPPED


@pytest.mark.rule("APL-05", "APL-08", "APL-09", "APL-10")
def test_the_shipped_groups_are_asked_about_and_rounded_so() -> None:
    assert {group: (policy.smart, policy.rounding) for group, policy in RULES.file.groups.items()} == {
        "accuracy": ("auto", "raw"), "wer": ("auto", "ceil4"), "similarity": ("auto", "raw"),
        "diarization": ("auto", "raw"), "utmos": ("auto", "raw"),
        "speed": ("ask_loosening", "display"), "reliability": ("ask_loosening", "ceil_int"),
        "other": ("ask_loosening", "raw"),
    }  # fmt: skip


@pytest.mark.rule("MET-03")
def test_every_shipped_metric_has_a_group_with_a_policy() -> None:
    assert {spec.group for spec in RULES.metrics.values()} | {"other"} == set(RULES.file.groups)
    assert RULES.policy("wer").rounding == "ceil4"
    assert RULES.policy("speed") == GroupPolicy(smart="ask_loosening", rounding="display", family="speed")


def test_an_unknown_group_is_always_asked_about_and_never_rounded() -> None:
    assert RULES.policy("novelty") == GroupPolicy(smart="ask", rounding="raw")


MODEL = """\
groups:
  mos: {smart: auto, rounding: raw}
metrics:
  mos_mean: {group: mos, worst: min, label: MOS, scale: 1, digits: 3}
  ttft_ms: {group: speed, worst: max, label: TTFT, nested: true}
names:
  - {pattern: ".*_BLEU_MIN", metric: mos_mean}
  - {pattern: "SPECIAL_ACC_MIN", metric: mos_mean}
nested_names: ["_SPEED_TABLE"]
protected: ["PINNED_.*"]
"""


@pytest.mark.rule("DSC-16")
def test_a_model_adds_metrics_groups_and_names_without_code(tmp_path: Path) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(MODEL)
    rules = load_metric_rules(path)
    found = {name: rules.match(name, None) for name in ("FOO_BLEU_MIN", "SPECIAL_ACC_MIN", "OTHER_ACC_MIN")}
    assert {name: spec.key for name, spec in found.items() if spec} == {
        "FOO_BLEU_MIN": "mos_mean", "SPECIAL_ACC_MIN": "mos_mean", "OTHER_ACC_MIN": "accuracy",
    }  # fmt: skip
    assert rules.match("_SPEED_TABLE", "ttft_ms") is not None
    assert rules.match("PINNED_ACC_MIN", None) is None
    assert list(rules.file.groups)[-1] == "mos"
    assert RULES.match("FOO_BLEU_MIN", None) is None


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("names:\n  - {pattern: '(', metric: accuracy}\n", "names.0.pattern", 2),
        ("names:\n  - {pattern: a, metric: acuracy}\n", "names.0.metric", 2),
        ("metrics:\n  x: {group: nope, worst: min, label: X}\n", "metrics.x.group", 2),
        ("metrics:\n  x: {group: wer, worst: low, label: X}\n", "metrics.x.worst", 2),
        ("groups:\n  wer: {smart: never, rounding: raw}\n", "groups.wer.smart", 2),
    ],
)
def test_a_mistake_in_a_models_metrics_is_told_with_its_line(tmp_path: Path, text: str, key: str, line: int) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            load_metric_rules(path)
        assert caught.value.code is Code.INVALID_CONFIG
        assert (caught.value.details["key"], caught.value.details["line"]) == (key, line)


def test_every_shipped_group_says_how_its_metrics_scatter() -> None:
    assert {group: policy.family for group, policy in RULES.file.groups.items()} == {
        "accuracy": "accuracy",
        "wer": "wer",
        "diarization": "cer",
        "similarity": "score",
        "utmos": "score",
        "speed": "speed",
        "reliability": "count",
        "other": "other",
    }


def test_a_group_without_a_family_has_the_shipped_one_of_its_name_or_other() -> None:
    assert family("mos", GroupPolicy(family="score")) == "score"
    assert family("speed", GroupPolicy(smart="auto")) == "speed"
    assert family("speed", None) == "speed"
    assert family("diarisation", GroupPolicy()) == "other"
    assert family("diarisation", None) == "other"
