"""What ``apply_plan`` answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal

from tune_mcp.config.stages import MetricKey, Number, WorstOp
from tune_mcp.contract.apply import Decision
from tune_mcp.contract.reply import TEXT_LIMIT, Reply, size
from tune_mcp.contract.report import DIRTY, FailedTest
from tune_mcp.words import number_of

_ROWS_SHOWN = 60
_DIFF_LIMIT = 3500
_DECISIONS_LIMIT = 3000


class Direction(StrEnum):
    """What writing the value would do to CI; derived from the worst operator, never from the sign alone (APL-21).

    FIRST: there was no value, so a gate that was absent begins to gate. In the order in which people are shown them.
    """

    LOOSENS = "loosens"
    FIRST = "first baseline"
    UNKNOWN = "unknown"
    TIGHTENS = "tightens"
    EQUAL = "equal"


Smart = Literal["auto", "skip", "ask"]
"""What mode smart does: write, leave, or ask a person."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One metric of the apply plan; the published fields. ``decision`` is that of mode smart, ``reason`` says why."""

    stage_key: str
    metric_key: str
    stage_group: str
    calibration_preset: str | None
    variant: str | None
    file: str
    source: str
    source_kind: Literal["bare", "nested"]
    symbol: str
    subkey: str | None
    concurrency: int | None
    worst_op: WorstOp
    per_run_raw: tuple[Number, ...]
    worst_raw: Number
    worst_rounded: float
    write_value: Number
    current_raw: Number | None
    direction: Direction
    decision: Smart
    reason: str

    @property
    def key(self) -> MetricKey:
        """(stage key, metric key): how a decision names the row."""
        return self.stage_key, self.metric_key

    @property
    def place(self) -> str:
        """The source with the concurrency resolved: ``_X_P95[8]['throughput_qps']`` (APL-20)."""
        if self.subkey is None or self.concurrency is None:
            return self.source
        return f"{self.symbol}[{self.concurrency}]['{self.subkey}']"


class ApplyPlanReply(Reply):
    """What each mode would write, and the diff of mode full. Nothing is written by asking.

    ``files_changed`` is every file that mode full would write, stages.yaml with its digests included.
    """

    also_typed: ClassVar = {"rows_total": "integer"}
    run_id: str
    plan_id: str
    rows: tuple[PlanRow, ...]
    diff: str
    dirty: bool
    files_changed: tuple[str, ...] = ()
    failed_tests: tuple[FailedTest, ...] = ()
    notes: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """What a person decides in mode smart, each on keep: edited, it is the argument of ``apply``."""

    def typed(self) -> dict[str, object]:
        """All facts, the rows that a person must look at first; the diff only where the rows leave space for it."""
        decisions = [one.model_dump(exclude_none=True) for one in self.decisions]
        first = self.model_copy(update={"rows": tuple(self._sorted())})
        facts = super(ApplyPlanReply, first).typed() | {"decisions": decisions, "rows_total": len(self.rows)}
        return facts if size(facts) <= TEXT_LIMIT - 200 else {**facts, "diff": ""}

    def whole(self) -> str | None:
        """Every row, and the diff."""
        return f"tune://runs/{self.run_id}/apply_plan"

    def _sorted(self) -> list[PlanRow]:
        return sorted(self.rows, key=lambda row: [*Direction].index(row.direction))

    def lines(self) -> Iterable[str]:
        """One line a metric, loosening ones first, then the diff as far as there is space."""
        yield f"plan_id: {self.plan_id} ({number_of(len(self.rows), 'metric')})"
        if self.dirty:
            yield DIRTY
        yield from (f"note: {note}" for note in self.notes)
        yield from (one.line() for one in self.failed_tests)
        for row in self._sorted()[:_ROWS_SHOWN]:
            yield (
                f"  {row.decision:<4} {row.stage_key}/{row.metric_key}: {row.current_raw!r} -> {row.write_value!r} "
                f"{row.direction} [{row.file}:{row.place}] {row.reason}"
            )
        if len(self.rows) > _ROWS_SHOWN:
            yield f"  … and {len(self.rows) - _ROWS_SHOWN} more"
        if self.files_changed:
            yield f"files that mode full would change: {', '.join(self.files_changed)}"
        if self.decisions:
            ready = json.dumps([one.model_dump(exclude_none=True) for one in self.decisions])
            yield (
                f"decisions for mode smart, each on keep, to be edited: {ready}"
                if len(ready) < _DECISIONS_LIMIT
                else (f"decisions for mode smart: {len(self.decisions)}, ready in a refusal of apply without them")
            )
        if self.diff:
            yield self.diff if len(self.diff) <= _DIFF_LIMIT else self.diff[:_DIFF_LIMIT] + "\n[… the diff goes on …]"
