"""What ``catalog`` answers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import ClassVar

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.coverage import CoverageCounts
from tune_mcp.contract.reply import Reply, size
from tune_mcp.words import number_of

CATALOG_LIMIT = 4800
"""Characters of a model's catalogue, typed; it is asked for at the start of every calibration."""


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

    def head(self) -> str:
        """What the stages of one test share: ``tests/test_x_ci.py [2 GPUs; 50 samples; STALE]``."""
        facts = (
            number_of(self.gpus, "GPU") if self.gpus is not None else "",
            f"{self.expected_samples} samples" if self.expected_samples is not None else "",
            "STALE" if self.stale else "",
        )
        return f"{self.test} [{'; '.join(filter(None, facts))}]"

    def metric_names(self) -> str:
        """``accuracy, wer (NEEDS_CONFIG)``."""
        return ", ".join(one.key if one.status == "OK" else f"{one.key} (NEEDS_CONFIG)" for one in self.metrics)

    def short(self, with_metrics: bool) -> dict[str, object]:
        """What a caller needs to choose it."""
        facts = {
            "key": self.key,
            "gpus": self.gpus,
            "expected_samples": self.expected_samples,
            "stale": self.stale or None,
            "metrics": self.metric_names() if with_metrics else None,
        }
        return {name: value for name, value in facts.items() if value is not None}


class CatalogReply(Reply):
    """Hosts, models, and with a model its stages and aliases; ``undescribed`` are test files without a stage."""

    also_typed: ClassVar = {"tests": "array"}
    repo_root: str
    hosts: tuple[HostEntry, ...]
    models: tuple[ModelEntry, ...]
    model: str | None = None
    stages: tuple[StageEntry, ...] = ()
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    undescribed: tuple[str, ...] = ()
    coverage: CoverageCounts | None = None

    def typed(self) -> dict[str, object]:
        """All facts; of a large model the stages in fewer words, their files under ``tests``."""
        facts = super().typed()
        facts["hosts"] = [host.model_dump(exclude_defaults=True) for host in self.hosts]
        if self.model is None:
            return {name: value for name, value in facts.items() if name not in ("stages", "aliases")}
        facts["models"] = [{"name": model.name} for model in self.models]
        if size(facts) <= CATALOG_LIMIT:
            return facts
        facts["tests"] = list(dict.fromkeys(stage.test for stage in self.stages))
        facts["aliases"] = {name: len(keys) for name, keys in self.aliases.items()}
        for with_metrics in (True, False):
            facts["stages"] = [stage.short(with_metrics) for stage in self.stages]
            if size(facts) <= CATALOG_LIMIT:
                break
        return facts | {"whole": self.whole()}

    def whole(self) -> str | None:
        """Every stage with every metric."""
        return f"tune://models/{self.model}/stages" if self.model else None

    def lines(self) -> Iterable[str]:
        """Models and hosts; with a model one line a stage."""
        yield f"repository: {self.repo_root}"
        for host in self.hosts:
            yield f"host {host.name}" + (f" (active: {host.chosen_by})" if host.active else "")
        if not any(host.active for host in self.hosts):
            yield "host profile: none active (a plain machine)"
        if self.model is None:
            for model in self.models:
                count = "not discovered yet" if model.stages is None else number_of(model.stages, "stage")
                facts = " — ".join(filter(None, (count, model.description)))
                yield f"model {model.name}: {model.problem or facts}"
            return
        yield f"model {self.model}: {number_of(len(self.stages), 'stage')}"
        for head, stages in groupby(self.stages, StageEntry.head):
            yield f"  {head}"
            yield from (f"    {stage.key}: {stage.metric_names() or 'no metric'}" for stage in stages)
        for path in self.undescribed:
            yield f"  STALE: {path} fits test_globs, and no stage describes it"
        yield from self.coverage.lines() if self.coverage else ("coverage: not read yet; discover reads it",)
        short = [name for name in self.aliases if name != "ALL"]
        yield f"aliases: ALL, {', '.join(short)}"
