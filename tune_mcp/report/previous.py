"""The last calibration of the same model, and what changed since: conditions, commits, files (PRF-01, PRF-02)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tune_mcp.config.model import Optimisation
from tune_mcp.report.earlier import EarlierReport
from tune_mcp.report.facts import PreviousFacts, ReportFacts
from tune_mcp.session import provenance
from tune_mcp.session.provenance import CommitRange

_MOST_NAMED = 8
_MOST_COMMITS = 20
_MOST_FILES = 40


def find(
    repo_root: Path, facts: ReportFacts, optimisations: Mapping[str, Optimisation], earlier: Sequence[EarlierReport]
) -> PreviousFacts | None:
    """The newest of the model's ``earlier`` reports (newest first), and what changed since; None when there is none."""
    if not earlier:
        return None
    last = earlier[0]
    differences = _differences(last, facts)
    previous = PreviousFacts(
        run_id=last.run_id,
        calibration_git_sha=last.calibration_git_sha,
        generated_at=last.generated_at,
        repeats=last.repeats,
        comparable=not differences,
        differences=differences,
        worst={f"{stage.key}/{metric.key}": metric.worst_raw for stage in last.stages for metric in stage.metrics},
    )
    return _with_changes(previous, repo_root, facts.calibration_git_sha, optimisations)


def _with_changes(
    previous: PreviousFacts, repo_root: Path, now: str, optimisations: Mapping[str, Optimisation]
) -> PreviousFacts:
    """Add what git has between the two commits, files that an optimisation names first."""
    then = previous.calibration_git_sha
    found = provenance.between(repo_root, then, now)
    if found is None:
        return previous
    sensitive: dict[str, tuple[str, ...]] = {}
    for name, one in optimisations.items():
        for file in provenance.changed(repo_root, then, now, one.files) if one.files else ():
            sensitive[file.path] = (*sensitive.get(file.path, ()), name)
    files = sorted(found.files, key=lambda file: file.path not in sensitive)
    changes = {
        "changes": CommitRange(found.commits[:_MOST_COMMITS], tuple(files[:_MOST_FILES])),
        "commits": len(found.commits),
        "files": len(files),
        "sensitive": sensitive,
    }
    return previous.model_copy(update=changes)


def _differences(last: EarlierReport, facts: ReportFacts) -> tuple[str, ...]:
    """What was not the same when the two were measured, one clause each."""
    gpus = [] if last.gpu_summary == facts.gpu_summary else [f"GPUs: {last.gpu_summary} then"]
    if last.environment is None:
        return (*gpus, "the environment of a published report is not on record")
    then, now = last.environment, facts.environment
    changed = [key for key in sorted(set(then) | set(now)) if then.get(key) != now.get(key)]
    listed = [f"{key}: {then.get(key, 'none')} then, {now.get(key, 'none')} now" for key in changed[:_MOST_NAMED]]
    more = [f"and {len(changed) - _MOST_NAMED} more"] if len(changed) > _MOST_NAMED else []
    return (*gpus, *listed, *more)
