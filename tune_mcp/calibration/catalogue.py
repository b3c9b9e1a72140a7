"""``catalog`` and ``discover``: what can be calibrated here, and the stage table behind it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import Field

from tune_mcp.calibration.project import Project
from tune_mcp.calibration.reply import Reply
from tune_mcp.config.stages import Frozen, Stage, StageTable
from tune_mcp.config.stages_yaml import dump_stages
from tune_mcp.discover.aliases import aliases
from tune_mcp.discover.stages import Discovery
from tune_mcp.discover.stages import discover as read_tests
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import write_atomic
from tune_mcp.precheck.catalogue import stale_files


class HostEntry(Frozen):
    """One host profile. ``active`` says whether it is in force, ``chosen_by`` why."""

    name: str
    active: bool
    chosen_by: str = ""
    hostname: str = ""
    repo_root: str = ""


class ModelEntry(Frozen):
    """One configured model; ``problem`` instead of its facts when its files cannot be read."""

    name: str
    description: str = ""
    stages: int | None = None
    problem: str = ""


class MetricEntry(Frozen):
    """One tracked metric: its threshold symbol, the extreme that is bad, whether its place is known."""

    key: str
    source: str
    worst: str
    label: str
    status: str


class StageEntry(Frozen):
    """One stage as a caller may name it. ``stale``: its files are not those that ``discover`` saw."""

    key: str
    group: str
    test: str
    preset: str | None
    variant: str | None
    gpus: int | None
    expected_samples: int | None
    stale: bool
    metrics: tuple[MetricEntry, ...]

    @classmethod
    def of(cls, stage: Stage, stale: set[str]) -> StageEntry:
        """The entry of a stage; ``stale`` are files that changed."""
        return cls(
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


class CatalogReply(Reply):
    """Hosts, models, and with a model its stages and aliases."""

    repo_root: str
    hosts: tuple[HostEntry, ...]
    models: tuple[ModelEntry, ...]
    model: str | None = None
    stages: tuple[StageEntry, ...] = ()
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    def lines(self) -> Iterable[str]:
        """Models and hosts; with a model one line a stage."""
        yield f"repository: {self.repo_root}"
        for host in self.hosts:
            yield f"host {host.name}" + (f" (active: {host.chosen_by})" if host.active else "")
        if not any(host.active for host in self.hosts):
            yield "host profile: none active (a plain machine)"
        if self.model is None:
            for model in self.models:
                count = "not discovered yet, call discover" if model.stages is None else f"{model.stages} stages"
                yield f"model {model.name}: {model.problem or f'{count} — {model.description}'}"
            return
        yield f"model {self.model}: {len(self.stages)} stages"
        for stage in self.stages:
            facts = [f"{stage.gpus} GPU(s)" if stage.gpus is not None else "", "STALE" if stage.stale else ""]
            facts.append(f"{stage.expected_samples} samples" if stage.expected_samples is not None else "")
            names = ", ".join(
                f"{metric.key}" + ("" if metric.status == "OK" else " (NEEDS_CONFIG)") for metric in stage.metrics
            )
            yield f"  {stage.key} [{'; '.join(fact for fact in [stage.test, *facts] if fact)}]: {names or 'no metric'}"
        short = [name for name in self.aliases if name != "ALL"]
        yield f"aliases: ALL, {', '.join(short)}"


def catalog(project: Project, model: str | None = None) -> CatalogReply:
    """Hosts, models and, with ``model``, its stages (contract, tool 1). Raises UNKNOWN_MODEL, STAGES_STALE."""
    active = project.host.name if project.host else None
    hosts = tuple(
        HostEntry(name=name, active=name == active, chosen_by=project.host_source if name == active else "")
        for name in project.places.host_names()
    )
    models = tuple(_entry(project, name) for name in project.places.model_names())
    overview = CatalogReply(repo_root=str(project.repo_root), hosts=hosts, models=models, next=_first_step(models))
    if model is None:
        return overview
    project.places.model(model)
    table = project.places.stages(model)
    stale = set(stale_files(project.repo_root, tuple(table.values())))
    return overview.model_copy(
        update={
            "model": model,
            "stages": tuple(StageEntry.of(stage, stale) for stage in table.values()),
            "aliases": aliases(table),
            "next": f"call discover with model={model}: files changed"
            if stale
            else f"call precheck with model={model}",
        }
    )


def _first_step(models: tuple[ModelEntry, ...]) -> str:
    if not models:
        return "add .tune/models/<name>/config.yaml (prompt add_model)"
    return "choose a model, then call catalog with it (discover first, where it says so)"


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


class DiscoverReply(Reply):
    """What ``discover`` found, what changed against the table on disk, and what config still has to say."""

    model: str
    path: str
    written: bool
    stages: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    needs_config: tuple[str, ...]
    collisions: tuple[str, ...]
    conflicts: tuple[str, ...]
    unrecognised: tuple[str, ...]
    problems: tuple[str, ...]
    suggestions: dict[str, str]

    def lines(self) -> Iterable[str]:
        """Counts first, then what needs a person."""
        state = "written" if self.written else "unchanged on disk"
        yield f"model {self.model}: {len(self.stages)} stages; {self.path} {state}"
        for title, names in (("added", self.added), ("removed", self.removed), ("changed", self.changed)):
            if names:
                yield f"{title}: {', '.join(names)}"
        for title, lines in (
            ("NEEDS_CONFIG", self.needs_config),
            ("collision", self.collisions),
            ("config differs from the test", self.conflicts),
            ("not recognised", self.unrecognised),
            ("note", self.problems),
        ):
            for line in lines:
                yield f"{title}: {line}"
        for file, suggestion in self.suggestions.items():
            yield f"suggested metric_sources entry for {file}:"
            yield suggestion.rstrip()


def discover(project: Project, model: str, write: bool = True) -> DiscoverReply:
    """Read the tests and config into stages.yaml (contract, tool 2). A table that says the same is not rewritten."""
    config = project.places.model(model)
    rules = project.places.metric_rules(model)
    previous = _previous(project, model)
    try:
        found = read_tests(config, rules, project.repo_root, previous, datetime.now(UTC).replace(microsecond=0))
    except Refusal as refusal:
        raise project.places.located(model, refusal) from refusal
    path = project.places.stages_path_for_writing(model, project.repo_root)
    data = dump_stages(found.stages)
    written = write and not (path.exists() and path.read_bytes() == data)
    if written:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    return DiscoverReply(
        model=model,
        path=str(path),
        written=written,
        stages=tuple(found.stages),
        added=tuple(found.added),
        removed=tuple(found.removed),
        changed=tuple(found.changed),
        needs_config=tuple(f"{stage}/{metric}: {source}" for stage, metric, source in found.needs_config),
        collisions=tuple(
            f"{one.stage_key}/{one.metric_key} is claimed by {', '.join(one.sources)}" for one in found.collisions
        ),
        conflicts=tuple(found.conflicts),
        unrecognised=tuple(found.unrecognised),
        problems=tuple(found.problems),
        suggestions=dict(found.suggestions),
        next=_after(found, model, write),
    )


def _previous(project: Project, model: str) -> StageTable | None:
    try:
        return project.places.stages(model)
    except Refusal as refusal:
        if refusal.code is Code.STAGES_STALE:
            return None
        raise


def _after(found: Discovery, model: str, write: bool) -> str:
    if found.needs_config:
        return "add the missing JSON paths under metric_sources in config.yaml, then call discover again"
    if not found.stages:
        return "no stage was found: look at test_globs and the constants' names"
    return f"call precheck with model={model}" if write else "call discover with write=true to keep this"
