"""One job, from preflight to sealed result (``attempt``); as ``python -m tune_mcp.supervise.runner`` job after job.

The runner works wherever it finds itself: it reads its job, checks the tree, waits for GPUs, runs pytest under the
guard, ends what pytest left behind, extracts the numbers, and seals the attempt's folder, the result last. When its
standard input closes, its supervisor is gone: it stops pytest and leaves no result, unless every test had been called
and the session comes to its end meanwhile.

As a program it takes job files from standard input; each attempt's messages go to its ``runner.log``. So no launch
waits for an interpreter, and none starts while something is measured.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tune_mcp.contract.status import PhaseKind
from tune_mcp.files import alone, open_appending
from tune_mcp.gpus import accepting, read_gpus
from tune_mcp.run_dir import iso, utc_now
from tune_mcp.session import state
from tune_mcp.supervise import comparing, evidence, guard_record, loaded_comparison, placing, preflight, sealed
from tune_mcp.supervise.gpu.gate import GRANTED_LIMIT_S, WAIT_LIMIT_S
from tune_mcp.supervise.gpu.use import GpuUse
from tune_mcp.supervise.job import (
    CLAIM_FOLDER,
    ENDED,
    AttemptResult,
    Blocked,
    Engine,
    Job,
    claim,
    claimed,
    enter,
    is_cancelled,
    is_sealed,
    read_job,
    report,
    seal,
)
from tune_mcp.supervise.processes import become_subreaper, default_signals, plain_command_line
from tune_mcp.supervise.pytest_session import PytestSession
from tune_mcp.supervise.sealed import put_on_ledger
from tune_mcp.supervise.waiting import Orders

_FINISH_S = 15.0
"""How long a stop waits for the end of a session whose tests have all been called."""


class Runner:
    """The steps of one attempt."""

    def __init__(self, job: Job, orders: Orders, engine: Engine | None = None) -> None:
        self.job = job
        self.engine = engine
        self.orders = orders
        self.started = utc_now()
        read = state.recording(job.run, accepting(read_gpus, job.accept_unknown_gpus))
        limit = GRANTED_LIMIT_S if engine else WAIT_LIMIT_S
        self.gpus = GpuUse(job, read, orders.wait, self.cancelled, wait_limit_s=limit)
        self._stop_seen: float | None = None

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
        return now >= self._stop_seen + _FINISH_S or not guard_record.all_called(self.job.guard_record)

    def run(self) -> AttemptResult | None:
        """The whole attempt; None when it was cancelled before its session was complete."""
        job = self.job
        enter(job, PhaseKind.PREFLIGHT)
        preflight.clear_place(job)
        planned, moved = preflight.tree(job)
        if moved or planned is None:
            return self._result(moved=moved)
        machine, incomparable = comparing.machine_now(job)
        if incomparable:
            return self._result(environment=machine, incomparable=incomparable)
        found = loaded_comparison.before_launch(job)
        if found.moved or found.incomparable:
            return self._result(moved=found.moved, incomparable=found.incomparable)
        placed = placing.place(self.gpus, self.orders.wait)
        if self.cancelled():
            return None
        if isinstance(placed, Blocked):
            return self._result(blocked=placed)
        if blocked := preflight.wiped(job):
            return self._result(blocked=blocked)
        if job.any_host:  # the GPUs are known now
            machine, incomparable = comparing.machine_now(job, self.gpus.grant.gpus)
            if incomparable:
                return self._result(environment=machine, incomparable=incomparable)
        place = preflight.tmpdir(job)
        if isinstance(place, Blocked):
            return self._result(blocked=place)
        started_ns = time.time_ns()
        session = PytestSession(job, place, self.gpus, placed, self.orders, self.stop_now)
        ended = session.run() | {"left_in_tmp": preflight.emptied(job, job.attempt)}
        if ended["stopped_by"] == "cancel" and guard_record.read(self.job.guard_record).shortfall():
            return None
        enter(job, PhaseKind.EXTRACTING)
        compared = evidence.compared(job, planned, self.gpus.grant.gpus, started_ns)
        return self._result(**compared, **ended, **self.gpus.facts(), **evidence.numbers(job))

    def _result(self, **facts: object) -> AttemptResult:
        return AttemptResult.model_validate(
            {
                "key": self.job.key,
                "started_at": iso(self.started),
                "ended_at": iso(utc_now()),
                "engine": self.engine,
                **facts,
            }
        )


def attempt(job: Job, orders: Orders, engine: Engine | None = None) -> int:
    """Do the job and seal its folder; returns the exit code of a runner for this job alone.

    0: sealed; 1: stopped without a result; 75: refused, because it was cancelled or another runner has it.
    """
    if is_sealed(job):
        return 0
    if (ours := claim(job)) is None:
        print(f"refused: {job.key} was cancelled, or another runner has it", file=sys.stderr, flush=True)
        return os.EX_TEMPFAIL
    runner = Runner(job, orders, engine)
    result = runner.run()
    if claimed(job) != ours:
        print(f"{job.key} was moved aside while it ran: nothing is sealed", file=sys.stderr, flush=True)
        result = None
    if result is not None:
        _seal(job, result)
        if orders.input_ended:  # nobody is left to do it
            put_on_ledger(job, result, utc_now())
    runner.gpus.leave()
    return 1 if result is None else 0


def _seal(job: Job, result: AttemptResult) -> None:
    """Seal it with what other attempts have: of two that end at the same time, one sees the other."""
    with ExitStack() as held:
        with suppress(OSError):  # a file system without locks has an engine's attempts, one at a time
            held.enter_context(alone(job.run.sealing))
        copied = sealed.copied(job, result.signatures_of_files)
        seal(job, result.model_copy(update={"strangers": copied | result.strangers}))


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


def main() -> int:
    """Do every job that standard input names."""
    plain_command_line("tune-mcp", "tune_mcp.supervise.runner")
    default_signals()
    become_subreaper()
    orders = Orders()
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
            report(ENDED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
