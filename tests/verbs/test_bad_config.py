"""A config that says something else than its author meant is refused by every verb, with file, line and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from tune_mcp.errors import Code, Refusal
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.start_run import start_run

CONFIG = """\
name: toy
test_globs: ["tests/test_*_ci.py"]
default_venv_python: ["python"]
stage_base_strip_prefix: test_
stage_base_strip_suffix: _ci
gpus_per_test: {test_toy_ci.py: 0}
auto_env:
  HF_ENDPOINT: https://hf-mirror.com
metric_sources:
  test_toy_ci.py:
    json_file: toy0/result.json
    sample_counts: {total: summary.total_samples, ok: summary.evaluated}
    paths:
      accuracy: summary.accuracy
      throughput_qps: speed.throughput_qps
      latency_mean_s: speed.latency_mean_s
    calibration_presets:
      only: {constant_filter: TOY_}
"""
FILE = "metric_sources.test_toy_ci.py"
BOMB = "\n".join(["bomb: &a0 [x, x]", *(f"bomb{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))])
PRESET = f"{FILE}.calibration_presets.only"
BAD: dict[str, tuple[str, str, int, str]] = {
    "an unknown key": ("default_venv_python:", "default_venv_pythn:", 3, "default_venv_pythn"),
    "a wrong type": ("{test_toy_ci.py: 0}", '{test_toy_ci.py: "0"}', 6, "gpus_per_test.test_toy_ci.py"),
    "a doubled key": (
        "      accuracy: summary.accuracy\n",
        "      accuracy: a\n      accuracy: b\n",
        15,
        f"{FILE}.paths.accuracy",
    ),
    "a bad regex": ("constant_filter: TOY_", 'constant_filter: "TOY_("', 18, f"{PRESET}.constant_filter"),
    "a path that leaves basetemp": (
        "json_file: toy0/result.json",
        "json_file: ../result.json",
        11,
        f"{FILE}.json_file",
    ),
    "an absolute path": ("accuracy: summary.accuracy", "accuracy: /etc/passwd::a", 14, f"{FILE}.paths.accuracy"),
    "a YAML bomb": ("name: toy\n", f"name: toy\n{BOMB}\n", 1, "(top)"),
    "a secret": ("https://hf-mirror.com", "http://u:hunter2@proxy:1", 8, "auto_env.HF_ENDPOINT"),
    "a token": ("https://hf-mirror.com", "https://hf-mirror.com\n  HF_TOKEN: hunter2", 9, "auto_env.HF_TOKEN"),
    "a proxy": ("  HF_ENDPOINT:", "  https_proxy: http://hunter2:3128\n  HF_ENDPOINT:", 8, "auto_env.https_proxy"),
    "an early exit": (
        "gpus_per_test:",
        "pytest_extra_args: {test_toy_ci.py: [-x]}\ngpus_per_test:",
        6,
        "pytest_extra_args.test_toy_ci.py.0",
    ),
    "another test file": (
        "gpus_per_test:",
        "pytest_extra_args: {test_toy_ci.py: [tests/test_other.py]}\ngpus_per_test:",
        6,
        "pytest_extra_args.test_toy_ci.py.0",
    ),
    "a module that is none": ("name: toy\n", 'name: toy\nvenv_imports: ["torch; import os"]\n', 2, "venv_imports.0"),
    "a machine that is none": ("name: toy\n", "name: toy\nci_machine: {cuda: 13.0}\n", 2, "ci_machine.cuda"),
}
VERBS: dict[str, Callable[[Project], object]] = {
    "catalog": lambda project: catalog(project, "toy"),
    "discover": lambda project: discover(project, "toy"),
    "precheck": lambda project: precheck(project, "toy"),
    "start_run": lambda project: start_run(project, "toy"),
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = toy.make_toy(tmp_path / "repo")
    config_of(project).write_text(CONFIG)
    discover(project, "toy")
    toy.commit(project)
    return project


def config_of(project: Project) -> Path:
    return project.repo_root / ".tune/models/toy/config.yaml"


def refused(project: Project, verb: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        VERBS[verb](project)
    assert caught.value.code is Code.INVALID_CONFIG
    assert caught.value.details["file"] == str(config_of(project))
    assert not [*(project.repo_root / ".tune-runs").glob("*/")], "no run was made"
    return caught.value


@pytest.mark.rule("MOD-02", "XPY-01", "DSC-08", "ENV-26", "SCP-04")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_config_is_one_refusal_with_file_line_and_key(project: Project, bad: str, verb: str) -> None:
    old, new, line, key = BAD[bad]
    assert CONFIG.count(old) == 1
    config_of(project).write_text(CONFIG.replace(old, new))

    found = refused(project, verb)

    assert found.message.startswith(f"{config_of(project)}:{found.details['line']}: {key}")
    assert (found.details["key"], found.details["line"]) == (key, line)
    assert "hunter2" not in found.text() + str(found.data())


@pytest.mark.rule("DSC-12")
def test_a_filter_that_fits_nothing_in_the_tests_is_found_when_they_are_read(project: Project) -> None:
    config_of(project).write_text(CONFIG.replace("constant_filter: TOY_", "constant_filter: TOYS_"))

    found = refused(project, "discover")

    key = f"{FILE}.calibration_presets.only.constant_filter"
    assert (found.details["line"], found.details["key"]) == (18, key)
    assert found.message == f"{config_of(project)}:18: {key}: TOYS_ fits no constant of tests/test_toy_ci.py"


OLDER = """\
# For the older script. Two workers behind a router.
name: "older"
description: "Toy"
hf_model_id: "org/model"
hf_model_ids_by_test:
  test_toy_ci.py:
    - "org/model"
    - "org/judge"
hf_datasets:
  - "org/data"
omni_ci_home: "/ci/slice"
default_venv_python:
  - "/ci/slice/bin/python"
expected_wer_normalizer: "english"
auto_env:
  HOME: "/ci"
  OMNI_CI_HOME: "/ci/slice"
  HF_HUB_DISABLE_XET: "1"
gpus_per_test:
  test_toy_ci.py: 2
test_globs:
  - "tests/test_toy_ci.py"
extra_env: {}
pytest_extra_args: {}
stage_base_strip_prefix: "test_"
stage_base_strip_suffix: "_ci"
metric_sources:
  test_toy_ci.py:
    json_file: "toy0/result.json"
    sample_counts:
      total: "summary.total_samples"
      ok: "summary.evaluated"
    paths:
      accuracy: "summary.accuracy"
      throughput_qps: "speed.throughput_qps"
      latency_mean_s: "speed.latency_mean_s"
"""
OLDER_HOST = """\
name: older-host
hostname: older-host
repo_root: /data/repo
venv_python: /data/bin/python
physical:
  hf_hub: /data/hf
  speaker_sim: /data/sim
  omni_ci_home: /ci/slice
precheck_checklist:
  repo_root_exists: /data/repo/pyproject.toml
  speaker_sim:
    dir: /data/sim
    files: [wavlm_large.pt, .complete]
speaker_similarity_bootstrap:
  warm_cache:
    env:
      HF_HUB_DISABLE_XET: "1"
    hf_token: "source ~/.profile"
    command: |
      cd /data/repo
      python -m assets --warm-cache
agent_policy:
  env_check: report_missing_first
  poll_interval_max_s: 120
handoff:
  goal: "everything"
  run_dirs: []
"""


@pytest.mark.rule("DSC-01", "MOD-02")
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("  title:", "  owner: me\n  title:", 1),
        lambda text: text.replace("  title:", "  gpus: many\n  title:", 1),
        lambda text: "- a list\n" + text,
        lambda text: text + "\n[",
        lambda text: "",
    ],
)
def test_discover_writes_a_table_anew_that_nobody_can_read(tmp_path: Path, damage: Callable[[str], str]) -> None:
    project = toy.make_toy(tmp_path / "repo")
    path = project.places.stages_path_for_writing(toy.MODEL, project.repo_root)
    whole = path.read_text()
    path.write_text(damage(whole))

    if damage(whole):
        with pytest.raises(Refusal) as caught:
            precheck(project, toy.MODEL)
        assert caught.value.next == "call discover with model=toy: it writes the file again"
    found = discover(project, toy.MODEL)

    def undated(text: str) -> list[str]:
        return [line for line in text.splitlines() if "last_discovered_at" not in line]

    assert found.written and undated(path.read_text()) == undated(whole)
    assert precheck(project, toy.MODEL).checks


@pytest.mark.rule("MOD-02")
def test_a_folder_of_the_older_script_is_used_where_it_lies_and_stays_as_it_is(tmp_path: Path) -> None:
    root = toy.make_toy(tmp_path / "repo").repo_root
    folder = root / ".claude/skills/tune"
    (folder / "models/older").mkdir(parents=True)
    (folder / "hosts").mkdir()
    (folder / "models/older/config.yaml").write_text(OLDER)
    (folder / "hosts/older-host.yaml").write_text(OLDER_HOST)
    (folder / "tune.py").write_text("# the script itself, which nobody runs\n")
    project = Project.resolve(Options(repo=root, config=folder, host="older-host"))

    found = discover(project, "older")

    assert found.stages == ("toy_accuracy", "toy_speed") and found.needs_config == found.collisions == ()
    assert found.path == str(folder / "models/older/stages.yaml")
    assert (folder / "models/older/config.yaml").read_text() == OLDER
    gaps = {check.id for check in precheck(project, "older").checks if check.status not in ("ok", "warn")}
    assert {"hf.model:org/model", "hf.model:org/judge", "hf.dataset:org/data", "speaker_sim.assets"} <= gaps
    assert "venv.python" in gaps and "env.ci" not in gaps
