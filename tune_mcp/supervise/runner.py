"""One job, from preflight to sealed result: ``python -m tune_mcp.supervise.runner <job.json>``.

The runner works wherever it finds itself: it reads its job, checks the tree, waits for GPUs, runs pytest under the
guard, ends what pytest left behind, extracts the numbers, and seals the attempt's folder, the result last. When its
standard input closes, its supervisor is gone: it stops pytest and leaves no result, unless every test had been called
and the session comes to its end meanwhile.

With ``-`` for the job it stays and takes one job file after the other from standard input; each attempt's messages go
to its ``runner.log``. So no launch waits for an interpreter, and none starts while something is measured.

Exit codes: 0 sealed, 1 stopped without a result or a bug (traceback on stderr), 75 refused: cancelled, or claimed by
another runner.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tune_mcp.config.signatures import rules as watch_rules
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import open_appending, sha256_file, write_atomic
from tune_mcp.gpus import accepting, read_gpus
from tune_mcp.observe import of_launch, result_files
from tune_mcp.observe.extract import ResultFiles, extract
from tune_mcp.run_dir import iso
from tune_mcp.session import drift, provenance, state
from tune_mcp.supervise import caches, comparing, copies, environment, guard_record, loaded, scratch
from tune_mcp.supervise.gpu.gate import GRANTED_LIMIT_S, WAIT_LIMIT_S
from tune_mcp.supervise.gpu.use import GpuUse
from tune_mcp.supervise.invocation import pytest_argv
from tune_mcp.supervise.job import (
    CLAIM_FOLDER,
    ENDED,
    PHASE_FILE,
    AttemptResult,
    Blocked,
    Engine,
    Job,
    StageResult,
    claim,
    is_cancelled,
    is_sealed,
    read_job,
    read_result,
    seal,
)
from tune_mcp.supervise.pinning import pinned, unavailable
from tune_mcp.supervise.processes import (
    AFTER_THE_SESSION,
    StopLadder,
    become_subreaper,
    below,
    default_signals,
    plain_command_line,
)
from tune_mcp.supervise.sealed import put_on_ledger
from tune_mcp.supervise.tree_record import TreeRecorder
from tune_mcp.supervise.waiting import Orders
from tune_mcp.supervise.watch import signatures
from tune_mcp.supervise.watch.alerts import WATCH_FILE, AlertBook
from tune_mcp.supervise.watch.exiting import ExitWatch
from tune_mcp.supervise.watch.slow_start import Launch
from tune_mcp.supervise.watch.watchdog import Watchdog

_LOOK_EVERY_S = 0.25
_LOOK_CLOSELY_S = 0.1
_FINISH_S = 15.0
"""How long a stop waits for the end of a session whose tests have all been called."""


class Runner:
    """The steps of one attempt. ``say`` writes to the attempt's own log, never to pytest's."""

    def __init__(self, job: Job, orders: Orders, engine: Engine | None = None) -> None:
        self.job = job
        self.engine = engine
        self.orders = orders
        self.log = job.run.log(job.test_key, job.repeat)
        self.basetemp = job.run.basetemp(job.test_key, job.repeat)
        self.record = job.run.guard_record(job.test_key, job.repeat)
        self.started = datetime.now(UTC)
        look = accepting(read_gpus, job.accept_unknown_gpus)
        read = state.RecordingReader(job.run, look, lambda: datetime.now(UTC))
        limit = GRANTED_LIMIT_S if engine else WAIT_LIMIT_S
        self.gpus = GpuUse(job, read, self.say, self.phase, orders.wait, self.cancelled, wait_limit_s=limit)
        self.dropped: tuple[str, ...] = ()
        self._stop_seen: float | None = None
        self.scratch: scratch.Scratch | None = None

    def say(self, text: str) -> None:
        """One line on stderr, which the executor keeps in the attempt's folder."""
        print(f"{iso(datetime.now(UTC))} {text}", file=sys.stderr, flush=True)

    def phase(self, name: str) -> None:
        """Tell the supervisor what is going on; a reader sees it in ``status``."""
        write_atomic(self.job.folder / PHASE_FILE, name.encode(), durable=False)
        tell(name.partition(":")[0].encode())

    def cancelled(self) -> bool:
        """Whether to stop: an order to this process, or the attempt's tombstone."""
        return self.orders() or is_cancelled(self.job)

    def stop_now(self) -> bool:
        """Whether pytest is to be interrupted: where only teardown is left, a stop waits for it, so that it counts."""
        if not self.cancelled():
            return False
        now = time.monotonic()
        if self._stop_seen is None:
            self._stop_seen = now
        return now >= self._stop_seen + _FINISH_S or not guard_record.all_called(self.record)

    def run(self) -> AttemptResult | None:
        """The whole attempt; None when it was cancelled before its session was complete."""
        self.phase("preflight")
        self._move_earlier_away()
        planned, moved = self._tree_before()
        if moved or planned is None:
            return self._result(moved=moved)
        python = Path(self.job.venv_python)
        if incomparable := comparing.look(self.job.run, python, any_host=self.job.any_host)[1]:
            return self._result(incomparable=incomparable)
        found = loaded.before(self.job)
        if found.moved or found.incomparable:
            return self._result(moved=found.moved, incomparable=found.incomparable)
        blocked = self.gpus.acquire()
        if self.cancelled():
            return None
        if blocked := blocked or unavailable(self.gpus.grant.lane) or self._wiped() or self._without_tmpdir():
            return self._result(blocked=blocked)
        started_ns = time.time_ns()
        ended = self._pytest()
        ended["left_in_tmp"] = self._emptied(self.job.attempt)
        if ended["stopped_by"] == "cancel" and guard_record.read(self.record).shortfall():
            return None
        self.phase("extracting")
        return self._result(
            **self._compared(planned, python, started_ns),
            **ended,
            **self.gpus.facts(),
            dropped_env=self.dropped,
            **self._evidence(),
        )

    def _result(self, **facts: object) -> AttemptResult:
        return AttemptResult.model_validate(
            {
                "key": self.job.key,
                "started_at": iso(self.started),
                "ended_at": iso(datetime.now(UTC)),
                "engine": self.engine,
                **facts,
            }
        )

    def _move_earlier_away(self) -> None:
        """Move what an earlier attempt left into that attempt's folder: a fresh folder for each one."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        earlier = self.job.run.attempt(self.job.test_key, self.job.repeat, self.job.attempt - 1)
        self._emptied(self.job.attempt - 1)  # its runner may have been killed
        for path in (self.log, self.basetemp, self.record):
            if path.exists():
                earlier.mkdir(parents=True, exist_ok=True)
                path.rename(earlier / path.name)

    def _tree_before(self) -> tuple[provenance.GitState | None, str]:
        """The tree as git sees it, and what of it is not as planned; None where there is no repository to ask."""
        try:
            now = provenance.read(Path(self.job.repo_root))
        except Refusal as refusal:
            return None, refusal.message
        return now, self._moved(now)

    def _moved(self, now: provenance.GitState) -> str:
        """What of the tree is not as planned; empty when all is."""
        return _listed(drift.moved(Path(self.job.repo_root), now, self.job.tree))

    def _tree_after(self, before: provenance.GitState) -> dict[str, object]:
        """The same look when pytest is done, and whether the tree was another one in between (SES-11)."""
        job, root = self.job, Path(self.job.repo_root)
        try:
            now = provenance.read(root)
        except Refusal as refusal:
            return {"moved": refusal.message}
        outputs = drift.outputs(before, now, job.tree)
        tree = job.tree.model_copy(update={"apart": (*job.tree.apart, *outputs)})
        moved = drift.moved(root, now, tree) or drift.touched(before, now, tree)
        new = sorted({*now.untracked} - {*before.untracked} - {*drift.appeared(now, tree)})
        written = drift.rewritten(before, now, tree)
        return {
            "moved": _listed(moved),
            "appeared": drift.appeared(now, tree),
            "outputs": outputs,
            "rewritten": written if moved else (),
            "way_out": drift.way_out(written, new, tree) if moved else "",
        }

    def _machine_after(self, python: Path) -> dict[str, object]:
        """The machine when pytest is done, with the GPUs that it was granted (SCP-02)."""
        found, incomparable = comparing.look(self.job.run, python, self.gpus.grant.gpus, any_host=self.job.any_host)
        return {"environment": found, "incomparable": incomparable}

    def _compared(self, before: provenance.GitState, python: Path, started_ns: int) -> dict[str, object]:
        """Tree and machine when pytest is done, and what it loaded besides (SES-11, SCP-02)."""
        facts = {**self._tree_after(before), **self._machine_after(python)}
        record, found = loaded.after(self.job, before, started_ns)
        return {
            **facts,
            "moved": "; ".join(filter(None, (str(facts["moved"]), found.moved))),
            "incomparable": "; ".join(filter(None, (str(facts["incomparable"]), found.incomparable))),
            "loaded_sha256": loaded.store(self.job, record) if record else None,
        }

    def _wiped(self) -> Blocked | None:
        """Make the caches cold; why that failed, None when it did not (WDG-09: a launch requires it)."""
        slice_root = self.job.env.get("OMNI_CI_HOME")
        if not slice_root and not self.job.cache_wipes:
            return None
        try:
            if not slice_root:
                raise ValueError("OMNI_CI_HOME, the root of cache_wipes, is not set")
            emptied = caches.wipe(Path(slice_root), self.job.cache_wipes)
            if own := caches.wipe_home(self.job.env):
                self.say(f"wiped {own}")
        except (OSError, ValueError) as error:
            return Blocked(
                code=Code.CLEANUP_FAILED,
                rule="WDG-09",
                reason=f"a cache could not be wiped: {error}",
                next="make the folder writable or fix cache_wipes in config.yaml",
            )
        self.say(f"wiped below {slice_root}: {', '.join(emptied) or 'nothing, it was cold'}")
        return None

    def _without_tmpdir(self) -> Blocked | None:
        """Make the attempt's TMPDIR; why there is none, None when there is."""
        job = self.job
        try:
            self.scratch = scratch.make(job.run, job.key, job.folder, job.env, os.environ)
        except OSError as error:
            return Blocked(
                code=Code.CLEANUP_FAILED,
                rule="WDG-09",
                reason=f"no TMPDIR for the tests: {error}",
                next="make /tmp writable and free space on it",
            )
        return None

    def _emptied(self, attempt: int) -> scratch.Left | None:
        """Remove the TMPDIR of an attempt at this repeat, of which no process lives; what the tests left in it."""
        job, folder = self.job, self.job.run.attempt(self.job.test_key, self.job.repeat, attempt)
        try:
            return scratch.clear(job.run, job.run.attempt_key(job.test_key, job.repeat, attempt), folder)
        except OSError as error:
            self.say(f"what the tests left in their TMPDIR cannot be removed: {error}")
            return None

    def _pytest(self) -> dict[str, object]:
        job, scratch = self.job, self.scratch
        assert scratch
        guard_folder = job.folder / "guard"
        guard_folder.mkdir(exist_ok=True)
        shutil.copyfile(Path(__file__).with_name("guard.py"), guard_folder / "tune_guard.py")
        launch = environment.build(
            comparing.as_recorded(job.run, os.environ),
            job.env,
            Path(job.venv_python),
            (guard_folder, Path(job.repo_root)),
            tuple(gpu.index for gpu in self.gpus.grant.gpus),
        )
        variables = {**launch.variables, "TUNE_GUARD_RECORD": str(self.record), "TMPDIR": str(scratch.tmp)}
        lane = self.gpus.grant.lane
        if lane and lane.cpus:
            variables[job.placement.cpu_set_variable] = lane.cpus
            self.say(f"lane: {lane.text()}")
        self.say(f"launch: {shlex.join([job.venv_python, *pytest_argv(job, job.run)[1:]])}")
        if not caches.clear_bytecode(Path(job.repo_root)):
            variables["PYTHONPYCACHEPREFIX"] = str(job.folder / "bytecode")
        self.dropped = launch.dropped
        self.phase("pytest")
        default_signals_for_child()
        begin, clock = time.monotonic(), comparing.WallClock()
        with self.log.open("xb") as out, pinned(lane):
            main = subprocess.Popen(
                pytest_argv(job, scratch.run),
                executable=job.venv_python,
                cwd=job.repo_root,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self.gpus.lock_handles,
            )
        watchdog, tree = self._watchdog(variables), TreeRecorder(job.folder, main.pid)
        exiting = ExitWatch(self.record, watchdog.rules.exit_after_s, lambda: below(main.pid))
        ladder = StopLadder(self.say)
        with self.gpus.watched():
            stopped_by, reason = self._wait(main, begin + job.timeout_s, tree, watchdog, exiting)
            if stopped_by == "exit":
                ladder.grace = AFTER_THE_SESSION
            if stopped_by:
                self.phase("stopping")
                ladder.interrupt(main)
            duration = (exiting.over_at or time.monotonic()) - begin
            clock_moved = clock.moved()
        watchdog.ended()
        self.phase("draining")
        leftovers = ladder.drain(main)
        return {
            "pytest_rc": main.wait(),
            "stopped_by": stopped_by,
            "stopped_for": watchdog.stopped_by,
            "stop_reason": reason,
            "signals": tuple(ladder.sent),
            "alerts": tuple(watchdog.book.alerts.values()),
            "duration_s": round(duration, 3),
            "clock_moved": clock_moved,
            "leftovers": leftovers,
        }

    def _watchdog(self, variables: dict[str, str]) -> Watchdog:
        job = self.job
        earlier = read_result(job.model_copy(update={"attempt": job.attempt - 1}))
        return Watchdog(
            watch_rules(job.signatures),
            self.log,
            self.record,
            Launch(variables, Path(job.venv_python), time.time()),
            AlertBook(job.folder / WATCH_FILE, lambda: datetime.now(UTC)),
            doubted=frozenset({earlier.stopped_for}) if earlier and earlier.stopped_for else frozenset(),
        )

    def _wait(
        self,
        main: subprocess.Popen[bytes],
        end: float,
        tree: TreeRecorder,
        watchdog: Watchdog,
        exiting: ExitWatch,
    ) -> tuple[str, str]:
        """Until pytest ends or has to be stopped: by whom, and why in words.

        Its end and an order wake at once, the rest is looked at.
        """
        while True:
            tree.look()
            if main.poll() is not None:
                return "", ""
            if self.stop_now():
                return "cancel", ""
            if reason := exiting.look():
                self.say(reason)
                return "exit", reason
            if time.monotonic() >= end:
                self.say(f"pytest reached its limit of {self.job.timeout_s:g} s")
                return "timeout", ""
            if reason := watchdog.look():
                self.say(reason)
                return "watchdog", reason
            self.orders.look(_LOOK_CLOSELY_S if watchdog.alarmed else _LOOK_EVERY_S)

    def _session(self) -> tuple[int, int]:
        """When the launch began and its session ended, by the clock of the file system that holds the results (ns)."""
        guard = self.job.folder / "guard" / "tune_guard.py"
        return guard.stat().st_mtime_ns, self.record.stat().st_mtime_ns if self.record.is_file() else 0

    def _evidence(self) -> dict[str, object]:
        files = ResultFiles(self.basetemp)
        stages = {stage.key: StageResult.of(extract(stage, files)) for stage in self.job.stages}
        guard = guard_record.read(self.record)
        sealed = result_files.digests(self.basetemp, result_files.named_by(self.job.stages))
        timed = [stage for stage in self.job.stages if stage.key in self.job.timed]
        marks = {name: of_launch.signature(files.document(name)) for name in result_files.named_by(timed)}
        known = {name: mark for name, mark in marks.items() if mark}
        raised = [failure.sentence() for failure in guard.failures]
        return {
            "guard": guard,
            "stages": stages,
            "signature": signatures.failure_in(self.log, watch_rules(self.job.signatures), raised),
            "log_sha256": sha256_file(self.log),
            "evidence_sha256": sealed,
            "signatures_of_files": known,
            "strangers": copies.of_earlier(self.job, known)
            | of_launch.strangers(self.basetemp, sealed, *self._session()),
        }


def _listed(found: tuple[str, ...]) -> str:
    return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")


def default_signals_for_child() -> None:
    """The child starts with the default dispositions; our own SIGTERM handler is a function and so not inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def attempt(job: Job, orders: Orders, engine: Engine | None = None) -> int:
    """Do the job and seal its folder; returns the exit code of a runner for this job alone."""
    if is_sealed(job):
        return 0
    if not claim(job):
        print(f"refused: {job.key} was cancelled, or another runner has it", file=sys.stderr, flush=True)
        return os.EX_TEMPFAIL
    runner = Runner(job, orders, engine)
    result = runner.run()
    if result is not None:
        seal(job, result)
        if orders.input_ended:  # nobody is left to do it
            put_on_ledger(job, result, datetime.now(UTC))
    runner.gpus.leave()
    return 1 if result is None else 0


def tell(word: bytes) -> None:
    """One line to whoever started us; when nobody is left to listen, the end of standard input says so too."""
    with suppress(BrokenPipeError):
        os.write(1, word + b"\n")


@contextmanager
def messages_in(path: Path) -> Generator[None]:
    """Standard error is that file for a while, a traceback included."""
    before = os.dup(2)
    with open_appending(path) as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os.dup2(before, 2)
        os.close(before)


def main(argv: list[str]) -> int:
    """Do the job named by ``argv[0]``, or with ``-`` every job that standard input names."""
    plain_command_line("tune-mcp", "tune_mcp.supervise.runner")
    default_signals()
    become_subreaper()
    orders = Orders()
    if argv[0] != "-":
        return attempt(read_job(Path(argv[0])), orders)
    while (name := orders.next_job()) is not None:
        try:
            with messages_in(Path(name).with_name("runner.log")):
                attempt(read_job(Path(name)), orders)
        except OSError as error:
            if ((folder := Path(name).parent) / CLAIM_FOLDER).is_dir():
                raise
            print(f"{folder} was removed while its attempt ran: {error}", file=sys.stderr, flush=True)
            return 1
        if not orders():
            tell(ENDED)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
