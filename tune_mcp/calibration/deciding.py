"""What a person is asked about an apply plan, and which answers can stand (rules APL-04, APL-05, APL-12, APL-13)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from tune_mcp.apply import plan as plans
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.calibration.project import Project
from tune_mcp.config.stages import Number
from tune_mcp.contract.applying import MODES, Decision, Mode
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.observe.worst import Direction
from tune_mcp.report.figures import direction_text


def open_questions(proposal: ApplyPlan, mode: Mode, decided: Mapping[tuple[str, str], Decision]) -> tuple[Row, ...]:
    """The rows that a person still has to decide: in mode smart every loosening one without a decision (APL-05)."""
    if mode != "smart":
        return ()
    return tuple(row for row in proposal.rows if row.decision == "ask" and row.key not in decided)


def summary(proposal: ApplyPlan, mode: Mode) -> str:
    """What agreeing would do, in one sentence for the question."""
    loosens = sum(row.direction is Direction.LOOSENS for row in proposal.rows)
    tightens = sum(row.direction is Direction.TIGHTENS for row in proposal.rows)
    asks = len(open_questions(proposal, mode, {}))
    more = f", {asks} of them asked about one by one" if asks else ""
    return f"{tightens} value(s) tighten CI, {loosens} loosen it{more}."


def question(row: Row, plan_id: str) -> str:
    """The question for one loosening metric (APL-12); the plan id in it makes a changed plan ask again."""
    runs = ", ".join(repr(value) for value in row.worst.per_run_raw)
    change = direction_text(row.worst_op, row.current_raw, row.write_value)
    return (
        f"{row.stage.key}: {row.place} in {row.file} {change}.\nobserved per run: {runs}\n"
        f"present value: {row.current_raw!r}, worst of N: {row.write_value!r}\n"
        f"keep the present value, apply the worst of N, or give a custom value? (plan {plan_id})"
    )


def checked_mode(mode: str) -> Mode:
    """One of the three modes. Raises INVALID_ARGUMENT."""
    for known in MODES:
        if mode == known:
            return known
    raise Refusal(
        Code.INVALID_ARGUMENT,
        "APL-04",
        f"there is no mode {mode!r}",
        "choose report, smart or full",
        {"argument": "mode"},
    )


def terminal(project: Project, run_id: str) -> str:
    """How a person at a terminal does the same."""
    return f"tune-mcp apply {run_id} --repo {project.repo_root}"


def checked_decisions(proposal: ApplyPlan, decisions: Sequence[Decision]) -> dict[tuple[str, str], Decision]:
    """Each decision checked against the plan. Raises DECISION_INVALID or THRESHOLD_UNKNOWN."""
    found: dict[tuple[str, str], Decision] = {}
    for decision in decisions:
        row = proposal.row(decision.stage_key, decision.metric_key)
        if row.key in found:
            raise _bad(row, "is decided twice")
        if row.code is not None and decision.choice != "keep":
            raise Refusal(row.code, "APL-17", f"{row.place}: {row.reason}", "leave it, or mend the file")
        if decision.choice == "custom":
            custom_value(row, decision)
        elif decision.value is not None:
            raise _bad(row, f"has a value, but the choice is {decision.choice}")
        found[row.key] = decision
    return found


def _bad(row: Row, what: str) -> Refusal:
    facts: dict[str, Json] = {"stage_key": row.stage.key, "metric_key": row.worst.metric_key}
    return Refusal(
        Code.DECISION_INVALID, ("APL-13", "APL-11"), f"{'/'.join(row.key)} {what}", "give that decision again", facts
    )


_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")


def custom_value(row: Row, decision: Decision) -> tuple[Number, str]:
    """The value of a custom decision and the text that is written verbatim; never tighter than observed."""
    text = repr(decision.value) if isinstance(decision.value, int | float) else (decision.value or "").strip()
    if not _NUMBER.fullmatch(text):
        raise _bad(row, f"needs a finite number as custom value, not {decision.value!r}")
    try:
        whole = text.lstrip("+-").replace("_", "").isdecimal()
        value: Number = int(text) if whole else float(text)
        finite = math.isfinite(value)
    except (ValueError, OverflowError):
        value, finite = 0, False
    if not finite:
        raise _bad(row, "needs a finite number as custom value")
    worst = row.worst.worst_raw
    if value > worst if row.worst_op == "min" else value < worst:
        raise _bad(row, f"custom value {text} is tighter than the observed worst {worst!r}; CI would fail at once")
    return value, text


def chosen_values(
    proposal: ApplyPlan, mode: Mode, decided: Mapping[tuple[str, str], Decision]
) -> dict[tuple[str, str], tuple[Number, str | None]]:
    """What each row becomes: the number, and the verbatim text of a person's own one."""
    values: dict[tuple[str, str], tuple[Number, str | None]] = {}
    for row in proposal.rows:
        decision = decided.get(row.key)
        if not row.literal or (decision and decision.choice == "keep"):
            continue
        if decision and decision.choice == "custom":
            values[row.key] = custom_value(row, decision)
        elif decision or (plans.writable(row) and (mode == "full" or row.decision == "auto")):
            values[row.key] = (row.write_value, None)
    return values
