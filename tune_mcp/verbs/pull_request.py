"""What a person needs to publish an apply: the text of a pull request and the list of files. Nothing is committed here.

Committing and pushing are the person's, who may ask an agent for it (prompt ``publish``); this module only prepares
(rules VCS-01 to VCS-08).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.contract.apply_plan import Direction
from tune_mcp.files import real, write_atomic
from tune_mcp.report import since, wording
from tune_mcp.report.earlier import published_place
from tune_mcp.report.facts import ReportFacts
from tune_mcp.report.figures import old_text, plain
from tune_mcp.report.markdown import table
from tune_mcp.run_dir import RUNS_FOLDER, RunDir
from tune_mcp.verbs.apply_recovery import ApplyRecord
from tune_mcp.verbs.project import Project

PULL_REQUEST = "pull_request.md"
_SECTIONS = (
    "Summary",
    "Calibration run directory",
    "Optimised paths (CUDA Graph) evidence",
    "Worst-of-N highlights",
    "Threshold-apply policy",
    "Tests and pre-commit",
)
_HIGHLIGHTS = 20


@dataclass(frozen=True)
class CatalogueFile:
    """The model's stages.yaml where an apply writes it. ``name`` is below the repository where it lies there."""

    path: Path
    name: str
    ours: bool


def catalogue(project: Project, model: str) -> CatalogueFile:
    """Where the digests of edited files stand; an apply brings them up to date (DSC-02)."""
    path = project.places.stages_path_for_writing(model, project.repo_root)
    ours = real(path).is_relative_to(project.repo_root)
    name = real(path).relative_to(project.repo_root).as_posix() if ours else str(path)
    return CatalogueFile(path, name, ours)


@dataclass(frozen=True)
class Publication:
    """What is published of a run: its report, the applies that are in effect, and where their digests are kept."""

    run: RunDir
    report: ReportFacts
    records: Sequence[ApplyRecord]
    catalogue: CatalogueFile

    def edited_files(self) -> list[str]:
        """The test and threshold files of every apply that is in effect."""
        return sorted({one.file for record in self.records for one in record.applied})

    def commit_files(self) -> tuple[str, ...]:
        """Everything that may be in the commit: edited files, the catalogue, the published report (VCS-04)."""
        names = [self.catalogue.name] if self.catalogue.ours and self.catalogue.path.is_file() else []
        return (*self.edited_files(), *names, published_place(self.run.run_id))

    def write(self, folder: Path) -> Path:
        """Write the text of the pull request next to the decision of an apply."""
        path = folder / PULL_REQUEST
        write_atomic(path, self.text().encode())
        return path

    def text(self) -> str:
        """The six sections of VCS-07, from the report and the decisions of every apply of the run that is in effect."""
        bodies = (
            _summary(self.report, self.records),
            (
                f"`{RUNS_FOLDER}/{self.run.run_id}` (stays on the machine that measured; never committed).",
                f"The whole report of the run: `{published_place(self.run.run_id)}`.",
            ),
            _evidence(self.report),
            _highlights(self.report),
            _policy(self),
            _verification(self.run),
        )
        parts = [f"## {title}\n\n" + "\n".join(body) for title, body in zip(_SECTIONS, bodies, strict=True)]
        return "\n\n".join(parts) + "\n"


def _summary(facts: ReportFacts, records: Sequence[ApplyRecord]) -> Iterator[str]:
    yield (
        f"Thresholds of {facts.model} set to the strict worst of {facts.repeats} repeats, measured on commit "
        f"`{facts.calibration_git_sha}` ({facts.gpu_summary}{', dirty tree' if facts.dirty else ''})."
    )
    yield ""
    changes = (
        (one.stage_key, f"`{one.file}`: `{one.symbol}`", old_text(one.old), plain(one.new), one.direction)
        for record in records
        for one in record.applied
    )
    yield from table(("Stage", "Threshold", "Old", "New", "Effect on CI"), changes)


def _evidence(facts: ReportFacts) -> Iterator[str]:
    yield f"- Machine: {facts.gpu_summary}; environment {facts.environment_note}."
    for one in facts.optimisations:
        for seen in one.tests:
            shown = since.seen_text(seen, facts.repeats) if one.evidence else "config names no pattern for it"
            place = f", first at `{seen.place}`" if seen.place else ""
            yield f"- {one.name} in the logs of `{seen.test}`: {shown}{place}."
    if not facts.optimisations:
        yield "- None: the model's config names no optimisation, so no log was searched for one."


def _highlights(facts: ReportFacts) -> Iterator[str]:
    moving = [pair for pair in facts.loudest_first() if pair[1].direction is not Direction.EQUAL]
    yield from table(
        ("Stage", "Threshold", "Per run", "Worst of N", "Before", "Proposed", "Effect on CI"),
        (
            (
                stage.key,
                f"`{metric.place}`",
                ", ".join(plain(value) for value in metric.values),
                plain(metric.worst_raw),
                wording.present_text(metric),
                plain(metric.write_value),
                metric.direction_text,
            )
            for stage, metric in moving[:_HIGHLIGHTS]
        ),
    )
    if len(moving) > _HIGHLIGHTS:
        yield f"\n… and {len(moving) - _HIGHLIGHTS} more in the report."


def _policy(publication: Publication) -> Iterator[str]:
    files = ", ".join(f"`{name}`" for name in publication.edited_files())
    yield f"Edited: {files}. `{publication.catalogue.name}` holds their new digests."
    yield f"The commit: {', '.join(f'`{name}`' for name in publication.commit_files())}."
    yield "Only reference literals were written; the slack stays in the tests. Unknown thresholds were not edited."
    for record in publication.records:
        yield (
            f"- Mode {record.mode}, decided by {record.decided_by} at {record.decided_at}: "
            f"{len(record.applied)} written, {len(record.kept)} left."
        )
        for one in record.kept:
            if one.direction != Direction.EQUAL:
                yield f"  - left `{one.symbol}` ({one.stage_key}), {one.direction}: {one.why}"


def _verification(run: RunDir) -> Iterator[str]:
    yield (
        "Every edited file was parsed before and after: the trees are equal but for the values above. "
        f"Undo: `tune-mcp apply {run.run_id} --undo PLAN_ID`."
    )
    yield "- [ ] the repository's pre-commit hooks passed, none was bypassed"
    yield "- [ ] the edited tests passed"
