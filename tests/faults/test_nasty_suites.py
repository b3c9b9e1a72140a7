"""Suites that fight back, with the real xdist and rerunfailures: a repeat is one whole pass over the file, or no ✓."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import campaign
import escapees
import psutil
import pytest
import toy

from tune_mcp.precheck.gates import Precheck
from tune_mcp.precheck.venv import read_venv
from tune_mcp.run_dir import RunDir
from tune_mcp.session import plan as plans
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

PLAIN = toy.toy_source()
FAILING = PLAIN.replace("TOY_ACC_MIN = 0.5", "TOY_ACC_MIN = 0.99")
FLAKY = PLAIN.replace(
    "def test_speed(results):\n",
    "@pytest.mark.flaky(reruns=2)\ndef test_speed(results):\n    tries = STATE / 'tries'\n"
    "    tries.open('a').write('x')\n    assert tries.read_text() != 'x', 'the first time it fails'\n",
)


_INSTALLED: list[tuple[str, ...]] = []


def installed(project: Project) -> tuple[str, ...]:
    """The pytest plugins of the toys' one venv, asked once."""
    if not _INSTALLED:
        model = project.places.model(toy.MODEL)
        subject = project.subject(model, tuple(project.places.stages(toy.MODEL).values()))
        _INSTALLED.append(read_venv(subject).pytest_plugins)
        assert {"xdist", "rerunfailures"} <= set(_INSTALLED[0]), _INSTALLED
    return _INSTALLED[0]


def observed(project: Project) -> tuple[RunDir, AttemptResult]:
    """One repeat with a real pytest, whose plugins the supervisor knows as in a real run."""
    plugins = installed(project)
    results: list[AttemptResult | None] = []

    def ready(run: RunDir, plan: plans.Plan) -> Precheck:
        return toy.ready(run, plan).model_copy(update={"pytest_plugins": plugins})

    def attempt(job: Job) -> AttemptResult | None:
        results.append(toy.real_pytest(job))
        return results[-1]

    with toy.supervised_here(attempt, ready):
        run = toy.start(project, 1)
    assert results[-1] is not None, toy.told(run)
    return run, results[-1]


def conftest(text: str) -> dict[str, str]:
    return {"tests/conftest.py": f"import os\nimport pytest\n\n\n{text}\n"}


@pytest.mark.rule("XPY-01", "XPY-06", "MET-01", "RTY-04")
@pytest.mark.parametrize(
    "files",
    [
        {"pytest.ini": "[pytest]\naddopts = -x --sw -n 2 --reruns 2\n"},
        {"pytest.ini": "[pytest]\naddopts = -n auto --dist loadfile --maxfail=1 --reruns 1 --only-rerun Assertion\n"},
        {"tox.ini": "[pytest]\naddopts = -x --sw -n 2 --reruns 2 --reruns-delay 9\nreruns = 3\n"},
        conftest("collect_ignore = ['test_toy_ci.py']"),
        conftest("def pytest_configure(config):\n    config.option.reruns = 0\n    config.option.maxfail = 1"),
    ],
    ids=["-x --sw -n 2 --reruns 2", "-n auto", "tox.ini", "collect_ignore", "conftest"],
)
def test_options_that_stop_share_out_or_repeat_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    """Bug 19 of the older script: an inherited ``-x`` cut the file short. Here with the real plugins."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x -n 3 --reruns 5")
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "4")
    project = toy.make_toy(tmp_path / "repo", test_source=FAILING, files=files)

    run, result = observed(project)

    assert (len(result.guard.executed), result.guard.repeated, result.guard.worker) == (2, (), False), toy.told(run)
    assert strict_audit(project, run.run_id).ready, "a failed threshold is an observation"
    assert len(toy.launches(project, 1)) == 1


@pytest.mark.rule("XPY-01", "XPY-06", "GAP-08", "STR-17", "HLT-04")
@pytest.mark.parametrize(
    ("source", "files", "why"),
    [
        (FLAKY, {}, "more than once"),
        (PLAIN, conftest("def pytest_cmdline_main(config):\n    config.option.numprocesses = 2\n"
                                    "    config.option.tx = ['popen'] * 2\n    config.option.dist = 'load'"), ""),
        (PLAIN, conftest("def pytest_runtest_protocol(item):\n    return item.name == 'test_speed'"), "run"),
        (PLAIN, conftest("def pytest_configure(config):\n"
                                    "    config.pluginmanager.unregister(name='tune_guard')"), ""),
        (PLAIN, conftest("def pytest_sessionstart(session):\n    import tune_guard\n"
                                    "    tune_guard._RECORD = None"), "collected"),
        (PLAIN.replace("def test_speed", "@pytest.mark.xfail(run=False)\ndef test_speed"), {}, "(xfail)"),
        (FAILING.replace("def test_accuracy", "@pytest.mark.xfail\ndef test_accuracy"), {}, "(xfail)"),
    ],
    ids=[
        "flaky mark", "xdist by force", "swallowed", "guard removed", "record moved", "xfail that does not run",
        "xfail",
    ],
)  # fmt: skip
def test_what_cannot_be_taken_back_is_never_strict(
    tmp_path: Path, source: str, files: dict[str, str], why: str
) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=source, files=files)

    run, _ = observed(project)

    now = status(project, run.run_id)
    assert now.state == "halted" and why in now.reason, (now.reason, toy.told(run))
    assert "✓" not in strict_audit(project, run.run_id).text()


LONG = '''"""Long names, a class, tmp_path of passing tests, and the ``current`` link."""

import json

import pytest

NUM_SAMPLES = 4
TOY_ACC_MIN = 0.5
_TOY_P95 = {2: {"throughput_qps": 3.0}}


class TestVoiceCloning:
    def test_voice_cloning_non_streaming_wer(self, tmp_path):
        (tmp_path / "result.json").write_text(json.dumps({"accuracy": 0.625, "total": 4, "ok": 4}))
        assert 0.625 >= TOY_ACC_MIN

    def test_voice_cloning_non_streaming_speed(self, tmp_path):
        (tmp_path / "result.json").write_text(json.dumps({"accuracy": 0.25, "throughput_qps": 2.5}))
        (tmp_path.parent / "newest-current").symlink_to(tmp_path)
        assert 2.5 >= _TOY_P95[2]["throughput_qps"]
'''
LEAF = "test_voice_cloning_non_streami"


@pytest.mark.rule("MET-01", "MET-02", "XPY-01")
@pytest.mark.parametrize("policy", ["failed", "none"])
def test_a_metric_is_read_from_its_own_test_whatever_is_kept_and_however_long_its_name(
    tmp_path: Path, policy: str
) -> None:
    paths = {"accuracy": "accuracy", "throughput_qps": f"{LEAF}1/result.json::throughput_qps"}
    source = {
        "json_file": f"{LEAF}0/result.json",
        "sample_counts": {"total": "total", "ok": "ok"},
        "paths": paths,
    }
    config: dict[str, Any] = toy.CONFIG | {"metric_sources": {"test_toy_ci.py": source}}
    retention = f"[pytest]\ntmp_path_retention_policy = {policy}\ntmp_path_retention_count = 0\n"
    project = toy.make_toy(tmp_path / "repo", test_source=LONG, config=config, files={"pytest.ini": retention})

    run, result = observed(project)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    metrics = {key: value for stage in result.stages.values() for key, value in stage.metrics.items()}
    assert metrics == {"accuracy": 0.625, "throughput_qps": 2.5}, "two leaves that differ in their last character alone"
    assert len(result.guard.executed) == 2


@pytest.mark.rule("GPU-16", "GPU-20", "GPU-05")
def test_no_server_daemon_worker_or_retitled_process_outlives_the_run_and_a_stranger_does(tmp_path: Path) -> None:
    """Bug 20 of the older script: strangers of the same name were killed. A real run from end to end."""
    project = escapees.toy_with_escapees(tmp_path / "repo")
    stranger = escapees.decoy(project)
    try:
        run = toy.start(project, 2)

        assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
        left = escapees.escaped(project)
        assert set(left) == {"setsid", "retitled", "bare", "daemon", "spawned"}
        assert escapees.alive(left.values()) == []
        toy.wait_for(lambda: not campaign.survivors(run), what="the end of the supervisor")
        assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE
    finally:
        stranger.kill()
        stranger.wait()
