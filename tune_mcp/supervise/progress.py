"""Which repeats of a run are still open, test file by test file, pass by pass (rules STR-16, STR-19, RTY-01)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from tune_mcp.config.stages import Stage
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.observe.audit import AuditedCell, judge, one_scope
from tune_mcp.observe.observation import Missing, load
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.supervise import rereading
from tune_mcp.supervise.purge import purge
from tune_mcp.supervise.schedule import Due, Repeat


class Exhausted(Exception):
    """All passes are used up and a repeat is still not strict (RES-08)."""


@dataclass
class TestFile:
    """One test file. ``number`` is its pass, ``left`` are the repeats that this pass has not tried yet.

    ``led``: one of its repeats is strict, so the others may run side by side.
    """

    test: str
    stages: tuple[Stage, ...]
    number: int = 0
    left: list[int] = field(default_factory=list[int])
    complete: bool = False
    led: bool = False


class Progress:
    """``passes`` limits the passes over a test's open repeats; ``tries``, those of each pass, are only named."""

    def __init__(self, run: RunDir, plan: Plan, now: Callable[[], datetime], passes: int, tries: int) -> None:
        self._run, self._plan, self._now = run, plan, now
        self._passes, self._tries = passes, tries
        self._files = [TestFile(test, stages) for test, stages in plan.tests().items()]

    @property
    def led(self) -> frozenset[str]:
        """The test files with a strict repeat."""
        return frozenset(one.test for one in self._files if one.led)

    def due(
        self,
        running: Collection[Repeat],
        lanes: Callable[[str], tuple[str, ...]],
        seconds: Callable[[str], float | None],
        *,
        in_order: bool,
    ) -> list[Due]:
        """What is to be measured and does not run, in plan order; ``in_order``: of the first open test file alone.

        Raises ``Exhausted``.
        """
        found: list[Due] = []
        for one in self._files:
            if not one.left and not one.complete and all(test != one.test for test, _ in running):
                self._next_pass(one)
            found += [Due(one.test, repeat, lanes(one.test), seconds(one.test)) for repeat in one.left]
            if in_order and not one.complete:
                break
        return found

    def _next_pass(self, one: TestFile) -> None:
        one.left = self._open(one)
        one.complete = not one.left
        if one.complete:
            return
        if one.number == self._passes:
            tried = f"{self._passes} passes of {self._tries} tries"
            raise Exhausted(f"{one.test}: repeats {one.left} are not strict after {tried}")
        one.number += 1

    def begin(self, repeat: Repeat) -> bool:
        """Take a due repeat out of its pass and make its place free; False when it counts from sealed files."""
        one = self._file(repeat)
        one.left.remove(repeat[1])
        found = rereading.judge_again(self._run, self._plan, [repeat])
        rereading.record_counted(self._run, self._plan, found.counted, "the supervisor, from sealed files", self._now())
        if found.counted:
            self.ended(repeat)
            return False
        self._clear(one, repeat[1])
        return True

    def give_back(self, repeat: Repeat) -> None:
        """Make the repeat due again in the same pass: nothing was tried."""
        one = self._file(repeat)
        one.left = sorted([*one.left, repeat[1]])

    def ended(self, repeat: Repeat) -> None:
        """Look whether its test file has a strict repeat by now."""
        one = self._file(repeat)
        if not one.led:
            self._open(one)

    def _file(self, repeat: Repeat) -> TestFile:
        return next(one for one in self._files if one.test == repeat[0])

    def _open(self, one: TestFile) -> list[int]:
        """The repeats that do not count: those with a stage, among all that their pytest fed, not strict (STR-16)."""
        recorded = events.ledger(self._run)
        scoped = one_scope(self._run, self._plan, one.stages, recorded)
        found = [
            repeat
            for repeat in range(1, self._plan.repeats + 1)
            if any(cell.cell is not Cell.STRICT for cell in self._cells(scoped, repeat, recorded))
        ]
        one.led = len(found) < self._plan.repeats
        return found

    def _cells(self, stages: tuple[Stage, ...], repeat: int, recorded: events.Ledger) -> Iterator[AuditedCell]:
        return (judge(s, repeat, load(self._run, s.key, repeat), self._plan, recorded) for s in stages)

    def _clear(self, one: TestFile, repeat: int) -> None:
        """Take a repeat that is on disk but not strict out of the way, whole (GAP-05, RES-04)."""
        if all(isinstance(load(self._run, stage.key, repeat), Missing) for stage in one.stages):
            return
        recorded = events.ledger(self._run)
        scoped = one_scope(self._run, self._plan, one.stages, recorded)
        reasons = sorted({cell.reason for cell in self._cells(scoped, repeat, recorded) if cell.reason})
        self.purge((one.test, repeat), f"not strict before pass {one.number}: {'; '.join(reasons)}")

    def purge(self, repeat: Repeat, reason: str) -> None:
        """Move the whole repeat aside, for a reason that the supervisor has."""
        one = self._file(repeat)
        keys = [stage.key for stage in one.stages]
        purge(self._run, one.test, keys, repeat[1], who="supervisor", reason=reason, now=self._now())
