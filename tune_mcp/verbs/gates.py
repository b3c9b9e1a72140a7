"""The gates: what stands between measured numbers and anything that is made of them (rules STR-21, APL-01, APL-02)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp.actions import Step, call
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.files import real, sha256_file
from tune_mcp.observe.audit import Audit, AuditedCell, Fault, audit
from tune_mcp.run_dir import RUNS_FOLDER, RunDir
from tune_mcp.session import events, provenance, state
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import Conclusion, Liveness, RunState
from tune_mcp.verbs.project import Project

if TYPE_CHECKING:
    from tune_mcp.apply.transaction import Journal


@dataclass(frozen=True)
class Evidence:
    """A run and its audit, read now."""

    run: RunDir
    audit: Audit
    log: tuple[events.Event, ...]

    @property
    def plan(self) -> Plan:
        """The plan that was audited."""
        return self.audit.plan


def read(project: Project, run_id: str) -> Evidence:
    """Read a run. Raises UNKNOWN_RUN or PLAN_TAMPERED."""
    run = project.run(run_id)
    log = tuple(events.read(run.events))
    ledger = events.recorded(log)
    return Evidence(run, audit(run, project.plan(run, ledger), ledger), log)


def conclude(run: RunDir, plan: Plan) -> Conclusion:
    """A run of the older script has no supervisor: it is over, whatever it achieved."""
    if plan.legacy:
        return Conclusion(RunState.FINISHED, None, Liveness.FREE)
    return state.conclude(run)


def demand_ours(project: Project, plan: Plan) -> None:
    """Refuse to continue, stop or apply a run of the older script, and a copy of one that was applied elsewhere.

    The older script had no supervisor and no ledger, so whoever can write files can write one of its runs. Raises
    FOREIGN_ARTIFACT.
    """
    if plan.legacy:
        raise Refusal(
            Code.FOREIGN_ARTIFACT,
            ("SES-06", "STR-24"),
            f"{plan.run_id} was made by an older script (version {plan.tune_version}); it can be read, not continued "
            "or applied",
            Step("start a new run: ", call("start_run", model=plan.model)),
            {"run_id": plan.run_id},
        )
    original = RunDir(Path(plan.repo_root) / RUNS_FOLDER / plan.run_id)
    if copied_from(project, plan) and any(events.read(original.events, "applied")):
        raise _elsewhere(project, plan, applied=True)


def demand_here(project: Project, plan: Plan) -> None:
    """A run goes on only in the repository where it was measured, a merged one nowhere.

    Raises FOREIGN_ARTIFACT and INVALID_ARGUMENT.
    """
    if plan.sources:
        what = (
            f"{plan.run_id} was merged from {', '.join(one.run_id for one in plan.sources)}: it measures nothing itself"
        )
        next = f"continue the run that lacks something, then {_merge_again(plan)}"
        raise Refusal(Code.INVALID_ARGUMENT, (), what, next, {"run_id": plan.run_id})
    if Path(plan.repo_root) != project.repo_root:
        raise _elsewhere(project, plan)


def copied_from(project: Project, plan: Plan) -> str:
    """The repository in which the run was measured and still lies, when that is another one; else empty."""
    there = Path(plan.repo_root)
    return plan.repo_root if there != project.repo_root and (there / RUNS_FOLDER / plan.run_id).is_dir() else ""


def _elsewhere(project: Project, plan: Plan, applied: bool = False) -> Refusal:
    place = copied_from(project, plan)
    what = f"{plan.run_id} was measured in {plan.repo_root}, and this is {project.repo_root}"
    if applied:
        what += "; it was applied there already"
    return Refusal(
        Code.FOREIGN_ARTIFACT,
        "SES-06",
        what,
        f"work in {place}"
        if place
        else Step("move the repository back, or start a new run: ", call("start_run", model=plan.model)),
        {"run_id": plan.run_id, "measured_in": plan.repo_root},
    )


def _merge_again(plan: Plan) -> str:
    return f"merge again: tune-mcp merge {' '.join(one.run_id for one in plan.sources)}"


def _measure(found: Evidence, what: str) -> Step:
    """How a run gets what it lacks; ``what`` continues the call of resume_run. A halt must be fixed before it."""
    if found.plan.sources:
        return Step(_merge_again(found.plan))
    now, resume = conclude(found.run, found.plan), call("resume_run", run_id=found.plan.run_id)
    if now.state is RunState.HALTED and now.record and now.record.halt:
        return Step(f"{now.record.halt.next}, then ", resume)
    return Step(resume, what)


def gated(project: Project, run_id: str) -> Evidence:
    """Read a run and pass every gate. Raises what ``complete`` raises, and COMMIT_MOVED."""
    evidence = complete(project, run_id)
    plan, head = evidence.plan, provenance.head(project.repo_root)
    if head not in plan.commits:
        raise Refusal(
            Code.COMMIT_MOVED,
            ("SES-08", "SES-06"),
            f"{run_id} calibrated {plan.calibration_git_sha}, but HEAD is {head}",
            Step(
                "check out the calibrated commit, start a new run on HEAD, or ",
                call("resume_run", run_id=run_id),
                ": it accepts HEAD if that is proven to measure the same",
            ),
            {"run_id": run_id, "calibration_git_sha": plan.calibration_git_sha, "head": head},
        )
    return evidence


def complete(project: Project, run_id: str) -> Evidence:
    """Read a run whose evidence is whole, whatever is checked out.

    Raises RUN_ACTIVE, NOT_STRICT, GIT_PROVENANCE, FOREIGN_ARTIFACT, HOST_NOT_COMPARABLE.

    What is missing is reported before what is foreign: it can be measured, a foreign file cannot be trusted at all.
    """
    evidence = read(project, run_id)
    run, plan, audited = evidence.run, evidence.plan, evidence.audit
    if not plan.legacy and (now := state.conclude(run)).active:
        raise Refusal(
            Code.RUN_ACTIVE,
            "APL-01",
            f"{run_id} is {now.state}: a report is made of a finished run only",
            Step(call("status", run_id=run_id, wait_s=45), " until it is terminal"),
            {"run_id": run_id, "state": str(now.state)},
        )
    not_strict = audited.open_cells()
    missing = [cell for cell in not_strict if cell[2].fault is Fault.CONTENT]
    foreign = [cell for cell in not_strict if cell[2].fault is Fault.FOREIGN]
    if missing or not audited.stages:
        raise Refusal(
            Code.NOT_STRICT,
            ("STR-01", "STR-11", "RPT-10"),
            f"{audited.ready_stages}/{len(audited.stages)} stages are strict-ready; "
            f"first uncovered repeat: {first_of(missing) or 'the matrix is empty'}",
            _measure(evidence, ": it measures what is missing"),
            {"run_id": run_id, "gaps": _listed(missing)},
        )
    if not audited.git.ok:
        raise _no_provenance(plan, audited.git.reason)
    from tune_mcp.verbs import equivalence  # reads syntax trees: nothing that a mere reader needs

    try:
        equivalence.still_holds(project.repo_root, plan)
    except equivalence.NotEquivalent as why:
        raise _no_provenance(plan, str(why)) from why
    if foreign:
        raise Refusal(
            Code.FOREIGN_ARTIFACT,
            ("STR-14", "SES-10"),
            first_of(foreign),
            _measure(
                evidence, ": it reads the sealed files again, or measures the repeat again where they are not whole"
            ),
            {"run_id": run_id, "gaps": _listed(foreign)},
        )
    elsewhere = [cell for cell in not_strict if cell[2].fault is Fault.ENVIRONMENT]
    if elsewhere:
        raise Refusal(
            Code.HOST_NOT_COMPARABLE,
            ("SCP-02", "SCP-01"),
            first_of(elsewhere),
            Step(
                "on the machine of environment.json ",
                _measure(evidence, " to measure that repeat again"),
                ", or start a new run",
            ),
            {"run_id": run_id, "gaps": _listed(elsewhere)},
        )
    return evidence


def _no_provenance(plan: Plan, reason: str) -> Refusal:
    return Refusal(
        Code.GIT_PROVENANCE,
        ("SES-12", "SES-09"),
        f"GIT PROVENANCE: FAIL — {reason}",
        "start a new run; artifacts of two commits are never combined",
        {"run_id": plan.run_id, "calibration_git_sha": plan.calibration_git_sha},
    )


def first_of(cells: list[tuple[str, int, AuditedCell]]) -> str:
    """The first of some uncovered repeats and why it is one; empty for none."""
    if not cells:
        return ""
    key, repeat, cell = cells[0]
    more = f" (and {len(cells) - 1} more)" if len(cells) > 1 else ""
    return f"{key} run {repeat} {cell.cell.value} {cell.reason}{more}"


def _listed(cells: list[tuple[str, int, AuditedCell]]) -> list[Json]:
    return [f"{key}/run{repeat}" for key, repeat, _ in cells[:50]]


def changed_files(repo_root: Path, run: RunDir, plan: Plan) -> dict[str, str]:
    """Test and threshold files that are neither as planned nor as our own apply left them: path -> what is wrong."""
    expected = {name: {sha} for name, sha in plan.file_sha256.items()}
    committed = [journal for _, journal in journals(run) if journal.state == "committed"]
    in_order = sorted(committed, key=lambda journal: journal.started_at)
    written = [file for journal in in_order for file in journal.files]
    for name, shas in expected.items():
        # A journal names the file itself, a plan perhaps a link to it.
        own = real(repo_root / name)
        for file in written:
            if real(repo_root / file.path) == own and file.before_sha256 in shas:
                shas.add(file.after_sha256)
    found: dict[str, str] = {}
    for name, shas in expected.items():
        path = repo_root / name
        if not path.is_file():
            found[name] = "is gone"
        elif sha256_file(path) not in shas:
            found[name] = "was changed since the run was planned"
    return found


def journals(run: RunDir) -> Iterator[tuple[Path, Journal]]:
    """The folder and the journal of every apply that was begun, by folder."""
    from tune_mcp.apply import transaction  # reads syntax trees: nothing that a mere reader needs

    for folder in sorted(run.applies.iterdir()) if run.applies.is_dir() else ():
        journal = transaction.read_journal(folder) if folder.is_dir() else None
        if journal is not None:
            yield folder, journal
