"""Which repeats a caller of ``resume_run`` wants measured again, and which of them may be (GAP-05, GAP-11, RES-06).

A strict repeat stays: no measurement is dropped for its value. A person who holds one to be disturbed may replace it;
an agent may not, so the word must come through the client's question or from the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.discover.aliases import expand
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.observe.audit import Audit, AuditedCell
from tune_mcp.session.plan import Plan

Repeat = tuple[str, int]
"""A pytest repeat: test key and number, from 1."""


@dataclass(frozen=True)
class Purge:
    """One repeat to measure again. ``strict``: it is complete, so only a person may replace it."""

    test: str
    repeat: int
    stage: str
    reason: str
    strict: bool

    @property
    def key(self) -> Repeat:
        """Which repeat it is."""
        return self.test, self.repeat


def asked_for(plan: Plan, audited: Audit, items: Sequence[PurgeItem]) -> dict[Repeat, Purge]:
    """What ``items`` name, by (test key, repeat). Raises UNKNOWN_STAGE or INVALID_ARGUMENT."""
    found: dict[Repeat, Purge] = {}
    by_key = {stage.stage.key: stage for stage in audited.stages}
    for item in items:
        if item.stage not in by_key:
            expand([item.stage], plan.table())
            raise Refusal(
                Code.UNKNOWN_STAGE,
                "STG-01",
                f"purge needs one stage key, not the alias {item.stage!r}",
                f"name one of: {', '.join(list(by_key)[:6])}",
            )
        if isinstance(item.repeat, bool) or not 1 <= item.repeat <= plan.repeats or not item.reason.strip():
            raise Refusal(
                Code.INVALID_ARGUMENT,
                "GAP-11",
                f"purge of {item.stage} needs a repeat from 1 to {plan.repeats} and a reason",
                "give {stage, repeat, reason}",
                {"argument": "purge"},
            )
        test = by_key[item.stage].stage.test_key
        cells = _cells(plan, audited, (test, item.repeat)).values()
        strict = all(cell.cell is Cell.STRICT for cell in cells)
        found[(test, item.repeat)] = Purge(test, item.repeat, item.stage, item.reason.strip(), strict)
    return found


def demand_person(purges: dict[Repeat, Purge], person: str | None) -> None:
    """Raises REPEAT_IS_STRICT for a strict repeat without a ``person`` who agreed to replace it."""
    strict = [one for one in purges.values() if one.strict]
    if not strict or person is not None:
        return
    named = ", ".join(f"{one.test} run {one.repeat}" for one in strict)
    listed: list[Json] = [{"stage": one.stage, "repeat": one.repeat} for one in strict]
    raise Refusal(
        Code.REPEAT_IS_STRICT,
        ("RES-06", "STR-20"),
        f"{named} {'is' if len(strict) == 1 else 'are'} strict-complete, as recorded or in its sealed files; "
        "no measurement is dropped for its value",
        "leave it: worst-of-N needs every valid repeat. A person who considers it disturbed may replace it, through "
        "a client that can ask or at a terminal: tune-mcp resume RUN --purge STAGE:REPEAT:REASON",
        {"stage": strict[0].stage, "repeat": strict[0].repeat, "strict": listed},
    )


def question(plan: Plan, audited: Audit, purge: Purge) -> str:
    """What a person is asked before a strict repeat is replaced: its values beside those of the other repeats."""
    lines = [
        f"{plan.run_id}: replace repeat {purge.repeat} of {purge.test}? It is complete and counts; worst-of-N is only "
        f"honest when no repeat is dropped for its value. Reason given: {purge.reason}."
    ]
    for stage in plan.tests()[purge.test]:
        cells = next(one.cells for one in audited.stages if one.stage.key == stage.key)
        for metric in stage.metrics:
            values = [_value(cell, metric) for cell in cells]
            others = ", ".join(value for number, value in enumerate(values, 1) if number != purge.repeat)
            lines.append(f"{stage.key}/{metric}: {values[purge.repeat - 1]} here, others {others or 'none'}")
    lines.append("Its values, the reason and your answer stay in the report; the repeat is measured again.")
    return "\n".join(lines)


def _cells(plan: Plan, audited: Audit, repeat: Repeat) -> dict[str, AuditedCell]:
    keys = {stage.key for stage in plan.tests()[repeat[0]]}
    return {one.stage.key: one.cells[repeat[1] - 1] for one in audited.stages if one.stage.key in keys}


def _value(cell: AuditedCell, metric: str) -> str:
    value = cell.stored.content.metrics.get(metric) if cell.stored else None
    return "—" if value is None else repr(value)
