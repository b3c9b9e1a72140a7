"""Where models and hosts come from, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.loader import ConfigPlaces, shipped_place
from tune_mcp.config.stages import Stage
from tune_mcp.config.stages_yaml import dump_stages
from tune_mcp.errors import Code, Refusal

HOST = "hostname: {hostname}\nrepo_root: /repo\nvenv_python: /venv/bin/python\nphysical: {{hf_hub: /hf}}\n"
STAGES = dump_stages({"a_wer": Stage(key="a_wer", test="t.py", group="wer", test_file_sha256="0" * 64, metrics={})})


def model(place: Path, name: str, description: str = "") -> Path:
    folder = place / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    text = f"name: {name}\ndescription: '{description}'\ntest_globs: [tests/test_a_ci.py]\nmetric_sources: {{}}\n"
    (folder / "config.yaml").write_text(text)
    return folder


def host(place: Path, name: str, hostname: str) -> None:
    (place / "hosts").mkdir(parents=True, exist_ok=True)
    (place / "hosts" / f"{name}.yaml").write_text(HOST.format(hostname=hostname))


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    return folder


@pytest.fixture
def given(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    return folder


def test_the_config_folder_comes_first_then_the_repository_then_the_shipped(repo: Path, given: Path) -> None:
    model(given, "both", "given")
    model(repo / ".tune", "both", "repository")
    model(repo / ".tune", "tts", "mine")
    places = ConfigPlaces.resolve(repo, given)
    assert places.places == (given, repo / ".tune", shipped_place())
    assert places.model("both").description == "given"
    assert places.model("tts").description == "mine"
    assert places.model("qwen3-asr-v1").hf_model_id == "Qwen/Qwen3-ASR-1.7B"
    assert places.model_names() == ["asr", "both", "omni", "qwen3-asr-v1", "qwen3-omni-v1", "tts"]


@pytest.mark.rule("MOD-01")
@pytest.mark.parametrize("name", ["qwen3-omni", "../tts", "tts/../tts", "..", ".", "", "/etc", "tts\0"])
def test_an_unknown_or_unsafe_model_name_is_refused_with_near_matches(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        ConfigPlaces.resolve(None, None).model(name)
    assert caught.value.code is Code.UNKNOWN_MODEL
    assert caught.value.details["known"] == ["asr", "omni", "qwen3-asr-v1", "qwen3-omni-v1", "tts"]
    assert name != "qwen3-omni" or "qwen3-omni-v1" in caught.value.next


def test_a_model_must_be_named_as_its_folder(given: Path) -> None:
    (model(given, "one") / "config.yaml").write_text("test_globs: [a.py]\nmetric_sources: {}\nname: two\n")
    with pytest.raises(Refusal) as caught:
        ConfigPlaces.resolve(None, given).model("one")
    assert (caught.value.details["key"], caught.value.details["line"]) == ("name", 3)


@pytest.mark.rule("DSC-01")
def test_a_model_nobody_discovered_asks_for_discover(repo: Path, given: Path) -> None:
    model(given, "fresh")
    with pytest.raises(Refusal) as caught:
        ConfigPlaces.resolve(repo, given).stages("fresh")
    assert caught.value.code is Code.STAGES_STALE
    assert "discover" in caught.value.next


def test_stages_of_a_shipped_model_live_in_the_repository(repo: Path) -> None:
    places = ConfigPlaces.resolve(repo, None)
    path = places.stages_path_for_writing("tts", repo)
    assert path == repo / ".tune/models/tts/stages.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(STAGES)
    assert list(places.stages("tts")) == ["a_wer"]


def test_stages_are_written_next_to_a_config_that_is_yours(repo: Path, given: Path) -> None:
    model(given, "one")
    model(repo / ".tune", "two")
    places = ConfigPlaces.resolve(repo, given)
    assert places.stages_path_for_writing("one", repo) == given / "models/one/stages.yaml"
    assert places.stages_path_for_writing("two", repo) == repo / ".tune/models/two/stages.yaml"


def test_a_table_of_another_config_of_the_same_name_is_not_taken(repo: Path, given: Path) -> None:
    model(given, "one")
    (model(repo / ".tune", "one") / "stages.yaml").write_bytes(STAGES)
    with pytest.raises(Refusal) as caught:
        ConfigPlaces.resolve(repo, given).stages("one")
    assert caught.value.code is Code.STAGES_STALE


def test_a_models_metrics_extend_the_shipped_ones(repo: Path) -> None:
    folder = repo / ".tune/models/tts"
    folder.mkdir(parents=True)
    (folder / "metrics.yaml").write_text("protected: [HIGGS_.*]\n")
    assert ConfigPlaces.resolve(repo, None).metric_rules("tts").protected("HIGGS_VC_WER_MAX_CORPUS")
    assert not ConfigPlaces.resolve(None, None).metric_rules("tts").protected("HIGGS_VC_WER_MAX_CORPUS")


def test_a_config_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        ConfigPlaces.resolve(None, tmp_path / "nowhere")
    assert caught.value.code is Code.INVALID_CONFIG


@pytest.mark.rule("HST-02", "HST-10")
def test_a_name_beats_the_hostname_and_no_profile_is_allowed(given: Path) -> None:
    host(given, "lab", "box-1")
    host(given, "other", "box-2")
    places = ConfigPlaces.resolve(None, given)
    by_name = places.active_host("other", "box-1")
    by_hostname = places.active_host(None, "box-1")
    assert by_name is not None
    assert by_hostname is not None
    assert (by_name[0].name, by_hostname[0].name) == ("other", "lab")
    assert "box-1" in by_hostname[1]
    assert places.active_host(None, "elsewhere") is None


@pytest.mark.rule("HST-02")
def test_two_profiles_of_one_hostname_are_refused(given: Path) -> None:
    host(given, "lab", "box-1")
    host(given, "other", "box-1")
    with pytest.raises(Refusal) as caught:
        ConfigPlaces.resolve(None, given).active_host(None, "box-1")
    assert caught.value.code is Code.HOST_UNRESOLVED


@pytest.mark.rule("HST-03")
@pytest.mark.parametrize("name", ["sglang-h20", "../hosts/sglang-h20-ci", ""])
def test_an_unknown_host_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        ConfigPlaces.resolve(None, None).active_host(name, "any")
    assert caught.value.code is Code.HOST_UNRESOLVED
    assert caught.value.details["known"] == ["sglang-h100-ci", "sglang-h20-ci"]


@pytest.mark.rule("HST-09")
def test_the_shipped_host_has_its_four_paths() -> None:
    found = ConfigPlaces.resolve(None, None).host("sglang-h20-ci")
    assert (found.repo_root, found.venv_python, found.physical.hf_hub, found.physical.speaker_sim) == (
        "/data/chenyang/sglang-omni",
        "/data/chenyang/.python/omni/bin/python",
        "/root/.cache/huggingface",
        "/root/.cache/huggingface/speaker_sim",
    )


@pytest.mark.rule("MOD-01", "MOD-07", "FAIL-05")
def test_the_shipped_models_load() -> None:
    places = ConfigPlaces.resolve(None, None)
    models = {name: places.model(name) for name in places.model_names()}
    assert list(models) == ["asr", "omni", "qwen3-asr-v1", "qwen3-omni-v1", "tts"]
    tp2 = "test_qwen3_omni_videoamme_talker_tp2_ci.py"
    assert models["qwen3-omni-v1"].extra_env[tp2] == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert list(models["tts"].metric_sources["test_tts_ci.py"].calibration_presets) == ["higgs", "moss"]


OLDER_CONFIG = """\
# Written for the older script.
name: old-v1
description: "Old"
hf_model_id: "org/model"
hf_datasets:
  - "org/data"
omni_ci_home: "/ci"
default_venv_python:
  - "/ci/bin/python"
auto_env:
  HOME: "/home"
  HF_HUB_DISABLE_XET: "1"
gpus_per_test:
  test_old_ci.py: 2
test_globs:
  - "tests/test_old_ci.py"
extra_env: {}
pytest_extra_args: {}
stage_base_strip_prefix: "test_"
stage_base_strip_suffix: "_ci"
metric_sources:
  test_old_ci.py:
    json_file: "old.json"
    sample_counts:
      total: "summary.total_samples"
      ok: "summary.evaluated"
    paths:
      corpus_wer: "summary.corpus_wer"
"""


@pytest.mark.rule("MOD-02")
def test_a_directory_written_for_the_older_script_loads_unchanged(given: Path) -> None:
    folder = model(given, "old-v1")
    (folder / "config.yaml").write_text(OLDER_CONFIG)
    older = "old_wer:\n  test: tests/test_old_ci.py\n  group: wer\n  test_file_sha256: abc\n  metrics: {}\n"
    (folder / "stages.yaml").write_text(older)
    host(given, "lab", "box-1")
    places = ConfigPlaces.resolve(None, given)
    assert places.model("old-v1").gpus_per_test == {"test_old_ci.py": 2}
    assert places.stages("old-v1")["old_wer"].test == "tests/test_old_ci.py"
    assert places.host("lab").hostname == "box-1"


@pytest.mark.rule("MOD-01")
def test_a_state_of_a_model_counts_where_the_repository_has_its_tree(repo: Path) -> None:
    place = repo / ".tune"
    model(place, "m", "older")
    later = model(place, "m@later", "later") / "config.yaml"
    later.write_text(later.read_text().replace("name: m@later", "name: m") + "tree: tests/new.py\n")
    (place / "models" / "m" / "metrics.yaml").write_text("groups: {g: {smart: ask, rounding: raw}}\n")

    assert ConfigPlaces.resolve(repo, None).model("m").description == "older"
    (repo / "tests").mkdir()
    (repo / "tests" / "new.py").touch()
    places = ConfigPlaces.resolve(repo, None)

    assert (places.model("m").description, places.config_path("m")) == ("later", later)
    assert places.stages_path_for_writing("m", repo) == later.with_name("stages.yaml")
    assert "m@later" not in places.model_names() and "g" not in places.metric_rules("m").file.groups


@pytest.mark.parametrize("tree", ["../outside", "/etc/passwd", "[a, b]", ""])
def test_a_state_whose_tree_is_no_path_of_the_repository_never_counts(repo: Path, tree: str) -> None:
    place = repo / ".tune"
    model(place, "m", "older")
    later = model(place, "m@later", "later") / "config.yaml"
    later.write_text(later.read_text() + f"tree: {tree}\n")

    assert ConfigPlaces.resolve(repo, None).model("m").description == "older"
