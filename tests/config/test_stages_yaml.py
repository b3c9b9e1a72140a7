"""stages.yaml on disk: older tables load, ours come back equal, and equal tables are equal bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tune_mcp.config.stages import Display, Location, SampleCounts, Stage, StageMetric, StageTable
from tune_mcp.config.stages_yaml import dump_stages, load_stages
from tune_mcp.errors import Refusal

OLDER = """\
# Written by an older script.
asr_wer:
  test: tests/test_asr_ci.py
  title: "ASR Wer"
  group: wer
  extra_env: {}
  context_vars:
    - ASR_SAMPLES
  test_file_sha256: 60e2880c28d0c925674d5a9318b1
  last_discovered_at: 2026-06-14T23:57:14Z
  variant: null
  sample_counts:
    total:
      json_file: "asr.json"
      json_path: "summary.total"
    ok:
      json_file: "asr.json"
      json_path: "summary.ok"
  metrics:
    corpus_wer:
      source: "ASR_CORPUS_WER_MAX"
      json_file: "asr.json"
      json_path: "summary.wer"
      worst: max
      display:
        label: "Corpus WER (%)"
        scale: 100
        digits: 2
      status: OK
    rtf_mean:
      source: "_ASR_P95['rtf_mean']"
      json_file: null
      json_path: null
      worst: max
      display: {label: "RTF", scale: 1, digits: 4}
      status: NEEDS_CONFIG
asr_docs:
  test: tests/test_docs_ci.py
  group: docs
  test_file_sha256: "12345678"
  sample_counts: {total: null, ok: null}
  hf_model_ids: null
  metrics: {}
"""


def test_an_older_table_loads_with_defaults_for_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "stages.yaml"
    path.write_text(OLDER)
    table = load_stages(path)
    assert list(table) == ["asr_wer", "asr_docs"]
    assert table["asr_wer"].expected_samples is None
    assert table["asr_wer"].last_discovered_at == "2026-06-14T23:57:14Z"
    assert table["asr_wer"].metrics["rtf_mean"].json_file is None
    assert table["asr_docs"].is_docs
    assert table["asr_docs"].sample_counts is None


@pytest.mark.parametrize(
    ("change", "key", "line"),
    [
        (("worst: max\n      display:\n", "worst: most\n      display:\n"), "asr_wer.metrics.corpus_wer.worst", 24),
        (("group: wer", "gruop: wer"), "asr_wer.group", 2),
        (("digits: 2", "digits: two"), "asr_wer.metrics.corpus_wer.display.digits", 28),
        (("asr_wer:", "a/b:"), "a/b", 2),
    ],
)
def test_a_broken_table_names_line_and_key(tmp_path: Path, change: tuple[str, str], key: str, line: int) -> None:
    path = tmp_path / "stages.yaml"
    path.write_text(OLDER.replace(*change, 1))
    with pytest.raises(Refusal) as caught:
        load_stages(path)
    problems = caught.value.details["problems"]
    assert isinstance(problems, list)
    found = {str(problem["key"]): problem["line"] for problem in problems if isinstance(problem, dict)}
    assert found[key] == line


def stage(key: str, **values: object) -> Stage:
    counts = Location(json_file="a/b c.json", json_path="summary.total")
    fields: dict[str, object] = {
        "key": key,
        "test": "tests/test_a_ci.py",
        "title": "A: yes, é ✓",
        "group": "wer",
        "extra_env": {"B": "1", "A": "true", "C": "1e3", "D": "0x1F", "E": "", "F": "a: b # c", "G": "0o7", "H": "no"},
        "context_vars": ("MAX_SAMPLES",),
        "test_file_sha256": "1234567890",
        "last_discovered_at": "2026-01-01T00:00:00Z",
        "sample_counts": SampleCounts(total=counts, ok=counts),
        "metrics": {
            "rtf_mean": StageMetric(
                source="_A_P95['rtf_mean']", worst="max", display=Display(label="RTF", scale=0.5, digits=3)
            )
        },
    }
    return Stage.model_validate(fields | values)


@pytest.mark.rule("DSC-01")
def test_what_is_written_is_read_back_equal_and_again_the_same_bytes(tmp_path: Path) -> None:
    table: StageTable = {"b_wer": stage("b_wer"), "a_wer": stage("a_wer", variant="v", gpus=0, expected_samples=3)}
    data = dump_stages(table)
    path = tmp_path / "stages.yaml"
    path.write_bytes(data)
    assert load_stages(path) == table
    assert list(load_stages(path)) == ["b_wer", "a_wer"]
    assert dump_stages(load_stages(path)) == data


def test_any_yaml_reader_sees_the_same_strings(tmp_path: Path) -> None:
    read = yaml.safe_load(dump_stages({"a_wer": stage("a_wer")}))["a_wer"]
    assert read["extra_env"] == stage("a_wer").extra_env
    assert read["test_file_sha256"] == "1234567890"
    assert read["last_discovered_at"] == "2026-01-01T00:00:00Z"


def test_keys_stand_in_the_contracts_order() -> None:
    read = yaml.safe_load(dump_stages({"a_wer": stage("a_wer")}))["a_wer"]
    assert " ".join(read) == (
        "test title group extra_env context_vars variant calibration_preset gpus hf_model_ids test_file_sha256 "
        "threshold_file threshold_file_sha256 expected_samples last_discovered_at sample_counts metrics"
    )
    assert list(read["metrics"]["rtf_mean"]) == ["source", "json_file", "json_path", "worst", "display", "status"]


def test_an_empty_table_is_a_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "stages.yaml"
    path.write_bytes(dump_stages({}))
    assert load_stages(path) == {}


@pytest.mark.rule("DSC-01")
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_no_text_is_changed_by_a_round_trip(text: str) -> None:
    read = yaml.safe_load(dump_stages({"a_wer": stage("a_wer", title=text, extra_env={"A": text})}))["a_wer"]
    assert (read["title"], read["extra_env"]) == (text, {"A": text})
