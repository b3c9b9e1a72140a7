"""A run that nobody looks at says so in its own record, once for each gap."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
import toy

from tune_mcp.session import events
from tune_mcp.supervise.job import Job
from tune_mcp.supervise.noting import PollingGap, Watchers
from tune_mcp.verbs.status import status


def polled(path: Path, at: float) -> None:
    path.touch()
    os.utime(path, (at, at))


@pytest.mark.rule("POL-01", "POL-12")
def test_a_gap_is_told_once_when_it_opens_and_once_when_it_is_over(tmp_path: Path) -> None:
    path = tmp_path / "watched"
    watchers = Watchers(path, 1000.0)

    assert watchers.look(1120.0) is None, "120 s are allowed"
    assert watchers.look(1120.5) == PollingGap(since=1000.0)
    assert watchers.look(5000.0) is None
    polled(path, 6000.0)
    assert watchers.look(6000.0) == PollingGap(since=1000.0, seconds=5000.0)
    polled(path, 6100.0)
    assert watchers.look(6219.0) is None
    assert watchers.look(6221.0) == PollingGap(since=6100.0)


@pytest.mark.rule("POL-01")
def test_a_poll_before_the_run_went_on_does_not_count_against_it(tmp_path: Path) -> None:
    path = tmp_path / "watched"
    polled(path, 10.0)

    assert Watchers(path, 1000.0).look(1001.0) is None


class Slow(toy.InProcess):
    """Runs for as many looks of the supervisor as it has."""

    looks = 3

    def runs(self, job: Job) -> bool:
        self.looks -= 1
        return self.looks > 0


class Leaping:
    """A clock on which every wait takes a quarter of an hour."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> object:
        from datetime import timedelta

        return toy.utc_now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += 900


@pytest.mark.rule("POL-01", "POL-12")
def test_the_supervisor_writes_the_gap_into_the_runs_record(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")

    with toy.supervised_by(Slow(), Leaping()):  # pyright: ignore
        run = toy.start(project, 1)

    told = [event for event in events.read(run.events) if event.kind == "unwatched"]
    assert len(told) == 1 and "more than 120 s" in told[0].text
    assert told[0].text in run.run_log.read_text()


@pytest.mark.rule("POL-01")
@pytest.mark.usefixtures("warm")
def test_a_poll_leaves_a_trace_only_while_the_run_is_active_and_never_fails_for_it(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.start_and_hold(project, 1)
    try:
        status(project, run.run_id)
        assert run.watched.is_file()
        run.watched.unlink()
        run.watched.mkdir()
        run.watched.chmod(stat.S_IRUSR)
        assert status(project, run.run_id).state == "running"
    finally:
        toy.let_go(project, 1)
    toy.wait_until_rest(project, run.run_id)
    run.watched.chmod(0o700)
    run.watched.rmdir()

    status(project, run.run_id)

    assert not run.watched.exists()
