"""The strict audit: the one function behind every gate (rules STR-01 to STR-28, SMP-01, SES-09 to SES-12).

It walks plan x catalogue, never the files that happen to exist, and it never looks at pytest's exit code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

from tune_mcp.config.stages import Stage
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.files import sha256_file
from tune_mcp.observe.observation import Broken, Counts, Missing, Stored, load
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.events import Ledger
from tune_mcp.session.plan import Plan
from tune_mcp.words import number_of


class Fault(StrEnum):
    """What kind of fault keeps a cell from being strict; it decides the refusal code."""

    NONE = ""
    CONTENT = "content"
    FOREIGN = "foreign"
    ENVIRONMENT = "environment"


@dataclass(frozen=True)
class AuditedCell:
    """The verdict on one run{k}.json, with the reason, and the values when it is strict or partial."""

    cell: Cell
    reason: str = ""
    fault: Fault = Fault.NONE
    stored: Stored | None = None


@dataclass(frozen=True)
class AuditedStage:
    """One stage with the verdict on each of its repeats: a line of the matrix."""

    stage: Stage
    cells: tuple[AuditedCell, ...]

    @property
    def strict(self) -> int:
        """How many repeats are strict."""
        return sum(cell.cell is Cell.STRICT for cell in self.cells)

    @property
    def ready(self) -> bool:
        """N of N, and N is not zero."""
        return bool(self.cells) and self.strict == len(self.cells)

    def line(self) -> str:
        """``tts_speed: ✓✓△ (2/3 strict, expected=24)`` (STR-13)."""
        glyphs = "".join(cell.cell.value for cell in self.cells)
        expected = "" if self.stage.expected_samples is None else f", expected={self.stage.expected_samples}"
        return f"{self.stage.key}: {glyphs} ({self.strict}/{len(self.cells)} strict{expected})"


@dataclass(frozen=True)
class Provenance:
    """Whether every artifact was recorded on the plan's commit or one proven equivalent; the reason when not."""

    ok: bool
    reason: str = ""

    def line(self) -> str:
        """``GIT PROVENANCE: ok`` or ``GIT PROVENANCE: FAIL — reason`` (SES-12)."""
        return f"GIT PROVENANCE: {self.verdict}"

    @property
    def verdict(self) -> str:
        """``ok``, or ``FAIL — reason``."""
        return "ok" if self.ok else f"FAIL — {self.reason}"


@dataclass(frozen=True)
class Audit:
    """The whole verdict on a run."""

    plan: Plan
    stages: tuple[AuditedStage, ...]
    git: Provenance

    @property
    def ready_stages(self) -> int:
        """Stages that are N of N strict."""
        return sum(stage.ready for stage in self.stages)

    @property
    def strict_ready(self) -> bool:
        """Every stage is N of N; an empty matrix is never ready."""
        return bool(self.stages) and self.ready_stages == len(self.stages)

    @property
    def ready(self) -> bool:
        """Whether both gates pass: every stage is N of N, and git's provenance is ok."""
        return self.strict_ready and self.git.ok

    @property
    def counts(self) -> Counter[Cell]:
        """How many cells of each kind."""
        return Counter(cell.cell for stage in self.stages for cell in stage.cells)

    def parts(self, run: RunDir) -> tuple[tuple[RunDir, Audit], ...]:
        """The directories in which the launches of a merged run stand, each with its stages; else the run itself."""
        return tuple(
            (part, replace(self, plan=own, stages=tuple(one for one in self.stages if one.stage.key in own.stages)))
            for part, own in self.plan.parts(run)
        )

    def open_cells(self) -> list[tuple[str, int, AuditedCell]]:
        """Every cell that is not strict: stage key, repeat (1-based), cell."""
        return [
            (stage.stage.key, repeat, cell)
            for stage in self.stages
            for repeat, cell in enumerate(stage.cells, 1)
            if cell.cell is not Cell.STRICT
        ]

    def text(self) -> str:
        """The audit in the fixed form that clients read."""
        lines = [
            f"calibration_git_sha: {self.plan.calibration_git_sha}",
            self.git.line(),
            *(stage.line() for stage in self.stages),
            f"STRICT READY: {self.ready_stages}/{len(self.stages)} stages ({self.plan.repeats} repeats each)",
        ]
        if self.ready:
            lines.append("STRICT + GIT: READY")
        return "\n".join(lines)


def audit(run: RunDir, plan: Plan, ledger: Ledger | None = None) -> Audit:
    """Judge every stage x repeat of the plan from the files on disk, now (STR-24: nothing is remembered).

    A caller that has just read the ledger hands it in. A cell that was recorded after that looks foreign: so where
    one does, the ledger is read again until it is no longer being written.
    """
    if plan.legacy:
        return _judged(run, plan, None)
    if plan.sources:
        return _merged(run, plan)
    ledger = ledger or events.ledger(run)
    while True:
        audited = _judged(run, plan, ledger)
        if all(cell.fault is not Fault.FOREIGN for stage in audited.stages for cell in stage.cells):
            return audited
        before, ledger = ledger, events.ledger(run)
        if ledger == before:
            return audited


def _merged(run: RunDir, plan: Plan) -> Audit:
    """Each stage by the ledger of its own partition, which counts only as it was when the partitions were merged."""
    found: dict[str, AuditedStage] = {}
    for source, (part, own) in zip(plan.sources, plan.parts(run), strict=True):
        try:
            whole = sha256_file(part.events) == source.ledger_sha256
        except OSError:
            whole = False
        ledger = events.ledger(part) if whole else Ledger(None, {})
        found |= {one.stage.key: one for one in _judged(run, own, ledger).stages}
    stages = tuple(found[key] for key in plan.stages)
    return Audit(plan, stages, _provenance(plan, stages))


def _judged(run: RunDir, plan: Plan, recorded: Ledger | None) -> Audit:
    stages: list[AuditedStage] = []
    for stage in plan.table().values():
        found = _loaded(run, plan, stage)
        scoped = _scoped(stage, found, plan, recorded)
        cells = (judge(scoped, repeat, one, plan, recorded) for repeat, one in enumerate(found, 1))
        stages.append(AuditedStage(stage, tuple(cells)))
    return Audit(plan, tuple(stages), _provenance(plan, tuple(stages)))


def one_scope(run: RunDir, plan: Plan, stages: tuple[Stage, ...], recorded: Ledger | None) -> tuple[Stage, ...]:
    """The stages, each with the sample scope that its repeats must have: the catalogue's, else the first strict one's.

    Repeats of 4, 8 and 12 samples are not the same measurement, whichever of them is meant.
    """

    return tuple(_scoped(stage, _loaded(run, plan, stage), plan, recorded) for stage in stages)


def _loaded(run: RunDir, plan: Plan, stage: Stage) -> list[Stored | Missing | Broken]:
    return [load(run, stage.key, repeat) for repeat in range(1, plan.repeats + 1)]


def _scoped(stage: Stage, found: list[Stored | Missing | Broken], plan: Plan, recorded: Ledger | None) -> Stage:
    if stage.is_docs or stage.expected_samples is not None:
        return stage
    for repeat, one in enumerate(found, 1):
        if isinstance(one, Stored) and judge(stage, repeat, one, plan, recorded).cell is Cell.STRICT:
            return stage.model_copy(update={"expected_samples": one.content.sample_counts.total})
    return stage


def judge(
    stage: Stage,
    repeat: int,
    found: Stored | Missing | Broken,
    plan: Plan,
    recorded: Ledger | None,
) -> AuditedCell:
    """Classify one observation: content first, then whether it is ours and untouched."""
    match found:
        case Missing():
            return AuditedCell(Cell.NOT_RUN, "not run", Fault.CONTENT)
        case Broken(reason):
            return AuditedCell(Cell.FAILED, reason, Fault.CONTENT)
        case Stored():
            cell, reason = classify(stage, found)
    if cell is not Cell.STRICT:
        return AuditedCell(cell, reason, Fault.CONTENT, found)
    foreign = _foreign(stage, repeat, found, plan, recorded)
    if foreign:
        return AuditedCell(Cell.FAILED, foreign, Fault.FOREIGN, found)
    if recorded and recorded.environment_sha256 not in (None, found.content.environment_sha256):
        return AuditedCell(Cell.FAILED, "was measured on another machine than the run's", Fault.ENVIRONMENT, found)
    if recorded and (host := _of_another_kind(found, recorded)):
        what = f"quarantined: {host} has another fingerprint than the run's"
        return AuditedCell(Cell.FAILED, what, Fault.ENVIRONMENT, found)
    return AuditedCell(Cell.STRICT, "", Fault.NONE, found)


def _of_another_kind(found: Stored, recorded: Ledger) -> str:
    """The host of the attempt that was kept, where its fingerprint is not that of the run; else empty."""
    kept = found.content.kept
    if kept is None or not kept.fingerprint or recorded.fingerprint in (None, kept.fingerprint):
        return ""
    return kept.host or "its host"


def classify(stage: Stage, found: Stored) -> tuple[Cell, str]:
    """Strict, partial or failed from metrics and samples alone (STR-04 to STR-06, SMP-01, GAP-09)."""
    values = found.content.metrics
    absent = [key for key in stage.metrics if values.get(key) is None]
    noted = found.content.reason if found.content.status != "ok" else ""
    if absent:
        lack = f"no usable value for {', '.join(absent)}"
        return Cell.FAILED, f"{noted} ({lack})" if noted else lack
    if stage.is_docs:
        return (Cell.STRICT, "") if found.content.status == "ok" else (Cell.FAILED, found.content.reason)
    cell, reason = sampled(found.content.sample_counts, stage.expected_samples)
    if found.content.status != "ok" and cell is not Cell.PARTIAL:
        return Cell.FAILED, reason or noted or f"status {found.content.status}: no reason given"
    return cell, reason


def sampled(counts: Counts, expected: int | None) -> tuple[Cell, str]:
    """Whether all expected samples are there and good: strict, partial, or failed for counts that cannot be right."""
    if counts.total is None or counts.ok is None:
        return Cell.FAILED, "sample counts missing"
    if counts.total == 0:
        return Cell.FAILED, "zero samples"
    if counts.ok > counts.total:
        return Cell.FAILED, f"more good samples than samples ({counts.ok}/{counts.total})"
    if counts.ok < counts.total:
        return Cell.PARTIAL, f"{counts.ok}/{counts.total} samples"
    if expected is not None and counts.total != expected:
        return Cell.FAILED, f"sample scope: {counts.total} samples, {expected} expected"
    return Cell.STRICT, ""


def _foreign(stage: Stage, repeat: int, found: Stored, plan: Plan, recorded: Ledger | None) -> str:
    if recorded is None:
        return "was recorded by a supervisor, the plan is the older script's" if found.content.run_id else ""
    if found.content.run_id != plan.run_id:
        return f"belongs to run {found.content.run_id}"
    expected = recorded.observations.get((stage.key, repeat))
    if expected is None:
        return "was never recorded by this run's supervisor"
    return "" if expected == found.sha256 else "was changed after it was recorded"


def _provenance(plan: Plan, stages: tuple[AuditedStage, ...]) -> Provenance:
    without: list[str] = []
    others: list[str] = []
    for stage in stages:
        for repeat, cell in enumerate(stage.cells, 1):
            if cell.stored is None:
                if cell.cell is Cell.FAILED:
                    without.append(f"{stage.stage.key}/run{repeat}")
                continue
            sha = cell.stored.content.git_sha
            if not sha:
                without.append(f"{stage.stage.key}/run{repeat}")
            elif sha not in plan.commits:
                others.append(f"{stage.stage.key}/run{repeat} ({sha[:12]})")
    if others:
        return Provenance(False, f"{number_of(len(others), 'artifact')} of another commit: {', '.join(others[:3])}")
    if without:
        return Provenance(False, f"{number_of(len(without), 'artifact')} without git_sha: {', '.join(without[:3])}")
    return Provenance(True)
