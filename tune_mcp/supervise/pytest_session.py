"""The launch itself: pytest under the guard on its lane, watched until it ends, then everything that it left ended."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tune_mcp import procfs
from tune_mcp.config.signatures import rules as watch_rules
from tune_mcp.contract.status import PhaseKind
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise import caches, comparing, launch_variables, own_pids
from tune_mcp.supervise.gpu.use import GpuUse
from tune_mcp.supervise.job import Job, StoppedBy, enter, read_result
from tune_mcp.supervise.placing import pinned
from tune_mcp.supervise.process_tree import TreeRecorder
from tune_mcp.supervise.processes import AFTER_THE_SESSION, StopLadder, below, descendants, say
from tune_mcp.supervise.quiet.monitor import Monitor
from tune_mcp.supervise.scratch import Scratch
from tune_mcp.supervise.waiting import Orders
from tune_mcp.supervise.watch.alerts import WATCH_FILE, AlertBook
from tune_mcp.supervise.watch.exiting import ExitWatch
from tune_mcp.supervise.watch.slow_start import LaunchFacts
from tune_mcp.supervise.watch.watchdog import Watchdog

_LOOK_EVERY_S = 0.25
_LOOK_CLOSELY_S = 0.1

_CLOCK_SLACK_S = 2.0
_CLOCK_SLEW = 0.001
"""The kernel slews a clock by half as much at most."""


class PytestSession:
    """One pytest of a job. ``stop_now`` says whether it is to be interrupted; ``orders`` end a wait early."""

    def __init__(
        self,
        job: Job,
        place: Scratch,
        gpus: GpuUse,
        monitor: Monitor,
        orders: Orders,
        stop_now: Callable[[], bool],
    ) -> None:
        self._job, self._place, self._gpus, self._monitor, self._orders = job, place, gpus, monitor, orders
        self._stop_now = stop_now
        self._log, self._record = job.log, job.guard_record

    def run(self) -> dict[str, object]:
        """From the start of pytest to the end of its last process; facts for the attempt's result."""
        job, (variables, dropped) = self._job, self._variables()
        enter(job, PhaseKind.PYTEST)
        # The child starts with the default dispositions; our own SIGTERM handler is a function and so not inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._monitor.begin()
        oom_kills = procfs.oom_kills()
        begin, clock = time.monotonic(), WallClock()
        with self._log.open("xb") as out, pinned(self._gpus.grant.lane):
            argv = pytest_argv(job, self._place.run)
            main = subprocess.Popen(
                own_pids.command(job.venv_python, argv) if job.own_pids else argv,
                executable=None if job.own_pids else job.venv_python,
                cwd=job.repo_root,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self._gpus.lock_handles,
            )
        watchdog, tree = self._watchdog(variables), TreeRecorder(job.folder, main.pid)
        exiting = ExitWatch(self._record, watchdog.rules.exit_after_s, lambda: below(main.pid))
        ladder = StopLadder(alive=_below_us)
        with self._gpus.watched():
            stopped_by, reason = self._wait(main, begin + job.timeout_s, tree, watchdog, exiting)
            if stopped_by == "exit":
                ladder.grace = AFTER_THE_SESSION
            if stopped_by:
                enter(job, PhaseKind.STOPPING)
                ladder.interrupt(main)
            duration = (exiting.over_at or time.monotonic()) - begin
            clock_moved = clock.moved()
            intrusion = self._monitor.end()
        watchdog.ended()
        enter(job, PhaseKind.DRAINING)
        leftovers = ladder.drain(main)
        return {
            "dropped_env": dropped,
            "oom_kills": max(0, procfs.oom_kills() - oom_kills),
            "pytest_rc": main.wait(),
            "stopped_by": stopped_by,
            "stopped_for": watchdog.stopped_by,
            "stop_reason": reason,
            "signals": tuple(ladder.sent),
            "alerts": tuple(watchdog.book.alerts.values()),
            "duration_s": round(duration, 3),
            "clock_moved": clock_moved,
            "leftovers": leftovers,
            "quiet": self._monitor.quietness(self._gpus.ranges()),
            "disturbed": self._monitor.sentence(intrusion) if intrusion else "",
        }

    def _variables(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """The environment of pytest, and the names of what it does not get."""
        job, grant = self._job, self._gpus.grant
        guard_folder = job.folder / "guard"
        guard_folder.mkdir(exist_ok=True)
        shutil.copyfile(Path(__file__).with_name("guard.py"), guard_folder / "tune_guard.py")
        launch = launch_variables.build(
            comparing.recorded_variables(job.run, os.environ),
            job.env,
            Path(job.venv_python),
            (guard_folder, Path(job.repo_root)),
            tuple(gpu.index for gpu in grant.gpus),
        )
        variables = {**launch.variables, "TUNE_GUARD_RECORD": str(self._record), "TMPDIR": str(self._place.tmp)}
        if grant.lane and grant.lane.cpus:
            variables[job.placement.cpu_set_variable] = grant.lane.cpus
            say(f"lane: {grant.lane.text()}")
        say(f"launch: {shlex.join([job.venv_python, *pytest_argv(job, job.run)[1:]])}")
        if not caches.clear_bytecode(Path(job.repo_root), self._orders.began_ns):
            variables["PYTHONPYCACHEPREFIX"] = str(job.folder / "bytecode")
        return variables, launch.dropped

    def _watchdog(self, variables: dict[str, str]) -> Watchdog:
        job = self._job
        earlier = read_result(job.model_copy(update={"attempt": job.attempt - 1}))
        return Watchdog(
            watch_rules(job.signatures),
            self._log,
            self._record,
            LaunchFacts(variables, Path(job.venv_python), time.time()),
            AlertBook(job.folder / WATCH_FILE),
            doubted=frozenset({earlier.stopped_for}) if earlier and earlier.stopped_for else frozenset(),
        )

    def _wait(
        self,
        main: subprocess.Popen[bytes],
        end: float,
        tree: TreeRecorder,
        watchdog: Watchdog,
        exiting: ExitWatch,
    ) -> tuple[StoppedBy, str]:
        """Wait until pytest ends or has to be stopped; by whom, and why in words.

        Its end and an order wake at once, the rest is looked at.
        """
        while True:
            tree.look()
            if main.poll() is not None:
                return "", ""
            self._monitor.look(watchdog.book)
            if self._stop_now():
                return "cancel", ""
            if reason := exiting.look():
                say(reason)
                return "exit", reason
            if time.monotonic() >= end:
                say(f"pytest reached its limit of {self._job.timeout_s:g} s")
                return "timeout", ""
            if reason := watchdog.look():
                say(reason)
                return "watchdog", reason
            self._orders.look(_LOOK_CLOSELY_S if watchdog.alarmed else _LOOK_EVERY_S)


class WallClock:
    """Whether the wall clock went as the monotonic one does: a program that measures by it reads nonsense else."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._began = wall(), monotonic()

    def moved(self) -> str:
        """By how much it was set since this was made, a sentence; empty for what a slewed clock may gain or lose."""
        passed = self._monotonic() - self._began[1]
        moved = self._wall() - self._began[0] - passed
        if abs(moved) <= max(_CLOCK_SLACK_S, passed * _CLOCK_SLEW):
            return ""
        return f"the clock was set, or the machine slept, while pytest ran ({moved:+.1f} s)"


def _below_us() -> list[procfs.Process]:
    """What the attempt has; the first process of a PID namespace ends by itself when nothing lives there."""
    return [one for one in descendants() if not procfs.is_first_of_namespace(one.pid)]


def pytest_argv(job: Job, run: RunDir) -> list[str]:
    """The command for one attempt, to be executed as ``job.venv_python``; ``run`` is the run directory as it names it.

    Neither the interpreter's folder nor the run's is in it: a suite that ends processes by their command line
    (``pkill -f``) would find its own pytest by the name of a repository or of a run.

    What an ini file or a conftest may have set is taken back behind the model's own arguments, because the last
    option wins: maxfail, marker and keyword filters, workers, reruns, random order, a cache that remembers failures,
    and a retention policy that would delete the results of passing tests. pytest's rootdir is the
    repository, so that a node id holds the whole path of its file; conftests are loaded from the git work tree, and
    none from above it. Both are relative to the folder that pytest starts in, which may be reached through a link.
    """
    folder = run.attempt(job.test_key, job.repeat, job.attempt)
    taken_back = [
        "-p", "tune_guard",
        "-o", "tmp_path_retention_policy=all",
        "-o", f"cache_dir={folder / 'pytest_cache'}",
        "-m", "",
        "-k", "",
        "--maxfail=0",
        "--rootdir=.",
        f"--confcutdir={_work_tree(Path(job.repo_root))}",
    ]  # fmt: skip
    neutral = {"xdist": ["-n0"], "rerunfailures": ["--reruns=0"], "randomly": ["-p", "no:randomly"]}
    for plugin, words in neutral.items():
        if plugin in job.plugins:
            taken_back += words
    return [
        Path(job.venv_python).name, "-m", "pytest", job.test, "-v", "-s",
        f"--basetemp={folder / job.basetemp.name}",
        *job.pytest_extra_args, *taken_back,
    ]  # fmt: skip


def _work_tree(folder: Path) -> str:
    """The way up from ``folder`` to the top of its git work tree."""
    top = next((path for path in (folder, *folder.parents) if (path / ".git").exists()), folder)
    return os.path.relpath(top, folder)
