"""Many readers, several starters, one supervisor: one run, whole answers, and signals that are heard."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from tune_mcp.errors import Refusal
from tune_mcp.session import state
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.verbs.tail_pytest import tail_pytest

READERS = 10
STARTERS = 6


def forked(call: Callable[[], int]) -> int:
    """Another server: the call's number is its exit code, a traceback 99."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(call())
    except BaseException:
        traceback.print_exc()
        os._exit(99)


def code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.rule("GPU-14", "STR-18", "SES-01", "SES-14")
def test_of_many_starts_at_once_one_wins_and_ten_readers_see_a_whole_run_all_along(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    other = toy.make_toy(tmp_path / "other")
    reader, writer = os.pipe()
    toy.hold(project, 1)
    toy.hold(other, 1)

    def start(number: int) -> int:
        os.read(reader, 1)  # all in the same moment
        try:
            start_run((project, other)[number % 2], toy.MODEL, repeats=2)
        except Refusal as refusal:
            return {"RUN_ACTIVE": 1, "HOST_BUSY": 2}[str(refusal.code)]
        return 0

    starters = [forked(lambda number=number: start(number)) for number in range(STARTERS)]
    os.write(writer, b"g" * STARTERS)
    codes = [code(pid) for pid in starters]

    assert codes.count(0) == 1 and set(codes) <= {0, 1, 2}, codes
    winner, loser = (project, other) if list_runs(project).runs else (other, project)
    (entry,) = list_runs(winner).runs
    assert list_runs(loser).runs == () and not (loser.repo_root / ".tune-runs").exists(), "nothing half made"

    def read() -> int:
        seen = set[str]()
        while "finished" not in seen:
            now = status(winner, entry.run_id, wait_s=5)
            seen.add(now.state)
            assert now.state in ("prechecking", "running", "finished"), now.text()
            strict_audit(winner, entry.run_id)
            tail_pytest(winner, entry.run_id)
        return 0

    readers = [forked(read) for _ in range(READERS)]
    toy.let_go(winner, 1)
    assert toy.wait_until_rest(winner, entry.run_id).strict_complete
    assert [code(pid) for pid in readers] == [0] * READERS


@pytest.mark.rule("GPU-20", "RES-10")
def test_a_run_that_was_started_in_the_background_of_a_shell_can_still_interrupt_its_pytest(tmp_path: Path) -> None:
    """Such a shell lets its children ignore SIGINT; pytest must hear it all the same, and tear down."""
    project = toy.make_toy(tmp_path / "repo")
    toy.hold(project, 1)
    command = f"{sys.executable} -m tune_mcp run toy --repeats 1 --detach --repo {project.repo_root}"
    subprocess.run(
        ["sh", "-c", f"trap '' INT; {command} & wait"], cwd=Path(toy.__file__).parents[1], check=True, timeout=60,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    toy.wait_for(lambda: toy.launches(project, 1), what="the pytest")
    (entry,) = list_runs(project).runs
    run = project.run(entry.run_id)

    assert stop_run(project, run.run_id, "enough").state == "stopped"

    assert "KeyboardInterrupt" in run.log(toy.TEST_KEY, 1).read_text(), toy.told(run)
    assert state.conclude(run).state is state.RunState.STOPPED
