"""What a person is asked about an apply plan, and which answers can stand (rules APL-04, APL-05, APL-12, APL-13)."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from tune_mcp.apply import doubts
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.config.stages import MetricKey, Number
from tune_mcp.contract.apply import CHOICES, Decision, Mode, Otherwise
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.contract.report import FailedTest
from tune_mcp.discover.assertions import Gate
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.verbs.project import Project
from tune_mcp.words import listed, number_of

_LISTED_IN_FULL = (Direction.LOOSENS, Direction.FIRST)
_LISTED = 40
_LONGEST_LIST = 4500
"""Characters of ready decisions in a refusal's text; a longer list stands in its details alone."""


def wants_word(row: Row, mode: Mode) -> bool:
    """Whether a person must say something about the row before ``mode`` may write it.

    In smart every row that is asked about, in full every one that loosens, that would get its first value (CI begins to
    gate on it), or that the plan has a doubt about.
    """
    if mode == "report" or not row.writable:
        return False
    return row.decision == "ask" if mode == "smart" else row.direction in _LISTED_IN_FULL or bool(row.doubts)


def open_questions(plan: ApplyPlan, mode: Mode, decided: Mapping[MetricKey, Decision]) -> tuple[Row, ...]:
    """The rows that a person still has to decide (APL-05)."""
    return tuple(row for row in plan.rows if wants_word(row, mode) and row.key not in decided)


def asked_one_by_one(plan: ApplyPlan, mode: Mode) -> tuple[Row, ...]:
    """The rows with a question of their own; who agrees to full has been shown what merely loosens."""
    rows = open_questions(plan, mode, {})
    return rows if mode == "smart" else tuple(row for row in rows if row.doubts)


def agreed_with_mode(plan: ApplyPlan, mode: Mode, decided: Mapping[MetricKey, Decision]) -> list[Decision]:
    """What a person decided by agreeing to ``mode`` after reading ``summary``: in full, all that merely loosens."""
    single = {row.key for row in asked_one_by_one(plan, mode)}
    rows = (row for row in open_questions(plan, mode, decided) if row.key not in single)
    return [_decision(row, "apply") for row in rows] if mode == "full" else []


def completed(
    plan: ApplyPlan, mode: Mode, decided: Mapping[MetricKey, Decision], otherwise: Otherwise | None
) -> dict[MetricKey, Decision]:
    """``decided``, with the standing word for every open question that it does not answer."""
    if otherwise is None:
        return {**decided}
    return {**decided, **{row.key: _decision(row, otherwise) for row in open_questions(plan, mode, decided)}}


def _decision(row: Row, choice: Otherwise) -> Decision:
    return Decision(stage_key=row.stage_key, metric_key=row.metric_key, choice=choice)


def summary(plan: ApplyPlan, mode: Mode) -> str:
    """What agreeing would do: counts, then every value that loosens or that the plan has a doubt about."""
    loosens = sum(row.direction is Direction.LOOSENS for row in plan.rows)
    tightens = sum(row.direction is Direction.TIGHTENS for row in plan.rows)
    asks = len(asked_one_by_one(plan, mode))
    text = f"tighten CI: {tightens}, loosen it: {loosens}"
    first = sum(row.direction is Direction.FIRST for row in plan.rows)
    text += f", get their first value: {first}" if first else ""
    text += f", asked about one by one: {asks}." if asks else "."
    lines = [movement(row) for row in plan.rows if wants_word(row, "full")]
    more = [f"… and {len(lines) - _LISTED} more, see the report"] if len(lines) > _LISTED else []
    return "\n".join([text, *lines[:_LISTED], *more])


def movement(row: Row) -> str:
    """``stage/metric: 0.3 -> 0.28, loosens (+7.1%)``."""
    return f"{'/'.join(row.key)}: {_present(row)} -> {row.write_value!r}, {row.change()}"


def _present(row: Row) -> str:
    return "no value" if row.current_raw is None else repr(row.current_raw)


def question(rows: Sequence[Row], plan_id: str) -> str:
    """The question for one metric (APL-12) or several; the plan id in it makes a changed plan ask again."""
    facts = [_facts(row) for row in rows]
    if len(facts) == 1:
        return f"{facts[0]}\nkeep the present value, apply the worst of N, or give a custom value? (plan {plan_id})"
    numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(facts, 1))
    return (
        f"{len(facts)} metrics: for each, keep the present value, apply the worst of N, or give a custom value? "
        f"(plan {plan_id})\n{numbered}"
    )


def _facts(row: Row) -> str:
    runs = ", ".join(repr(value) for value in row.per_run_raw)
    remarks = "".join(f"\n{doubt.text}" for doubt in row.doubts)
    return (
        f"{row.stage_key}: {row.place} in {row.file} {row.change()}.\nobserved per run: {runs}\n"
        f"present value: {_present(row)}, worst of N: {row.write_value!r}{remarks}"
    )


def ready(rows: Iterable[Row]) -> tuple[Decision, ...]:
    """The open rows as ``decisions`` takes them, each on ``keep``: to be edited and passed back."""
    return tuple(_decision(row, "keep") for row in sorted(rows, key=lambda row: not row.doubts))


def _asked(row: Row) -> str:
    """Why the row needs a word; what smart writes by itself is asked about in full because it loosens."""
    if row.decision != "auto":
        return row.reason
    return f"{row.current_raw!r} -> {row.write_value!r} {row.change()}"


def missing(project: Project, run_id: str, rows: Sequence[Row]) -> Refusal:
    """DECISION_MISSING with the ready JSON of all that is open."""
    kind = "loosening metric" if all(row.direction is Direction.LOOSENS for row in rows) else "metric"
    why = listed([f"{'/'.join(row.key)}: {_asked(row)}" for row in rows], 6)
    decisions: list[Json] = [one.model_dump(exclude_none=True) for one in ready(rows)]
    shown = json.dumps(decisions)
    if len(shown) > _LONGEST_LIST:
        shown = f"the {len(decisions)} entries of details.decisions, edited"
    return Refusal(
        Code.DECISION_MISSING,
        ("APL-05", "APL-12"),
        f"a person must decide about {number_of(len(rows), kind)}: {why}",
        "let the user choose keep, apply or custom (with value) for each and pass "
        f"decisions={shown}; otherwise=keep or otherwise=apply is the user's word on all that "
        f"decisions does not name. A person may also run: {terminal(project, run_id)}",
        {
            "missing": [{"stage_key": row.stage_key, "metric_key": row.metric_key} for row in rows],
            "decisions": decisions,
            "choices": [*CHOICES],
            "reasons": {"/".join(row.key): _asked(row) for row in rows},
        },
    )


def failing(plan: ApplyPlan) -> tuple[FailedTest, ...]:
    """The failures that no threshold explains and that config does not accept."""
    return tuple(one for one in plan.failed_tests if one.open)


def failures_question(plan: ApplyPlan, run_id: str) -> str:
    """What a person agrees to who writes thresholds although these tests fail."""
    lines = "\n".join(one.text for one in failing(plan))
    return (
        f"Plan {plan.plan_id} of {run_id}: these tests failed, and no threshold is known to be the reason. CI "
        f"would then be red whatever is written:\n{lines}\nWrite the thresholds anyway?"
    )


def tests_failed(project: Project, run_id: str, failed: Sequence[FailedTest]) -> Refusal:
    """TEST_FAILED: nobody agreed to these failures."""
    named = listed([one.text for one in failed])
    return Refusal(
        Code.TEST_FAILED,
        ("RTY-04", "SCP-06"),
        f"{number_of(len(failed), 'test failure')} that no threshold explains, so CI would be red whatever is written: "
        f"{named}",
        f"fix the tests and measure again, or name them in allowed_pytest_failure of config.yaml; a person may agree: "
        f"{terminal(project, run_id)}",
        {
            "failed_tests": [
                {"test": one.nodeid, "when": one.when, "message": one.message, "repeats": [*one.repeats]}
                for one in failed
            ]
        },
    )


def terminal(project: Project, run_id: str) -> str:
    """How a person at a terminal does the same."""
    return f"tune-mcp apply {run_id} --repo {shlex.quote(str(project.repo_root))}"


def checked_decisions(plan: ApplyPlan, decisions: Sequence[Decision]) -> dict[MetricKey, Decision]:
    """Each decision checked against the plan. Raises DECISION_INVALID or the row's own code, all errors at once."""
    found, wrong = _judged(plan, decisions)
    if len(wrong) == 1:
        raise wrong[0][1]
    if wrong:
        raise Refusal(
            Code.DECISION_INVALID,
            tuple(dict.fromkeys(rule for _, one in wrong for rule in one.rules)),
            f"{len(wrong)} decisions are not valid: " + "; ".join(one.message for _, one in wrong),
            "correct each of them and call again",
            {"errors": [one.data() for _, one in wrong]},
        )
    return found


def invalid(plan: ApplyPlan, decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions that ``checked_decisions`` refuses."""
    return [one for one, _ in _judged(plan, decisions)[1]]


def _judged(
    plan: ApplyPlan, decisions: Sequence[Decision]
) -> tuple[dict[MetricKey, Decision], list[tuple[Decision, Refusal]]]:
    found: dict[MetricKey, Decision] = {}
    wrong: list[tuple[Decision, Refusal]] = []
    for decision in decisions:
        try:
            row = _checked(plan, decision)
            if row.key in found:
                raise _bad(row, "is decided twice")
            found[row.key] = decision
        except Refusal as refusal:
            wrong.append((decision, refusal))
    return found, wrong


def _checked(plan: ApplyPlan, decision: Decision) -> Row:
    row = plan.row(*decision.key)
    if row.code is not None and decision.choice != "keep":
        raise Refusal(row.code, "APL-17", f"{row.place}: {row.reason}", "leave it, or fix the file")
    if decision.choice == "custom":
        custom_value(row, decision)
    elif decision.value is not None:
        raise _bad(row, f"has a value, but the choice is {decision.choice}")
    return row


def _bad(row: Row, what: str) -> Refusal:
    facts: dict[str, Json] = {"stage_key": row.stage_key, "metric_key": row.metric_key}
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
    worst = row.worst_raw
    if value > worst if row.worst_op == "min" else value < worst:
        raise _bad(row, f"custom value {text} is tighter than the observed worst {worst!r}; CI would fail at once")
    if isinstance(row.gate, Gate) and (why := doubts.fails_text(row.worst, row.gate, value)):
        raise _bad(row, f"custom value {text} fails what was observed: {why}")
    return value, text


def chosen_values(
    plan: ApplyPlan, mode: Mode, decided: Mapping[MetricKey, Decision]
) -> dict[MetricKey, tuple[Number, str | None]]:
    """What each row becomes: the number, and the verbatim text of a person's own one."""
    values: dict[MetricKey, tuple[Number, str | None]] = {}
    for row in plan.rows:
        decision = decided.get(row.key)
        if not row.place_known or (decision and decision.choice == "keep"):
            continue
        if decision and decision.choice == "custom":
            values[row.key] = custom_value(row, decision)
        elif decision or (row.writable and (mode == "full" or row.decision == "auto")):
            values[row.key] = (row.write_value, None)
    return values
