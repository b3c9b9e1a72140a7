"""The last calibration of the same model, for comparison (PRF-01)."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tune_mcp.files import parse_json
from tune_mcp.report.facts import PreviousFacts, ReportFacts
from tune_mcp.run_dir import list_runs

_MOST_NAMED = 8


def find(repo_root: Path, facts: ReportFacts) -> PreviousFacts | None:
    """The newest earlier run of the model whose report can be read; None when there is none."""
    for run in list_runs(repo_root):
        if run.run_id >= facts.run_id or not run.report_json.is_file():
            continue
        try:
            earlier = ReportFacts.model_validate(parse_json(run.report_json.read_bytes()))
        except (OSError, ValueError, ValidationError):
            continue
        if earlier.model == facts.model:
            return _compare(earlier, facts)
    return None


def _compare(earlier: ReportFacts, facts: ReportFacts) -> PreviousFacts:
    then, now = earlier.environment, facts.environment
    differences = [f"GPUs: {earlier.gpu_summary} then"] if earlier.gpu_summary != facts.gpu_summary else []
    changed = [key for key in sorted(set(then) | set(now)) if then.get(key) != now.get(key)]
    differences += [f"{key}: {then.get(key, 'none')} then, {now.get(key, 'none')} now" for key in changed[:_MOST_NAMED]]
    if len(changed) > _MOST_NAMED:
        differences.append(f"and {len(changed) - _MOST_NAMED} more")
    return PreviousFacts(
        run_id=earlier.run_id,
        calibration_git_sha=earlier.calibration_git_sha,
        generated_at=earlier.generated_at,
        repeats=earlier.repeats,
        comparable=not differences,
        differences=tuple(differences),
        worst={f"{stage.key}/{metric.key}": metric.worst_raw for stage, metric in earlier.metrics()},
    )
