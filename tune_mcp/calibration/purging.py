"""Which repeats a caller of ``resume_run`` wants measured again, and which of them may be (GAP-05, GAP-11, RES-06)."""

from __future__ import annotations

from collections.abc import Sequence

from tune_mcp.contract.audit import Cell
from tune_mcp.contract.running import PurgeItem
from tune_mcp.discover.aliases import expand
from tune_mcp.errors import Code, Refusal
from tune_mcp.observe.audit import Audit
from tune_mcp.session.plan import Plan


def asked_for(plan: Plan, audited: Audit, items: Sequence[PurgeItem]) -> dict[tuple[str, int], str]:
    """(test key, repeat) -> reason. A repeat whose every stage is strict stays (RES-06)."""
    found: dict[tuple[str, int], str] = {}
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
        siblings = [by_key[stage.key].cells[item.repeat - 1] for stage in plan.tests()[test]]
        if all(cell.cell is Cell.STRICT for cell in siblings):
            raise Refusal(
                Code.REPEAT_IS_STRICT,
                ("RES-06", "STR-20"),
                f"{test} run {item.repeat} is strict-complete; no measurement is dropped for its value",
                "leave it; worst-of-N needs every valid repeat",
                {"stage": item.stage, "repeat": item.repeat},
            )
        found[(test, item.repeat)] = item.reason.strip()
    return found
