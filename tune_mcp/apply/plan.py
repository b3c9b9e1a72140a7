"""The apply plan: per metric, what stands in the file, what would be written, and what that would do to CI.

Table, direction and edit all come from this one object, so they cannot disagree. Nothing here writes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import unified_diff
from pathlib import Path
from typing import Literal

from tune_mcp.apply import doubts
from tune_mcp.apply.doubts import Doubt
from tune_mcp.apply.literals import Edit, rewrite
from tune_mcp.apply.readers import Readers
from tune_mcp.config.policy import GroupPolicy
from tune_mcp.config.stages import Number, Stage, WorstOp
from tune_mcp.discover.constants import ModuleConstants, NumberLiteral, parse_module, split_source
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import digest, inside, read_plain
from tune_mcp.observe.audit import Audit
from tune_mcp.observe.worst import Direction, Worst, direction, worst_of_n
from tune_mcp.session.plan import Plan

Decision = Literal["auto", "skip", "ask"]
CONCURRENCY_SYMBOL = "CONCURRENCY"


@dataclass(frozen=True)
class Row:
    """One metric of the plan; the fields are the contract's (section 2, tool 11).

    ``decision`` is what mode smart does: write (auto), leave (skip), or ask a person (ask). ``reason`` says why.
    ``literal`` is where the present value stands, None when it cannot be located beyond doubt; ``code`` is then the
    refusal of whoever asks for an edit. ``doubts`` are what a person must see before the value is written.
    """

    worst: Worst
    file: str
    source_kind: Literal["bare", "nested"]
    symbol: str
    subkey: str | None
    concurrency: int | None
    literal: NumberLiteral | None
    direction: Direction
    decision: Decision
    reason: str
    code: Code | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def stage(self) -> Stage:
        """The stage that the metric belongs to."""
        return self.worst.stage

    @property
    def key(self) -> tuple[str, str]:
        """(stage key, metric key): how a decision names the row."""
        return self.stage.key, self.worst.metric_key

    @property
    def worst_op(self) -> WorstOp:
        """``min`` for a lower bound, ``max`` for an upper bound."""
        return self.worst.worst_op

    @property
    def write_value(self) -> Number:
        """The number to write."""
        return self.worst.write_value

    @property
    def current_raw(self) -> Number | None:
        """The number that stands in the file now; None when unknown."""
        return self.literal.value if self.literal else None

    @property
    def place_known(self) -> bool:
        """Whether there is a place in the file that the plan may write to."""
        return self.literal is not None

    @property
    def place(self) -> str:
        """The source with the concurrency resolved: ``_X_P95[8]['throughput_qps']`` (APL-20)."""
        if self.subkey is None or self.concurrency is None:
            return self.worst.source
        return f"{self.symbol}[{self.concurrency}]['{self.subkey}']"

    def edit(self, value: Number | None = None, text: str | None = None) -> Edit:
        """The edit that writes ``value`` (default: the plan's) over the present literal."""
        if self.literal is None:
            raise ValueError(f"{self.place} has no literal to replace")
        return Edit(
            source=self.worst.source,
            concurrency=self.concurrency,
            old_token=self.literal.token,
            old_value=self.literal.value,
            new_value=self.write_value if value is None else value,
            new_text=text,
        )


@dataclass(frozen=True)
class ApplyPlan:
    """All rows, the bytes of the files they were read from, and the digest that binds a later ``apply`` to them."""

    plan_id: str
    rows: tuple[Row, ...]
    contents: dict[str, bytes]

    def row(self, stage_key: str, metric_key: str) -> Row:
        """The row a decision names. Raises DECISION_INVALID."""
        for row in self.rows:
            if row.key == (stage_key, metric_key):
                return row
        raise Refusal(
            Code.DECISION_INVALID,
            "APL-26",
            f"the plan has no metric {stage_key}/{metric_key}",
            "name a stage_key and metric_key of apply_plan",
            {"stage_key": stage_key, "metric_key": metric_key},
        )

    def diff(self, rows: tuple[Row, ...] | None = None) -> str:
        """Unified diff of writing ``rows`` (default: every row that mode full would write)."""
        chosen = self.rows if rows is None else rows
        parts: list[str] = []
        for file, before in self.contents.items():
            edits = [row.edit() for row in chosen if row.file == file and row.literal and writable(row)]
            after = rewrite(before, file, edits) if edits else before
            parts += _diff(file, before.decode(), after.decode())
        return "".join(parts)


def _diff(file: str, before: str, after: str) -> Iterator[str]:
    """Unified diff in the form that ``git apply`` takes: lines end at a line feed only, a missing last one is told."""
    old, new = ([line for line in re.split(r"(?<=\n)", text) if line] for text in (before, after))
    for line in unified_diff(old, new, f"a/{file}", f"b/{file}", n=1):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def writable(row: Row) -> bool:
    """Whether a mode writes the row without a person's word on it: its literal is known, and it would change."""
    return row.decision != "skip"


def build(
    repo_root: Path,
    plan: Plan,
    audited: Audit,
    catalogue: Mapping[str, Stage] | None = None,
) -> ApplyPlan:
    """Compute the plan of a run whose gates passed; ``audited`` must be strict-ready (the caller checked).

    ``catalogue`` are all stages of the model (default: the run's), for thresholds that others read too.
    """
    files = _Files(repo_root)
    readers = Readers(repo_root, plan.table(), catalogue or {})
    rows: list[Row] = []
    threshold_files: set[str] = set()
    for stage in audited.stages:
        if stage.stage.is_docs:
            continue
        thresholds = files.module(stage.stage.threshold_path)
        threshold_files.add(thresholds.path)
        concurrency = Concurrency(files.module(stage.stage.test), thresholds)
        policy = plan.groups[stage.stage.group]
        rows += [_row(worst, thresholds, concurrency, policy, plan) for worst in worst_of_n(stage, policy)]
    rows = [_doubted(_alone(row, readers), plan) for row in _unshared(rows)]
    contents = {name: files.contents[name] for name in files.contents if name in threshold_files}
    return ApplyPlan(_plan_id(plan, audited, files.modules, rows), tuple(rows), contents)


@dataclass
class _Files:
    """The files that a plan is made of, each read and parsed once."""

    repo_root: Path
    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])
    modules: dict[str, ModuleConstants] = field(default_factory=dict[str, ModuleConstants])

    def module(self, name: str) -> ModuleConstants:
        if name not in self.modules:
            try:
                self.contents[name] = read_plain(inside(self.repo_root, name))
            except ValueError as error:
                raise Refusal(
                    Code.OUTSIDE_REPO, "APL-24", str(error), "put the repository's files back as they were"
                ) from error
            self.modules[name] = parse_module(self.contents[name], name)
        return self.modules[name]


@dataclass(frozen=True)
class Concurrency:
    """At which concurrency a stage's nested thresholds are read: what the symbol says, checked against the code."""

    test: ModuleConstants
    thresholds: ModuleConstants

    def value(self) -> int | None:
        """The number of the symbol ``CONCURRENCY``, in the test file before the threshold file."""
        values = (place.number(CONCURRENCY_SYMBOL) for place in (self.test, self.thresholds))
        return next((value for value in values if isinstance(value, int)), None)

    def read_at(self, symbol: str) -> set[int]:
        """Every index at which either file reads ``symbol[index]``, as far as it is a number there."""
        found: set[int] = set()
        for place in (self.test, self.thresholds):
            for index in place.indexed.get(symbol, ()):
                value = place.number(index) if isinstance(index, str) else index
                found |= {value} if isinstance(value, int) else set()
        return found


def _row(
    worst: Worst,
    module: ModuleConstants,
    concurrency: Concurrency,
    policy: GroupPolicy,
    plan: Plan,
) -> Row:
    symbol, subkey = split_source(worst.source)
    literal, trouble = locate(worst.source, worst.stage, module, concurrency, plan)
    found = direction(worst.worst_op, literal.value if literal else None, worst.write_value)
    decision, reason = _smart(found, policy, worst.stage.group)
    return Row(
        worst=worst,
        file=module.path,
        source_kind="nested" if subkey else "bare",
        symbol=symbol,
        subkey=subkey,
        concurrency=literal.concurrency if literal else (concurrency.value() if subkey else None),
        literal=literal,
        direction=found,
        decision=decision,
        reason=trouble[1] if trouble else reason,
        code=trouble[0] if trouble else None,
    )


Trouble = tuple[Code, str]
"""Why a literal may not be written: the code of the refusal and one sentence."""


def locate(
    source: str, stage: Stage, module: ModuleConstants, concurrency: Concurrency, plan: Plan
) -> tuple[NumberLiteral | None, Trouble | None]:
    """The literal that is the threshold ``source`` of ``stage``, or why there is none that the plan may write."""
    symbol, subkey = split_source(source)
    if trouble := _forbidden(symbol, stage, plan):
        return None, trouble
    try:
        literal = module.find(source, concurrency.value() if subkey else None)
    except Refusal as refusal:
        return None, (refusal.code, refusal.message)
    read_at = concurrency.read_at(symbol) if subkey else set[int]()
    if read_at and literal.concurrency not in read_at:
        at = ", ".join(map(str, sorted(read_at)))
        why = f"the code reads {symbol}[{at}], not {symbol}[{literal.concurrency}] (APL-16)"
        return None, (Code.THRESHOLD_UNKNOWN, why)
    return literal, None


def _unshared(rows: list[Row]) -> Iterator[Row]:
    """Two metrics that claim one literal are a conflict: neither value is right for both, so neither is written."""
    claims = Counter((row.file, row.literal.start) for row in rows if row.literal)
    for row in rows:
        if row.literal and claims[(row.file, row.literal.start)] > 1:
            others = ", ".join(
                "/".join(one.key)
                for one in rows
                if one is not row and one.literal == row.literal and one.file == row.file
            )
            why = f"{row.place} is the threshold of {others} too; let one metric alone feed it, then run discover"
            yield replace(
                row,
                literal=None,
                direction=Direction.UNKNOWN,
                decision="skip",
                reason=why,
                code=Code.THRESHOLD_UNKNOWN,
            )
        else:
            yield row


def _alone(row: Row, readers: Readers) -> Row:
    """A threshold that an unmeasured test reads too is not tightened unless a person says so."""
    if row.direction is not Direction.TIGHTENS:
        return row
    other = readers.unmeasured(row.file, row.worst.source)
    if other is None:
        return row
    return replace(row, decision="skip", reason=f"{other} reads it too and was not measured in this run")


def _doubted(row: Row, plan: Plan) -> Row:
    """The row with what a person must see first: with a doubt it is never written by a mode alone."""
    if not writable(row):
        return row
    found = tuple(doubts.find(row.worst, plan.repeats))
    if not found:
        return row
    return replace(row, doubts=found, decision="ask", reason="; ".join(doubt.text for doubt in found))


def _forbidden(symbol: str, stage: Stage, plan: Plan) -> Trouble | None:
    bare = symbol.lstrip("_")
    if any(re.fullmatch(pattern, name) for pattern in plan.protected for name in (symbol, bare)):
        code = Code.PROTECTED_CONSTANT
        return code, f"{code}: {symbol} fixes the sample scope or the load; it is never written (SMP-09)"
    if stage.test_key in plan.report_only:
        preset = stage.calibration_preset
        code = Code.PROTECTED_CONSTANT
        return code, f"{code}: gate_thresholds of preset {preset} is false; it is report only (TTS-09)"
    pattern = plan.preset_filters.get(stage.test_key)
    if pattern and not re.match(pattern, bare):
        code = Code.PRESET_MISMATCH
        return code, f"{code}: {symbol} does not belong to preset {stage.calibration_preset} (TTS-07)"
    return None


def _smart(found: Direction, policy: GroupPolicy, group: str) -> tuple[Decision, str]:
    """Rules APL-05 and APL-17, in this order: unknown, equal, automatic, ask."""
    if found is Direction.UNKNOWN:
        return "skip", "the present value cannot be located; never edited"
    if found is Direction.EQUAL:
        return "skip", "already there"
    if policy.smart == "auto":
        return "auto", f"{group} follows the worst of N"
    if policy.smart == "ask_loosening" and found is Direction.TIGHTENS:
        return "auto", f"{group} tightens"
    return "ask", f"{group} loosens: a person decides" if found is Direction.LOOSENS else "a person decides"


def _plan_id(plan: Plan, audited: Audit, modules: Mapping[str, ModuleConstants], rows: list[Row]) -> str:
    artifacts = {
        f"{stage.stage.key}/run{repeat}": cell.stored.sha256 if cell.stored else None
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
    }
    files = {name: module.sha256 for name, module in modules.items()}
    # What others read can change a decision without changing one of these files.
    decided = [[*row.key, row.decision, row.reason] for row in rows]
    return digest([plan.run_id, plan.calibration_git_sha, plan.stages_sha256, artifacts, files, decided])[:16]
