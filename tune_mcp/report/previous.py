"""The last calibration of the same model, and what changed since: conditions, commits, files (PRF-01, PRF-02)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tune_mcp.config.model import Optimisation
from tune_mcp.report import published
from tune_mcp.report.earlier import EarlierReport
from tune_mcp.report.facts import CommitFacts, FileFacts, PreviousFacts, RangeFacts, ReportFacts
from tune_mcp.report.published import Published
from tune_mcp.session import commit_range

_MOST_NAMED = 8
_MOST_COMMITS = 20
_MOST_FILES = 40


def find(
    repo_root: Path,
    facts: ReportFacts,
    optimisations: Mapping[str, Optimisation],
    earlier: Sequence[EarlierReport] = (),
) -> PreviousFacts | None:
    """The newest earlier run of the model whose report can be read, or that is published; None when there is none.

    ``earlier`` are the reports of the model's earlier runs, newest first.
    """
    found = _of_run(earlier[0], facts) if earlier else None
    for one in published.read_all(repo_root):
        newer = found is None or one.run_id > found.run_id
        if one.model == facts.model and one.run_id < facts.run_id and newer:
            found = _of_published(one, facts)
    if found is None:
        return None
    span = _range(repo_root, found.calibration_git_sha, facts.calibration_git_sha, optimisations)
    return found.model_copy(update={"range": span})


def _range(repo_root: Path, then: str, now: str, optimisations: Mapping[str, Optimisation]) -> RangeFacts | None:
    found = commit_range.between(repo_root, then, now)
    if found is None:
        return None
    carried: dict[str, list[str]] = {}
    for name, one in optimisations.items():
        for file in commit_range.changed(repo_root, then, now, one.files) if one.files else ():
            carried.setdefault(file.path, []).append(name)
    files = sorted(found.files, key=lambda file: file.path not in carried)
    return RangeFacts(
        commits_total=len(found.commits),
        commits=tuple(
            CommitFacts(sha=one.sha, day=one.day, subject=one.subject) for one in found.commits[:_MOST_COMMITS]
        ),
        files_total=len(files),
        files=tuple(
            FileFacts(
                path=file.path,
                added=file.added,
                removed=file.removed,
                optimisations=tuple(carried.get(file.path, ())),
            )
            for file in files[:_MOST_FILES]
        ),
    )


def _of_run(earlier: EarlierReport, facts: ReportFacts) -> PreviousFacts:
    then, now = earlier.environment, facts.environment
    changed = [key for key in sorted(set(then) | set(now)) if then.get(key) != now.get(key)]
    differences = [f"{key}: {then.get(key, 'none')} then, {now.get(key, 'none')} now" for key in changed[:_MOST_NAMED]]
    if len(changed) > _MOST_NAMED:
        differences.append(f"and {len(changed) - _MOST_NAMED} more")
    return PreviousFacts(
        run_id=earlier.run_id,
        calibration_git_sha=earlier.calibration_git_sha,
        generated_at=earlier.generated_at,
        repeats=earlier.repeats,
        comparable=earlier.gpu_summary == facts.gpu_summary and not differences,
        differences=(*_other_gpus(earlier.gpu_summary, facts), *differences),
        worst={f"{stage.key}/{metric.key}": metric.worst_raw for stage in earlier.stages for metric in stage.metrics},
    )


def _of_published(earlier: Published, facts: ReportFacts) -> PreviousFacts:
    unknown = "the environment of a published report is not on record"
    return PreviousFacts(
        run_id=earlier.run_id,
        calibration_git_sha=earlier.calibration_git_sha,
        generated_at=earlier.generated_at,
        repeats=earlier.repeats,
        comparable=False,
        differences=(*_other_gpus(earlier.gpu_summary, facts), unknown),
        worst=earlier.worst,
    )


def _other_gpus(then: str, facts: ReportFacts) -> tuple[str, ...]:
    return () if then == facts.gpu_summary else (f"GPUs: {then} then",)
