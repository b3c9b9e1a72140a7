"""The project's own cleanup script: bounded, its own tree ended with it, and never run for a run that is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import toy

from tune_mcp.files import FileLock
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.gpu import use


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    """A run whose supervisor lives."""
    folder = RunDir(tmp_path / ".tune-runs" / "20260423T050000Z_toy")
    folder.path.mkdir(parents=True)
    lock = FileLock.take(folder.supervisor_lock, {})
    assert lock is not None
    yield folder
    lock.release()


def cleanup(run: RunDir, *command: str, cancelled: Callable[[], bool] = lambda: False, limit_s: float = 30) -> str:
    return use.cleanup(command, run.repo_root, run, cancelled, limit_s)


@pytest.mark.rule("GPU-09")
def test_a_script_that_succeeds_says_nothing_and_runs_in_the_repository(run: RunDir) -> None:
    assert cleanup(run, "sh", "-c", "pwd > here") == ""
    assert (run.repo_root / "here").read_text().strip() == str(run.repo_root)


@pytest.mark.rule("GPU-09")
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("sh", "-c", "exit 7"), "ended with exit code 7 (sh -c 'exit 7')"),
        (("sh", "-c", "kill -9 $$"), "ended with exit code -9"),
        (("./none.sh",), "could not be started"),
    ],
)
def test_a_script_that_fails_is_named(run: RunDir, command: tuple[str, ...], reason: str) -> None:
    assert reason in cleanup(run, *command)


@pytest.mark.parametrize("cause", ["limit", "stop"])
def test_a_script_that_does_not_end_is_ended_with_everything_below_it(run: RunDir, cause: str) -> None:
    pids = run.repo_root / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"

    def cancelled() -> bool:
        toy.wait_for(pids.exists, what="the script's tree")
        return cause == "stop"

    said = cleanup(run, "sh", "-c", script, cancelled=cancelled, limit_s=0.5 if cause == "limit" else 120)

    assert "was stopped" in said
    left = [int(word) for word in pids.read_text().split()]
    toy.wait_for(lambda: not any(map(psutil.pid_exists, left)), what="the end of the script's tree")


@pytest.mark.rule("GPU-07")
def test_a_run_that_is_over_cleans_nothing_up(tmp_path: Path) -> None:
    run = RunDir(tmp_path / ".tune-runs" / "20260423T050000Z_toy")
    run.path.mkdir(parents=True)

    assert "is not active" in cleanup(run, "sh", "-c", f"touch {tmp_path}/mark")
    assert not (tmp_path / "mark").exists()
