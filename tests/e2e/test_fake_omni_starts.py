"""Servers that do not start, die or are slow, with the real ones' lines: tried again, or an alert alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import omni
import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.usefixtures("warm")


def measured(machine: omni.Machine, model: str, stages: str = "ALL") -> RunDir:
    """One repeat, by a real supervisor, until the run has ended."""
    project = machine.project()
    reply = start_run(project, model, [stages], repeats=1)
    now = toy.wait_until_rest(project, reply.run_id)
    run = project.run(reply.run_id)
    assert now.state == "finished", toy.told(run)
    audit = strict_audit(project, run.run_id)
    assert audit.ready, audit.text()
    return run


def told(run: RunDir, kind: str) -> list[str]:
    """The milestones of one kind, as people read them."""
    lines = run.run_log.read_text().splitlines()
    return [line for line in lines if line.split()[1:2] == [kind]]


@pytest.fixture
def recogniser(tmp_path: Path) -> omni.Machine:
    return omni.make(tmp_path, ["qwen3-asr-v1"], omni.without_gpus)


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        ("exits", "Not enough memory. Please try to increase --mem-fraction-static"),
        ("unhealthy", "did not become healthy"),
    ],
)
def test_a_server_that_does_not_start_is_tried_again_and_its_own_line_is_named(
    recogniser: omni.Machine, trouble: str, line: str
) -> None:
    recogniser.trouble(trouble)

    run = measured(recogniser, "qwen3-asr-v1")

    assert recogniser.met() == {trouble}
    (again,) = told(run, "retry")
    assert line in again, again
    (first, second) = sorted(run.path.glob("_pytest/test_qwen3_asr_ci/attempts/run1_a*/result.json"))
    assert json.loads(first.read_text())["stages"] != json.loads(second.read_text())["stages"]


def test_a_worker_that_dies_in_the_middle_costs_one_attempt(recogniser: omni.Machine) -> None:
    recogniser.trouble("dies")

    run = measured(recogniser, "qwen3-asr-v1")

    assert recogniser.met() == {"dies"}
    (again,) = told(run, "retry")
    assert "partial: " in again or "died" in again, again


def test_slow_weights_are_an_alert_and_nothing_more(recogniser: omni.Machine) -> None:
    recogniser.trouble("slow")

    run = measured(recogniser, "qwen3-asr-v1")

    assert told(run, "retry") == []
    assert any("weights load slowly" in line for line in told(run, "alert")), run.run_log.read_text()


def test_memory_that_the_cleanup_does_not_get_back_is_tried_again_though_half_was_measured(tmp_path: Path) -> None:
    machine = omni.make(tmp_path, ["qwen3-omni-v1"], omni.without_gpus)
    machine.trouble("memory")
    orphan = subprocess.Popen([sys.executable, "-c", "input()", machine.orphan], stdin=subprocess.PIPE)

    run = measured(machine, "qwen3-omni-v1", "mmmu_talker")

    assert orphan.wait(timeout=60) == -9, "the tests' own cleanup ended it, and the run lived on"
    (again,) = told(run, "retry")
    assert "GPU memory was not released" in again, again
