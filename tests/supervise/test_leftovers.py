"""When all that watches over pytest is killed at once, what it leaves is found, named and ended, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import escapees
import psutil
import pytest
import toy

from tune_mcp import procfs
from tune_mcp.errors import Refusal
from tune_mcp.files import is_locked, write_json
from tune_mcp.procfs import Identity, Process
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.supervise import host_lock, leftovers, process_tree
from tune_mcp.supervise.process_tree import TreeRecord, TreeRecorder
from tune_mcp.supervise.processes import Grace
from tune_mcp.verbs import machine
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import stop_run

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    made = escapees.toy_with_escapees(tmp_path / "repo", getattr(request, "param", ("setsid", "retitled")))
    yield made
    escapees.end_all(made)


@pytest.fixture
def stranger(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    process = escapees.decoy(project)
    yield process
    assert process.poll() is None, "a foreign process with the same command line lives on"
    process.kill()
    process.wait()


def orphaned(project: Project) -> tuple[RunDir, set[int]]:
    """A run whose supervisor and runner were killed in the same moment; the pids that outlive them."""
    run = toy.start_and_hold(project, 1)
    record = state.read_record(run)
    assert record is not None and record.owner is not None
    (runner,) = psutil.Process(record.owner.pid).children()
    left = {*toy.launches(project, 1), *escapees.escaped(project).values()}
    path = run.attempt(toy.TEST_KEY, 1, 1) / process_tree.TREE_FILE
    toy.wait_for(lambda: path.exists() and {one.pid for one in _tree(path).members} >= left, what="the record of all")
    both = psutil.Process(record.owner.pid), runner
    for process in both:
        process.suspend()  # so that neither sees the other's end and stops pytest
    for process in both:
        process.kill()
    toy.wait_for(lambda: state.conclude(run).state is state.RunState.LOST and host_lock.current() is None, what="death")
    assert len(left) >= 6 and set(escapees.alive(left)) == left, "nobody is left to end them"
    assert not is_locked(run.supervisor_lock)
    return run, left


def _tree(path: Path) -> TreeRecord:
    tree = TreeRecord.from_file(path)
    assert tree is not None
    return tree


@pytest.mark.parametrize("project", [("setsid", "retitled", "deaf")], indirect=True, ids=["one is deaf"])
@pytest.mark.rule("GPU-20", "GPU-16", "GPU-12", "SUP-13")
def test_stopping_a_lost_run_ends_all_that_it_left_and_status_names_it_before(
    project: Project, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug 17 of the older script: a supervisor that is killed leaves its pytest alive."""
    monkeypatch.setattr(leftovers, "end", partial(leftovers.end, grace=Grace(25, 0.5, 5)))
    run, left = orphaned(project)

    now = status(project, run.run_id)
    (alert,) = (alert for alert in now.alerts if "live on" in alert)
    named = {process.pid for process in leftovers.living([run])}
    assert named >= left and stranger.pid not in named
    assert any(str(pid) in alert for pid in left) and str(stranger.pid) not in alert
    checks = {check.id: check for check in precheck(project, toy.MODEL).checks}
    assert (checks["host.free"].status, "live on" in checks["host.free"].detail) == ("warn", True)
    assert set(escapees.alive(left)) == left, "readers end nothing"

    answer = stop_run(project, run.run_id, "the machine is needed")

    assert (answer.state, escapees.alive(left)) == ("stopped", []), toy.told(run)
    assert "live on" not in status(project, run.run_id).text()
    (event,) = (event for event in events.read(run.events) if event.kind == "recovered")
    assert "process(es) of the dead run ended" in event.text
    assert "KeyboardInterrupt" in run.log(toy.TEST_KEY, 1).read_text(), "pytest was asked first: fixtures are torn down"


@pytest.mark.rule("GPU-20", "RES-04", "RES-07")
def test_resuming_a_lost_run_ends_what_it_left_before_it_measures(
    project: Project, stranger: subprocess.Popen[bytes]
) -> None:
    run, left = orphaned(project)
    (toy.state_folder(project) / "pids").write_text("")

    resume_run(project, run.run_id)

    assert escapees.alive(left) == []
    toy.let_go(project, 1)
    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True), toy.told(run)
    toy.wait_for(lambda: not escapees.alive(escapees.escaped(project).values()), what="the drain")
    assert stranger.poll() is None


@pytest.mark.rule("GPU-20", "GPU-14", "STR-18")
def test_a_start_in_another_repository_first_ends_what_the_last_run_of_the_machine_left(
    project: Project, stranger: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    other = toy.make_toy(tmp_path / "other")
    run, left = orphaned(project)

    second = toy.start(other, 1)

    assert escapees.alive(left) == [] and stranger.poll() is None
    assert toy.wait_until_rest(other, second.run_id).strict_complete
    assert [event.kind for event in events.read(run.events)][-1] == "recovered"


@pytest.mark.rule("GPU-20", "GPU-14")
def test_nothing_is_started_beside_a_process_that_outlives_sigkill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    dead = toy.finished_run(project, 1)
    stuck = leftovers.Ended(("4711 server",), ("4711 server",))
    monkeypatch.setattr(leftovers, "living", lambda _: [procfs.process(os.getpid())])
    monkeypatch.setattr(leftovers, "end", lambda _runs, _log: stuck)

    with pytest.raises(Refusal, match=rf"HOST_BUSY \[GPU-20\]: 1 process\(es\) of {dead.run_id} outlive SIGKILL: 4711"):
        start_run(project, toy.MODEL, repeats=1)

    assert len(list_runs(project).runs) == 1, "a refusal leaves nothing behind"
    assert host_lock.current() is None and host_lock.last() == (dead.path,), "the next start tries again"


# ---- what is proof, and what is not -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    path = tmp_path / "repo/.tune-runs/20260423T050000Z_toy"
    path.mkdir(parents=True)
    return RunDir(path)


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) as process:
        yield psutil.Process(process.pid)
        process.kill()


def record(run: RunDir, member: state.Owner, namespace: str | None = None) -> None:
    folder = run.attempt(toy.TEST_KEY, 1, 1)
    folder.mkdir(parents=True, exist_ok=True)
    gone = state.Owner(boot_id=procfs.boot_id(), pid=2**22 - 1, start_ticks=1)
    tree = TreeRecord(pid_namespace=namespace or procfs.pid_namespace(), runner=gone, pytest=gone, members=(member,))
    write_json(folder / process_tree.TREE_FILE, tree.model_dump(mode="json"))


@contextmanager
def sleeping(**marks: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes that carry those marks, by name."""
    words = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    started = {name: subprocess.Popen(words, env={leftovers.MARK: mark}) for name, mark in marks.items()}
    try:
        toy.wait_for(lambda: all(_has_environ(process.pid) for process in started.values()), what="their exec")
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def _has_environ(pid: int) -> bool:
    return leftovers.MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.rule("GPU-16")
def test_a_recorded_identity_is_named_and_never_ended(run: RunDir, child: psutil.Process) -> None:
    """Whoever edits tree.json could name a stranger."""
    record(run, state.owner(child.pid))

    assert leftovers.living([run]) == []
    assert leftovers.end([run], lambda _: None, Grace(0.1, 5, 5)) == leftovers.Ended((), ())
    assert child.is_running()
    assert [process.pid for process in leftovers.unproven([run])] == [child.pid]
    assert f"without its mark ({child.pid} " in machine.left_alive([run])


@pytest.mark.rule("GPU-16")
def test_a_recorded_identity_is_named_only_on_this_boot_in_this_namespace_and_for_this_very_process(
    run: RunDir, child: psutil.Process
) -> None:
    me = state.owner(child.pid)

    for other in (me.model_copy(update={"start_ticks": me.start_ticks - 1}), me.model_copy(update={"boot_id": "x"})):
        record(run, other)
        assert leftovers.unproven([run]) == []
    record(run, me, "pid:[1]")
    assert leftovers.unproven([run]) == []


@pytest.mark.rule("GPU-16")
def test_a_lock_file_that_names_a_strangers_run_ends_no_process(
    tmp_path: Path, run: RunDir, child: psutil.Process
) -> None:
    """host.lock is writable for every user of the machine."""
    record(run, state.owner(child.pid))
    lock = host_lock.take(host_lock.LockHolder(run.run_id, str(run.path), "/elsewhere"))
    assert not isinstance(lock, host_lock.LockHolder)
    lock.release()
    project = toy.make_toy(tmp_path / "new")
    assert machine.suspects(project) == [run]

    started = toy.start(project, 1)

    assert child.is_running()
    assert toy.wait_until_rest(project, started.run_id).strict_complete


@pytest.mark.rule("GPU-16")
def test_a_mark_counts_only_for_the_run_that_it_was_made_for(run: RunDir) -> None:
    other = RunDir(run.path.with_name("20260423T050001Z_toy"))
    other.path.mkdir()
    ours, theirs = leftovers.mark(run), leftovers.mark(other)
    copied = theirs.partition(":")[0]
    run.marks.write_text(run.marks.read_text() + copied + "\n")  # an editor copies another run's secret into ours
    marks = {"ours": ours, "theirs": theirs, "guess": f"{'0' * 32}:{run.path}", "prefix": ours[:31], "bare": ours[:32]}
    with sleeping(**marks, empty="") as started:
        assert [process.pid for process in leftovers.living([run])] == [started["ours"].pid]
        ended = leftovers.end([run], lambda _: None, Grace(0.1, 5, 5))

        assert len(ended.found) == 1 and ended.left == ()
        assert [name for name, process in started.items() if process.poll() is not None] == ["ours"]


@pytest.mark.rule("GPU-16", "GPU-20")
def test_a_child_that_dropped_its_environment_stays_proven_when_its_parent_ends_first(run: RunDir) -> None:
    child = "import subprocess, sys, signal; subprocess.Popen([sys.executable, '-S', '-c', {!r}], env={{}}); {}"
    deaf = (
        "import signal; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN); print(1); signal.pause()"
    )
    code = child.format(deaf, "signal.pause()")
    with subprocess.Popen([sys.executable, "-S", "-c", code], env={leftovers.MARK: leftovers.mark(run)}) as parent:
        toy.wait_for(lambda: len(psutil.Process(parent.pid).children()) == 1, what="the child")
        (bare,) = psutil.Process(parent.pid).children()

        ended = leftovers.end([run], lambda _: None, Grace(0.1, 0.5, 5))

    assert len(ended.found) == 2 and ended.left == ()
    toy.wait_for(lambda: not bare.is_running() or bare.status() == psutil.STATUS_ZOMBIE, what="its end")


@pytest.mark.rule("GPU-16", "GPU-20")
def test_a_run_that_may_live_has_no_leftovers(run: RunDir, child: psutil.Process) -> None:
    from tune_mcp.files import FileLock

    record(run, state.owner(child.pid))
    with sleeping(ours=leftovers.mark(run)):
        lock = FileLock.take(run.supervisor_lock, {})
        assert lock is not None
        assert leftovers.living([run]) == leftovers.unproven([run]) == []
        lock.release()
        assert len(leftovers.living([run])) == len(leftovers.unproven([run])) == 1
        run.supervisor_lock.unlink()
        run.supervisor_lock.symlink_to(run.supervisor_lock)
        assert state.liveness(run) is state.Liveness.UNKNOWN
        assert leftovers.living([run]) == leftovers.unproven([run]) == [], "unknown is never dead"


@pytest.mark.rule("GPU-16")
def test_whoever_recovers_never_ends_itself_or_what_it_runs_in(run: RunDir) -> None:
    code = (
        "import sys; from pathlib import Path; from tune_mcp.run_dir import RunDir; "
        "from tune_mcp.supervise import leftovers; print(leftovers.living([RunDir(Path(sys.argv[1]))]))"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    env = {**os.environ, leftovers.MARK: leftovers.mark(run)}

    answer = subprocess.run(
        ["sh", "-c", '"$@"; :', "sh", *command], env=env, capture_output=True, text=True, check=True
    )

    assert answer.stdout == "[]\n", answer.stderr


def test_a_tree_is_written_when_it_changes_and_looked_at_less_and_less(run: RunDir, child: psutil.Process) -> None:
    now, looks = 0.0, 0
    below: dict[Identity, Process] = {}

    def table() -> dict[Identity, Process]:
        nonlocal looks
        looks += 1
        return below

    recorder = TreeRecorder(run.path, child.pid, table, lambda: now, lambda: 0.0)
    path = run.path / process_tree.TREE_FILE
    for tick in range(600):
        now = tick * 0.1
        if tick == 400:
            below = {
                (child.pid, state.owner(child.pid).start_ticks): Process(child.pid, "S", 0),
                (1, 0): Process(1, "Z", 0),
            }
        recorder.look()
        assert ([member.pid for member in _tree(path).members] == [child.pid]) is (tick > 420) or 400 <= tick <= 420
    assert looks < 40, "about every two seconds"
    assert (_tree(path).runner, _tree(path).pytest) == (state.owner(os.getpid()), state.owner(child.pid))


@pytest.mark.parametrize(("used_s", "looks_at_most"), [(0.02, 13), (0.0, 60)])
def test_the_tree_is_looked_at_less_often_where_a_look_uses_the_processor_not_where_it_waits_for_it(
    run: RunDir, used_s: float, looks_at_most: int
) -> None:
    now, used, looks = 0.0, 0.0, 0

    def table() -> dict[Identity, Process]:
        nonlocal now, used, looks
        now, used, looks = now + 0.02, used + used_s, looks + 1
        return {}

    recorder = TreeRecorder(run.path, os.getpid(), table, lambda: now, lambda: used)
    while now < 100:
        recorder.look()
        now += 0.1

    assert looks_at_most * 0.6 < looks < looks_at_most


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"pid_namespace": 1}'])
def test_a_record_that_cannot_be_read_proves_nothing(run: RunDir, data: bytes) -> None:
    folder = run.attempt(toy.TEST_KEY, 1, 1)
    folder.mkdir(parents=True)
    (folder / process_tree.TREE_FILE).write_bytes(data)
    run.marks.write_bytes(b"\xff\n\n" + b"torn")

    assert leftovers.living([run]) == []


def test_the_lock_names_the_run_before_until_that_one_is_recovered(run: RunDir, tmp_path: Path) -> None:
    def take() -> host_lock.HostClaim:
        lock = host_lock.take(host_lock.LockHolder("?", "?", "/repo"))
        assert not isinstance(lock, host_lock.LockHolder)
        return lock

    first = take()
    assert host_lock.last() == ()
    first.describe(host_lock.LockHolder(run.run_id, str(run.path), "/repo"))
    first.release()
    for _ in range(2):  # killed before it had recovered, twice
        take().release()
        assert host_lock.last() == (run.path,)
    last = take()
    last.describe(host_lock.LockHolder("n", "/n", "/repo"))
    assert host_lock.last() == (Path("/n"),)
    last.release()
    assert machine.suspects(toy.make_toy(tmp_path / "new")) == [], "its folder is gone"


def test_a_pytest_that_ended_before_its_tree_was_looked_at_is_no_error(run: RunDir) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        toy.wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, what="its end")

        TreeRecorder(run.path, process.pid).look()

    assert _tree(run.path / process_tree.TREE_FILE).pytest.start_ticks == 0
