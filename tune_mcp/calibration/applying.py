"""``apply``: write what a person agreed to, all files or none; and ``undo``."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path

from tune_mcp.apply import plan as plans
from tune_mcp.apply import transaction
from tune_mcp.apply.literals import rewrite
from tune_mcp.apply.plan import ApplyPlan, Row
from tune_mcp.calibration.answered import MODES, Decision, Mode
from tune_mcp.calibration.evidence import Evidence
from tune_mcp.calibration.project import Project
from tune_mcp.calibration.reply import Reply
from tune_mcp.calibration.reporting import propose, recover
from tune_mcp.config.stages import Frozen
from tune_mcp.config.stages_yaml import dump_stages
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.files import FileLock, sha256_bytes, write_atomic, write_json
from tune_mcp.observe.worst import Direction, Number
from tune_mcp.report.collect import report_digest
from tune_mcp.report.facts import AppliedRow
from tune_mcp.report.figures import direction_text
from tune_mcp.report.write import read_report, read_report_digest, record_applied, untouched
from tune_mcp.run_dir import RunDir, apply_lock
from tune_mcp.session import events
from tune_mcp.supervise.loop import utc_now

APPLIED_BEFORE = "applied_before.json"


class Applied(Frozen):
    """One literal that was written."""

    file: str
    symbol: str
    stage_key: str
    metric_key: str
    old: Number
    new: Number
    direction: str


class ApplyReply(Reply):
    """What was written, each as ``file:symbol = value`` (APL-23), what was kept, and how to take it back."""

    run_id: str
    plan_id: str
    mode: Mode
    applied: tuple[Applied, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...]
    undo_command: str | None

    def lines(self) -> Iterable[str]:
        """The list of changes."""
        yield f"applied {len(self.applied)} value(s) in mode {self.mode}; kept {len(self.kept)}"
        for one in self.applied:
            yield f"  {one.file}:{one.symbol} = {one.new!r} (was {one.old!r}, {one.direction})"
        yield from (f"WARNING: {warning}" for warning in self.warnings)
        if self.undo_command:
            yield f"undo: {self.undo_command}"


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


def proposal_for(project: Project, run_id: str, plan_id: str) -> tuple[Evidence, ApplyPlan]:
    """The plan of ``plan_id``, if it still holds. Raises gate refusals, NOT_REPORTED, STALE_REPORT, STALE_PLAN."""
    found, proposal = propose(project, run_id)
    digest = read_report_digest(found.run)
    if digest is None:
        raise Refusal(
            Code.NOT_REPORTED,
            ("APL-01", "RPT-05"),
            f"{run_id} has no report that anybody was shown",
            f"call report with run_id={run_id}, tell the user its path, then apply_plan",
        )
    if digest != report_digest(found.audit):
        raise Refusal(
            Code.STALE_REPORT,
            ("POL-09", "APL-01"),
            "the report is older than the artifacts",
            f"call report with run_id={run_id} again, show it, then apply_plan",
        )
    if "{{CONTEXT:" in found.run.report_md.read_text():
        raise Refusal(
            Code.UNRESOLVED_CONTEXT,
            "CTX-07",
            "report.md still has an unresolved context line",
            f"call report with run_id={run_id} again",
        )
    if not untouched(found.run):
        raise Refusal(
            Code.STALE_REPORT,
            "RPT-04",
            "report.md or report.html is not what the report tool wrote",
            f"call report with run_id={run_id} again (it writes them anew), show it, then apply_plan",
        )
    if proposal.plan_id != plan_id:
        raise Refusal(
            Code.STALE_PLAN,
            ("APL-14", "APL-26"),
            f"plan {plan_id} is not the present one ({proposal.plan_id}): artifacts, files or HEAD changed",
            f"call apply_plan with run_id={run_id} and decide on its numbers",
            {"plan_id": plan_id, "present": proposal.plan_id},
        )
    return found, proposal


def apply(
    project: Project, run_id: str, plan_id: str, mode: str, decisions: Sequence[Decision] = (), by: str = "arguments"
) -> ApplyReply:
    """Write the thresholds: all files or none (contract, tool 12). ``by`` records who decided.

    Raises the gates' refusals, NOT_REPORTED, STALE_REPORT, UNRESOLVED_CONTEXT, STALE_PLAN, DECISION_MISSING,
    DECISION_INVALID, THRESHOLD_UNKNOWN, THRESHOLD_CHANGED, INVALID_ARGUMENT.
    """
    chosen = checked_mode(mode)
    recover(project, project.run(run_id))
    found, proposal = proposal_for(project, run_id, plan_id)
    decided = checked_decisions(proposal, decisions)
    if chosen == "report":
        return _nothing(run_id, plan_id, "mode report: no file was touched")
    missing = open_questions(proposal, chosen, decided)
    if missing:
        raise Refusal(
            Code.DECISION_MISSING,
            ("APL-05", "APL-12"),
            f"{len(missing)} loosening metric(s) need a person's decision: "
            + ", ".join("/".join(row.key) for row in missing[:6]),
            f"ask the user keep, apply or custom for each and pass decisions, or run: {terminal(project, run_id)}",
            {"missing": [{"stage_key": row.stage.key, "metric_key": row.worst.metric_key} for row in missing]},
        )
    return _write(project, found, proposal, chosen, decided, by)


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
        if row.direction is Direction.UNKNOWN and decision.choice != "keep":
            raise Refusal(Code.THRESHOLD_UNKNOWN, "APL-17", f"{row.place}: {row.reason}", "leave it, or mend the file")
        if decision.choice == "custom":
            _custom(row, decision)
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


def _custom(row: Row, decision: Decision) -> tuple[Number, str]:
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


def _write(
    project: Project,
    found: Evidence,
    proposal: ApplyPlan,
    mode: Mode,
    decided: Mapping[tuple[str, str], Decision],
    by: str,
) -> ApplyReply:
    values = _values(proposal, mode, decided)
    written = [row for row in proposal.rows if row.key in values and values[row.key][0] != row.current_raw]
    if not written:
        return _nothing(found.run.run_id, proposal.plan_id, "nothing to write", mode, proposal)
    before = {file: content for file, content in proposal.contents.items() if any(row.file == file for row in written)}
    after = {
        file: rewrite(content, file, [row.edit(*values[row.key]) for row in written if row.file == file])
        for file, content in before.items()
    }
    now = utc_now()
    folder = found.run.apply_folder(proposal.plan_id)
    folder.mkdir(parents=True, exist_ok=True)
    decisions = [decision.model_dump(mode="json") for decision in decided.values()]
    record = {"schema_version": 1, "mode": mode, "decided_by": by, "decisions": decisions}
    write_json(folder / "decision.json", record)
    changes = [
        transaction.FileChange(project.repo_root / file, sha256_bytes(content), after[file])
        for file, content in before.items()
    ]
    with one_applier(project):
        transaction.commit(folder, project.repo_root, changes, utc_now)
    applied = [_applied(row, values[row.key][0]) for row in written]
    events.append(
        found.run, "applied", now, f"{len(applied)} value(s) written in mode {mode} (plan {proposal.plan_id})"
    )
    _record(found.run, folder, written, applied)
    moved = {sha256_bytes(before[file]): sha256_bytes(after[file]) for file in before}
    refreshed = refresh_hashes(project, found.plan.model, moved)
    return ApplyReply(
        run_id=found.run.run_id,
        plan_id=proposal.plan_id,
        mode=mode,
        applied=tuple(applied),
        kept=_kept(proposal, {row.key for row in written}),
        warnings=(*_unknown(proposal), *refreshed),
        undo_command=f"tune-mcp apply {found.run.run_id} --undo {proposal.plan_id} --repo {project.repo_root}",
        next="list every change to the user; commit or push only if the user asks for it",
    )


def _values(
    proposal: ApplyPlan, mode: Mode, decided: Mapping[tuple[str, str], Decision]
) -> dict[tuple[str, str], tuple[Number, str | None]]:
    """What each row becomes: the number, and the verbatim text of a person's own one."""
    values: dict[tuple[str, str], tuple[Number, str | None]] = {}
    for row in proposal.rows:
        decision = decided.get(row.key)
        if not row.literal or (decision and decision.choice == "keep"):
            continue
        if decision and decision.choice == "custom":
            values[row.key] = _custom(row, decision)
        elif plans.writable(row) and (mode == "full" or row.decision == "auto" or decision):
            values[row.key] = (row.write_value, None)
    return values


@contextlib.contextmanager
def one_applier(project: Project) -> Generator[None]:
    """One apply of a repository at a time, whichever run it is of."""
    path = apply_lock(project.repo_root)
    lock = FileLock.take(path, {"pid": os.getpid()})
    if lock is None:
        raise Refusal(
            Code.RUN_ACTIVE, "APL-24", "another process applies thresholds in this repository", "call apply again"
        )
    try:
        yield
    finally:
        lock.release()


def _record(run: RunDir, folder: Path, written: Sequence[Row], applied: Sequence[Applied]) -> None:
    """The report's applied changes: those of an earlier apply stay, a value written again keeps its first old one.

    The rows before are kept beside the journal, for undo.
    """
    earlier = read_report(run)
    before = earlier.applied if earlier else ()
    write_json(folder / APPLIED_BEFORE, [row.model_dump(mode="json") for row in before])
    rows = {(row.stage, row.metric): row for row in before}
    for row, one in zip(written, applied, strict=True):
        first = rows.get((row.stage.key, row.place))
        rows[(row.stage.key, row.place)] = AppliedRow(
            stage=row.stage.key,
            metric=row.place,
            old=first.old if first else one.old,
            new=one.new,
            worst_op=row.worst_op,
        )
    record_applied(run, list(rows.values()))


def _applied(row: Row, value: Number) -> Applied:
    old = row.current_raw
    if old is None:
        raise ValueError(f"{row.place} was written without a known old value")
    return Applied(
        file=row.file,
        symbol=row.place,
        stage_key=row.stage.key,
        metric_key=row.worst.metric_key,
        old=old,
        new=value,
        direction=direction_text(row.worst_op, old, value),
    )


def _kept(proposal: ApplyPlan, written: set[tuple[str, str]]) -> tuple[str, ...]:
    return tuple("/".join(row.key) for row in proposal.rows if row.key not in written)


def _unknown(proposal: ApplyPlan) -> tuple[str, ...]:
    unknown = (row for row in proposal.rows if row.direction is Direction.UNKNOWN)
    return tuple(f"{'/'.join(row.key)} was not edited: {row.reason} (APL-17)" for row in unknown)


def _nothing(
    run_id: str, plan_id: str, why: str, mode: Mode = "report", proposal: ApplyPlan | None = None
) -> ApplyReply:
    return ApplyReply(
        run_id=run_id,
        plan_id=plan_id,
        mode=mode,
        applied=(),
        kept=_kept(proposal, set()) if proposal else (),
        warnings=_unknown(proposal) if proposal else (),
        undo_command=None,
        next=f"nothing ({why}); the report stays",
    )


def refresh_hashes(project: Project, model: str, moved: Mapping[str, str]) -> tuple[str, ...]:
    """Tell stages.yaml the new digests of rewritten files (old digest -> new), where it knew them (DSC-02)."""
    path = project.places.stages_path_for_writing(model, project.repo_root)
    try:
        table = project.places.stages(model)
    except Refusal as refusal:
        return (f"stages.yaml was not refreshed: {refusal.message}",)
    fresh = {
        key: stage.model_copy(
            update={
                "test_file_sha256": moved.get(stage.test_file_sha256, stage.test_file_sha256),
                "threshold_file_sha256": moved.get(stage.threshold_file_sha256 or "", stage.threshold_file_sha256),
            }
        )
        for key, stage in table.items()
    }
    if fresh != table:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, dump_stages(fresh))
    return ()
