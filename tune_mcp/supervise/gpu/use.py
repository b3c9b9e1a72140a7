"""The GPUs of one attempt: cleaned, granted, looked at while pytest runs, and clear again afterwards.

What comes after pytest is in ``after.json`` and never turns a finished measurement red.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.status import PhaseKind
from tune_mcp.errors import Code
from tune_mcp.gpus import Gpu, GpuReader
from tune_mcp.gpus.holders import describe
from tune_mcp.observe.observation import GpuRange
from tune_mcp.run_dir import RunDir
from tune_mcp.session.state import Liveness, liveness
from tune_mcp.supervise.gpu.gate import LOOK_EVERY_S, WAIT_LIMIT_S, GpuGate, Grant, lock_gpu
from tune_mcp.supervise.job import Blocked, Job, enter
from tune_mcp.supervise.processes import StopLadder, say

SAMPLE_EVERY_S = 60.0
"""A look costs an interpreter's start on the measured machine: seldom enough to vanish, often enough for a person."""
CLEAR_LIMIT_S = 60.0
AFTER_FILE = "after.json"


class AfterRun(Frozen):
    """How the GPUs were left: why cleanup failed and which GPUs were not clear in time, both empty when all is well."""

    schema_version: int = 1
    cleanup: str = ""
    not_clear: str = ""
    waited_s: float = 0.0

    @property
    def trouble(self) -> str:
        """What went wrong after the run, in one sentence; empty when nothing did."""
        return "; ".join(part for part in (self.cleanup, self.not_clear) if part)


class GpuUse:
    """One attempt's use of GPUs. For a job without GPUs every step is empty and asks nobody.

    ``wait`` is a sleep that a cancellation ends, ``sleep`` one that nothing ends.
    """

    def __init__(
        self,
        job: Job,
        read: GpuReader,
        wait: Callable[[float], None],
        cancelled: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        wait_limit_s: float = WAIT_LIMIT_S,
    ) -> None:
        self.job = job
        self.read = read
        self.cancelled = cancelled
        self.sleep = sleep
        self.clock = clock
        self.grant = Grant()
        self._at_end: tuple[Gpu, ...] = ()
        self._slowed: set[str] = set()
        self._meanwhile: list[Gpu] = []
        self._command = job.cleanup_command if job.gpus else ()
        self._gate = GpuGate(
            read=read,
            take=lambda gpu: lock_gpu(gpu, job.run),
            sleep=wait,
            clock=clock,
            waiting=self._waiting,
            cancelled=cancelled,
            allow_mig=job.allow_mig,
            placement=job.placement,
            limit_s=wait_limit_s,
        )

    def acquire(self) -> Blocked | None:
        """Clean up, then pick (GPU-03); why nothing may be launched, None when the GPUs are granted."""
        if self._command:
            enter(self.job, PhaseKind.CLEANUP)
        if failed := self._cleanup(self.cancelled):
            return Blocked(
                code=Code.CLEANUP_FAILED,
                rule="GPU-09",
                reason=failed,
                next="run the script by hand, fix it or the host profile's cleanup_command",
            )
        self.grant = self._gate.wait(self.job.gpus)
        self._note(self.grant.gpus)
        if not self.grant.refused:
            return None
        return Blocked(
            code=Code.GPU_NOT_CLEAR,
            rule="GPU-02",
            reason=self.grant.refused,
            next="free the GPUs (tune-mcp ends no process that is not its own)",
            retryable=self.grant.retryable,
        )

    @property
    def lock_handles(self) -> tuple[int, ...]:
        """Open locks that pytest keeps too."""
        return tuple(lock.handle for lock in self.grant.locks)

    @contextmanager
    def watched(self) -> Generator[None]:
        """Look at the GPUs now and then while the body runs, and once when it has ended."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(SAMPLE_EVERY_S):
                self._meanwhile += self._ours()

        looking = threading.Thread(target=look, daemon=True)
        if self.grant.gpus:
            looking.start()
        try:
            yield
        finally:
            over.set()
            if self.grant.gpus:
                looking.join()  # a look has a deadline; one that is under way would be taken for a left-over process
            self._at_end = self._ours()

    def ranges(self) -> tuple[GpuRange, ...]:
        """Each granted GPU in the looks while pytest ran; nothing of it where there was none or NVML does not say."""
        return tuple(
            _range(gpu.index, [one for one in self._meanwhile if one.uuid == gpu.uuid]) for gpu in self.grant.gpus
        )

    def facts(self) -> dict[str, object]:
        """Fields of the result: the condition of the GPUs is noted, nothing is judged by it."""
        return {
            "gpu_uuids": tuple(gpu.uuid for gpu in self.grant.gpus),
            "lane": self.grant.lane,
            "gpus_at_start": self.grant.gpus,
            "gpus_at_end": self._at_end,
            "slowed_by": tuple(sorted(self._slowed)),
        }

    def leave(self) -> None:
        """Clean up after the run, wait until its GPUs are clear, and record that (GPU-05: so before every retry)."""
        if not self.grant.gpus:
            return
        enter(self.job, PhaseKind.CLEARING_GPUS)
        begin = self.clock()
        cleanup = self._cleanup(lambda: False)
        while (busy := self._not_clear()) and self.clock() < begin + CLEAR_LIMIT_S:
            self.sleep(LOOK_EVERY_S)
        after = AfterRun(cleanup=cleanup, not_clear=busy, waited_s=round(self.clock() - begin, 1))
        after.to_file(self.job.folder / AFTER_FILE)
        self.grant.release()

    def _not_clear(self) -> str:
        seen = {gpu.uuid: gpu for gpu in self._ours()}
        blind = [f"GPU {gpu.index}: unknown" for gpu in self.grant.gpus if gpu.uuid not in seen]
        return "; ".join([*blind, *(describe(gpu) for gpu in seen.values() if not gpu.free)])

    def _ours(self) -> tuple[Gpu, ...]:
        if not self.grant.gpus:
            return ()
        uuids = {gpu.uuid for gpu in self.grant.gpus}
        found = tuple(gpu for gpu in self.read().gpus if gpu.uuid in uuids)
        self._note(found)
        return found

    def _note(self, gpus: tuple[Gpu, ...]) -> None:
        for gpu in gpus:
            self._slowed |= {f"GPU {gpu.index}: {reason}" for reason in gpu.condition.slowed_by or ()}

    def _cleanup(self, cancelled: Callable[[], bool]) -> str:
        return cleanup(self._command, Path(self.job.repo_root), self.job.run, cancelled)

    def _waiting(self, why: str) -> None:
        say(f"waiting for GPUs: {why}")
        enter(self.job, PhaseKind.WAITING_FOR_GPU, why)


def _range(index: int, seen: list[Gpu]) -> GpuRange:
    known = [one.condition for one in seen]

    def both(name: str) -> tuple[int, int] | None:
        known_values: list[int] = [value for one in known if (value := getattr(one, name)) is not None]
        return (min(known_values), max(known_values)) if known_values else None

    reasons = [one.slowed_by for one in known if one.slowed_by is not None]
    temperature, power = both("temperature_c"), both("power_w")
    return GpuRange(
        index=index,
        looks=len(seen),
        sm_clock_mhz=both("sm_clock_mhz"),
        memory_clock_mhz=both("memory_clock_mhz"),
        temperature_c=temperature[1] if temperature else None,
        power_w=power[1] if power else None,
        slowed_by=dict(Counter(name for one in reasons for name in one)) if reasons else None,
    )


_CLEANUP_LIMIT_S = 600.0
_TICK_S = 0.1


def cleanup(
    command: tuple[str, ...],
    repo_root: Path,
    run: RunDir,
    cancelled: Callable[[], bool],
    limit_s: float = _CLEANUP_LIMIT_S,
) -> str:
    """Run the project's own cleanup script, where the host profile names one (rules GPU-07 to GPU-11).

    It may end processes that are not ours, so a person enables it for one machine, and only the runner of an active
    run calls it, around a launch that uses GPUs. What it prints goes to the attempt's own log. Returns why it did not
    succeed, empty when it did or when there is none.
    """
    if not command:
        return ""
    shown = shlex.join(command)
    if liveness(run) is not Liveness.HELD:
        return f"the cleanup script was not run: {run.run_id} is not active ({shown})"
    say(f"cleanup: {shown}")
    begin = time.monotonic()
    try:
        script = subprocess.Popen(
            command,
            cwd=repo_root,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=sys.stderr,
            start_new_session=True,
        )
    except OSError as error:
        return f"the cleanup script could not be started: {error} ({shown})"
    while script.poll() is None and time.monotonic() < begin + limit_s and not cancelled():
        time.sleep(_TICK_S)
    code = script.poll()
    left = StopLadder().drain(script)
    say(f"cleanup ended with {code} after {time.monotonic() - begin:.1f} s, {len(left)} process(es) of it left")
    if code is None:
        return f"the cleanup script was stopped: it did not end within {limit_s:g} s ({shown})"
    return f"the cleanup script ended with exit code {code} ({shown})" if code else ""
