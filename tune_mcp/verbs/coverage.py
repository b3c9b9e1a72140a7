"""Who keeps each number up to date that the repository's tests assert: read by ``discover``, kept for ``catalog``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp.contract.coverage import CoverageCounts
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import write_atomic
from tune_mcp.precheck.catalogue import stale_files
from tune_mcp.run_dir import IGNORE_ALL, IGNORE_FILE, RUNS_FOLDER

if TYPE_CHECKING:
    from tune_mcp.config.stages import StageTable
    from tune_mcp.discover.coverage import Covered
    from tune_mcp.verbs.project import Project

_TABLE, _COUNTS = "coverage.md", "coverage.json"
_FIRST = 5


def read_coverage(project: Project, model: str, table: StageTable) -> tuple[Covered, ...]:
    """Read the whole repository against the new ``table`` of a model and those of the others, stale stages aside."""
    from tune_mcp.discover.coverage import Covering, coverage

    covering: dict[str, Covering] = {}
    for name in project.places.model_names():
        try:
            config, rules = project.places.model(name), project.places.metric_rules(name)
            stages = table if name == model else project.places.stages(name)
        except Refusal:
            continue
        old = [] if name == model else stale_files(project.repo_root, tuple(stages.values()))
        stages = {key: one for key, one in stages.items() if one.test not in old and one.threshold_path not in old}
        if stages or name == model:
            covering[name] = Covering(config, rules, stages)
    return coverage(project.repo_root, covering)


def counts_of(rows: tuple[Covered, ...], table: str = "") -> CoverageCounts:
    """The counts and the first few that nobody keeps, those with a name before those without."""
    from tune_mcp.discover.coverage import Keeper, counts

    nobody = sorted((one for one in rows if one.keeper is Keeper.NOBODY), key=lambda one: not one.name)
    first = tuple(one.text for one in nobody[:_FIRST])
    return CoverageCounts(asserted=len(rows), first=first, table=table, **counts(rows))


def keep(project: Project, rows: tuple[Covered, ...]) -> CoverageCounts:
    """Write the whole table below the folder of the runs, where it is never committed; the counts for ``catalog``."""
    from tune_mcp.discover.coverage import markdown

    folder = project.repo_root / RUNS_FOLDER
    folder.mkdir(exist_ok=True)
    if not (folder / IGNORE_FILE).exists():
        write_atomic(folder / IGNORE_FILE, IGNORE_ALL)
    counted = counts_of(rows, f"{RUNS_FOLDER}/{_TABLE}")
    write_atomic(folder / _TABLE, markdown(rows).encode())
    counted.to_file(folder / _COUNTS)
    return counted


def kept(project: Project) -> CoverageCounts | None:
    """What ``discover`` kept last, None without."""
    return CoverageCounts.from_file(project.repo_root / RUNS_FOLDER / _COUNTS)


def write_table(rows: tuple[Covered, ...], to: Path) -> None:
    """Write the Markdown table for a pull request. Raises INVALID_ARGUMENT where the file cannot be written."""
    from tune_mcp.discover.coverage import markdown

    try:
        write_atomic(to, markdown(rows).encode())
    except OSError as error:
        what = f"{to} cannot be written: {error.strerror}"
        raise Refusal(Code.INVALID_ARGUMENT, (), what, "name another file", {"argument": "coverage"}) from error
