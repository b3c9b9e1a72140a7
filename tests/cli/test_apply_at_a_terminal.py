"""``tune-mcp apply`` on a real pseudo-terminal: a person is asked the same questions as through a client."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.verbs import answers
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

LIMIT_S = 180
TIGHT = '"throughput_qps": 99.0, "latency_mean_s": 0.001'
MODE, METRIC = "mode [report]: ", "keep, apply or a number [keep]: "


class Terminal:
    """A verb that runs with a terminal of its own."""

    def __init__(self, project: Project, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tune_mcp", *words, "--repo", str(project.repo_root)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "dumb"},
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, prompt: str) -> str:
        """Everything shown up to and with ``prompt``, or up to the end with an empty one."""
        end = time.monotonic() + LIMIT_S
        shown = ""
        while not prompt or not shown.endswith(prompt):
            assert time.monotonic() < end, f"no {prompt!r} within {LIMIT_S} s: {self.seen}"
            ready, _, _ = select.select([self.master], [], [], 1)
            if not ready:
                continue
            try:
                data = os.read(self.master, 4096)
            except OSError:  # the other side is closed
                data = b""
            if not data:
                assert not prompt, f"ended before {prompt!r}: {self.seen}"
                break
            shown += data.decode(errors="replace").replace("\r\n", "\n")
            self.seen = shown
        return shown

    def type(self, line: str) -> None:
        """Once it reads: an interrupt between the prompt and the read is only seen at the next key."""
        asleep = psutil.STATUS_SLEEPING
        toy.wait_for(lambda: psutil.Process(self.process.pid).status() == asleep, what="the verb to read")
        os.write(self.master, line.encode())

    def code(self) -> int:
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT_S)
        os.close(self.master)


@pytest.fixture
def calibrated(tmp_path: Path) -> tuple[Project, RunDir]:
    """Accuracy tightens, throughput and latency loosen."""
    source = toy.toy_source().replace('"throughput_qps": 1.0, "latency_mean_s": 9.0', TIGHT)
    project = toy.make_toy(tmp_path / "repo", test_source=source)
    run = toy.finished_run(project)
    report(project, run.run_id)
    return project, run


@pytest.fixture
def terminal(calibrated: tuple[Project, RunDir]) -> Iterator[Terminal]:
    project, run = calibrated
    made = Terminal(project, "apply", run.run_id)
    yield made
    made.close()


def source(project: Project) -> str:
    return (project.repo_root / toy.TEST_FILE).read_text()


@pytest.mark.rule("APL-05", "APL-12", "APL-13", "ASK-12")
def test_a_person_is_shown_the_plan_and_asked_for_mode_and_each_loosening_metric(
    calibrated: tuple[Project, RunDir], terminal: Terminal
) -> None:
    project, run = calibrated
    before = source(project)

    plan = terminal.until(MODE)
    assert "plan_id: " in plan and "--- a/tests/test_toy_ci.py" in plan
    assert "report touches no file; smart writes what tightens" in plan
    terminal.type("all\n")
    assert "one of: report, smart, full" in terminal.until(MODE)
    terminal.type("smart\n")
    first = terminal.until(METRIC)
    assert "observed per run: 0.125, 0.25" in first and "present value: 0.001, worst of N: 0.25" in first
    terminal.type("0.2\n")
    assert "tighter than the observed worst 0.25" in terminal.until(METRIC)
    terminal.type("0.30\n")
    assert "_TOY_P95[2]['throughput_qps']" in terminal.until(METRIC)
    terminal.type("\n")
    said = terminal.until("")

    assert terminal.code() == 0
    assert "tests/test_toy_ci.py:_TOY_P95[2]['latency_mean_s'] = 0.3 (was 0.001, loosens (+29900.0%))" in said
    assert f"undo: tune-mcp apply {run.run_id} --undo" in said
    assert source(project) == before.replace("MIN = 0.5 ", "MIN = 0.625 ").replace("0.001", "0.30")


@pytest.mark.rule("SCP-06", "APL-04")
@pytest.mark.parametrize(("key", "code", "told"), [("\x04", 2, "DECLINED"), ("\x03", 1, "")])
def test_who_leaves_in_the_middle_has_written_nothing_and_is_asked_only_the_rest_later(
    calibrated: tuple[Project, RunDir], terminal: Terminal, key: str, code: int, told: str
) -> None:
    project, run = calibrated
    before = source(project)
    terminal.until(MODE)
    terminal.type("smart\n")
    terminal.until(METRIC)
    terminal.type("apply\n")
    terminal.until(METRIC)
    terminal.type(key)
    assert told in terminal.until("")
    assert terminal.code() == code
    assert source(project) == before
    plan_id = apply_plan(project, run.run_id).plan_id
    assert [one.choice for one in answers.load(run, plan_id).decisions] == ["apply"]
    assert sum(event.kind == "declined" for event in events.read(run.events)) == (1 if told else 0)

    again = Terminal(project, "apply", run.run_id, "--mode", "smart")
    try:
        assert "toy_speed/latency_mean_s: apply, answered before" in again.until(METRIC)
        again.type("keep\n")
        again.until("")
        assert again.code() == 0
    finally:
        again.close()
    assert source(project) == before.replace("MIN = 0.5 ", "MIN = 0.625 ").replace("0.001", "0.25")


@pytest.mark.rule("ASK-11")
def test_nobody_is_asked_at_a_terminal_while_a_run_works(calibrated: tuple[Project, RunDir]) -> None:
    project, run = calibrated
    with toy.at_work(toy.finished_run(project)):
        asking = Terminal(project, "apply", run.run_id)
        try:
            assert "RUN_ACTIVE" in asking.until("")
            assert asking.code() == 2
        finally:
            asking.close()
