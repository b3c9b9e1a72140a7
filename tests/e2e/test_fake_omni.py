"""A repository with every structural feature of the real one, calibrated by real processes: presets stay apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import toy

from tune_mcp.calibration import applying, catalogue, reporting, running, watching
from tune_mcp.calibration.project import Project

CONFIG = f"""name: omni
description: "two presets, two variants, a threshold file, a job without numbers"
default_venv_python: ["{sys.executable}"]
test_globs: ["tests/test_model/test_*_ci.py"]
stage_base_strip_prefix: "test_"
stage_base_strip_suffix: "_ci"
gpus_per_test: {{test_tts_ci.py: 0, test_talker_tp_ci.py: 0, test_docs_ci.py: 0}}
auto_env: {{FLASHINFER_DISABLE_VERSION_CHECK: "1"}}
extra_env:
  test_talker_tp_ci.py: {{PYTORCH_ALLOC_CONF: "expandable_segments:True"}}
pytest_extra_args:
  test_tts_ci.py: ["--concurrency", "16"]
metric_sources:
  test_tts_ci.py:
    threshold_file: "tests/test_model/tts_ci_config.py"
    expected_samples: SEEDTTS_EN_FULLSET_SAMPLES
    calibration_presets:
      higgs: {{extra_env: {{TTS_CI_MODEL: higgs}}, gpus: 0, constant_filter: "^HIGGS_VC_"}}
      moss: {{extra_env: {{TTS_CI_MODEL: moss}}, gpus: 0, constant_filter: "^MOSS_VC_"}}
    variants:
      nonstream:
        constant_filter: "^(HIGGS|MOSS)_VC_(?!STREAM_)"
        json_file: "vc0/nonstream/speed.json"
        sample_counts: {{total: "summary.total", ok: "summary.ok"}}
        sample_counts_by_group:
          wer: {{total: "vc0/nonstream/wer.json::summary.total", ok: "vc0/nonstream/wer.json::summary.ok"}}
        paths:
          throughput_qps: "summary.throughput_qps"
          corpus_wer: "vc0/nonstream/wer.json::summary.wer"
      stream:
        constant_filter: "^(HIGGS|MOSS)_VC_STREAM_"
        json_file: "vc0/stream/speed.json"
        sample_counts: {{total: "summary.total", ok: "summary.ok"}}
        paths: {{throughput_qps: "summary.throughput_qps"}}
  test_talker_tp_ci.py:
    json_file: "talker0/results.json"
    sample_counts: {{total: "summary.total", ok: "summary.ok"}}
    paths: {{accuracy: "summary.accuracy"}}
"""
THRESHOLDS = """SEEDTTS_EN_FULLSET_SAMPLES = 8

HIGGS_VC_WER_MAX_CORPUS = 0.0121
MOSS_VC_WER_MAX_CORPUS = 0.0121  # the same number, another preset
_HIGGS_VC_NON_STREAM_P95 = {16: {"throughput_qps": 14.7}}
_MOSS_VC_NON_STREAM_P95 = {16: {"throughput_qps": 14.7}}
_HIGGS_VC_STREAM_P95 = {16: {"throughput_qps": 9.5}}
_MOSS_VC_STREAM_P95 = {16: {"throughput_qps": 9.5}}
HIGGS_VC_STREAM_THRESHOLDS = {k: v["throughput_qps"] * 0.5 for k, v in _HIGGS_VC_STREAM_P95.items()}
"""
TTS = """import json
import os
from pathlib import Path

import pytest

from tests.test_model.tts_ci_config import SEEDTTS_EN_FULLSET_SAMPLES

PRESET = os.environ["TTS_CI_MODEL"]


@pytest.fixture(scope="module")
def results(tmp_path_factory, request):
    assert request.config.getoption("--concurrency") == 16
    folder = tmp_path_factory.mktemp("vc")
    k = int(Path(os.environ["TUNE_GUARD_RECORD"]).stem.removeprefix("guard_run"))
    base = {"higgs": 20.0, "moss": 30.0}[PRESET]
    counts = {"total": SEEDTTS_EN_FULLSET_SAMPLES, "ok": SEEDTTS_EN_FULLSET_SAMPLES}
    for mode, shift in (("nonstream", 0.0), ("stream", 5.0)):
        (folder / mode).mkdir()
        speed = {"summary": {**counts, "throughput_qps": base + shift + k}}
        (folder / mode / "speed.json").write_text(json.dumps(speed))
    wer = {"summary": {**counts, "wer": {"higgs": 0.011, "moss": 0.025}[PRESET]}}
    (folder / "nonstream/wer.json").write_text(json.dumps(wer))


def test_wer(results):
    assert PRESET == "higgs", "moss misses its threshold, which is a valid observation"
"""
FILES = {
    "conftest.py": 'def pytest_addoption(parser):\n    parser.addoption("--concurrency", type=int)\n',
    "tests/__init__.py": "",
    "tests/test_model/__init__.py": "",
    "tests/test_model/tts_ci_config.py": THRESHOLDS,
    "tests/test_model/test_tts_ci.py": TTS,
    "tests/test_model/test_tts_consistency_artifacts.py": "def test_consistency():\n    raise AssertionError\n",
    "tests/test_model/test_docs_ci.py": "def test_docs():\n    pass\n",
    "tests/test_model/test_talker_tp_ci.py": """import json
import os

CONCURRENCY = 1
MAX_SAMPLES = 4
TALKER_ACC_MIN = 0.5


def test_talker(tmp_path_factory):
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    found = {"summary": {"accuracy": 0.75, "total": MAX_SAMPLES, "ok": MAX_SAMPLES}}
    (tmp_path_factory.mktemp("talker") / "results.json").write_text(json.dumps(found))
""",
    ".tune/models/omni/config.yaml": CONFIG,
    ".gitignore": "__pycache__/\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "repo"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    toy.git(folder, "init", "-q", "-b", "main")
    made = toy.open_project(folder)
    found = catalogue.discover(made, "omni")
    assert found.needs_config == found.collisions == (), found.text()
    toy.commit(made)
    return made


@pytest.mark.rule("TTS-01", "TTS-06", "TTS-07", "TTS-10", "DSC-11", "DSC-12", "DSC-13", "MET-06", "STG-09", "APL-26")
def test_both_presets_are_measured_and_written_apart(project: Project) -> None:
    keys = [stage.key for stage in catalogue.catalog(project, "omni").stages]
    assert sorted(keys) == [
        "docs_docs",
        "talker_tp_accuracy",
        "tts_higgs_nonstream_speed",
        "tts_higgs_nonstream_wer",
        "tts_higgs_stream_speed",
        "tts_moss_nonstream_speed",
        "tts_moss_nonstream_wer",
        "tts_moss_stream_speed",
    ]
    reply = running.start_run(project, "omni", repeats=2)
    now = toy.wait_until_rest(project, reply.run_id)
    assert now.state == "finished", toy.told(project.run(reply.run_id))
    run = project.run(reply.run_id)
    assert sorted(path.name for path in (run.path / "_pytest").iterdir()) == [
        "test_docs_ci",
        "test_talker_tp_ci",
        "test_tts_ci__higgs",
        "test_tts_ci__moss",
    ]
    assert watching.strict_audit(project, run.run_id).strict_ready == "8/8"

    reporting.report(project, run.run_id)
    plan = reporting.apply_plan(project, run.run_id)
    applying.apply(project, run.run_id, plan.plan_id, "full")

    expected = THRESHOLDS
    for symbol, wer in (("HIGGS", "0.011"), ("MOSS", "0.025")):
        expected = expected.replace(f"{symbol}_VC_WER_MAX_CORPUS = 0.0121", f"{symbol}_VC_WER_MAX_CORPUS = {wer}")
    for symbol, old, new in (
        ("_HIGGS_VC_NON_STREAM", 14.7, 21.0),
        ("_MOSS_VC_NON_STREAM", 14.7, 31.0),
        ("_HIGGS_VC_STREAM", 9.5, 26.0),
        ("_MOSS_VC_STREAM", 9.5, 36.0),
    ):
        line = symbol + '_P95 = {16: {"throughput_qps": '
        expected = expected.replace(f"{line}{old}", f"{line}{new}")
    assert (project.repo_root / "tests/test_model/tts_ci_config.py").read_text() == expected
    rows = {(row.stage_key, row.symbol) for row in plan.rows}
    assert all(("_higgs_" in key) == ("HIGGS" in symbol) for key, symbol in rows if key.startswith("tts_"))
    assert "8 samples" in run.report_md.read_text()


@pytest.mark.rule("PRE-01", "HST-04")
def test_a_machine_without_the_projects_python_hears_every_gap_and_keeps_clean(
    project: Project, tmp_path: Path
) -> None:
    from tune_mcp.calibration.project import Options
    from tune_mcp.errors import Refusal

    elsewhere = Project.resolve(Options(repo=project.repo_root, venv_python="/nowhere/bin/python"))

    with pytest.raises(Refusal, match=r"^PRECHECK_FAILED .*venv\.python missing") as caught:
        running.start_run(elsewhere, "omni")

    assert caught.value.details["gaps"]
    assert not (project.repo_root / ".tune-runs").exists()
