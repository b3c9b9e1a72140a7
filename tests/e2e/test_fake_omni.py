"""A repository that writes what the real one writes, under the shipped models: presets apart, numbers right."""

from __future__ import annotations

import ast
import contextlib
import copy
import ctypes
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nvml
import omni
import pytest
import toy

from tune_mcp.config.stages import Stage
from tune_mcp.config.stages_yaml import load_stages
from tune_mcp.contract.apply_plan import PlanRow
from tune_mcp.errors import Refusal
from tune_mcp.precheck.hardware import CAP_SYS_PTRACE
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.gpu import gate
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.strict_audit import strict_audit

THRESHOLDS = "tests/test_model/tts_ci_config.py"
STALE = {
    "TORCHINDUCTOR_CACHE_DIR": "/.torchinductor",
    "OMNI_CI_HOME": "/stale",
    "HF_HOME": "/stale",
    "CUDA_VISIBLE_DEVICES": "7",
    "LD_PRELOAD": "",
    "HTTPS_PROXY": "http://u:p@proxy:1",
}


def with_docs(config: dict[str, Any]) -> None:
    """One more job, without numbers, that writes down how it was launched: the only one here that waits for GPUs."""
    machine = config["ci_machine"]
    omni.without_gpus(config)
    config["ci_machine"] = machine
    config["test_globs"].append("tests/test_model/test_docs_ci.py")
    config["gpus_per_test"]["test_docs_ci.py"] = 2
    config["extra_env"] = {"test_docs_ci.py": {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}}


pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[omni.Machine]:
    """Two idle H20, a cache of weights, and a slice in which an earlier job left its kernels."""
    monkeypatch.setattr(gate, "HOLD_S", 0.3)
    with nvml.recorded(tmp_path / "nvml.json") as recorded:
        recorded.machine({}, {})
        yield omni.make(tmp_path, ["tts"], with_docs)


@pytest.mark.rule(
    "TTS-01", "TTS-06", "TTS-07", "TTS-10", "DSC-11", "DSC-12", "DSC-13", "MET-06", "STG-09", "APL-26",
    "SCP-07", "SCP-08", "HST-01", "HST-04", "HST-13", "ENV-10", "ENV-23", "ENV-25", "ENV-26", "PRE-09",
)  # fmt: skip
def test_both_presets_are_measured_and_written_apart(machine: omni.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    project = machine.project()
    keys = [stage.key for stage in catalog(project, "tts").stages]
    shipped = load_stages(omni.SHIPPED / "tts/stages.yaml")
    assert sorted(keys) == sorted([*shipped, "tts_docs"]), "the constants are named as the real ones"
    links = set(symlinks(machine.root))
    for name, value in STALE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    reply = start_run(project, "tts", repeats=2)
    now = toy.wait_until_rest(project, reply.run_id)
    run = project.run(reply.run_id)
    assert now.state == "finished", toy.told(run)
    assert sorted(path.name for path in (run.path / "_pytest").iterdir()) == [
        "test_docs_ci",
        "test_qwen3_asr_ci",
        "test_tts_ci__higgs",
        "test_tts_ci__moss",
    ]
    assert strict_audit(project, run.run_id).strict_ready == f"{len(keys)}/{len(keys)}"

    report(project, run.run_id)
    plan = apply_plan(project, run.run_id)
    before = (machine.repo / THRESHOLDS).read_text()
    apply(project, run.run_id, plan.plan_id, "full", otherwise="apply")

    stages = load_stages(machine.repo / ".tune/models/tts/stages.yaml")
    for row in plan.rows:
        measured = [left_by(run, stages[row.stage_key], row.metric_key, repeat) for repeat in (1, 2)]
        assert row.worst_raw == (min if row.worst_op == "min" else max)(measured), row
    rows = [row for row in plan.rows if row.file == THRESHOLDS]
    assert {row.stage_key for row in rows} == {key for key in keys if key.startswith("tts_")} - {"tts_docs"}
    assert all(row.calibration_preset and row.calibration_preset.upper() in row.symbol for row in rows), rows
    after = (machine.repo / THRESHOLDS).read_text()
    assert numbers(after) == expected(numbers(before), rows)
    text = run.report_md.read_text()
    assert "1088 samples, concurrency=32" in text, "from the recogniser's environment default"
    assert "50 samples, concurrency=16" in text, "from pytest_extra_args"
    assert "slack unknown" not in text and "limit unknown" not in text, "every limit is read from the assertions"

    asserted_launch(machine, run)
    prechecked = json.loads(run.precheck.read_text())
    assert prechecked["commit"] == reply.commit
    assert prechecked["modules"]["sglang_omni"]["version"] == "0.1.0"
    assert prechecked["env"]["HF_HOME"] == f"{machine.home}/.cache/huggingface"
    assert prechecked["gpu_summary"] == "2× NVIDIA H20"
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix in (".patch", ".diff")] == []
    assert [path for path in files if b"u:p@" in path.read_bytes()] == []
    assert set(symlinks(machine.root)) == links


def left_by(run: RunDir, stage: Stage, metric_key: str, repeat: int) -> float:
    """The value in the file that the test itself wrote, read by Python's own parser."""
    metric = stage.metrics[metric_key]
    preset = f"__{stage.calibration_preset}" if stage.calibration_preset else ""
    base = run.path / f"_pytest/{Path(stage.test).stem}{preset}/basetemp_run{repeat}"
    value = json.loads((base / str(metric.json_file)).read_text())
    for part in str(metric.json_path).split("."):
        value = value[part]
    return value


def numbers(text: str) -> dict[str, Any]:
    """Every module constant of the threshold file that is a number or a table of numbers."""
    found: dict[str, Any] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):
                found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def expected(before: dict[str, Any], rows: Iterable[PlanRow]) -> dict[str, Any]:
    """The constants with each row's value in its place, and nothing else changed."""
    after = copy.deepcopy(before)
    for row in rows:
        if row.subkey is None:
            after[row.symbol] = row.write_value
        else:
            after[row.symbol][16][row.subkey] = row.write_value
    return after


def symlinks(root: Path) -> Iterator[str]:
    """Links below ``root``, but for those that pytest makes in its own basetemp."""
    return (str(path) for path in root.rglob("*") if path.is_symlink() and "_pytest" not in path.parts)


def asserted_launch(machine: omni.Machine, run: RunDir) -> None:
    """What a pytest saw: the host's folders, its own cwd and Python, cold kernels, none of the shell's."""
    cache = machine.home / "slice"
    for repeat in (1, 2):
        told: dict[str, Any] = json.loads(
            (run.path / f"_pytest/test_docs_ci/basetemp_run{repeat}/told.json").read_text()
        )
        env = told["env"]
        assert (told["cwd"], told["warm"]) == (str(machine.repo), []), "each repeat starts cold"
        assert env["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
        assert (env["HF_HOME"], env["OMNI_CI_HOME"]) == (f"{machine.home}/.cache/huggingface", str(cache))
        assert env["TORCHINDUCTOR_CACHE_DIR"] == f"{cache}/.torchinductor"
        assert env["PATH"].split(":")[0] == str(machine.python.parent)
        assert env["PYTHONPATH"].split(":")[-1] == str(machine.repo)
        assert (env["CUDA_VISIBLE_DEVICES"], "LD_PRELOAD" in env) == ("0,1", False)
        assert {"127.0.0.1", "localhost", "::1"} <= set(env["NO_PROXY"].split(","))
    (sealed,) = run.path.glob("_pytest/test_docs_ci/**/run1_a1/result.json")
    result = json.loads(sealed.read_text())
    assert result["gpu_uuids"] == ["GPU-0", "GPU-1"]
    assert set(STALE) - set(result["dropped_env"]) == {"HTTPS_PROXY"}, "names in the run's own record, never values"


def may_pass_descriptors() -> bool:
    status = Path("/proc/self/status").read_text().splitlines()
    mask = next(line.split()[1] for line in status if line.startswith("CapEff"))
    return bool(int(mask, 16) >> CAP_SYS_PTRACE & 1)


def without_ptrace() -> None:
    """As a container that was started without the capability; where nobody may drop it, nobody has it."""
    ctypes.CDLL(None).prctl(24, CAP_SYS_PTRACE, 0, 0, 0)


def test_every_omni_family_is_strict_and_what_its_tests_leave_in_tmp_is_named_and_gone(tmp_path: Path) -> None:
    machine = omni.make(tmp_path, ["qwen3-omni-v1"], omni.without_gpus)
    project = machine.project()
    families = ["mmmu_talker", "mmsu", "tts", *(["videoamme_talker_tp2"] if may_pass_descriptors() else [])]

    reply = start_run(project, "qwen3-omni-v1", families, repeats=1)
    now = toy.wait_until_rest(project, reply.run_id)

    run = project.run(reply.run_id)
    assert now.state == "finished", toy.told(run)
    assert sorted(path.name for path in (run.path / "_pytest").iterdir()) == [
        f"test_qwen3_omni_{x}_ci" for x in families
    ]
    (left,) = [line for line in run.run_log.read_text().splitlines() if "left_behind" in line and "mmsu_audio_" in line]
    assert "test_qwen3_omni_mmsu_ci" in left and "2000 files" in left
    (folder,) = re.findall(r"mmsu_audio_\w+", left)
    assert not (Path(tempfile.gettempdir()) / folder).exists()
    report(project, run.run_id)
    text = run.report_md.read_text()
    assert "slack unknown" not in text and "limit unknown" not in text, "every limit is read from the assertions"
    unasserted = [line.split("|")[1].strip() for line in text.splitlines() if "(nothing asserts it)" in line]
    assert unasserted == ["latency_mean_s"] * ("videoamme_talker_tp2" in families), (
        "a limit pinned by hand, and no other"
    )
    speed = run.path / "_pytest/test_qwen3_omni_tts_ci/basetemp_run1/vc_nonstream0/speed_results.json"
    assert math.isinf(json.loads(speed.read_text())["config"]["request_rate"]), "as the real benchmark writes it"


@pytest.mark.rule("PRE-08", "FAIL-05")
def test_a_container_without_the_capability_hears_so_for_the_tp2_stage_alone(tmp_path: Path) -> None:
    machine = omni.make(tmp_path, ["qwen3-omni-v1"], omni.without_gpus)

    def gaps(stage: str) -> dict[str, str]:
        words = [
            "precheck",
            "qwen3-omni-v1",
            "--stages",
            stage,
            "--repo",
            str(machine.repo),
            "--host",
            omni.HOST,
            "--json",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "tune_mcp", *words],
            capture_output=True,
            preexec_fn=without_ptrace,
            timeout=120,
            cwd=Path(toy.__file__).parents[1],
        )
        checks = json.loads(done.stdout)["checks"]
        # Whether somebody else measures on this machine (imports are then not tried) is not this test's business.
        told = [check for check in checks if check["id"] not in ("host.free", "venv.imports")]
        return {check["id"]: check["fix"] for check in told if check["status"] not in ("ok", "warn")}

    assert gaps("videoamme_talker_tp2") == {"host.ptrace": "docker run --cap-add=SYS_PTRACE"}
    assert gaps("mmsu") == {}


@pytest.mark.rule("PRE-01", "HST-04")
def test_a_machine_without_the_projects_python_hears_every_gap_and_keeps_clean(machine: omni.Machine) -> None:
    elsewhere = Project.resolve(Options(repo=machine.repo, host=omni.HOST, venv_python="/nowhere/bin/python"))

    with pytest.raises(Refusal, match=r"^PRECHECK_FAILED .*venv\.python missing") as caught:
        start_run(elsewhere, "tts")

    assert caught.value.details["gaps"]
    assert not (machine.repo / ".tune-runs").exists()


@pytest.mark.rule("SCP-03", "PRE-11")
def test_the_host_is_resolved_first_and_a_container_may_be_called_anything(machine: omni.Machine) -> None:
    named = machine.project()
    plain = Project.resolve(Options(repo=machine.repo))

    told = {check.id: check for check in precheck(named, "tts", ["tts_higgs"]).checks}
    assert told["host.profile"].detail == "box (chosen by name: box)"
    assert (told["host.profile"].status, told["host.paths"].status) == ("ok", "ok")

    (none,) = [check for check in precheck(plain, "tts", ["tts_higgs"]).checks if check.id == "host.profile"]
    assert "box" in none.detail and "sglang-h20-ci" in none.detail, "the profiles that there are, to choose from"
    with pytest.raises(Refusal, match=r"^HOST_UNRESOLVED"):
        Project.resolve(Options(repo=machine.repo, host="bax"))
