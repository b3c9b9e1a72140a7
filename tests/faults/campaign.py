"""Kill -9 at random points of real runs, again and again, and look after each kill whether anything was lost or faked.

A ``Campaign`` owns a toy whose every number is known. A server (a forked process that calls ``start_run`` or
``resume_run``) brings a run up; a target and a moment are drawn; the target is killed; what is on disk is audited; the
run goes on by itself, or a new server resumes it. One run absorbs many kills. A moment is never a time: it is the n-th
event, a phase, a size of the log, or a number of looks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import toy

from tune_mcp import procfs
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code, Refusal
from tune_mcp.observe.audit import audit
from tune_mcp.run_dir import RunDir, list_runs
from tune_mcp.session import events, state
from tune_mcp.supervise import leftovers
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run

REPEATS = 3
LIMIT_S = 300.0

WORKER = '''
def worker(k):
    """The numbers come from a spawned worker, as in the real suites: without it there is no result."""
    import multiprocessing, subprocess, sys
    server = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"], start_new_session=True)
    (STATE / "server").write_text(str(server.pid))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=there_is, args=(there, VALUES[(k - 1) % len(VALUES)]), daemon=True)
    process.start()
    (STATE / "worker").write_text(str(process.pid))
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        print(f"worker exited with code {process.exitcode}")
        raise


def there_is(pipe, values):
    pipe.send(values)
    pipe.recv()


@pytest.fixture(scope="module")
'''


def make(folder: Path, lanes: int = 1) -> Project:
    """The toy whose numbers come from a spawned worker, beside a server in a session of its own.

    With more than one of ``lanes`` its host has as many, on the CPUs that there are.
    """
    source = toy.toy_source().replace('@pytest.fixture(scope="module")\n', WORKER)
    source = source.replace(
        "accuracy, throughput, latency = VALUES[(k - 1) % len(VALUES)]", "accuracy, throughput, latency = worker(k)"
    )
    cpus = sorted(os.sched_getaffinity(0))[:lanes]
    places = [{"name": f"lane-{cpu}", "cpus": str(cpu)} for cpu in cpus]
    profile = {"name": "lab", "hostname": os.uname().nodename, "repo_root": str(folder), "lanes": places}
    files = {".tune/hosts/lab.yaml": json.dumps(profile)} if lanes > 1 else {}
    return toy.make_toy(folder, test_source=source, files=files)


@dataclass
class Campaign:
    """``kills`` counts targets that were alive when they were killed, by name; ``seed`` makes the draws repeatable.

    ``patience`` is how many looks a drawn moment is waited for; ``lanes`` how many repeats run at once.
    """

    project: Project
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    patience: int = 2000
    lanes: int = 1
    _kept: dict[Path, bytes] = field(default_factory=dict)
    _draw: random.Random = field(init=False)
    _server: int | None = None

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def run(self, wanted: int, targets: dict[str, Callable[[RunDir], list[int]]]) -> None:
        """Kill ``wanted`` times, each target at least once; in the end runs are finished, right, with no process."""
        while (missed := [name for name in targets if not self.kills[name]]) or self.kills.total() < wanted:
            run = self._up()
            if run is None:
                continue
            name = self._draw.choice(missed or [*targets])
            self._reach(run, lambda name=name, run=run: targets[name](run))
            self._kill(name, targets[name](run))
            self._check(run)
            if state.conclude(run).state is state.RunState.FINISHED:
                self._whole(run)
        for run in list_runs(self.project.repo_root):
            while state.conclude(run).state is not state.RunState.FINISHED:
                self._resume(run)
                _until(lambda run=run: _at_rest(run), f"{run.run_id} does not come to rest")
            self._whole(run)

    # ---- bringing a run up ----

    def _up(self) -> RunDir | None:
        """The run that works now, or a server that brings one up; that server may be killed while it does so."""
        for run in list_runs(self.project.repo_root)[:1]:
            now = state.conclude(run).state
            if not now.at_rest:
                return run
            if now is not state.RunState.FINISHED:
                at_rest = now in (state.RunState.LOST, state.RunState.STOPPED)
                assert at_rest or _killed_alike(run), (now, toy.told(run))
                self._resume(run)
                return run
        self._served(lambda: start_run(self.project, toy.MODEL, repeats=REPEATS, lanes=self.lanes))
        return next(iter(list_runs(self.project.repo_root)), None)

    def _resume(self, run: RunDir) -> None:
        self._served(lambda: resume_run(self.project, run.run_id))

    def _served(self, call: Callable[[], object]) -> None:
        """Fork a server that makes the call; one in three is killed in the middle of it."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(_answer(call))
        if self._draw.random() < 1 / 3:
            self._looks(self._draw.randrange(60), lambda: _ended(pid))
            if not _ended(pid):
                self._kill("server", [pid])
        end = time.monotonic() + LIMIT_S
        while (code := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.005)
        assert os.waitstatus_to_exitcode(code[1]) in (0, -signal.SIGKILL), "the server refused or broke; see above"

    # ---- the moment ----

    def _reach(self, run: RunDir, target: Callable[[], list[int]]) -> None:
        """Wait for a drawn moment of the run at which the target lives; or until the run has ended."""
        size = _size(run.events)
        repeat = self._draw.randint(1, REPEATS)
        phase = self._draw.choice(("preflight", "pytest", "draining", "extracting"))
        moments: list[Callable[[], bool]] = [
            lambda: _size(run.events) > size,
            lambda: _size(run.events) > size + 600,
            lambda: _phase(run) == phase,
            lambda: any(_size(path) > 0 for path in run.path.glob("_pytest/*/run*.log")),
            lambda: run.observation("toy_accuracy", repeat).exists(),
            lambda: True,
        ]
        reached = self._draw.choice(moments)
        self._looks(self.patience, lambda: reached() or _at_rest(run))
        self._looks(self.patience, lambda: bool(target()) or _at_rest(run))
        self._looks(self._draw.choice((0, 0, 2, 10, 40)), lambda: not target())

    def _looks(self, number: int, done: Callable[[], bool]) -> None:
        """Look at most that often, a few milliseconds apart."""
        for _ in range(number):
            if done():
                return
            time.sleep(0.004)

    def _kill(self, name: str, pids: list[int]) -> None:
        hit = 0
        for pid in pids:
            try:
                os.kill(pid, signal.SIGSTOP)  # all of them in the same moment
            except ProcessLookupError:
                continue
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                hit += 1
            except ProcessLookupError:
                continue
        self.kills[name] += bool(hit)

    # ---- what must hold after every kill ----

    def _check(self, run: RunDir) -> None:
        """Nothing lost, nothing faked, nothing counted twice."""
        plan = self.project.plan(run)
        found = audit(run, plan)
        recorded = Counter(
            (event.facts.get("stage"), event.facts.get("repeat"), event.facts.get("sha256"))
            for event in events.read(run.events)
            if event.kind == "recorded"
        )
        strict: dict[Path, bytes] = {}
        for stage in found.stages:
            for repeat, cell in enumerate(stage.cells, 1):
                if cell.cell is not Cell.STRICT:
                    continue
                path = run.observation(stage.stage.key, repeat)
                assert cell.stored is not None
                strict[path] = path.read_bytes()
                accuracy, throughput, latency = toy.VALUES[repeat - 1]
                true = {"accuracy": accuracy, "throughput_qps": throughput, "latency_mean_s": latency}
                assert cell.stored.content.metrics == {key: true[key] for key in stage.stage.metrics}, path
                assert recorded[(stage.stage.key, repeat, cell.stored.sha256)] == 1, f"{path} is recorded once"
        # A repeat counts when all its stages are strict; from then on not one byte of it may change.
        whole = {
            path: content
            for path, content in strict.items()
            if all(run.observation(key, int(path.stem.removeprefix("run"))) in strict for key in toy.STAGES)
        }
        for path, content in self._kept.items():
            assert not path.is_relative_to(run.path) or whole.get(path) == content, f"lost: {path}; {toy.told(run)}"
        self._kept.update(whole)

    def _whole(self, run: RunDir) -> None:
        """A finished run is the undisturbed one: all strict, the same worst of N, no process, no second launch."""
        self._check(run)
        plan = self.project.plan(run)
        found = audit(run, plan)
        assert found.ready, toy.told(run)
        report(self.project, run.run_id)
        worst = {row.metric_key: row.worst_raw for row in apply_plan(self.project, run.run_id).rows}
        assert worst == toy.WORST
        kept = [event for event in events.read(run.events) if event.kind == "observed" and " PASS" in event.text]
        passed = Counter((event.facts["test"], event.facts["repeat"]) for event in kept)
        assert {*passed.values()} <= {1}, f"a repeat was kept twice: {passed}"  # none: all were read again after kills
        _until(lambda: not survivors(run), f"processes of {run.run_id} live on")
        self.finished += 1


def _answer(call: Callable[[], object]) -> int:
    """What a server does: the call, again while the refusal says that the dead run's last processes still end."""
    end = time.monotonic() + LIMIT_S
    try:
        while True:
            try:
                call()
                return 0
            except Refusal as refusal:
                if refusal.code is not Code.RUN_ACTIVE or time.monotonic() > end:
                    raise
            time.sleep(0.02)
    except BaseException:
        traceback.print_exc()
        return 1


def _until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _killed_alike(run: RunDir) -> bool:
    """Whether chance killed four attempts in a row at one place, which nobody can tell from a defect."""
    record = state.read_record(run)
    halt = record.halt if record else None
    return halt is not None and halt.code == Code.START_FAILED and halt.message.startswith("4 launches in a row ")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _at_rest(run: RunDir) -> bool:
    return state.conclude(run).state.at_rest


def _phase(run: RunDir) -> str:
    record = state.read_record(run)
    return record.current.phase if record and record.current else ""


def survivors(run: RunDir) -> list[int]:
    """Every living process that carries a secret of the run, whoever watches over it."""
    secrets = set(run.marks.read_text().split()) if run.marks.exists() else set()
    found: list[int] = []
    for pid in psutil.pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(
            word.partition("=")[0] == leftovers.MARK and word.partition("=")[2].partition(":")[0] in secrets
            for word in environ
        ):
            found.append(pid)
    return found


# ---- whom to kill: what lives of each now -------------------------------------------------------------------------


def supervisor(run: RunDir) -> list[int]:
    """The run's supervisor."""
    record = state.read_record(run)
    return [record.owner.pid] if record and record.owner and _is(record.owner) else []


def _is(owner: state.Owner) -> bool:
    return procfs.start_ticks(owner.pid) == owner.start_ticks


def runner(run: RunDir) -> list[int]:
    """The supervisor's runner."""
    return [pid for pid in _below(supervisor(run)) if "tune_mcp.supervise.runner" in _words(pid)]


def one_runner(run: RunDir) -> list[int]:
    """The runner of one lane."""
    return runner(run)[:1]


def other_runner(run: RunDir) -> list[int]:
    """The runner of the lane that was started last."""
    return runner(run)[-1:]


def one_pytest(run: RunDir) -> list[int]:
    """The pytest of one lane."""
    return pytest_itself(run)[-1:]


def pytest_itself(run: RunDir) -> list[int]:
    """The runner's pytest."""
    return [pid for pid in _below(runner(run)) if "pytest" in _words(pid)]


def worker(run: RunDir) -> list[int]:
    """pytest's spawned worker."""
    return [pid for pid in _below(pytest_itself(run)) if "--multiprocessing-fork" in _words(pid)]


def model_server(run: RunDir) -> list[int]:
    """The server of the suite, in a session of its own."""
    return [pid for pid in _below(pytest_itself(run)) if "import signal; signal.pause()" in _words(pid)]


def watchers(run: RunDir) -> list[int]:
    """Supervisor and runner in the same moment: nobody is left to end pytest."""
    return [*supervisor(run), *runner(run)]


def supervisor_and_pytest(run: RunDir) -> list[int]:
    """Both at once."""
    return [*supervisor(run), *pytest_itself(run)]


def runner_and_pytest(run: RunDir) -> list[int]:
    """Both at once."""
    return [*runner(run), *pytest_itself(run)]


def whole_tree(run: RunDir) -> list[int]:
    """Everything that carries the run's secret."""
    return survivors(run)


def _below(pids: Iterable[int]) -> Iterator[int]:
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                yield from map(int, path.read_text().split())
            except OSError:
                continue


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
