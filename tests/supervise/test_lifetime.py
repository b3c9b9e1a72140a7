"""A run outlives whoever asked for it, and ends on request, all of it and nothing else. Real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import toy

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.errors import Refusal
from tune_mcp.files import is_locked
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.supervise import host_lock
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

STARTER = """
import subprocess, sys
from pathlib import Path
import toy
if sys.argv[2] == "client":
    # What an MCP client does: a server below it, that is asked for a run.
    server = subprocess.Popen([sys.executable, __file__, sys.argv[1], "server"], stdin=subprocess.PIPE)
    server.wait()
else:
    toy.start(toy.open_project(Path(sys.argv[1])), 1)
    sys.stdin.read()
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = toy.make_toy(tmp_path / "repo")
    yield made
    for entry in list_runs(made).runs:
        toy.let_go(made, 1)
        toy.let_go(made, 2)
        if not state.conclude(made.run(entry.run_id)).state.at_rest:
            stop_run(made, entry.run_id, "the test is over")


def supervisor(run: RunDir) -> psutil.Process:
    record = state.read_record(run)
    assert record is not None and record.owner is not None, toy.told(run)
    assert state.owner(record.owner.pid) == record.owner
    return psutil.Process(record.owner.pid)


def owned(run: RunDir) -> list[int]:
    """The supervisor and everything below it."""
    process = supervisor(run)
    return [process.pid, *(child.pid for child in process.children(recursive=True))]


def still_there(pids: list[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found += [pid] if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else []
    return found


def code(call: object) -> str:
    with pytest.raises(Refusal) as error:
        call()
    return str(error.value.code)


@pytest.mark.rule("RES-10", "SUP-02", "RES-07")
def test_a_run_goes_on_when_client_and_server_and_their_whole_tree_are_killed(project: Project, tmp_path: Path) -> None:
    toy.hold(project, 1)
    starter = tmp_path / "starter.py"
    starter.write_text(STARTER)
    client = subprocess.Popen(
        [sys.executable, str(starter), str(project.repo_root), "client"],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{Path(toy.__file__).parents[1]}:{Path(toy.__file__).parent}"},
    )
    toy.wait_for(lambda: toy.launches(project, 1), what="the first pytest")
    (entry,) = list_runs(project).runs
    run = project.run(entry.run_id)
    tree = [client.pid, *(child.pid for child in psutil.Process(client.pid).children(recursive=True))]
    process = supervisor(run)
    assert "tune_mcp.supervise" in process.cmdline()
    assert len(tree) == 2, "client and server, and no supervisor below them"
    assert process.ppid() not in tree and process.pid not in tree
    assert os.getsid(process.pid) != os.getsid(client.pid)

    for pid in tree:
        os.kill(pid, signal.SIGKILL)
    os.killpg(client.pid, signal.SIGKILL) if still_there([client.pid]) else None
    client.wait(timeout=60)
    assert status(project, run.run_id).state == "running"
    toy.let_go(project, 1)

    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True), toy.told(run)
    assert report(project, run.run_id).metrics == 3
    toy.wait_for(lambda: not is_locked(run.supervisor_lock), what="the end of the supervisor")


@pytest.mark.rule("RES-01", "RES-04", "RES-07", "RES-10", "STR-22")
def test_a_killed_supervisor_is_lost_for_every_reader_and_resume_completes(project: Project) -> None:
    run = toy.start_and_hold(project, 2, repeat=2)
    first = run.observation("toy_speed", 1).read_bytes()
    pids = owned(run)

    supervisor(run).kill()

    toy.wait_for(lambda: state.conclude(run).state.at_rest, what="the loss")
    now = status(project, run.run_id)
    assert (now.state, now.terminal, now.pytest_active, now.current) == ("lost", True, False, None)
    assert "gone without an end state" in now.alerts[0]
    assert list_runs(project).runs[0].state == "lost"
    assert "toy_speed: ✓—" in strict_audit(project, run.run_id).text()
    toy.wait_for(lambda: not still_there(pids), what="the end of the orphaned runner and its pytest")

    toy.let_go(project, 2)
    resume_run(project, run.run_id)
    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True), toy.told(run)
    assert run.observation("toy_speed", 1).read_bytes() == first, "what was strict is not measured again"
    assert len(toy.launches(project, 1)) == 1


@pytest.mark.rule("GPU-14", "STR-18", "GPU-20")
def test_nobody_measures_beside_a_pytest_that_still_tears_down_after_its_supervisor_was_killed(tmp_path: Path) -> None:
    slow = (
        "from pathlib import Path\nimport time\n\n\ndef pytest_unconfigure(config):\n    end = time.monotonic() + 25\n"
        "    while (Path(__file__).parents[2] / 'repo-state/teardown').exists() and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
    )
    project = toy.make_toy(tmp_path / "repo", files={"tests/conftest.py": slow})
    teardown = toy.state_folder(project) / "teardown"
    teardown.touch()
    run = toy.start_and_hold(project, 1)
    pids = owned(run)

    supervisor(run).kill()
    toy.wait_for(lambda: state.conclude(run).state is state.RunState.LOST, what="the loss")
    with pytest.raises(Refusal, match=rf"RUN_ACTIVE.*{run.run_id} \(lost\)"):
        resume_run(project, run.run_id)

    teardown.unlink()
    toy.wait_for(lambda: not still_there(pids) and _host_is_free(), what="the end of the orphans")
    toy.let_go(project, 1)
    resume_run(project, run.run_id)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)


@pytest.mark.rule("RTY-03", "GPU-20", "RES-07")
@pytest.mark.usefixtures("warm")
def test_a_killed_runner_is_an_attempt_that_is_tried_again_after_its_pytest_is_gone(project: Project) -> None:
    run = toy.start_and_hold(project, 1)
    (pytest_pid,) = toy.launches(project, 1)
    (runner,) = supervisor(run).children()
    assert psutil.Process(pytest_pid).ppid() == runner.pid

    runner.kill()
    toy.wait_for(lambda: not still_there([pytest_pid]), what="the end of the orphaned pytest")
    toy.let_go(project, 1)

    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True), toy.told(run)
    assert len(toy.launches(project, 1)) == 2
    assert any(
        "the runner, not pytest, was killed" in event.text for event in events.read(run.events) if event.kind == "retry"
    )


def test_stopping_a_run_that_is_over_changes_nothing(project: Project) -> None:
    run = toy.finished_run(project, 1)
    before = run.events.read_bytes()

    answer = stop_run(project, run.run_id, "late")

    assert (answer.state, answer.strict_ready, run.events.read_bytes()) == ("finished", "2/2", before)
    assert code(lambda: stop_run(project, run.run_id, " ")) == "INVALID_ARGUMENT"


@pytest.mark.rule("GPU-20", "GPU-16", "SUP-13", "GAP-01")
@pytest.mark.usefixtures("warm")
def test_a_stopped_run_keeps_what_is_complete_and_leaves_no_process_and_no_stranger_dies(
    project: Project, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    server = f"import os, time; open({str(pids)!r}, 'a').write(str(os.getpid()) + chr(10)); time.sleep(600)"
    leave = f"subprocess.Popen([sys.executable, '-c', {server!r}], start_new_session=True)"
    daemon = f"import subprocess, sys; {leave}"
    test = project.repo_root / toy.TEST_FILE
    spawn = f"    import subprocess, sys\n    {leave}\n    subprocess.run([sys.executable, '-c', {daemon!r}])\n"
    test.write_text(test.read_text().replace("def held(k):\n", f"def held(k):\n    if k == 2:\n{_indented(spawn)}"))
    discover(project, toy.MODEL)
    toy.commit(project)
    decoy = subprocess.Popen([sys.executable, "-c", server.replace(str(pids), str(tmp_path / "decoy"))])
    run = toy.start_and_hold(project, 2, repeat=2)
    toy.wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="both servers")
    mine = [*owned(run), *map(int, pids.read_text().split()), *toy.launches(project, 2)]
    assert len(still_there(mine)) == len(mine) >= 5

    answer = stop_run(project, run.run_id, "lunch")

    assert (answer.state, answer.strict_ready, answer.kept_cells) == ("stopped", "0/2", 2)
    toy.wait_for(lambda: not still_there(mine), what="the end of the supervisor")
    assert decoy.poll() is None, "a foreign process with the same command line lives on"
    decoy.kill()
    decoy.wait()
    assert status(project, run.run_id).reason == "lunch"
    assert "toy_speed: ✓— (1/2 strict, expected=4)" in strict_audit(project, run.run_id).text()

    toy.let_go(project, 2)
    resume_run(project, run.run_id)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert [len(toy.launches(project, repeat)) for repeat in (1, 2)] == [1, 2], "only what was open is measured"


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


@pytest.mark.rule("GPU-14", "STR-18", "SES-01", "SES-14", "GAP-11")
@pytest.mark.usefixtures("warm")
def test_one_run_measures_at_a_time_and_the_refusal_names_it(project: Project, tmp_path: Path) -> None:
    other = toy.make_toy(tmp_path / "other")
    run = toy.start_and_hold(project, 1)

    with pytest.raises(Refusal, match=rf"RUN_ACTIVE \[GPU-14\]: {run.run_id} \(running\)"):
        start_run(project, toy.MODEL)
    with pytest.raises(Refusal, match=rf"HOST_BUSY \[GPU-14\]: {run.run_id}.*{project.repo_root}"):
        start_run(other, toy.MODEL)
    assert not (other.repo_root / ".tune-runs").exists(), "a refusal leaves nothing behind"
    assert code(lambda: resume_run(project, run.run_id)) == "RUN_ACTIVE"
    purge = [PurgeItem(stage="toy_speed", repeat=1, reason="impatient")]
    assert code(lambda: resume_run(project, run.run_id, purge)) == "REPEAT_ACTIVE"
    assert code(lambda: report(project, run.run_id)) == "RUN_ACTIVE"
    now = status(project, run.run_id)
    assert now.pytest_active and now.current is not None
    assert (now.current.test, now.current.repeat, now.current.phase) == ("test_toy_ci", 1, "pytest")

    toy.let_go(project, 1)
    assert toy.wait_until_rest(project, run.run_id).state == "finished"
    toy.wait_for(lambda: not is_locked(run.supervisor_lock), what="the end of the supervisor")
    toy.wait_for(lambda: _host_is_free(), what="the host")
    second = toy.start(project, 1)
    assert second.path != run.path
    assert toy.wait_until_rest(project, second.run_id).strict_complete


@pytest.mark.rule("GPU-14", "STR-18")
def test_deleting_the_locks_of_a_living_run_lets_no_other_measure_beside_it(project: Project) -> None:
    run = toy.start_and_hold(project, 1)
    run.supervisor_lock.unlink()
    host_lock.lock_path().unlink()

    now = status(project, run.run_id)
    assert (now.state, now.pytest_active) == ("running", True)
    assert "nobody knows whether it still runs" in now.alerts[0]
    for call in (
        lambda: start_run(project, toy.MODEL),
        lambda: resume_run(project, run.run_id),
        lambda: report(project, run.run_id),
    ):
        assert code(call) == "RUN_ACTIVE"

    toy.let_go(project, 1)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    assert len(list_runs(project).runs) == len(toy.launches(project, 1)) == 1


def _host_is_free() -> bool:
    return host_lock.current() is None


def begun(repo: Path, moment: float) -> str:
    while time.monotonic() < moment:
        pass
    try:
        return toy.start(toy.open_project(repo), 1).run_id
    except Refusal as refusal:
        return str(refusal.code)


@pytest.mark.usefixtures("warm")
def test_two_starts_at_the_same_moment_give_one_run_and_one_refusal(project: Project) -> None:
    toy.hold(project, 1)
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        moment = time.monotonic() + 0.3
        said = sorted(pool.map(begun, [project.repo_root] * 2, [moment] * 2, timeout=60))

    (entry,) = list_runs(project).runs
    assert said == [entry.run_id, "RUN_ACTIVE"]
    toy.let_go(project, 1)
    assert toy.wait_until_rest(project, entry.run_id).strict_complete


@pytest.mark.rule("POL-01")
@pytest.mark.usefixtures("warm")
def test_a_waiting_reader_is_woken_by_progress_and_sees_the_heartbeat(project: Project) -> None:
    run = toy.start_and_hold(project, 1)
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        toy.let_go(project, 1)
        toy.wait_for(lambda: state.conclude(run).state.at_rest, what="the end")

    now = status(project, run.run_id, wait_s=50, sleep=look)

    assert (now.timed_out, now.state, len(looks)) == (False, "finished", 1)
    assert now.heartbeat_age_s is not None and now.poll_within_s <= 120
    assert [event.kind for event in events.read(run.events)][-1] == "finished"


@pytest.mark.rule("GPU-20")
@pytest.mark.usefixtures("warm")
def test_a_supervisor_that_is_told_to_end_by_a_signal_stops_gracefully(project: Project) -> None:
    run = toy.start_and_hold(project, 1)
    pids = owned(run)

    supervisor(run).terminate()

    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, "by a signal" in now.reason) == ("stopped", True), toy.told(run)
    toy.wait_for(lambda: not still_there(pids), what="the end of all of it")


def test_the_launcher_for_which_a_start_waits_imports_nothing_that_it_has_no_use_for() -> None:
    code = "import sys, tune_mcp.supervise.launcher; print({'pydantic', 'psutil', 'yaml'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "set()\n"
