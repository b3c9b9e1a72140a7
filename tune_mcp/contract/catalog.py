"""What ``catalog`` answers."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply


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


class CatalogReply(Reply):
    """Hosts, models, and with a model its stages and aliases; ``undescribed`` are test files without a stage."""

    repo_root: str
    hosts: tuple[HostEntry, ...]
    models: tuple[ModelEntry, ...]
    model: str | None = None
    stages: tuple[StageEntry, ...] = ()
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    undescribed: tuple[str, ...] = ()

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
        for path in self.undescribed:
            yield f"  STALE: {path} fits test_globs, and no stage describes it"
        short = [name for name in self.aliases if name != "ALL"]
        yield f"aliases: ALL, {', '.join(short)}"
