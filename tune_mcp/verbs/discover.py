"""``discover``: read the tests and config of a model into its stage table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tune_mcp.actions import Step, call
from tune_mcp.config.stages import StageTable
from tune_mcp.config.stages_yaml import dump_stages
from tune_mcp.contract.discover import DiscoverReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_plain, write_atomic
from tune_mcp.precheck.hardware import line_to_add
from tune_mcp.verbs.coverage import counts_of, keep, read_coverage, write_table
from tune_mcp.verbs.project import Project, gpus_by_default

if TYPE_CHECKING:
    from pathlib import Path

    from tune_mcp.config.model import ModelConfig
    from tune_mcp.discover.stages import Discovery


def discover(
    project: Project, model: str, write: bool = True, coverage_to: Path | None = None, *, with_coverage: bool = True
) -> DiscoverReply:
    """Read the tests and config into stages.yaml. An equal table is not rewritten.

    ``coverage_to`` is a file for the table of all asserted numbers, in Markdown; ``with_coverage`` whether they are
    read at all.
    """
    from tune_mcp.discover.stages import discover as read_tests  # reads syntax trees: nothing that catalog waits for

    config = project.places.model(model)
    rules = project.places.metric_rules(model)
    previous = _previous(project, model)
    try:
        found = read_tests(config, rules, project.repo_root, previous, datetime.now(UTC).replace(microsecond=0))
    except Refusal as refusal:
        raise project.places.located(model, refusal) from refusal
    path = project.places.stages_path_for_writing(model, project.repo_root)
    data = dump_stages(found.stages)
    written = write and not (path.exists() and read_plain(path) == data)
    if written:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    rows = read_coverage(project, model, found.stages) if with_coverage else None
    if rows is not None and coverage_to is not None:
        write_table(rows, coverage_to)
    covered = None if rows is None else keep(project, rows) if write else counts_of(rows)
    return DiscoverReply(
        model=model,
        path=str(path),
        written=written,
        stages=tuple(found.stages),
        added=tuple(found.added),
        removed=tuple(found.removed),
        changed=tuple(found.changed),
        needs_config=tuple(found.needs_config),
        collisions=tuple(found.collisions),
        conflicts=tuple(found.conflicts),
        unrecognised=tuple(found.unrecognised),
        problems=(*found.problems, *_assumed_gpus(config, found.stages)),
        suggestions=dict(found.suggestions),
        without=tuple(found.without),
        coverage=covered,
        next=_after(found, model, write),
    )


def _assumed_gpus(config: ModelConfig, table: StageTable) -> tuple[str, ...]:
    files = gpus_by_default(config, tuple(table.values()))
    assumed = "gpus_per_test does not name it, so each launch takes 1 GPU"
    return tuple(f"{file}: {assumed}; {line_to_add(config.name, (file,))}" for file in files)


def _previous(project: Project, model: str) -> StageTable | None:
    """The table that is to be replaced; None without one, or with one that cannot be read: it is written anew."""
    try:
        return project.places.stages(model)
    except Refusal as refusal:
        if refusal.code in (Code.STAGES_STALE, Code.INVALID_CONFIG):
            return None
        raise


def _after(found: Discovery, model: str, write: bool) -> str:
    if found.needs_config:
        return Step(
            "add the missing JSON paths under metric_sources in config.yaml, then ",
            call("discover", model=model),
            " again",
        )
    if found.without or (not found.stages and found.suggestions):
        return Step(
            "put the blocks above into config.yaml, or take these files out of test_globs, then ",
            call("discover", model=model),
            " again",
        )
    if not found.stages:
        return "no stage was found: look at test_globs"
    return Step(call("precheck", model=model)) if write else Step(call("discover", model=model), " to keep this")
