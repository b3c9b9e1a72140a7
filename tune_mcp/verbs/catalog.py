"""``catalog``: what can be calibrated here."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.actions import Step, call
from tune_mcp.config.model import globbed_files
from tune_mcp.config.stages import Stage
from tune_mcp.contract.catalog import CatalogReply, HostEntry, MetricEntry, ModelEntry, StageEntry
from tune_mcp.discover.aliases import aliases
from tune_mcp.errors import Code, Refusal
from tune_mcp.precheck.catalogue import stale_files
from tune_mcp.verbs.coverage import kept
from tune_mcp.verbs.project import Project

_NEW_MODEL = "for tests that no model covers: tune-mcp init --model NAME --run (prompt add_model)"


def catalog(project: Project, model: str | None = None) -> CatalogReply:
    """Hosts, models and, with ``model``, its stages. Raises UNKNOWN_MODEL, STAGES_STALE."""
    active = project.host.name if project.host else None
    hosts = tuple(
        HostEntry(name=name, active=name == active, chosen_by=project.host_source if name == active else "")
        for name in project.places.host_names()
    )
    models = tuple(_entry(project, name) for name in project.places.model_names())
    overview = CatalogReply(repo_root=str(project.repo_root), hosts=hosts, models=models, next=_first_step(models))
    if model is None:
        return overview
    config = project.places.model(model)
    table = project.places.stages(model)
    stale = set(stale_files(project.repo_root, tuple(table.values())))
    described = {stage.test for stage in table.values()}
    undescribed = tuple(path for path in globbed_files(project.repo_root, config) if path not in described)
    return overview.model_copy(
        update={
            "model": model,
            "stages": tuple(_stage(stage, stale) for stage in table.values()),
            "aliases": aliases(table),
            "undescribed": undescribed,
            "coverage": kept(project),
            "next": _next_step(model, bool(stale or undescribed), table.values()),
        }
    )


def _next_step(model: str, stale: bool, stages: Iterable[Stage]) -> Step:
    if stale:
        return Step(call("discover", model=model), ": files changed")
    if any(metric.status != "OK" for stage in stages for metric in stage.metrics.values()):
        return Step(call("discover", model=model), ": it says what config.yaml lacks (NEEDS_CONFIG)")
    return Step(call("precheck", model=model))


def _stage(stage: Stage, stale: set[str]) -> StageEntry:
    """The entry of a stage; ``stale`` are files that changed."""
    return StageEntry(
        key=stage.key,
        group=stage.group,
        test=stage.test,
        preset=stage.calibration_preset,
        variant=stage.variant,
        gpus=stage.gpus,
        expected_samples=stage.expected_samples,
        stale=stage.test in stale or stage.threshold_path in stale,
        metrics=tuple(
            MetricEntry(key=key, source=one.source, worst=one.worst, label=one.display.label, status=one.status)
            for key, one in stage.metrics.items()
        ),
    )


def _first_step(models: tuple[ModelEntry, ...]) -> str:
    if not models:
        return _NEW_MODEL
    return Step("choose a model, then ", call("catalog"), f" with it (discover first, where it says so); {_NEW_MODEL}")


def _entry(project: Project, name: str) -> ModelEntry:
    try:
        description = project.places.model(name).description
    except Refusal as refusal:
        return ModelEntry(name=name, problem=refusal.text())
    try:
        return ModelEntry(name=name, description=description, stages=len(project.places.stages(name)))
    except Refusal as refusal:
        problem = "" if refusal.code is Code.STAGES_STALE else refusal.text()
        return ModelEntry(name=name, description=description, problem=problem)
