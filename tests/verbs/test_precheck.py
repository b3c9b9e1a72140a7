"""The machine is looked at and never fixed; what does not fit refuses; what is green once is looked at again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.errors import Code, Refusal
from tune_mcp.gpus import Gpu, GpuReading, Presence
from tune_mcp.supervise import first_look
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.usefixtures("warm")

GAPS = {
    **toy.CONFIG,
    "hf_model_id": "org/m",
    "hf_datasets": ["org/d"],
    "venv_imports": ["a_module_of_nobody"],
    "auto_env": {"HF_HOME": "/nowhere/hf", "HF_ENDPOINT": "https://hf-mirror.com", "SEEDTTS_SIM_CACHE_DIR": "/nowhere"},
}
MENDERS = ("hf", "huggingface-cli", "uv", "pip", "pip3", "bash", "sh", "docker", "apt-get", "git-lfs")
PYPROJECT = '[project]\nname = "toy"\ndependencies = ["pytest==0.0.1"]\n'


@pytest.fixture
def menders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command that a gap might name stands first on the PATH, and only leaves a trace."""
    folder = tmp_path / "menders"
    folder.mkdir()
    for name in MENDERS:
        program = folder / name
        program.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/trace\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path / "trace"


@pytest.mark.rule(
    "ENV-01", "ENV-04", "ENV-06", "ENV-09", "ENV-17", "ENV-18", "ENV-32", "PRE-10"
)  # fmt: skip
@pytest.mark.usefixtures("warm")
def test_no_gap_is_ever_mended_and_no_command_that_is_told_rebuilds_anything(tmp_path: Path, menders: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", config=GAPS, files={"pyproject.toml": PYPROJECT})
    nowhere = Project.resolve(Options(repo=project.repo_root, venv_python="/nowhere/venv/bin/python"))

    told = [*precheck(project, "toy").checks, *precheck(nowhere, "toy").checks]
    run = toy.start(project, repeats=1)
    assert toy.wait_until_rest(project, run.run_id).state == "failed", toy.told(run)

    assert not menders.exists(), "a command that only a person may run was run"
    gaps = [check for check in told if check.status not in ("ok", "warn")]
    assert {
        "hf.model:org/m",
        "hf.dataset:org/d",
        "speaker_sim.assets",
        "venv.imports",
        "venv.dependencies:version",
        "venv.python",
    } <= {check.id for check in gaps}
    fixes = [check.fix for check in gaps]
    assert all(fixes)
    forbidden = ("prepare_omni_venv", "ensure_hf_models", "rm -rf", "rm -r", "--clear", "ln -s", "sudo", "--upgrade")
    assert [fix for fix in fixes if any(word in fix for word in forbidden)] == []
    assert [fix for fix in fixes if "org/m" in fix and "org/d" in fix] == [], "one gap, one command"


@pytest.mark.rule("ENV-05", "PRE-10", "ENV-02")
@pytest.mark.usefixtures("warm")
def test_what_was_green_is_looked_at_again_when_a_run_starts(tmp_path: Path) -> None:
    config = {**toy.CONFIG, "venv_imports": ["fragile"]}
    pinned = f'[project]\ndependencies = ["pytest=={pytest.__version__}"]\n'
    files = {"fragile.py": "__version__ = '1.5'", "pyproject.toml": pinned}
    project = toy.make_toy(tmp_path / "repo", config=config, files=files)
    found = precheck(project, "toy")
    assert found.ok and [check.id for check in found.checks if check.status == "ok" and check.fix] == []
    assert {"venv.dependencies", "venv.imports"} <= {check.id for check in found.checks}

    (project.repo_root / "fragile.py").write_text("import not_there")
    run = toy.start(project, repeats=1)

    assert toy.wait_until_rest(project, run.run_id).state == "failed"
    assert "venv.imports missing" in run.run_log.read_text() and toy.launches(project, 1) == ()


@pytest.mark.rule("ENV-21")
def test_a_smoke_run_is_a_run_of_its_own_and_counts_for_no_other(project: Project) -> None:
    smoke = toy.finished_run(project, repeats=1)
    before = {path: path.read_bytes() for path in smoke.path.rglob("*") if path.is_file()}
    with toy.supervised_here(lambda _: None):
        real = project.run(start_run(project, "toy", repeats=1).run_id)

    assert strict_audit(project, smoke.run_id).strict_ready == "2/2"
    assert strict_audit(project, real.run_id).strict_ready == "0/2"
    assert {path: path.read_bytes() for path in smoke.path.rglob("*") if path.is_file()} == before


def needing(root: Path, **config: Any) -> Project:
    return toy.make_toy(root, config={**toy.CONFIG, "gpus_per_test": {"test_toy_ci.py": 1}, **config})


def a100() -> GpuReading:
    return GpuReading(Presence.PRESENT, (Gpu(0, "GPU-0", "NVIDIA A100-SXM4-80GB", 0, 81920, 0, ()),))


@pytest.mark.rule("SCP-01", "SCP-02")
def test_a_machine_with_other_gpus_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_mcp.verbs.start_run.read_gpus", a100)
    monkeypatch.setattr("tune_mcp.verbs.precheck.read_gpus", a100)
    project = needing(tmp_path / "repo", ci_machine={"gpu": "NVIDIA H20"})

    with pytest.raises(Refusal) as caught:
        start_run(project, "toy")

    assert (caught.value.code, caught.value.rules[0]) == (Code.HOST_NOT_COMPARABLE, "SCP-01")
    assert caught.value.details["found"] == ["NVIDIA A100-SXM4-80GB"]
    assert not (project.repo_root / ".tune-runs").exists()
    (check,) = [check for check in precheck(project, "toy").checks if check.id == "host.gpu_model"]
    assert check.status == "mismatch" and "NVIDIA H20" in check.detail


@pytest.mark.rule("SCP-01")
@pytest.mark.usefixtures("warm")
def test_a_run_on_another_cuda_ends_in_its_first_phase(tmp_path: Path) -> None:
    torch = "class version:\n    cuda = '12.8'\n"
    config = {**toy.CONFIG, "venv_imports": ["torch"], "ci_machine": {"cuda": "13"}}
    project = toy.make_toy(tmp_path / "repo", config=config, files={"torch.py": torch})

    run = toy.start(project, repeats=1)

    assert toy.wait_until_rest(project, run.run_id).state == "failed"
    assert "host.cuda mismatch: torch is built for CUDA 12.8" in run.run_log.read_text()
    assert json.loads(run.environment.read_text())["versions"]["torch.version.cuda"] == "12.8"


@pytest.mark.rule("MOD-04", "DSC-16")
def test_a_new_model_is_a_folder_of_data_even_where_its_names_are_its_own(project: Project) -> None:
    (project.repo_root / "tests/new_ci.py").write_text("NEW_ACC_MIN = 0.5\nNEW_BLEU_MIN = 20.0\n")
    folder = project.repo_root / ".tune/models/new"
    folder.mkdir()
    config = {"name": "new", "test_globs": ["tests/new_ci.py"], "stage_base_strip_suffix": "_ci", "metric_sources": {}}
    (folder / "config.yaml").write_text(json.dumps(config))
    first = discover(project, "new")
    assert (first.stages, first.unrecognised) == (("new_accuracy",), ("tests/new_ci.py: NEW_BLEU_MIN",))

    own = {
        "groups": {"bleu": {"smart": "auto", "rounding": "raw"}},
        "metrics": {"bleu": {"group": "bleu", "worst": "min", "label": "BLEU"}},
        "names": [{"pattern": ".*_BLEU_MIN", "metric": "bleu"}],
    }
    (folder / "metrics.yaml").write_text(json.dumps(own))

    found = discover(project, "new")
    assert (found.added, found.unrecognised) == (("new_bleu",), ())
    assert {"new", "toy"} <= {one.name for one in catalog(project).models}


@pytest.mark.rule("MOD-09")
def test_a_model_that_is_a_part_of_another_says_so_when_it_starts(project: Project) -> None:
    sources = {**toy.CONFIG["metric_sources"], "test_more_ci.py": {}}
    wider = {**toy.CONFIG, "name": "pipeline", "metric_sources": sources}
    folder = project.repo_root / ".tune/models/pipeline"
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(wider))

    with toy.supervised_here():
        reply = start_run(project, "toy", repeats=1)

    assert reply.notes == ("model pipeline also has these test files: a change to it is calibrated with that model",)
    assert reply.notes[0] in reply.text()


@pytest.mark.rule("ENV-33")
def test_where_the_interpreter_came_from_is_fixed_with_the_plan(project: Project) -> None:
    env = {"TUNE_VENV_PYTHON": "/bin/sh"}
    both = Project.resolve(Options(repo=project.repo_root, venv_python="/bin/true"), env)
    shell = Project.resolve(Options(repo=project.repo_root), env)

    with toy.supervised_here():
        plans = [one.plan(one.run(start_run(one, "toy", repeats=1).run_id)) for one in (both, shell, project)]

    assert [(plan.venv_python, plan.venv_source) for plan in plans[:2]] == [
        ("/bin/true", "--venv-python"),
        ("/bin/sh", "TUNE_VENV_PYTHON"),
    ]
    assert plans[2].venv_source == "default_venv_python"


@pytest.mark.rule("TTS-09")
@pytest.mark.parametrize("gates", [True, False])
def test_a_preset_whose_thresholds_no_test_asserts_is_reported_and_never_written(tmp_path: Path, gates: bool) -> None:
    source = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    preset = {"constant_filter": "TOY_", "gate_thresholds": gates}
    config = {**toy.CONFIG, "metric_sources": {"test_toy_ci.py": {**source, "calibration_presets": {"p": preset}}}}
    project = toy.make_toy(tmp_path / "repo", config=config)
    run = toy.finished_run(project)
    report(project, run.run_id)

    rows = apply_plan(project, run.run_id).rows

    assert {row.direction == "unknown" for row in rows} == {not gates}
    assert all("gate_thresholds of preset p is false" in row.reason for row in rows) is not gates


def test_a_mended_config_is_still_checked_as_the_plan_says(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", config={**toy.CONFIG, "venv_imports": ["a_module_of_nobody"]})
    run = toy.planned_run(project)
    plan = project.plan(run)
    (project.repo_root / ".tune/models/toy/config.yaml").unlink()

    found = first_look.prechecked(run, plan)

    assert "venv.imports" in {check.id for check in found.blocking()}


@pytest.mark.rule("WDG-09")
@pytest.mark.usefixtures("warm")
def test_caches_that_cannot_be_made_cold_launch_nothing(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", config={**toy.CONFIG, "cache_wipes": [".cache/flashinfer"]})

    run = toy.start(project, repeats=1)

    assert toy.wait_until_rest(project, run.run_id).state != "finished"
    assert "OMNI_CI_HOME, the root of cache_wipes, is not set" in toy.told(run)
    assert toy.launches(project, 1) == ()
