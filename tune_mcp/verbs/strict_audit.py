"""``strict_audit``: the only measure of progress that counts."""

from __future__ import annotations

from tune_mcp.contract.strict_audit import AuditReply, StageAudit
from tune_mcp.report.hosts import hosts
from tune_mcp.verbs import gates
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import next_step


def strict_audit(project: Project, run_id: str) -> AuditReply:
    """The only measure of progress that counts. Raises UNKNOWN_RUN, PLAN_TAMPERED."""
    found = gates.read(project, run_id)
    audited = found.audit
    return AuditReply(
        run_id=run_id,
        calibration_git_sha=found.plan.calibration_git_sha,
        equivalent_commits=tuple(one.git_sha for one in found.plan.equivalents),
        dirty=found.plan.dirty,
        git_provenance=audited.git.verdict,
        ready=audited.ready,
        strict_ready=f"{audited.ready_stages}/{len(audited.stages)}",
        repeats=found.plan.repeats,
        stages=tuple(
            StageAudit(
                stage_key=stage.stage.key,
                cells="".join(cell.cell.value for cell in stage.cells),
                strict=stage.strict,
                expected_samples=stage.stage.expected_samples,
                reasons={f"run{number}": cell.reason for number, cell in enumerate(stage.cells, 1) if cell.reason},
            )
            for stage in audited.stages
        ),
        hosts=hosts(found.run, audited),
        audit_text=audited.text(),
        next=next_step(found.run, gates.conclude(found.run, found.plan), audited, list(found.log)),
    )
