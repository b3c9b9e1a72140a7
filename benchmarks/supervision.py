"""What supervision costs beside a plain loop over ``pytest``: launches, a crash's way to the stop, CPU, memory.

Real runs of a tiny project, with a detached supervisor and its runner. About two minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
from figure import Figure, children_cpu, cpu_now, cpu_of, environment, in_turn, show

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import toy

from tune_mcp.config import signatures
from tune_mcp.run_dir import RunDir
from tune_mcp.session import provenance, state
from tune_mcp.supervise import loaded, loaded_comparison
from tune_mcp.supervise.job import read_job
from tune_mcp.supervise.processes import become_subreaper
from tune_mcp.verbs.project import Project

LAUNCHES = 15
CPU_LAUNCHES = 8
MODULES = 5000
LOUD_S = 30
CRASHES = 8
LOOK_EVERY_S = 0.25
"""So often the runner looks at the log, and so does the plain loop beside it."""
HUGE = 2 * 2**30
LIMIT_S = 30
"""Within this a hanging pytest is stopped by its own limit, should nobody see that it crashed."""
LOUD = f"""end = time.monotonic() + {LOUD_S}
    line = 'INFO:     127.0.0.1:%d - "POST /v1/audio/speech HTTP/1.1" 200 OK'
    lines = "\\n".join(line % (40000 + n) for n in range(1540))
    while time.monotonic() < end:
        print(lines)
        time.sleep(0.1)"""
SERVER = """
import sys, time
from pathlib import Path
time.sleep(2)
Path(sys.argv[1]).write_text(str(time.time()))
print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", flush=True)
sys.exit(1)
"""
"""A server that says why it dies, while the test waits for its answer."""
CRASH = f"""import subprocess, sys
    if not (STATE / f"crashed{{repeat()}}").exists():
        subprocess.Popen([sys.executable, "-c", {SERVER!r}, str(STATE / f"crashed{{repeat()}}")])
        time.sleep(600)"""
"""In each repeat's first attempt."""
TAIL = f"""
import os, sys, time
words = [word.encode() for word in sys.argv[2:]]
with open(sys.argv[1], "rb") as log:
    while True:
        data = log.read()
        found = [word for word in words if word in data]
        time.sleep({LOOK_EVERY_S})
"""
"""A loop that reads what was appended to a log, and looks in it for words."""


def figures() -> Iterator[Figure]:
    yield from launches()
    yield from loaded_files()
    yield crashes()
    yield cpu()
    yield from memory()


@contextmanager
def project(code: str) -> Generator[Project]:
    """The toy repository whose second test does ``code``, on a machine of its own as far as locks go."""
    source = toy.toy_source().replace("def test_speed(results):\n", f"def test_speed(results):\n    {code}\n")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TUNE_LOCK_DIR"] = f"{folder}/lock"
        limits = {"test_toy_ci.py": float(LIMIT_S + LOUD_S)}
        config = toy.CONFIG | {"timeout_s": limits, "pytest_extra_args": {}}  # pytest as the plain loop starts it
        yield toy.make_toy(Path(folder) / "repo", test_source=source, config=config)


def at_rest(run: RunDir) -> bool:
    return state.conclude(run).state.at_rest


# ---- the time of a launch ---------------------------------------------------------------------------------------


def launches() -> Iterator[Figure]:
    """A run whose launches take turns with those of the plain loop: each waits in its fixture while the other works.

    Seconds are medians of a launch: one that a neighbour slowed down says nothing. CPU is that of the supervisor with
    everything below it; a run of one launch is taken off, so start and precheck are not in it.
    """
    become_subreaper()  # the supervisor falls to us when its launcher has gone, and is reaped with its usage
    with project("time.sleep(1)") as made:
        loop(made, LAUNCHES + 1, 1)  # caches get warm
        for repeat in range(1, LAUNCHES + 1):
            toy.hold(made, repeat)
        begin, beside, held = time.time(), list[tuple[float, float]](), list[float]()
        run = toy.start(made, LAUNCHES)
        for repeat in range(1, LAUNCHES + 1):
            toy.wait_for(lambda repeat=repeat: toy.launches(made, repeat), what="the next pytest")
            since = (toy.state_folder(made) / f"launched{repeat}").stat().st_mtime
            beside += loop(made, LAUNCHES + repeat, 1)
            toy.let_go(made, repeat)
            held.append(time.time() - since)
        toy.wait_for(lambda: at_rest(run), 60, "the end of the run")
        made_at = [(run.attempt(toy.TEST_KEY, k, 1) / "job.json").stat().st_mtime for k in range(1, LAUNCHES + 1)]
        end = run.events.stat().st_mtime
        (_, one), (_, many) = whole_run(made, 1), whole_run(made, CPU_LAUNCHES)
    walls = [after - before - waited for (before, after), waited in zip(pairwise([*made_at, end]), held, strict=True)]
    plain_walls, plain_cpus = zip(*beside, strict=True)
    name, what = f"a launch of a one-second test, median of {LAUNCHES}", "plain pytest loop"
    yield Figure(name, median(walls), median(plain_walls), "s", what, 1.3)
    whole = end - begin - sum(held)
    yield Figure(f"{LAUNCHES} of them with start_run and precheck", whole, sum(plain_walls), "s", what, 1.4)
    cpu = (many - one) / (CPU_LAUNCHES - 1)
    yield Figure("CPU of a launch", cpu, median(plain_cpus), "s CPU", what, 1.55)


def whole_run(made: Project, repeats: int) -> tuple[RunDir, float]:
    """A finished run, and the CPU seconds of its supervisor and of all that it started."""
    run = toy.start(made, repeats)
    toy.wait_for(lambda: (found := state.read_record(run)) and found.owner, what="the supervisor's record")
    record = state.read_record(run)
    if record is None or record.owner is None:
        raise RuntimeError(toy.told(run))
    toy.wait_for(lambda: at_rest(run), repeats * 60, "the end of the run")
    usage = os.wait4(record.owner.pid, 0)[2]
    if state.conclude(run).state is not state.RunState.FINISHED:
        raise RuntimeError(toy.told(run))
    return run, usage.ru_utime + usage.ru_stime


def loaded_files() -> Iterator[Figure]:
    """What a suite with the imports of a large framework pays to have them compared: 5,000 modules, 100 MB."""
    with tempfile.TemporaryDirectory() as folder:
        site, repo = Path(folder) / "site-packages", Path(folder) / "repo"
        site.mkdir()
        made = toy.make_toy(repo)
        for number in range(MODULES):
            (site / f"m{number}.py").write_bytes(number.to_bytes(4, "big") * 5000)
        for number in range(300):
            (site / f"d{number}-1.dist-info").mkdir()
            (site / f"d{number}-1.dist-info" / "RECORD").write_bytes(b"x" * 30_000)
        run = toy.planned_run(made)
        job = read_job(run.attempt(toy.TEST_KEY, 1, 1) / "job.json")
        (job.folder / loaded.LISTED_FILE).parent.mkdir()
        listed = {
            "interpreter": [sys.executable], "search_path": [str(site)], "settings": [], "read": [],
            "modules": [str(site / f"m{number}.py") for number in range(MODULES)],
        }  # fmt: skip
        (job.folder / loaded.LISTED_FILE).write_text(json.dumps(listed))
        tree = provenance.read(repo)

        files = [*site.glob("*.py"), *site.glob("*/RECORD")]

        def launch() -> None:
            loaded_comparison.before_launch(job)
            record, found = loaded_comparison.after_launch(job, tree, time.time_ns())
            if record is None or found.moved or found.incomparable:
                raise RuntimeError(found)
            loaded.store(job, record)
            shutil.copyfile(job.folder / loaded.RECORD_FILE, run.loaded)

        def first_launch() -> None:
            run.loaded.unlink(missing_ok=True)
            launch()

        first, hashed = in_turn(cpu_of(first_launch), cpu_of(lambda: [sha256(one.read_bytes()) for one in files]))
        yield Figure(f"{MODULES:,} imported files, first launch", first, hashed, "s CPU", "sha256 of each", 2.3)
        later, looked = in_turn(cpu_of(launch), cpu_of(lambda: [one.stat() for one in files]))
        yield Figure("the same, every later launch", later, looked, "s CPU", "stat of each", 7.0)


def loop(made: Project, first: int, count: int) -> list[tuple[float, float]]:
    """Seconds and CPU seconds of each of ``count`` plain launches, numbered from ``first``."""
    folder = Path(tempfile.mkdtemp(dir=toy.state_folder(made)))
    found: list[tuple[float, float]] = []
    for number in range(first, first + count):
        begin, before = time.monotonic(), children_cpu()
        if code := plain(made, folder, number).wait():
            raise RuntimeError(f"pytest ended with {code}")
        found.append((time.monotonic() - begin, children_cpu() - before))
    return found


def plain(made: Project, folder: Path, number: int) -> subprocess.Popen[bytes]:
    """pytest as a shell script would start it, with the options of a launch and a log of its own in the folder.

    In a session of its own as the supervisor has, since kernels share processor time between sessions first.
    """
    command = [sys.executable, "-m", "pytest", toy.TEST_FILE, "-v", "-s", f"--basetemp={folder}/basetemp{number}"]
    with (folder / f"run{number}.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=made.repo_root, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment() | {"TUNE_GUARD_RECORD": f"{folder}/guard_run{number}"},
        )  # fmt: skip


# ---- from the crash line to the stop ----------------------------------------------------------------------------


def crashes() -> Figure:
    """Until pytest is gone, in turn with a loop that looks for the line as often, and interrupts pytest at once.

    While that one works, the second attempt of the run's repeat waits in its fixture.
    """
    with project(CRASH) as made:
        run, found, beside = toy.start(made, CRASHES), list[float](), list[float]()
        for repeat in range(1, CRASHES + 1):
            line = toy.state_folder(made) / f"crashed{repeat}"
            toy.wait_for(line.exists, 60, "the crash line")
            toy.hold(made, repeat)
            pid = toy.launches(made, repeat)[0]
            toy.wait_for(lambda pid=pid: not psutil.pid_exists(pid), LIMIT_S + LOUD_S + 60, "the end of pytest")
            found.append(since(line))
            toy.wait_for(lambda repeat=repeat: len(toy.launches(made, repeat)) > 1, 60, "the second attempt")
            beside.append(interrupted(made, CRASHES + repeat))
            toy.let_go(made, repeat)
        toy.wait_for(lambda: at_rest(run), 90, "the end of the run")
    return Figure(f"crash line to stop, quickest of {CRASHES}", min(found), min(beside), "s", "plain loop, SIGINT", 2.0)


def interrupted(made: Project, number: int) -> float:
    """Seconds from the crash line to the end of a plain pytest that is interrupted at it."""
    folder = toy.state_folder(made)
    child = plain(made, folder, number)
    while b"CUDA out of memory" not in (folder / f"run{number}.log").read_bytes():
        time.sleep(LOOK_EVERY_S)
    child.send_signal(signal.SIGINT)
    child.wait()
    return since(folder / f"crashed{number}")


def since(line: Path) -> float:
    """Seconds since the server wrote down when it printed its last line."""
    return time.time() - float(line.read_text())


# ---- CPU and memory ---------------------------------------------------------------------------------------------


def ours(run: RunDir) -> list[psutil.Process]:
    """The supervisor and its runner."""
    record = state.read_record(run)
    if record is None or record.owner is None:
        raise RuntimeError(toy.told(run))
    supervisor = psutil.Process(record.owner.pid)
    return [supervisor, *supervisor.children()]


def cpu() -> Figure:
    """While pytest prints about 1 MB/s; what the writer itself takes does not count.

    Beside them a loop follows the same log as often as the runner does, and looks for the same words.
    """
    with project(LOUD) as made:
        run = toy.start(made, 1)
        log = run.log(toy.TEST_KEY, 1)
        toy.wait_for(lambda: log.exists() and log.stat().st_size > 10_000, what="the first lines")
        rules = signatures.rules()
        words = {word for one in rules.fatal + rules.suspicious for word in one.words}
        tail = subprocess.Popen(
            [sys.executable, "-c", TAIL, str(log), *sorted(words)], env=environment(), start_new_session=True
        )
        try:
            toy.wait_for(lambda: cpu_now(tail.pid) > 0, what="the loop")
            time.sleep(1)  # what it costs to start does not count
            pids = [process.pid for process in ours(run)]
            begin, size = time.monotonic(), log.stat().st_size
            before, plain_before = sum(map(cpu_now, pids)), cpu_now(tail.pid)
            time.sleep(LOUD_S - 10)
            seconds, grown = time.monotonic() - begin, log.stat().st_size - size
            spent, plain_spent = sum(map(cpu_now, pids)) - before, cpu_now(tail.pid) - plain_before
        finally:
            tail.kill()
            tail.wait()
        toy.wait_for(lambda: at_rest(run), 90, "the end of the run")
    name = f"supervisor + runner, log grows {grown / seconds / 1e6:.1f} MB/s"
    mine, plain_ones = (100 * one / seconds for one in (spent, plain_spent))
    return Figure(name, mine, plain_ones, "% CPU", "follow and search it", 1.2)


def memory() -> Iterator[Figure]:
    """Peak of each process after a small log, and after one of 2 GB (sparse: its bytes are read like any others)."""

    def peaks(run: RunDir) -> list[int]:
        statuses = [Path(f"/proc/{process.pid}/status").read_text() for process in ours(run)]
        return [int(text.partition("VmHWM:")[2].split()[0]) for text in statuses]

    with project(f"os.ftruncate(1, {HUGE}) if repeat() == 2 else None") as made:
        for repeat in (2, 3):
            toy.hold(made, repeat)
        run = toy.start(made, 3)
        found: list[list[int]] = []
        for repeat in (2, 3):
            toy.wait_for(lambda repeat=repeat: toy.launches(made, repeat), 120, "the next pytest")
            found.append(peaks(run))
            toy.let_go(made, repeat)
        toy.wait_for(lambda: at_rest(run), 120, "the end of the run")
        if run.log(toy.TEST_KEY, 2).stat().st_size < HUGE:
            raise RuntimeError(toy.told(run))
    for name, small, huge in zip(("supervisor", "runner"), *found, strict=True):
        yield Figure(f"{name} after a 2 GB log, peak", huge / 1024, small / 1024, "MiB", "after 400 bytes", 1.1, 0)


if __name__ == "__main__":
    sys.exit(show(figures()))
