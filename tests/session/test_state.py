"""What a reader may conclude from the record and the lock; unknown is never dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_mcp import procfs
from tune_mcp.files import FileLock, write_json
from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.session.state import CurrentWork, Liveness, RunState, SupervisorRecord

WAITING_TO_WORK = [RunState.WAITING_FOR_GPU, RunState.WAITING_FOR_QUIET]
WORKING = [RunState.PRECHECKING, RunState.RUNNING, *WAITING_TO_WORK, RunState.STOPPING]
WAITING = [RunState.HALTED, RunState.EXHAUSTED]
ENDED = [RunState.FINISHED, RunState.STOPPED, RunState.FAILED, RunState.LOST]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def said(run: RunDir, now: RunState) -> None:
    write_json(run.supervisor, SupervisorRecord(state=now, heartbeat_at=0.0).model_dump(mode="json"))


def test_every_state_is_working_waiting_or_ended() -> None:
    assert sorted(WORKING + WAITING + ENDED) == sorted(RunState)
    assert [one for one in RunState if one.terminal] == ENDED
    assert sorted(one for one in RunState if one.at_rest) == sorted(WAITING + ENDED)


@pytest.mark.parametrize("now", WORKING)
def test_a_working_state_under_a_held_lock_is_believed(run: RunDir, now: RunState) -> None:
    said(run, now)
    lock = FileLock.take(run.supervisor_lock, {})
    assert lock

    found = state.conclude(run)

    assert (found.state, found.liveness, found.active) == (now, Liveness.HELD, True)
    lock.release()


@pytest.mark.parametrize("now", WORKING)
def test_a_working_state_under_a_free_lock_is_lost(run: RunDir, now: RunState) -> None:
    said(run, now)

    found = state.conclude(run)

    assert (found.state, found.liveness, found.active) == (RunState.LOST, Liveness.FREE, False)
    assert found.record is not None and found.record.state is now


@pytest.mark.rule("STR-22", "RES-07")
@pytest.mark.parametrize("now", WORKING)
def test_a_working_state_whose_lock_file_was_taken_away_stands_as_long_as_its_owner_lives(
    run: RunDir, now: RunState
) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        record = SupervisorRecord(state=now, owner=state.owner(child.pid), heartbeat_at=0.0)
        write_json(run.supervisor, record.model_dump(mode="json"))

        alive = state.conclude(run)
        child.communicate(b"\n", timeout=60)

    assert (alive.state, alive.liveness, alive.active) == (now, Liveness.UNKNOWN, True)
    assert state.conclude(run).state is RunState.LOST


@pytest.mark.rule("RES-07")
def test_an_owner_that_died_and_was_not_reaped_yet_is_dead(run: RunDir) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    owner = state.owner(child.pid)
    assert child.stdin
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not state.lives(owner)
    child.wait(timeout=60)


@pytest.mark.parametrize("now", WAITING + ENDED)
def test_a_state_at_rest_stands_whatever_the_lock_says(run: RunDir, now: RunState) -> None:
    said(run, now)
    lock = FileLock.take(run.supervisor_lock, {})
    assert lock

    assert state.conclude(run).state is now
    lock.release()
    assert state.conclude(run).state is now


def test_an_end_state_written_between_two_looks_is_seen(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor writes its last word and lets go: whoever read the record before that must look again."""
    said(run, RunState.RUNNING)
    read, looks = state.read_record, []

    def slow_read(found: RunDir) -> SupervisorRecord | None:
        record = read(found)
        if not looks:
            said(found, RunState.FINISHED)
        looks.append(record)
        return record

    monkeypatch.setattr(state, "read_record", slow_read)

    assert state.conclude(run).state is RunState.FINISHED


@pytest.mark.parametrize(
    "data", [None, b"", b"[]", b"null", b"\xff", b'{"state": "dancing", "heartbeat_at": 1}', b"{}"]
)
def test_an_unreadable_record_is_lost_when_the_lock_is_free_and_starting_when_it_is_held(
    run: RunDir, data: bytes | None
) -> None:
    if data is not None:
        run.supervisor.write_bytes(data)

    assert state.conclude(run).state is RunState.LOST
    lock = FileLock.take(run.supervisor_lock, {})
    assert lock
    assert state.conclude(run).state is RunState.PRECHECKING
    lock.release()


@pytest.mark.parametrize("now", WORKING)
def test_a_lock_that_cannot_be_read_is_never_taken_for_a_dead_supervisor(run: RunDir, now: RunState) -> None:
    said(run, now)
    run.supervisor_lock.symlink_to(run.supervisor_lock)  # a loop: open() fails with ELOOP

    found = state.conclude(run)

    assert (found.state, found.liveness, found.active) == (now, Liveness.UNKNOWN, True)


def test_no_record_and_an_unreadable_lock_is_still_active(run: RunDir) -> None:
    run.supervisor_lock.symlink_to(run.supervisor_lock)

    assert state.conclude(run).active


def test_a_process_is_named_by_boot_pid_and_start() -> None:
    me = state.owner(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = state.owner(child.pid)

    assert me == state.owner(os.getpid())
    assert (me.boot_id == other.boot_id, me.pid != other.pid, other.start_ticks >= me.start_ticks) == (True,) * 3
    assert child.stdin
    child.stdin.close()
    child.wait(timeout=60)
    assert procfs.start_ticks(child.pid) is None
    with pytest.raises(ProcessLookupError):
        state.owner(child.pid)


def test_a_record_keeps_what_the_supervisor_does(run: RunDir) -> None:
    current = CurrentWork(test="t", repeat=2, attempt=1, phase="pytest", since="2026-04-23T05:00:00Z")
    record = SupervisorRecord(state=RunState.RUNNING, heartbeat_at=1.5, current=current)
    write_json(run.supervisor, record.model_dump(mode="json"))

    assert state.read_record(run) == record
