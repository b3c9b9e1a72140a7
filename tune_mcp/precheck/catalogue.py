"""The repository and its stage table: a commit to calibrate, a table that describes this tree's test files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp.contract.precheck import Check, check
from tune_mcp.errors import Refusal
from tune_mcp.files import has_digest
from tune_mcp.precheck.subject import Subject, quoted
from tune_mcp.session import provenance
from tune_mcp.words import number_of

if TYPE_CHECKING:
    from tune_mcp.config.metrics import MetricRules
    from tune_mcp.config.model import ModelConfig
    from tune_mcp.config.stages import Stage, StageTable


def stale_files(repo_root: Path, stages: tuple[Stage, ...]) -> list[str]:
    """Test and threshold files whose bytes are not those that ``discover`` saw."""
    expected = {name: sha for stage in stages for name, sha in stage.file_sha256.items()}
    return [name for name, sha in expected.items() if not has_digest(repo_root / name, sha)]


def contradicted(
    repo_root: Path, config: ModelConfig, rules: MetricRules, table: StageTable, stages: tuple[Stage, ...]
) -> list[str]:
    """``stage: field`` for whatever the table says against what ``discover`` would write now (DSC-01, MOD-02).

    A bound, a place or a sample count that was changed by hand would become a wrong threshold. What only people read
    is the table's own, and so is a place that config does not name. A stage that is left out counts beside others of
    its test file, and always where the whole table is selected: ALL means all (STG-01, TTS-02). Raises INVALID_CONFIG
    as ``discover`` does.
    """
    # Reads syntax trees: nothing that a supervisor needs.
    from tune_mcp.discover.stages import discover

    found = discover(config, rules, repo_root, None, datetime.now(UTC), only_stages=True).stages
    odd: list[str] = []
    for stage in stages:
        names = _against(stage, found[stage.key]) if stage.key in found else ("no such stage",)
        odd += [f"{stage.key}: {name}" for name in names]
    tests = {stage.test for stage in stages}
    everything = len(stages) == len(table)
    left_out = (key for key, one in found.items() if key not in table and (everything or one.test in tests))
    return odd + [f"{key}: left out" for key in left_out]


def _against(stage: Stage, found: Stage) -> Iterator[str]:
    """Fields of a stage that a launch, a verdict or a threshold follows from, and that are not those of ``found``."""
    for name in ("test", "group", "extra_env", "variant", "calibration_preset", "threshold_file"):
        if getattr(stage, name) != getattr(found, name):
            yield name
    for name in ("expected_samples", "sample_counts"):
        if getattr(found, name) not in (None, getattr(stage, name)):
            yield name
    for key in stage.metrics.keys() | found.metrics.keys():
        ours, theirs = stage.metrics.get(key), found.metrics.get(key)
        if ours is None or theirs is None:
            yield f"metrics.{key}"
            continue
        fixed = {"source", "worst"} | ({"json_file", "json_path"} if theirs.status == "OK" else set[str]())
        yield from (f"metrics.{key}.{name}" for name in sorted(fixed) if getattr(ours, name) != getattr(theirs, name))
        if (ours.display.scale, ours.display.digits) != (theirs.display.scale, theirs.display.digits):
            yield f"metrics.{key}.display"


def unknown_metrics(stages: tuple[Stage, ...]) -> list[str]:
    """``stage/metric`` for every metric without a JSON path, ``stage/sample_counts`` for stages without counts."""
    found = [
        f"{stage.key}/{key}"
        for stage in stages
        for key, metric in stage.metrics.items()
        if metric.status == "NEEDS_CONFIG" or metric.json_file is None or metric.json_path is None
    ]
    return found + [f"{stage.key}/sample_counts" for stage in stages if stage.metrics and stage.sample_counts is None]


def stale_words(repo_root: Path, stale: Sequence[str]) -> str:
    """Why a table does not fit: ``is older than tests/a.py, and names tests/b.py, which does not exist here``."""
    gone = [name for name in stale if not (repo_root / name).exists()]
    changed = [name for name in stale if name not in gone]
    parts = [f"is older than {', '.join(changed)}"] if changed else []
    parts += [f"names {', '.join(gone)}, which {'does' if len(gone) == 1 else 'do'} not exist here"] if gone else []
    return ", and ".join(parts)


def _wrong(subject: Subject) -> str:
    """Why the table is not that of the tree; empty when it is."""
    if stale := stale_files(subject.repo_root, subject.stages):
        return f"stages.yaml {stale_words(subject.repo_root, stale)}"
    if subject.catalogue is None:
        return ""
    try:
        odd = contradicted(subject.repo_root, *subject.catalogue, subject.stages)
    except Refusal as refusal:  # one failed check among others: precheck reports all at once
        return f"discover refuses: {refusal.message}"
    return f"stages.yaml differs from what discover finds: {', '.join(odd[:6])}" if odd else ""


def checks(subject: Subject) -> Iterator[Check]:
    """``stages.fresh`` and ``stages.config``."""
    wrong = _wrong(subject)
    yield check(
        "stages.fresh",
        "mismatch" if wrong else "ok",
        wrong or f"{number_of(len(subject.stages), 'stage')} up to date",
        f"tune-mcp discover {subject.model} --repo {quoted(subject.repo_root)}",
    )
    unknown = unknown_metrics(subject.stages)
    yield check(
        "stages.config",
        "missing" if unknown else "ok",
        f"no JSON path for {', '.join(unknown[:6])}" if unknown else "every metric has a JSON path",
        f"add them under metric_sources of models/{subject.model}/config.yaml, then run discover",
    )


def repository_checks(subject: Subject) -> Iterator[Check]:
    """``repo.head`` and ``repo.tree``, and ``repo.path`` where the path itself is the trouble."""
    if ":" in str(subject.repo_root):
        yield check(
            "repo.path",
            "mismatch",
            f"{subject.repo_root} has a colon in it, which ends an entry of PATH and PYTHONPATH",
            f"mv {quoted(subject.repo_root)} <a path without a colon>",
        )
    try:
        state = provenance.read(subject.repo_root)
    except Refusal as refusal:
        yield check("repo.head", "missing", refusal.message, f"git -C {quoted(subject.repo_root)} status")
        return
    yield check("repo.head", "ok", f"{state.head} on {state.branch} in {subject.repo_root}")
    if state.dirty:
        changed = f"{number_of(len(state.changed), 'tracked file')} changed"
        yield check(
            "repo.tree",
            "warn",
            f"the tree is not the commit: {changed}, {len(state.untracked)} untracked; recorded with the run",
            f"git -C {quoted(subject.repo_root)} status --short",
        )
    else:
        yield check("repo.tree", "ok", "clean")
