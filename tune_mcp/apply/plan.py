"""The apply plan: per metric, what stands in the file, what would be written, and what that would do to CI.

Table, direction and edit all come from this one object, so they cannot disagree. Nothing here writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Literal

from tune_mcp.apply.literals import Edit, rewrite
from tune_mcp.config.metrics import GroupPolicy
from tune_mcp.config.stages import Stage, WorstOp
from tune_mcp.discover.constants import ModuleConstants, NumberLiteral, parse_module, split_source
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import digest, inside
from tune_mcp.observe.audit import Audit
from tune_mcp.observe.worst import Direction, Number, Worst, direction, worst_of_n
from tune_mcp.session.plan import Plan

Decision = Literal["auto", "skip", "ask"]
CONCURRENCY_SYMBOL = "CONCURRENCY"


@dataclass(frozen=True)
class Row:
    """One metric of the plan; the fields are the contract's (section 2, tool 11).

    ``decision`` is what mode smart does: write (auto), leave (skip), or ask a person (ask). ``reason`` says why.
    ``literal`` is where the present value stands, None when it cannot be located beyond doubt.
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
            parts += unified_diff(
                before.decode(errors="replace").splitlines(keepends=True),
                after.decode(errors="replace").splitlines(keepends=True),
                f"a/{file}",
                f"b/{file}",
                n=1,
            )
        return "".join(parts)


def writable(row: Row) -> bool:
    """Whether any mode may write the row: its literal is known, and it would change."""
    return row.direction in (Direction.TIGHTENS, Direction.LOOSENS)


def build(repo_root: Path, plan: Plan, audited: Audit) -> ApplyPlan:
    """Compute the plan of a run whose gates passed; ``audited`` must be strict-ready (the caller checked)."""
    contents: dict[str, bytes] = {}
    modules: dict[str, ModuleConstants] = {}

    def module(name: str) -> ModuleConstants:
        if name not in modules:
            contents[name] = inside(repo_root, name).read_bytes()
            modules[name] = parse_module(contents[name], name)
        return modules[name]

    rows: list[Row] = []
    threshold_files: set[str] = set()
    for stage in audited.stages:
        if stage.stage.is_docs:
            continue
        threshold_files.add(stage.stage.threshold_path)
        concurrency = _concurrency(module(stage.stage.test), module(stage.stage.threshold_path))
        policy = plan.groups[stage.stage.group]
        rows += [
            _row(worst, module(stage.stage.threshold_path), concurrency, policy, plan)
            for worst in worst_of_n(stage, policy)
        ]
    threshold_contents = {name: contents[name] for name in contents if name in threshold_files}
    return ApplyPlan(_plan_id(plan, audited, modules), tuple(rows), threshold_contents)


def _concurrency(*places: ModuleConstants) -> int | None:
    for place in places:
        value = place.number(CONCURRENCY_SYMBOL)
        if isinstance(value, int):
            return value
    return None


def _row(worst: Worst, module: ModuleConstants, concurrency: int | None, policy: GroupPolicy, plan: Plan) -> Row:
    symbol, subkey = split_source(worst.source)
    literal: NumberLiteral | None = None
    trouble = _forbidden(symbol, worst.stage, plan)
    if not trouble:
        try:
            literal = module.find(worst.source, concurrency if subkey else None)
        except Refusal as refusal:
            trouble = refusal.message
    found = direction(worst.worst_op, literal.value if literal else None, worst.write_value)
    decision, reason = _smart(found, policy, worst.stage.group)
    return Row(
        worst=worst,
        file=module.path,
        source_kind="nested" if subkey else "bare",
        symbol=symbol,
        subkey=subkey,
        concurrency=literal.concurrency if literal else (concurrency if subkey else None),
        literal=literal,
        direction=found,
        decision=decision,
        reason=trouble or reason,
    )


def _forbidden(symbol: str, stage: Stage, plan: Plan) -> str:
    bare = symbol.lstrip("_")
    if any(re.fullmatch(pattern, name) for pattern in plan.protected for name in (symbol, bare)):
        return f"{Code.PROTECTED_CONSTANT}: {symbol} fixes the sample scope or the load; it is never written (SMP-09)"
    if stage.test_key in plan.report_only:
        preset = stage.calibration_preset
        return f"{Code.PROTECTED_CONSTANT}: gate_thresholds of preset {preset} is false; it is report only (TTS-09)"
    pattern = plan.preset_filters.get(stage.test_key)
    if pattern and not re.search(pattern, bare):
        return f"{Code.PRESET_MISMATCH}: {symbol} does not belong to preset {stage.calibration_preset} (TTS-07)"
    return ""


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


def _plan_id(plan: Plan, audited: Audit, modules: dict[str, ModuleConstants]) -> str:
    artifacts = {
        f"{stage.stage.key}/run{repeat}": cell.stored.sha256 if cell.stored else None
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
    }
    files = {name: module.sha256 for name, module in modules.items()}
    return digest([plan.run_id, plan.calibration_git_sha, plan.stages_sha256, artifacts, files])[:16]
