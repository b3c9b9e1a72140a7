"""A tiny project whose every number is known, for tests that need a run: made by real processes, or in this one.

``make_toy`` builds the repository. ``start`` + ``wait_until_rest`` go the whole way with a real supervisor, a real
runner and a real pytest (about two seconds, and half a second for each repeat). ``finished_run`` makes the same run in
this process in a few milliseconds: the verbs, the supervisor's loop, the extraction and the files are the real ones,
only pytest is not started. ``steer`` and ``hold`` tell the toy's pytest what to measure and when to wait.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import one_job
import pytest

from tune_mcp.contract.precheck import Check
from tune_mcp.files import FileLock, sha256_bytes, sha256_file
from tune_mcp.gpus import GpuReading, Presence
from tune_mcp.observe import result_files
from tune_mcp.observe.extract import ResultFiles, extract
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.gates import Precheck
from tune_mcp.precheck.venv import VenvFacts
from tune_mcp.procfs import boot_id
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import plan as plans
from tune_mcp.session.state import Owner
from tune_mcp.supervise import comparing, guard_record
from tune_mcp.supervise.executor import Executor
from tune_mcp.supervise.host_lock import HostClaim
from tune_mcp.supervise.job import JOB_FILE, AttemptResult, Job, read_result, seal, write_job
from tune_mcp.supervise.journal import Clock
from tune_mcp.supervise.loop import Supervisor, stop_request
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import status

MODEL = "toy"
TEST_FILE = "tests/test_toy_ci.py"
TEST_KEY = "test_toy_ci"
STAGES = ("toy_accuracy", "toy_speed")

VALUES = ((0.75, 12.5, 0.125), (0.625, 10.25, 0.25), (0.875, 11.125, 0.1875))
"""Accuracy, throughput (1/s) and mean latency (s) of repeats 1, 2, 3; repeat 4 is as 1 again."""
WORST = {"accuracy": 0.625, "throughput_qps": 10.25, "latency_mean_s": 0.25}
"""Worst of N for every N of two and more."""

TIGHT = '"throughput_qps": 99.0, "latency_mean_s": 9.0'
"""Speed thresholds of which one is too tight for every repeat."""

SOURCE = '''"""A CI test in the shape of the real ones: results first, assertions after."""

import json
import os
import time
from pathlib import Path

import pytest

CONCURRENCY = 2
NUM_SAMPLES = @SAMPLES@  # sample scope: never calibrated

TOY_ACC_MIN = 0.5  # a bare threshold
_TOY_P95 = {
    2: {"throughput_qps": 1.0, "latency_mean_s": 9.0},
}
STATE = Path(__file__).resolve().parents[1].parent / (Path(__file__).resolve().parents[1].name + "-state")
VALUES = @VALUES@


def repeat():
    return int(Path(os.environ["TUNE_GUARD_RECORD"]).stem.removeprefix("guard_run"))


def held(k):
    (STATE / f"launched{k}").open("a").write(f"{os.getpid()}\\n")
    end = time.monotonic() + 120
    while (STATE / f"hold{k}").exists() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    k = repeat()
    folder = tmp_path_factory.mktemp("toy")
    held(k)
    accuracy, throughput, latency = VALUES[(k - 1) % len(VALUES)]
    found = {
        "summary": {"accuracy": accuracy, "total_samples": NUM_SAMPLES, "evaluated": NUM_SAMPLES},
        "speed": {"throughput_qps": throughput, "latency_mean_s": latency},
    }
    steered = STATE / f"run{k}.json"
    if steered.exists():
        for part, values in json.loads(steered.read_text()).items():
            found[part].update(values)
    (folder / "result.json").write_text(json.dumps(found))
    return found


def test_accuracy(results):
    assert results["summary"]["accuracy"] >= TOY_ACC_MIN


def test_speed(results):
    assert results["speed"]["throughput_qps"] >= _TOY_P95[CONCURRENCY]["throughput_qps"]
    assert results["speed"]["latency_mean_s"] <= _TOY_P95[CONCURRENCY]["latency_mean_s"]
'''
SOURCE_ROOT = Path(__file__).resolve().parents[1]
"""Where tune_mcp is imported from: a made-up venv that sees our packages has to find our pytest plugin too."""
FEWER_PLUGINS = ["-p", "no:anyio", "-p", "no:hypothesispytest"]
"""pytest arguments that leave out what our own environment has and no toy needs: a third of a launch's imports."""
CONFIG: dict[str, Any] = {
    "name": MODEL,
    "test_globs": ["tests/test_*_ci.py"],
    "default_venv_python": [sys.executable],
    "stage_base_strip_prefix": "test_",
    "stage_base_strip_suffix": "_ci",
    "gpus_per_test": {"test_toy_ci.py": 0},
    "pytest_extra_args": {"test_toy_ci.py": FEWER_PLUGINS},
    "metric_sources": {
        "test_toy_ci.py": {
            "json_file": "toy0/result.json",
            "sample_counts": {"total": "summary.total_samples", "ok": "summary.evaluated"},
            "paths": {
                "accuracy": "summary.accuracy",
                "throughput_qps": "speed.throughput_qps",
                "latency_mean_s": "speed.latency_mean_s",
            },
        }
    },
}
"""``config.yaml`` as data; JSON is YAML, so a test may change a copy and hand it to ``make_toy``."""


def git(repo: Path, *words: str) -> str:
    """Run git there, as somebody, without anybody's configuration."""
    done = subprocess.run(
        ["git", "-C", str(repo), "-c", "user.name=t", "-c", "user.email=t@localhost", *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
    )
    return done.stdout.strip()


def toy_source(samples: int = 4) -> str:
    """The toy's test file."""
    return SOURCE.replace("@SAMPLES@", str(samples)).replace("@VALUES@", repr(VALUES))


def _for_its_files(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration whose every test file, whatever it is called, is started with fewer plugins."""
    if config.get("pytest_extra_args") != CONFIG["pytest_extra_args"]:
        return config
    return {**config, "pytest_extra_args": dict.fromkeys(config["metric_sources"], FEWER_PLUGINS)}


def make_toy(
    folder: Path,
    *,
    test_source: str | None = None,
    samples: int = 4,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Project:
    """A git repository in ``folder`` with one commit that holds the test, its config and its discovered stages.

    ``files`` are further files (relative path -> text). The toy's state lies beside the folder, outside git.
    """
    written = {
        TEST_FILE: test_source or toy_source(samples),
        ".tune/models/toy/config.yaml": json.dumps(_for_its_files(config or CONFIG)),
        ".gitignore": "__pycache__/\n.pytest_cache/\n.tune-runs/\n",
        **(files or {}),
    }
    folder.with_name(f"{folder.name}-state").mkdir(parents=True, exist_ok=True)
    key = sha256_bytes(json.dumps(written, sort_keys=True).encode())
    if key in _KEPT and not folder.exists():
        shutil.copytree(_KEPT[key], folder)
        return open_project(folder)
    for name, text in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "init", "-q", "-b", "main", "--template=")
    (folder / ".git/info").mkdir()
    project = open_project(folder)
    discover(project, MODEL, with_coverage=False)
    commit(project, "toy")
    if key in _MADE and not any(name.startswith("..") for name in written):
        _KEPT[key] = shutil.copytree(folder, _kept_in() / key)
    _MADE.add(key)
    return project


_MADE: set[str] = set()
_KEPT: dict[str, Path] = {}
"""Repositories that were made twice in this process: the third time one is copied, ten times as fast."""


@cache
def _kept_in() -> Path:
    folder, owner = Path(tempfile.mkdtemp(prefix="toys-")), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder))
    return folder


def open_project(folder: Path) -> Project:
    """The project of an existing toy repository."""
    return Project.resolve(Options(repo=folder))


def commit(project: Project, message: str = "next") -> str:
    """Commit everything there is, or an empty commit; returns the new HEAD."""
    git(project.repo_root, "add", "-A")
    git(project.repo_root, "commit", "-q", "--allow-empty", "-m", message)
    return git(project.repo_root, "rev-parse", "HEAD")


def state_folder(project: Project) -> Path:
    """Where the toy's pytest reads its orders and leaves its traces."""
    return project.repo_root.with_name(f"{project.repo_root.name}-state")


def steer(project: Project, repeat: int, **parts: Mapping[str, object]) -> None:
    """What repeat k measures from now on: ``steer(toy, 2, summary={"evaluated": 3})``."""
    (state_folder(project) / f"run{repeat}.json").write_text(json.dumps(parts))


def hold(project: Project, repeat: int) -> None:
    """Let the pytest of repeat k wait in its fixture (at most two minutes) until ``let_go``."""
    (state_folder(project) / f"hold{repeat}").touch()


def let_go(project: Project, repeat: int) -> None:
    """End the wait of repeat k."""
    (state_folder(project) / f"hold{repeat}").unlink(missing_ok=True)


def launches(project: Project, repeat: int) -> tuple[int, ...]:
    """The pid of every pytest that came as far as repeat k's fixture, oldest first."""
    path = state_folder(project) / f"launched{repeat}"
    return tuple(int(line) for line in path.read_text().split()) if path.exists() else ()


def wait_for(reached: Callable[[], object], limit_s: float = 60.0, what: str = "it") -> None:
    """Look again and again until ``reached()`` is true, for a quarter of the time at most; bounded."""
    end = time.monotonic() + limit_s
    began = time.thread_time()
    while not reached():
        if time.monotonic() >= end:
            raise AssertionError(f"{what} did not happen within {limit_s:g} s")
        time.sleep(max(0.02, 3 * (time.thread_time() - began)))
        began = time.thread_time()


def start(
    project: Project,
    repeats: int = 2,
    stages: Sequence[str] = ("ALL",),
    label: str | None = None,
    lanes: int = 1,
) -> RunDir:
    """Start a run with a real, detached supervisor."""
    return project.run(start_run(project, MODEL, stages, repeats, label, lanes).run_id)


def start_and_hold(project: Project, repeats: int = 2, repeat: int = 1) -> RunDir:
    """Start a real run and return while the pytest of ``repeat`` waits in its fixture."""
    hold(project, repeat)
    run = start(project, repeats)
    wait_for(lambda: launches(project, repeat) or _at_rest(run), what=f"the pytest of repeat {repeat}")
    assert launches(project, repeat), told(run)
    return run


def _at_rest(run: RunDir) -> bool:
    from tune_mcp.session.state import conclude

    return conclude(run).state.at_rest


def wait_until_rest(project: Project, run_id: str, limit_s: float = 300.0) -> status.StatusReply:
    """Poll ``status`` until no supervisor works on the run; bounded by ``limit_s``."""
    end = time.monotonic() + limit_s

    def look_soon(_: float) -> None:
        time.sleep(0.05)

    while True:
        now = status(project, run_id, wait_s=5, sleep=look_soon)
        if now.terminal or now.state in ("halted", "exhausted"):
            return now
        if time.monotonic() >= end:
            raise AssertionError(f"{run_id} does not come to rest within {limit_s:g} s: {now.text()}")


def told(run: RunDir) -> str:
    """What the run says of itself, for a message when a test fails."""
    paths = (run.run_log, run.supervisor_log, *sorted(run.path.glob("_pytest/*/attempts/*/runner.log")))
    return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in paths if path.exists())


def rewrite_observation(run: RunDir, stage: str, repeat: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a run{k}.json by hand, as nobody should."""
    path = run.observation(stage, repeat)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@contextmanager
def at_work(run: RunDir, **facts: object) -> Iterator[None]:
    """The run as a living supervisor leaves it while pytest runs; ``facts`` of supervisor.json may be others."""
    record = json.loads(run.supervisor.read_text())
    work = {"test": TEST_KEY, "repeat": 2, "attempt": 1, "phase": "pytest", "since": "2026-04-23T05:00:00Z"}
    run.supervisor.write_text(json.dumps({**record, "state": "running", "current": work, "reason": "", **facts}))
    lock = FileLock.take(run.supervisor_lock, {})
    assert lock
    try:
        yield
    finally:
        lock.release()


# ---- a run in this process --------------------------------------------------------------------------------------


def measured(job: Job, **parts: Mapping[str, object]) -> AttemptResult:
    """What a healthy attempt leaves: log, result file, guard record; ``parts`` change the result file as ``steer``."""
    log, basetemp, record = job.log, job.basetemp, job.guard_record
    accuracy, throughput, latency = VALUES[(job.repeat - 1) % len(VALUES)]
    scope = next((stage.expected_samples for stage in job.stages if stage.expected_samples), 4)
    document: dict[str, dict[str, object]] = {
        "summary": {"accuracy": accuracy, "total_samples": scope, "evaluated": scope},
        "speed": {"throughput_qps": throughput, "latency_mean_s": latency},
    }
    for part, values in parts.items():
        document[part].update(values)
    (basetemp / "toy0").mkdir(parents=True)
    (basetemp / "toy0" / "result.json").write_text(json.dumps(document))
    verdicts = asserted(Path(job.repo_root) / job.test, document)
    lines = [f"{job.test}::{name} {'FAILED' if failed else 'PASSED'}" for name, failed in verdicts.items()]
    failed = sum(error is not None for error in verdicts.values())
    ended = f"{len(verdicts) - failed} passed in 0.25s"
    log.write_text("\n".join([*lines, f"{failed} failed, {ended}" if failed else ended, ""]))
    record.write_text("".join(json.dumps(line) + "\n" for line in _guard_lines(job.test, verdicts)))
    files = ResultFiles(basetemp)
    return AttemptResult(
        key=job.key,
        started_at="2026-04-23T05:00:00Z",
        ended_at="2026-04-23T05:00:01Z",
        duration_s=0.25,
        pytest_rc=int(any(verdicts.values())),
        guard=guard_record.read(record),
        stages={stage.key: extract(stage, files) for stage in job.stages},
        log_sha256=sha256_file(log),
        evidence_sha256=result_files.digests(basetemp),
    )


def asserted(path: Path, document: object) -> dict[str, BaseException | None]:
    """What the file's own test functions say to a result: name -> what it raised. Only ``results`` may be asked for.

    A file that cannot be imported here, or has no test, passes as the toy's two tests do.
    """
    module: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    found: dict[str, BaseException | None] = {}
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module)
    except Exception:
        module = {}
    for name in [name for name in module if name.startswith("test_")]:
        try:
            module[name](document) if module[name].__code__.co_argcount else module[name]()
        except (Exception, pytest.fail.Exception) as error:
            found[name] = error
        else:
            found[name] = None
    return found or {"test_accuracy": None, "test_speed": None}


def _guard_lines(test: str, verdicts: Mapping[str, BaseException | None]) -> Iterator[dict[str, object]]:
    ids = {f"{test}::{name}": error for name, error in verdicts.items()}
    yield {"event": "start", "pytest": "9.0.0", "worker": False, "collect_only": False}
    yield {"event": "collected", "ids": [*ids], "dropped": []}
    for name, error in ids.items():
        for when in ("setup", "call", "teardown"):
            yield {"event": "ran", "id": name, "when": when, "function": when == "call"}
            failed = error if when == "call" else None
            if failed is not None:
                asserted = isinstance(failed, AssertionError | pytest.fail.Exception)
                yield {
                    "event": "failure", "id": name, "when": when, "exception": type(failed).__qualname__,
                    "assertion": asserted, "message": str(failed).partition("\n")[0],
                }  # fmt: skip
            if when == "call":
                yield {"event": "called", "id": name}
            outcome = "failed" if failed else "passed"
            yield {"event": "report", "id": name, "when": when, "outcome": outcome, "xfail": False, "duration": 0.01}
    yield {"event": "finish", "exitstatus": int(any(ids.values())), "shouldstop": "", "shouldfail": ""}


def real_pytest(job: Job) -> AttemptResult | None:
    """What a real runner makes of the job: real pytest under the guard. The runner is a fork of this process, which has
    imported everything already."""
    theirs, ours = os.pipe()  # its standard input stays open as long as we wait: the end means that we died
    runner_pid = os.fork()
    if runner_pid == 0:
        os._exit(_run(job, theirs, ours))
    os.close(theirs)
    end = time.monotonic() + 120
    try:
        while os.waitid(os.P_PID, runner_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= end:
                raise AssertionError(f"the runner of {job.key} does not end: {told(job.run)}")
            time.sleep(0.01)
    finally:
        os.kill(runner_pid, signal.SIGTERM)
        os.waitpid(runner_pid, 0)
        os.close(ours)
    return read_result(job)


def _run(job: Job, standard_input: int, held: int) -> int:
    os.close(held)
    log = os.open(job.folder / "runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((standard_input, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stderr = os.fdopen(2, "w", closefd=False)  # the capture of this process belongs to the parent
    try:
        return one_job.main(job.folder / JOB_FILE)
    except BaseException:
        traceback.print_exc()
        return 1


@dataclass
class InProcess:
    """An executor that has its answer at once: ``attempt(job)``; None is a runner that died without a result."""

    attempt: Callable[[Job], AttemptResult | None] = measured
    jobs: list[Job] = field(default_factory=list)
    outlives = False

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        write_job(job)
        job.run.test_folder(job.test_key).mkdir(parents=True, exist_ok=True)
        result = self.attempt(job)
        if result is not None:
            seal(job, result)

    def runs(self, job: Job) -> bool:
        return False

    def cancel(self, job: Job) -> None:
        raise AssertionError(f"nothing runs, so {job.key} cannot be cancelled")

    def close(self) -> None:
        """There is nothing to let go of."""

    def collect(self, job: Job) -> AttemptResult | None:
        return read_result(job)


class _Clock:
    now = staticmethod(utc_now)
    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"an answer at once needs no sleep of {seconds:g} s")


def ready(run: RunDir, plan: plans.Plan) -> Precheck:
    """A machine that is always ready, with its environment.json."""
    reading, facts = GpuReading(Presence.NONE), VenvFacts(versions={"python": "3.11.9", "pytest": "9.0.0"})
    found = fingerprint.read_machine(reading, facts, plan.settings.env, Path(plan.venv_python))
    comparing.record_or_compare(run, plan, found.model_copy(update={"gpus": _recorded_gpus()}), utc_now())
    return Precheck(
        checked_at="2026-04-23T05:00:00Z",
        checks=(Check(id="repo.head", status="ok", detail="toy"),),
        versions=facts.versions,
        pytest_plugins=(),
        gpus=(),
        gpu_count=0,
        gpu_driver=None,
        gpu_summary=reading.summary(),
    )


def _recorded_gpus() -> tuple[fingerprint.GpuIdentity, ...]:
    """The GPUs of a recorded NVML where a test has one, without asking it."""
    path = Path(os.environ.get("RECORDED_NVML", os.devnull))
    gpus = json.loads(path.read_text())["gpus"] if path.is_file() else []
    return tuple(
        fingerprint.GpuIdentity(name=gpu["name"], uuid=gpu["uuid"], memory_total_mib=gpu["total"] // 2**20)
        for gpu in gpus
    )


def no_older_runs(model: str) -> plans.OlderCatalogue:
    raise AssertionError(model)


@contextmanager
def supervised_here(
    attempt: Callable[[Job], AttemptResult | None] = measured,
    precheck: Callable[[RunDir, plans.Plan], Precheck] = ready,
) -> Iterator[InProcess]:
    """Inside, ``start_run`` and ``resume_run`` supervise in this process and return when the run has ended."""
    executor = InProcess(attempt)
    with supervised_by(executor, _Clock(), precheck):
        yield executor


@contextmanager
def supervised_by(
    executor: Executor, clock: Clock, precheck: Callable[[RunDir, plans.Plan], Precheck] = ready
) -> Iterator[None]:
    """The same with any executor; ``clock.sleep`` is called whenever the supervisor waits for it."""

    def supervise(path: Path, _run_lock: FileLock, claim: HostClaim) -> int:
        run = RunDir(path)
        plan = plans.load(run, no_older_runs)
        supervisor = Supervisor(
            run_dir=run,
            plan=plan,
            executor=executor,
            clock=clock,
            owner=Owner(boot_id=boot_id(), pid=os.getpid(), start_ticks=0),  # long gone when the run has ended
            precheck=lambda: precheck(run, plan),
            stop_asked=lambda: stop_request(run),
            lanes={lane.name: lane for lane in claim.lanes} or {"": None},
            at_once=min(plan.lanes or len(claim.lanes), len(claim.lanes)) or 1,
        )
        try:
            supervisor.run()
        except AssertionError:
            raise  # of the test
        except Exception:  # a real supervisor dies of it long after start_run returned
            run.supervisor_log.write_text(traceback.format_exc())
        return os.getpid()

    with mock.patch("tune_mcp.supervise.launcher.start", supervise):
        yield


def planned_run(project: Project) -> RunDir:
    """A run before its first repeat: from the first strict one on, the machine must stay the same."""
    run = finished_run(project)
    for observation in run.path.glob(f"{MODEL}_*/run*.json"):
        observation.unlink()
    for result in run.path.glob("_pytest/*/attempts/*/result.json"):
        result.unlink()  # or they would be read again from there
    return run


def finished_run(
    project: Project, repeats: int = 2, attempt: Callable[[Job], AttemptResult | None] = measured
) -> RunDir:
    """A run that has ended, made in this process: strict and finished unless ``attempt`` has it otherwise."""
    with supervised_here(attempt):
        return start(project, repeats)
