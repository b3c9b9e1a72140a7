"""The apply plan: per metric, what stands in the file, what would be written, and what that would do to CI.

Table, direction and edit all come from this one object, so they cannot disagree. Nothing here writes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import unified_diff
from pathlib import Path

from tune_mcp.apply import doubts, reading, reality
from tune_mcp.apply.doubts import Doubt
from tune_mcp.apply.literals import Edit, rewrite
from tune_mcp.apply.locating import Files
from tune_mcp.apply.readers import Readers
from tune_mcp.apply.reading import ThresholdReading
from tune_mcp.apply.reality import Outcomes, PytestOutcome
from tune_mcp.config.stages import GroupPolicy, MetricKey, Number, Stage
from tune_mcp.contract.apply_plan import Direction, PlanRow, Smart
from tune_mcp.contract.report import FailedTest
from tune_mcp.discover.assertions import BOUND, Gate, Unread, UnreadKind
from tune_mcp.discover.blanks import Blank
from tune_mcp.discover.constants import ModuleConstants, NumberLiteral
from tune_mcp.discover.places import split_source
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.files import digest
from tune_mcp.observe.audit import Audit
from tune_mcp.observe.observation import Failure
from tune_mcp.observe.worst import Worst, direction, direction_text, worst_of_n
from tune_mcp.session.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Row(PlanRow):
    """A row of the plan, with what it was made of.

    ``literal`` is where the present value stands, ``blank`` where the first one comes; both None when there is no place
    beyond doubt, ``code`` is then the refusal of whoever asks for an edit. ``doubts`` are what a person must see before
    the value is written, ``gate`` is what the test asserts, as far as it can be read and pytest did not contradict it.
    """

    worst: Worst
    literal: NumberLiteral | None
    code: Code | None = None
    doubts: tuple[Doubt, ...] = ()
    gate: Gate | Unread
    blank: Blank | None = None

    @property
    def stage(self) -> Stage:
        """The stage that the metric belongs to."""
        return self.worst.stage

    @property
    def writable(self) -> bool:
        """Whether a mode may write the row: its place is known, and it would change."""
        return self.decision != "skip"

    @property
    def place_known(self) -> bool:
        """Whether there is a place in the file that the plan may write to."""
        return self.literal is not None or self.blank is not None

    @property
    def line(self) -> int | None:
        """The line of that place."""
        place = self.literal or self.blank
        return place.line if place else None

    def change(self, value: Number | None = None) -> str:
        """What writing ``value`` (default: the plan's) would do: ``loosens (-7.9%)`` (APL-21)."""
        new = self.write_value if value is None else value
        return direction_text(self.worst_op, self.current_raw, new, first=self.blank is not None)

    def edit(self, value: Number | None = None, text: str | None = None) -> Edit:
        """The edit that writes ``value`` (default: the plan's) over the present literal, or where there is none yet."""
        if not self.place_known:
            raise ValueError(f"{self.place} has no place to write to")
        return Edit(
            source=self.source,
            concurrency=self.concurrency,
            old_token=self.literal.token if self.literal else None,
            old_value=self.current_raw,
            new_value=self.write_value if value is None else value,
            new_text=text,
        )


@dataclass(frozen=True)
class ApplyPlan:
    """All rows, the bytes of the files they were read from, and the digest that binds a later ``apply`` to them.

    ``failed_tests`` are failures that no threshold explains; ``unchecked`` says that no repeat has a record of pytest.
    """

    plan_id: str
    rows: tuple[Row, ...]
    contents: dict[str, bytes]
    failed_tests: tuple[FailedTest, ...] = ()
    unchecked: bool = False

    def row(self, stage_key: str, metric_key: str) -> Row:
        """The row a decision names. Raises DECISION_INVALID."""
        for row in self.rows:
            if row.key == (stage_key, metric_key):
                return row
        raise Refusal(
            Code.DECISION_INVALID,
            "APL-26",
            f"the plan has no metric {stage_key}/{metric_key}",
            "name a stage and a metric of the plan",
            {"stage_key": stage_key, "metric_key": metric_key},
        )

    def diff(self) -> str:
        """Unified diff of writing every row that mode full would write."""
        parts: list[str] = []
        for file, before in self.contents.items():
            edits = [row.edit() for row in self.rows if row.file == file and row.writable]
            after = rewrite(before, file, edits) if edits else before
            parts += _diff(file, before.decode(), after.decode())
        return "".join(parts)


def _diff(file: str, before: str, after: str) -> Iterator[str]:
    """Unified diff in the form that ``git apply`` takes: lines end at a line feed only, a missing last one is noted."""
    old, new = ([line for line in re.split(r"(?<=\n)", text) if line] for text in (before, after))
    for line in unified_diff(old, new, f"a/{file}", f"b/{file}", n=1):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


@dataclass(frozen=True)
class Circumstances:
    """What is known of a run beside its numbers.

    ``outcomes`` is what pytest reported, ``before`` the threshold that (stage key, metric key) had while the run was
    measured where an apply has changed it since, ``allowed(test key, repeat, failure)`` by what a failure is accepted.
    ``lost`` says what worse value of (stage key, metric key) was measured whose files somebody changed or deleted.
    """

    outcomes: Outcomes = field(default_factory=dict[tuple[str, int], "PytestOutcome"])
    before: reading.Before = field(default_factory=dict[MetricKey, "Number | None"])
    allowed: Callable[[str, int, Failure], str] = lambda _test, _repeat, _failure: ""
    lost: Mapping[MetricKey, str] = field(default_factory=dict[MetricKey, str])


def build(
    repo_root: Path,
    audited: Audit,
    catalogue: Mapping[str, Stage] | None = None,
    circumstances: Circumstances | None = None,
) -> ApplyPlan:
    """Compute the plan of a run whose gates passed; ``audited`` must be strict-ready (the caller checked).

    ``catalogue`` are all stages of the model (default: the run's), for thresholds that others read too. Without
    ``circumstances`` no reading of an assertion can be held against pytest.
    """
    known, plan = circumstances or Circumstances(), audited.plan
    files = Files(repo_root)
    readers = Readers(files.assertions, plan.table(), catalogue or {})
    readings = reading.read(files, audited, known.before)
    by_test = reading.by_test(readings.values())
    rows: list[Row] = []
    for stage in audited.stages:
        if not stage.stage.is_docs:
            policy = plan.groups[stage.stage.group]
            for worst in worst_of_n(stage, policy):
                row = _row(worst, readings[stage.stage.key, worst.metric_key], policy)
                rows.append(_fillable(row, files))
    against = {
        row.key: reality.contradiction(readings[row.key], by_test[row.stage.test_key], known.outcomes) for row in rows
    }
    rows = [_asserted(row, against[row.key]) for row in rows]
    rows = [
        _doubted(_alone(row, readers), against[row.key], plan, known.lost.get(row.key, "")) for row in _unshared(rows)
    ]
    threshold_files = {row.file for row in rows}
    contents = {name: files.content(name) for name in files.modules if name in threshold_files}
    failed = reality.failed_tests(by_test, known.outcomes, known.allowed)
    plan_id = _plan_id(audited, files.modules, rows, failed)
    return ApplyPlan(plan_id, tuple(rows), contents, failed, unchecked=not known.outcomes)


def _fillable(row: Row, files: Files) -> Row:
    """A first value needs a place in the layout of its table, and no literal stands for a whole number too exact."""
    if row.blank is not None or (row.literal is not None and float(row.write_value) != row.write_value):
        try:
            rewrite(files.content(row.file), row.file, [row.edit()])
        except Refusal as refusal:
            return _unknown(row, refusal.message)
    return row


def _asserted(row: Row, contradicted: str) -> Row:
    """A reference compared from both sides, from the other one or in another unit is no bound: never written."""
    if contradicted:
        return replace(row, gate=Unread(contradicted, UnreadKind.UNCLEAR))
    why = ""
    if isinstance(row.gate, Unread) and row.gate.kind is UnreadKind.TWO_SIDED:
        why = f"{row.place} is no bound: {row.gate.reason}"
    elif isinstance(row.gate, Gate) and row.gate.worst != row.worst_op:
        why = (
            f"the test asserts {row.place} as {BOUND[row.gate.worst]} ({row.gate.how}), but the metric's worst is "
            f"{row.worst_op}: correct one of them, then run discover"
        )
    elif isinstance(row.gate, Gate) and doubts.other_unit(row.gate, row.write_value):
        why = (
            f"{row.place} is in another unit than the metric: with {row.write_value!r} the limit would be "
            f"{row.gate.limit(row.write_value):g} ({row.gate.how}); let the metric's path name a value in the unit of "
            "the constant, then run discover"
        )
    if not why:
        return row
    row = replace(row, gate=Unread(why, UnreadKind.DISAGREE))
    return _unknown(row, why) if row.place_known else row


def _unknown(row: Row, why: str) -> Row:
    return replace(
        row,
        literal=None,
        blank=None,
        current_raw=None,
        direction=Direction.UNKNOWN,
        decision="skip",
        reason=why,
        code=Code.THRESHOLD_UNKNOWN,
    )


def _row(worst: Worst, known: ThresholdReading, policy: GroupPolicy) -> Row:
    symbol, subkey = split_source(worst.source)
    place, trouble = known.located.place, known.located.trouble
    literal, blank = (place, None) if isinstance(place, NumberLiteral) else (None, place)
    found = direction(worst.worst_op, literal.value if literal else None, worst.write_value)
    found = Direction.FIRST if blank else found
    decision, reason = _smart(found, policy, worst.stage.group)
    return Row(
        stage_key=worst.stage.key,
        metric_key=worst.metric_key,
        stage_group=worst.stage.group,
        calibration_preset=worst.stage.calibration_preset,
        variant=worst.stage.variant,
        file=worst.stage.threshold_path,
        source=worst.source,
        source_kind="nested" if subkey else "bare",
        symbol=symbol,
        subkey=subkey,
        concurrency=known.located.load,
        worst_op=worst.worst_op,
        per_run_raw=worst.per_run_raw,
        worst_raw=worst.worst_raw,
        worst_rounded=worst.worst_rounded,
        write_value=worst.write_value,
        current_raw=literal.value if literal else None,
        direction=found,
        decision=decision,
        reason=trouble[1] if trouble else reason,
        worst=worst,
        literal=literal,
        blank=blank,
        code=trouble[0] if trouble else None,
        gate=known.read,
    )


def _unshared(rows: list[Row]) -> Iterator[Row]:
    """Two metrics that claim one literal are a conflict: neither value is right for both, so neither is written."""
    claims = Counter((row.file, row.place) for row in rows if row.place_known)
    for row in rows:
        if row.place_known and claims[(row.file, row.place)] > 1:
            others = ", ".join(
                "/".join(one.key) for one in rows if one is not row and one.place == row.place and one.file == row.file
            )
            why = f"{row.place} is the threshold of {others} too; let only one metric set it, then run discover"
            yield _unknown(row, why)
        else:
            yield row


def _alone(row: Row, readers: Readers) -> Row:
    """A threshold that an unmeasured test reads too is not tightened unless a person decides so."""
    if row.direction not in (Direction.TIGHTENS, Direction.FIRST):
        return row
    other = readers.unmeasured(row.file, row.source)
    if other is None:
        return row
    if row.direction is Direction.FIRST:
        return replace(row, reason=f"{row.reason}; {other} reads it too and was not measured in this run")
    return replace(row, decision="skip", reason=f"{other} reads it too and was not measured in this run")


def _doubted(row: Row, contradicted: str, plan: Plan, lost: str) -> Row:
    """The row with what a person must see first: with a doubt it is never written by a mode alone."""
    if not row.writable:
        return replace(row, reason=f"{row.reason}; {contradicted}") if contradicted else row
    found = tuple(doubts.find(row.worst, row.current_raw, row.direction, row.gate, contradicted, plan.repeats))
    if lost:
        found = (doubts.Doubt(doubts.DoubtKind.LOST, lost), *found)
    if isinstance(row.gate, Gate):
        stages = plan.tests()[row.stage.test_key]
        paths = {key: metric.json_path or "" for stage in stages for key, metric in stage.metrics.items()}
        found += tuple(doubts.other_value(row.worst, row.gate, paths))
    if not found:
        return row
    return replace(row, doubts=found, decision="ask", reason="; ".join(doubt.text for doubt in found))


def _smart(found: Direction, policy: GroupPolicy, group: str) -> tuple[Smart, str]:
    """Rules APL-05 and APL-17, in this order: unknown, equal, automatic, ask."""
    if found is Direction.UNKNOWN:
        return "skip", "the present value cannot be located; never edited"
    if found is Direction.EQUAL:
        return "skip", "already there"
    if found is Direction.FIRST:
        return "ask", "it has no value yet: its first value makes the test check it, so a person decides"
    if policy.smart == "auto":
        return "auto", f"{group} follows the worst of N"
    if policy.smart == "ask_loosening" and found is Direction.TIGHTENS:
        return "auto", f"{group} tightens"
    return "ask", f"{group} loosens: a person decides" if found is Direction.LOOSENS else "a person decides"


def artifacts(audited: Audit) -> dict[str, Json]:
    """Stage and repeat -> the digest of the artifact that was audited, None without one."""
    return {
        f"{stage.stage.key}/run{repeat}": cell.stored.sha256 if cell.stored else None
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
    }


def _plan_id(
    audited: Audit, modules: Mapping[str, ModuleConstants], rows: list[Row], failed: tuple[FailedTest, ...]
) -> str:
    plan = audited.plan
    files = {name: module.sha256 for name, module in modules.items()}
    # What others read can change a decision without changing one of these files.
    decided = [[*row.key, row.decision, row.reason] for row in rows]
    tests = [[one.text, one.allowed] for one in failed]
    return digest(
        [plan.run_id, plan.calibration_git_sha, plan.stages_sha256, artifacts(audited), files, decided, tests]
    )[:16]
