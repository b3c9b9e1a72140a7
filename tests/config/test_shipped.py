"""Facts of the real project that live in the shipped models and hosts alone."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.stages import StageTable
from tune_mcp.config.stages_yaml import load_stages
from tune_mcp.discover.aliases import aliases, expand
from tune_mcp.observe.extract import ResultFiles, extract
from tune_mcp.precheck.hardware import needs_it
from tune_mcp.precheck.subject import launch_settings
from tune_mcp.supervise.caches import ALWAYS

PLACES = ConfigPlaces.resolve(None, None)
MODELS = ("qwen3-omni-v1", "qwen3-asr-v1", "tts")
OMNI_BASES = {
    "mmmu", "mmmu_talker", "mmsu", "mmsu_talker", "tts", "videoamme", "videoamme_talker", "videoamme_talker_tp2",
    "videomme", "videomme_talker",
}  # fmt: skip
CI_ENV = {
    "HOME": "/github/home",
    "OMNI_CI_HOME": "/github/home/calibration",
    "XDG_CACHE_HOME": "/github/home/calibration/.cache",
    "TORCHINDUCTOR_CACHE_DIR": "/github/home/calibration/.torchinductor",
    "HF_HOME": "/github/home/.cache/huggingface",
    "MODELSCOPE_CACHE": "/github/home/.cache/modelscope",
    "HF_ENDPOINT": "https://hf-mirror.com",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_ENABLE_HF_TRANSFER": "0",
    "UV_CACHE_DIR": "/github/home/.cache/uv",
    "FLASHINFER_DISABLE_VERSION_CHECK": "1",
}


def table(model: str) -> StageTable:
    return load_stages(PLACES.config_path(model).with_name("stages.yaml"))


@pytest.mark.rule("ENV-12", "ENV-13", "ENV-14", "ENV-16")
@pytest.mark.parametrize("model", MODELS)
def test_every_variable_of_ci_is_set_by_the_model(model: str) -> None:
    config = PLACES.model(model)

    assert {name: config.auto_env.get(name) for name in CI_ENV} == CI_ENV
    assert config.auto_env["UV_INDEX_URL"].startswith("https://mirrors.")
    assert set(config.auto_env) - set(CI_ENV) == {"SEEDTTS_SIM_CACHE_DIR", "UV_INDEX_URL"}


@pytest.mark.rule("ENV-31")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("host", [None, "sglang-h20-ci"])
def test_the_kernels_that_flashinfer_compiles_are_those_that_every_launch_finds_gone(
    model: str, host: str | None
) -> None:
    config = PLACES.model(model)
    env = launch_settings(config, PLACES.host(host) if host else None)

    compiled = PurePosixPath(env["XDG_CACHE_HOME"]) / "flashinfer"
    assert compiled in {PurePosixPath(env["OMNI_CI_HOME"]) / folder for folder in ALWAYS}


@pytest.mark.rule("ENV-22")
@pytest.mark.parametrize("model", MODELS)
def test_every_model_and_the_host_use_the_one_venv_omni(model: str) -> None:
    pythons = [*PLACES.model(model).default_venv_python, PLACES.host("sglang-h20-ci").venv_python]

    assert [python for python in pythons if not str(python).endswith("/omni/bin/python")] == []


@pytest.mark.rule("SCP-01")
@pytest.mark.parametrize("model", MODELS)
def test_the_thresholds_are_those_of_h20_with_cuda_13(model: str) -> None:
    machine = PLACES.model(model).ci_machine

    assert (machine.gpu, machine.cuda) == ("NVIDIA H20", "13")


@pytest.mark.rule("ENV-20")
@pytest.mark.parametrize("model", MODELS)
def test_the_modules_whose_load_is_tried_are_named(model: str) -> None:
    assert PLACES.model(model).venv_imports == ("torch", "flashinfer", "sglang", "sglang_omni")


@pytest.mark.rule("HST-13", "HST-01")
def test_the_shipped_host_needs_none_of_ci_s_own_paths() -> None:
    host = PLACES.host("sglang-h20-ci")

    assert host.repo_root == "/data/chenyang/sglang-omni"
    assert not [
        path for path in (host.repo_root, host.venv_python, *host.env().values()) if "sgl-workspace" in str(path)
    ]
    assert host.env() == {
        "HF_HOME": "/root/.cache/huggingface",
        "SEEDTTS_SIM_CACHE_DIR": "/root/.cache/huggingface/speaker_sim",
        "OMNI_CI_HOME": "/github/home/calibration",
    }


@pytest.mark.rule("MOD-03", "STG-05")
def test_the_omni_model_has_ten_bases_and_its_groups() -> None:
    stages = table("qwen3-omni-v1")
    prefix = PLACES.model("qwen3-omni-v1").stage_base_strip_prefix
    bases = {PurePosixPath(stage.test).stem.removeprefix(prefix).removesuffix("_ci") for stage in stages.values()}
    known = aliases(stages)

    assert bases == OMNI_BASES
    assert OMNI_BASES | {"@accuracy", "@speed", "@wer", "@utmos", "ALL"} <= set(known)
    assert set(expand(sorted(OMNI_BASES), stages)) == set(stages)


@pytest.mark.rule("STG-08")
def test_tts_is_a_base_of_the_omni_model_and_a_model_and_the_two_never_meet() -> None:
    omni = table("qwen3-omni-v1")
    chosen = expand(["tts"], omni)

    assert {omni[key].test for key in chosen} == {"tests/test_model/test_qwen3_omni_tts_ci.py"}
    assert chosen == ("tts_wer", "tts_utmos", "tts_speed")
    assert {stage.test for stage in table("tts").values()} == {
        "tests/test_model/test_qwen3_asr_ci.py",
        "tests/test_model/test_tts_ci.py",
    }


@pytest.mark.rule("SES-17", "TTS-09")
def test_all_of_the_tts_model_is_the_recogniser_and_both_presets_which_both_gate() -> None:
    stages = table("tts")
    keys = expand(["ALL"], stages)
    presets = PLACES.model("tts").metric_sources["test_tts_ci.py"].calibration_presets

    assert {"qwen3_asr_wer", "qwen3_asr_speed"} <= set(keys)
    assert {stages[key].calibration_preset for key in keys} == {None, "higgs", "moss"}
    assert {name: preset.gate_thresholds for name, preset in presets.items()} == {"higgs": True, "moss": True}


@pytest.mark.rule("SMP-07")
def test_full_coverage_is_the_number_of_samples_that_ci_runs() -> None:
    omni = table("qwen3-omni-v1")

    assert {omni[key].expected_samples for key in ("mmsu_accuracy", "mmsu_speed")} == {2000}
    assert omni["mmmu_talker_wer"].expected_samples == 20
    assert [key for key, stage in omni.items() if stage.expected_samples is None] == []


@pytest.mark.rule("SMP-10", "MET-07")
@pytest.mark.parametrize("model", ["qwen3-asr-v1", "tts"])
def test_the_recogniser_counts_what_it_evaluated(model: str, tmp_path: Path) -> None:
    stage = table(model)["qwen3_asr_wer"]
    result = tmp_path / "qwen3_asr_results.json"
    result.write_text(
        '{"summary": {"evaluated": 9, "total_samples": 10, "corpus_wer": 0.01, "wer_per_sample_max": 0.2}}'
    )

    found = extract(stage, ResultFiles(tmp_path))
    assert (found.ok, found.total, None in found.metrics.values()) == (9, 10, False)

    result.rename(tmp_path / "asr_results.json")
    found = extract(stage, ResultFiles(tmp_path))
    assert (found.ok, found.total, set(found.metrics.values())) == (None, None, {None})


@pytest.mark.rule("MET-07")
def test_results_stand_where_the_tests_write_them() -> None:
    names = {
        PurePosixPath(metric.json_file or "").name
        for model in MODELS
        for stage in table(model).values()
        for metric in stage.metrics.values()
    }

    assert {"mmmu_results.json", "mmsu_results.json", "speed_results.json", "wer_results.json"} <= names
    assert "" not in names


@pytest.mark.rule("FAIL-05", "MOD-07")
def test_the_stage_over_two_gpus_has_its_allocator_and_asks_for_its_capability() -> None:
    stages = PLACES.stages("qwen3-omni-v1").values()

    found = {stage.test for stage in stages if needs_it(stage)}

    assert found == {"tests/test_model/test_qwen3_omni_videoamme_talker_tp2_ci.py"}
    assert {stage.extra_env.get("PYTORCH_ALLOC_CONF") for stage in stages if stage.test in found} == {
        "expandable_segments:True"
    }


AUGUST = {"asr": 14, "omni": 23, "tts": 28}


@pytest.mark.rule("MOD-03", "DSC-12", "TTS-07")
@pytest.mark.parametrize("name", AUGUST)
def test_the_state_of_august_has_its_stages_each_with_its_place_and_h100(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "tests/test_model/test_tts_serving_ci.py"
    marker.parent.mkdir(parents=True)
    marker.touch()
    places = ConfigPlaces.resolve(tmp_path, None)
    model, stages = places.model(name), places.stages(name)

    assert (model.ci_machine.gpu, len(stages)) == ("NVIDIA H100( 80GB HBM3)?", AUGUST[name])
    assert {one.status for stage in stages.values() for one in stage.metrics.values()} == {"OK"}
    assert all(stage.sample_counts for stage in stages.values())
    assert {stage.gpus for stage in stages.values()} == {2}


@pytest.mark.rule("MET-07")
def test_serving_says_itself_whether_a_repeat_is_valid_and_names_its_tokens_and_first_audio(tmp_path: Path) -> None:
    stages = load_stages(PLACES.places[-1] / "models" / "tts@2026-08" / "stages.yaml")
    serving = {key: stage for key, stage in stages.items() if key.startswith("tts_serving_")}

    assert len(serving) == 6
    places = {str(stage.observation_validity) for stage in serving.values()}
    assert places == {"json_file='tts-serving-ci0/benchmark_validation.json' json_path='valid'"}
    assert "ttfa_p95_s" in serving["tts_serving_mixed_ws_normal_speed"].metrics
    assert "completion_tokens_min" in serving["tts_serving_mixed_long_speed"].metrics
