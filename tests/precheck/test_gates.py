"""The gates: every gap at once, each with its one fix; what is unknown blocks; nothing is changed."""

from __future__ import annotations

import platform
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import toy
from pydantic import ValidationError

from tune_mcp.contract.precheck import Check
from tune_mcp.gpus import Gpu, GpuProcess, GpuReading, Presence, Unreported
from tune_mcp.precheck import hardware
from tune_mcp.precheck.catalogue import stale_files, unknown_metrics
from tune_mcp.precheck.gates import Precheck, Probes, precheck
from tune_mcp.precheck.imports import Imports, ModuleFact
from tune_mcp.precheck.subject import Subject
from tune_mcp.precheck.venv import VenvFacts, checks, read_venv
from tune_mcp.supervise import host_lock
from tune_mcp.verbs import precheck as verb
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project

GOOD = VenvFacts(versions={"python": "3.11.9", "pytest": "9.0.0"})
NONE = GpuReading(Presence.NONE)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def subject(project: Project) -> Subject:
    return project.subject(project.places.model(toy.MODEL), tuple(project.places.stages(toy.MODEL).values()))


def by_id(found: list[Check] | tuple[Check, ...]) -> dict[str, Check]:
    return {check.id: check for check in found}


def asked(subject: Subject, reading: GpuReading = NONE, facts: VenvFacts = GOOD) -> dict[str, Check]:
    return by_id(
        precheck(subject, Probes(lambda: reading, lambda _: facts, lambda *_: Imports()), "2026-04-23T05:00:00Z").checks
    )


def machine(*used: int, mig: bool = False) -> GpuReading:
    gpus = tuple(Gpu(n, f"GPU-{n}", "NVIDIA H20", mib, 97871, 0, (), mig) for n, mib in enumerate(used))
    return GpuReading(Presence.PRESENT, gpus, "580.1")


def test_a_ready_machine_is_ready(subject: Subject) -> None:
    found = asked(subject)

    assert {name: found[name].status for name in ("repo.head", "repo.tree", "stages.fresh", "stages.config")} == (
        dict.fromkeys(("repo.head", "repo.tree", "stages.fresh", "stages.config"), "ok")
    )
    assert {found[name].status for name in ("venv.python", "venv.pytest", "gpu.free")} == {"ok"}


@pytest.mark.rule("PRE-03", "PRE-08", "PRE-05", "PRE-12", "DSC-02")
def test_all_gaps_are_told_at_once_each_with_its_fix_and_what_blocks_first(project: Project, subject: Subject) -> None:
    test = project.repo_root / toy.TEST_FILE
    test.write_text(test.read_text() + "\n")
    needy = replace(subject, gpus_per_test={toy.TEST_KEY: 2}, venv_python=None)

    answer = precheck(
        needy,
        Probes(lambda: machine(0, 9000), lambda _: VenvFacts(problem="no interpreter"), lambda *_: Imports()),
        "now",
    )

    found = by_id(answer.checks)
    assert (found["stages.fresh"].status, found["gpu.free"].status, found["venv.python"].status) == (
        "mismatch", "busy", "missing"
    )  # fmt: skip
    assert found["repo.tree"].status == "warn", "a dirty tree is recorded, not refused"
    assert not answer.ok and {"stages.fresh", "gpu.free", "venv.python"} <= {check.id for check in answer.blocking()}
    assert all(check.fix for check in answer.blocking())
    ranks = [{"ok": 2, "warn": 1}.get(check.status, 0) for check in answer.checks]
    assert ranks == sorted(ranks)


@pytest.mark.rule("GPU-13", "GPU-19", "GPU-01")
@pytest.mark.parametrize(
    ("reading", "needed", "status"),
    [
        (machine(0, 0), 0, "ok"),
        (GpuReading(Presence.UNKNOWN, reason="late"), 0, "ok"),
        (machine(0, 0), 2, "ok"),
        (machine(2048, 2048), 2, "ok"),
        (machine(0, 2049), 1, "ok"),
        (machine(0, 2049), 2, "busy"),
        (machine(0), 2, "missing"),
        (NONE, 1, "missing"),
        (machine(0, mig=True), 1, "missing"),
        (GpuReading(Presence.UNKNOWN, reason="late"), 1, "unknown"),
    ],
)
def test_gpus(subject: Subject, reading: GpuReading, needed: int, status: str) -> None:
    (check,) = hardware.gpu_checks(replace(subject, gpus_per_test={"a": needed, "b": 0}), reading)

    assert check.status == status
    assert bool(check.fix) == (status != "ok")


@pytest.mark.rule("GPU-13")
def test_busy_gpus_are_told_with_their_pids_and_split_ones_with_their_key(subject: Subject) -> None:
    one = replace(subject, gpus_per_test={"a": 1})
    busy = machine(9000).gpus[0]
    busy = replace(busy, processes=(GpuProcess(2**22 + 7, 8900),))

    (told,) = hardware.gpu_checks(one, GpuReading(Presence.PRESENT, (busy,)))
    (split,) = hardware.gpu_checks(one, machine(0, mig=True))
    (allowed,) = hardware.gpu_checks(replace(one, allow_mig=True), machine(0, mig=True))

    assert (told.status, f"pid {2**22 + 7}" in told.detail, "(8900 MiB)" in told.detail) == ("busy", True, True)
    assert ("1 split ones (MIG)" in split.detail, "allow_mig: true" in split.fix, allowed.status) == (True, True, "ok")


@pytest.mark.rule("GPU-13")
@pytest.mark.parametrize("unreported", [("memory",), ("processes",), ("memory", "processes")])
def test_a_gpu_without_numbers_is_told_as_what_it_is_with_the_key_that_accepts_it(
    subject: Subject, unreported: tuple[Unreported, ...]
) -> None:
    one = replace(subject, gpus_per_test={"a": 1}, host="spark")
    gpu_without = Gpu(
        0, "GPU-0", "NVIDIA GB10", *((None, None) if "memory" in unreported else (4, 97871)), 0, unreported=unreported
    )
    reading = GpuReading(Presence.PRESENT, (gpu_without,))

    (blocked,) = hardware.gpu_checks(one, reading)
    (accepted,) = hardware.gpu_checks(one, reading.accepting_unknown(True))

    assert (blocked.status, "NVML reports no " in blocked.detail) == ("unknown", True)
    assert blocked.fix.startswith("set gpu_memory_unknown: accept in hosts/spark.yaml")
    assert (accepted.status, "accepted by gpu_memory_unknown" in accepted.detail) == ("ok", True)


@pytest.mark.rule("GPU-19", "GPU-13")
@pytest.mark.parametrize("reading", [NONE, machine(0), GpuReading(Presence.UNKNOWN, reason="late")])
def test_a_test_of_which_nobody_says_how_many_gpus_it_needs_is_told_with_the_line_to_add(
    subject: Subject, reading: GpuReading
) -> None:
    one = replace(subject, gpus_per_test={"a": 1}, gpus_by_default=("test_a_ci.py", "test_b_ci.py"))

    default, free = hardware.gpu_checks(one, reading)

    line = "add gpus_per_test: {test_a_ci.py: 0, test_b_ci.py: 0} to models/toy/config.yaml"
    assert (default.id, default.status, default.fix.startswith(line)) == ("gpu.default", "warn", True)
    assert free.id == "gpu.free" and (free.fix.startswith(line) if reading is NONE else True)


@pytest.mark.rule("GPU-19")
def test_discover_and_precheck_name_the_test_that_gpus_per_test_leaves_out(tmp_path: Path) -> None:
    config = {key: value for key, value in toy.CONFIG.items() if key != "gpus_per_test"}
    project = toy.make_toy(tmp_path / "cpu", config=config)

    found = discover(project, toy.MODEL)
    default = by_id(verb.precheck(project, toy.MODEL).checks)["gpu.default"]

    file = Path(toy.TEST_FILE).name
    assert any(f"add gpus_per_test: {{{file}: 0}} to models/toy/config.yaml" in one for one in found.problems)
    assert file in default.detail and f"{{{file}: 0}}" in default.fix


@pytest.mark.rule("ENV-20", "PRE-09")
def test_precheck_json_says_where_it_was_what_was_loaded_and_what_a_launch_sets(subject: Subject) -> None:
    env = {"HOME": "/github/home", "HF_HOME": "/hf", "UV_CACHE_DIR": "/uv"}
    torch = ModuleFact(version="2.11.0+cu130", file="/venv/torch/__init__.py", cuda="13.0")
    probes = Probes(lambda: machine(0), lambda _: GOOD, lambda *_: Imports({"torch": torch}))

    answer = precheck(replace(subject, needs=replace(subject.needs, env=env)), probes, "2026-04-23T05:00:00Z")

    assert answer.commit == toy.git(subject.repo_root, "rev-parse", "HEAD")
    assert (answer.checked_at, answer.hostname) == ("2026-04-23T05:00:00Z", platform.node())
    assert (answer.gpu_count, answer.gpu_summary, answer.gpu_driver) == (1, "1× NVIDIA H20", "580.1")
    assert (answer.env, answer.modules) == (env, {"torch": torch})
    assert answer.versions == {
        "python": "3.11.9",
        "pytest": "9.0.0",
        "torch.__version__": "2.11.0+cu130",
        "torch.version.cuda": "13.0",
    }


@pytest.mark.rule("GPU-21")
@pytest.mark.parametrize("lacking", ["gpus", "gpu_count", "gpu_summary"])
def test_precheck_json_is_not_whole_without_its_gpus(subject: Subject, lacking: str) -> None:
    answer = precheck(
        subject, Probes(lambda: machine(0, 0), lambda _: GOOD, lambda *_: Imports()), "2026-04-23T05:00:00Z"
    )
    facts = answer.model_dump(mode="json")
    assert Precheck.model_validate(facts) == answer
    assert (answer.gpu_count, [one.uuid for one in answer.gpus]) == (2, ["GPU-0", "GPU-1"])

    del facts[lacking]

    with pytest.raises(ValidationError, match=lacking):
        Precheck.model_validate(facts)


@pytest.mark.rule("SCP-02")
def test_the_interpreter_is_asked_for_its_versions_without_the_callers_pythonpath(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    facts = read_venv(subject)

    assert (facts.problem, facts.versions["python"]) == ("", ".".join(map(str, sys.version_info[:3])))
    assert facts.versions["pytest"] == pytest.__version__ and facts.freeze_sha256


@pytest.mark.parametrize(
    ("script", "problem"), [("exit 1", "does not run"), ("echo hello", "does not run"), ("echo '{}'", "does not run")]
)
def test_an_interpreter_that_is_none_is_a_mismatch_with_a_fix(
    subject: Subject, tmp_path: Path, script: str, problem: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    odd = replace(subject, venv_python=python)

    facts = read_venv(odd)

    assert problem in facts.problem
    (check,) = checks(odd, facts)
    assert (check.id, check.status, check.fix) == ("venv.python", "mismatch", f"{python} --version")


@pytest.mark.rule("ENV-08")
def test_an_interpreter_that_does_not_answer_is_unknown_and_one_without_pytest_is_a_gap(subject: Subject) -> None:
    (late,) = checks(subject, VenvFacts(problem="did not answer within 20 s", late=True))
    python, pytest_check = checks(subject, VenvFacts(versions={"python": "3.11.9"}))

    assert (late.status, python.status) == ("unknown", "ok")
    assert (pytest_check.id, pytest_check.status) == ("venv.pytest", "missing")
    assert pytest_check.fix == f"{subject.venv_python} -m pip install 'pytest>=7.0'"
    (subject.repo_root / "pyproject.toml").write_text("[project]\n")
    (_, pytest_check) = checks(subject, VenvFacts(versions={"python": "3.11.9"}))
    assert pytest_check.fix.endswith("&& uv pip install -e ."), "where something is pinned, nothing goes by its name"


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "missing"), (5, "warn"), (50, "ok")])
def test_room_on_the_disk(subject: Subject, monkeypatch: pytest.MonkeyPatch, free_gib: float, status: str) -> None:
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _: Usage(0, 0, int(free_gib * 2**30)))
    (check,) = hardware.disk_checks(subject)
    assert check.status == status


@pytest.mark.rule("DSC-02", "HLT-07")
def test_stale_files_and_metrics_without_a_place_are_named(project: Project, subject: Subject) -> None:
    speed = next(stage for stage in subject.stages if stage.key == "toy_speed")
    metrics = speed.metrics | {"x": speed.metrics["latency_mean_s"].model_copy(update={"json_path": None})}
    vague = speed.model_copy(update={"metrics": metrics, "sample_counts": None})

    assert unknown_metrics((vague,)) == ["toy_speed/x", "toy_speed/sample_counts"]
    assert unknown_metrics(subject.stages) == [] == stale_files(project.repo_root, subject.stages)
    (project.repo_root / toy.TEST_FILE).unlink()
    assert stale_files(project.repo_root, subject.stages) == [toy.TEST_FILE]


@pytest.mark.rule("GPU-12", "PRE-02", "PRE-12", "VCS-09")
def test_a_precheck_changes_nothing_and_says_who_measures(project: Project) -> None:
    def files() -> dict[str, tuple[int, int]]:
        found = (path for path in project.repo_root.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = files()
    lock = host_lock.take(host_lock.LockHolder("20260423T050000Z_other", "/o", "/other"))
    assert not isinstance(lock, host_lock.LockHolder)

    answer = verb.precheck(project, toy.MODEL)

    host = by_id(answer.checks)["host.free"]
    assert (answer.ok, host.status) == (False, "busy") and "20260423T050000Z_other of /other" in host.detail
    assert host.id == answer.checks[0].id, "what blocks stands first"
    lock.release()
    again = verb.precheck(project, toy.MODEL)
    assert by_id(again.checks)["host.free"].status != "busy", "a neighbour that tests side by side start is only named"
    assert files() == before
