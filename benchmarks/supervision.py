"""What supervision costs beside a plain loop over ``pytest``: launches, a crash's way to the stop, CPU, memory.

Real runs of a tiny project, with a detached supervisor and its runner. About two minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
from figure import Figure, best, children_cpu, show

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.session import provenance, state
from tune_mcp.supervise import loaded, loaded_comparison
from tune_mcp.supervise.job import read_job
from tune_mcp.supervise.processes import become_subreaper
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.stop_run import stop_run

LAUNCHES = 15
MORE_CPU_S = 0.3
"""What a launch may cost more for all that is compared before and after it."""
MODULES = 5000
LOUD_S = 20
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
    subprocess.Popen([sys.executable, "-c", {SERVER!r}, str(STATE / "crashed")])
    time.sleep(600)"""


def figures() -> Iterator[Figure]:
    yield from launches()
    yield from loaded_files()
    yield crash()
    yield cpu()
    yield from memory()


@contextmanager
def project(code: str) -> Iterator[Project]:
    """The toy repository whose second test does ``code``, on a machine of its own as far as locks go."""
    source = toy.toy_source().replace("def test_speed(results):\n", f"def test_speed(results):\n    {code}\n")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TUNE_LOCK_DIR"] = f"{folder}/lock"
        config = toy.CONFIG | {"timeout_s": {"test_toy_ci.py": float(LIMIT_S + LOUD_S)}}
        yield toy.make_toy(Path(folder) / "repo", test_source=source, config=config)


def at_rest(run: RunDir) -> bool:
    return state.conclude(run).state.at_rest


# ---- the time of a launch ---------------------------------------------------------------------------------------


def launches() -> Iterator[Figure]:
    """One run between two halves of the plain loop, so that a drift of the machine meets both.

    Seconds are medians of a launch: one that a neighbour slowed down says nothing. CPU is that of the supervisor with
    everything below it; a run of one launch is taken off, so start and precheck are not in it.
    """
    become_subreaper()  # the supervisor falls to us when its launcher has gone, and is reaped with its usage
    with project("time.sleep(1)") as made:
        loop(made, 1)  # caches get warm
        plain = loop(made, LAUNCHES // 2)
        begin = time.time()
        run, many = whole_run(made, LAUNCHES)
        made_at = [(run.attempt(toy.TEST_KEY, k, 1) / "job.json").stat().st_mtime for k in range(1, LAUNCHES + 1)]
        end = run.events.stat().st_mtime
        plain += loop(made, LAUNCHES - LAUNCHES // 2)
        _, one = whole_run(made, 1)
    ours = median(after - before for before, after in pairwise([*made_at, end]))
    beside, plain_cpu = median(wall for wall, _ in plain), median(cpu for _, cpu in plain)
    cpu = (many - one) / (LAUNCHES - 1)
    what = "plain pytest loop"
    yield Figure(f"a launch of a one-second test, median of {LAUNCHES}", ours, beside, "s", what, 1.10)
    yield Figure(f"{LAUNCHES} of them with start_run and precheck", end - begin, beside * LAUNCHES, "s", what, 1.15)
    yield Figure("CPU of a launch", cpu, plain_cpu, "s CPU", what, 1.0 + MORE_CPU_S / plain_cpu)
    yield Figure("of it ours", cpu - plain_cpu, MORE_CPU_S, "s CPU", "what a launch may cost more", 1.0)


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

        def launch() -> None:
            loaded_comparison.before_launch(job)
            record, found = loaded_comparison.after_launch(job, tree, time.time_ns())
            if record is None or found.moved or found.incomparable:
                raise RuntimeError(found)
            loaded.store(job, record)
            shutil.copyfile(job.folder / loaded.RECORD_FILE, run.loaded)

        begin = time.process_time()
        launch()
        first, allowed = time.process_time() - begin, "what a launch may cost more"
        yield Figure("5,000 imported files, first launch", first, MORE_CPU_S, "s CPU", allowed, 1.0)
        yield Figure("the same, every later launch", best(launch), MORE_CPU_S, "s CPU", allowed, 1.0)


def loop(made: Project, count: int) -> list[tuple[float, float]]:
    """Seconds and CPU seconds of each of ``count`` plain launches with the same options and a log each."""
    folder = Path(tempfile.mkdtemp(dir=toy.state_folder(made)))
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS")
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    found: list[tuple[float, float]] = []
    for number in range(1, count + 1):
        command = [sys.executable, "-m", "pytest", toy.TEST_FILE, "-v", "-s", f"--basetemp={folder}/basetemp{number}"]
        begin, before = time.monotonic(), children_cpu()
        with (folder / f"run{number}.log").open("wb") as log:
            subprocess.run(
                command, cwd=made.repo_root, stdout=log, stderr=subprocess.STDOUT, check=True,
                env=env | {"TUNE_GUARD_RECORD": f"{folder}/guard_run{number}"},
            )  # fmt: skip
        found.append((time.monotonic() - begin, children_cpu() - before))
    return found


# ---- from the crash line to the stop ----------------------------------------------------------------------------


def crash() -> Figure:
    with project(CRASH) as made:
        run = toy.start(made, 1)
        toy.wait_for((toy.state_folder(made) / "crashed").exists, what="the crash line")
        (pid,) = toy.launches(made, 1)
        toy.wait_for(lambda: not psutil.pid_exists(pid), LIMIT_S + LOUD_S + 60, "the end of pytest")
        seconds = time.time() - float((toy.state_folder(made) / "crashed").read_text())
        stop_run(made, run.run_id, "measured")
        toy.wait_for(lambda: at_rest(run), 90, "the end of the run")
    return Figure("crash line to stop", seconds, 1.0, "s", "floor", 1.0)


# ---- CPU and memory ---------------------------------------------------------------------------------------------


def ours(run: RunDir) -> list[psutil.Process]:
    """The supervisor and its runner."""
    record = state.read_record(run)
    if record is None or record.owner is None:
        raise RuntimeError(toy.told(run))
    supervisor = psutil.Process(record.owner.pid)
    return [supervisor, *supervisor.children()]


def cpu() -> Figure:
    """While pytest prints about 1 MB/s; what the writer itself takes does not count."""

    def used(processes: list[psutil.Process]) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    with project(LOUD) as made:
        run = toy.start(made, 1)
        log = run.log(toy.TEST_KEY, 1)
        toy.wait_for(lambda: log.exists() and log.stat().st_size > 10_000, what="the first lines")
        processes = ours(run)
        begin, before, size = time.monotonic(), used(processes), log.stat().st_size
        time.sleep(LOUD_S - 4)
        seconds, spent, grown = time.monotonic() - begin, used(processes) - before, log.stat().st_size - size
        toy.wait_for(lambda: at_rest(run), 90, "the end of the run")
    rate = grown / seconds / 1e6
    return Figure(f"supervisor + runner, log grows {rate:.1f} MB/s", spent / seconds * 100, 1.0, "% CPU", "floor", 1.0)


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
