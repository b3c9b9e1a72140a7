"""A run outlives whoever started it, and two runs never measure at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import sample_project as toy

from tune_mcp.errors import Refusal
from tune_mcp.session import state
from tune_mcp.verbs import status
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

SLOW = toy.TEST.replace(
    "    k = repeat()\n",
    "    k = repeat()\n    import time\n    deadline = time.monotonic() + 1.0\n"
    "    while time.monotonic() < deadline:\n        pass\n",
)
LONG = SLOW.replace("+ 1.0", "+ 60.0")


def supervisor_pid(run_dir: Path) -> int:
    record = state.read_record(toy.RunDir(run_dir))
    assert record is not None and record.owner is not None
    return record.owner.pid


@pytest.mark.rule("RES-10", "SUP-02")
def test_a_run_goes_on_when_its_starter_and_the_whole_process_group_are_killed(tmp_path: Path) -> None:
    project = toy.make(tmp_path / "repo", SLOW)
    starter = subprocess.Popen(
        [sys.executable, "-m", "tune_mcp", "run", "toy", "--repeats", "2", "--repo", str(project.repo_root)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(200):
        runs = status.list_runs(project).runs
        if runs and runs[0].state == "running":
            break
        starter.poll()
        assert status.list_runs(project) is not None
        _pause()
    run_id = status.list_runs(project).runs[0].run_id
    toy.until(project, run_id, lambda now: now.pytest_active)
    tree = psutil.Process(starter.pid).children(recursive=True)
    for process in tree:
        process.kill()
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()

    now = toy.rest(project, run_id)

    assert now.state == "finished", now.text()
    assert strict_audit(project, run_id).ready
    assert report(project, run_id).metrics == 4


def _pause() -> None:
    """Give the other process a moment; the loop around it is bounded."""
    subprocess.run([sys.executable, "-c", ""], check=True)


@pytest.mark.rule("GPU-14", "STR-18", "SES-01")
def test_a_second_run_is_refused_while_one_measures_and_names_it(tmp_path: Path) -> None:
    project = toy.make(tmp_path / "repo", SLOW)
    elsewhere = toy.make(tmp_path / "elsewhere")
    first = start_run(project, toy.MODEL, repeats=2)

    with pytest.raises(Refusal, match=r"^RUN_ACTIVE .*" + first.run_id):
        start_run(project, toy.MODEL)
    with pytest.raises(Refusal, match=r"^HOST_BUSY .*" + first.run_id):
        start_run(elsewhere, toy.MODEL)
    with pytest.raises(Refusal, match=r"^RUN_ACTIVE"):
        resume_run(project, first.run_id)
    assert len(status.list_runs(project).runs) == 1
    assert status.list_runs(elsewhere).runs == ()

    toy.rest(project, first.run_id)
    second = start_run(project, toy.MODEL, repeats=1)
    assert second.run_dir != first.run_dir
    toy.rest(project, second.run_id)


@pytest.mark.rule("RES-01", "RES-04", "RES-06")
def test_a_killed_supervisor_reads_as_lost_and_resume_completes_the_run(tmp_path: Path) -> None:
    project = toy.make(tmp_path / "repo", SLOW)
    reply = start_run(project, toy.MODEL, repeats=2)
    toy.until(project, reply.run_id, lambda now: now.total - now.missing_total >= 3)
    pid = supervisor_pid(Path(reply.run_dir))
    os.kill(pid, signal.SIGKILL)

    now = toy.rest(project, reply.run_id)
    assert now.state == "lost"
    assert "lost" in now.text()
    kept = project.run(reply.run_id).observation("toy_speed", 1).read_bytes()
    _gone(pid)
    resume_run(project, reply.run_id)
    now = toy.rest(project, reply.run_id)

    assert now.state == "finished", now.text()
    assert project.run(reply.run_id).observation("toy_speed", 1).read_bytes() == kept


def _gone(pid: int) -> None:
    """Wait, bounded, until the runner that the supervisor left behind has seen its end and gone too."""
    for _ in range(200):
        left = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "tune_mcp.supervise.runner" in (process.info["cmdline"] or []) and process.ppid() in (1, pid)
        ]
        if not left:
            return
        _pause()
    raise AssertionError(f"runners left behind: {left}")


@pytest.mark.rule("GPU-20", "GPU-16")
def test_stop_leaves_no_process_of_ours_and_every_process_of_others(tmp_path: Path) -> None:
    helper = tmp_path / "escaping_server.py"
    helper.write_text("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()\n")
    escaping = LONG.replace(
        "    import time\n",
        "    import subprocess, sys, time\n"
        f"    subprocess.Popen([sys.executable, {str(helper)!r}], start_new_session=True)\n",
    )
    project = toy.make(tmp_path / "repo", escaping)
    decoy = subprocess.Popen([sys.executable, str(helper)], start_new_session=True)
    try:
        reply = start_run(project, toy.MODEL, repeats=1)
        toy.until(project, reply.run_id, lambda now: now.pytest_active and len(_named(helper)) == 2)

        stopped = stop_run(project, reply.run_id, "the test is over")

        assert stopped.state == "stopped"
        assert [process.pid for process in _named(helper)] == [decoy.pid]
        assert not psutil.pid_exists(supervisor_pid(Path(reply.run_dir))) or toy.rest(project, reply.run_id)
    finally:
        decoy.kill()
        decoy.wait()


def _named(helper: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if str(helper) in (p.info["cmdline"] or [])]
