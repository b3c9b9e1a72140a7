"""Metrics, their groups and the names of their thresholds, read from ``metrics.yaml`` (rules MET-03, DSC-14..16)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from tune_mcp.config.fields import ConfigModel, JsonSource, Regex
from tune_mcp.config.policy import Family, GroupPolicy
from tune_mcp.config.stages import Display, WorstOp
from tune_mcp.config.yaml_source import YamlSource, read_yaml

SHIPPED_METRICS = Path(__file__).with_name("metrics.yaml")

ScopeRole = Literal["samples", "tokens", "concurrency"]
SCOPE_ROLES: tuple[ScopeRole, ...] = ("samples", "tokens", "concurrency")


class SampleSource(ConfigModel):
    """Where the counts stand: samples asked for, and samples that gave a good answer."""

    total: JsonSource
    ok: JsonSource


class Layout(ConfigModel):
    """What a family of benchmarks writes into one result file, for tests whose imports fit (DSC-03, DSC-04)."""

    imports: Regex | None = None
    sample_counts: SampleSource
    paths: dict[str, JsonSource]

    def fits(self, imports: Iterable[str]) -> bool:
        """Whether a test that imports these modules writes this way."""
        return self.imports is None or any(re.fullmatch(self.imports, name) for name in imports)


class _Metric(ConfigModel):
    group: str
    worst: WorstOp
    label: str
    scale: float = 1
    digits: int = Field(default=4, ge=0, le=12)
    nested: bool = False
    integer: bool = False


class _Name(ConfigModel):
    pattern: Regex
    metric: str


class _MetricsFile(ConfigModel):
    groups: dict[str, GroupPolicy] = Field(default_factory=dict)
    metrics: dict[str, _Metric] = Field(default_factory=dict)
    names: tuple[_Name, ...] = ()
    nested_names: tuple[Regex, ...] = ()
    scope: dict[ScopeRole, tuple[Regex, ...]] = Field(default_factory=lambda: dict[ScopeRole, tuple[Regex, ...]]())
    protected: tuple[Regex, ...] = ()
    threshold_like: tuple[Regex, ...] = ()
    layouts: tuple[Layout, ...] = ()


@dataclass(frozen=True)
class MetricSpec:
    """One metric: its group, its bad extreme, how it is shown, and whether it may stand in a dict or is a count."""

    key: str
    group: str
    worst: WorstOp
    display: Display
    nested: bool = False
    integer: bool = False


@dataclass(frozen=True)
class MetricRules:
    """The shipped ``metrics.yaml``, extended by one model's. Orders are those of the files, shipped ones first."""

    metrics: dict[str, MetricSpec]
    groups: dict[str, GroupPolicy]
    names: tuple[tuple[re.Pattern[str], str], ...]
    nested_names: tuple[re.Pattern[str], ...]
    scope: dict[ScopeRole, tuple[re.Pattern[str], ...]]
    protected_names: tuple[re.Pattern[str], ...]
    threshold_like: tuple[re.Pattern[str], ...]
    layouts: tuple[Layout, ...]

    def match(self, symbol: str, subkey: str | None) -> MetricSpec | None:
        """The metric that a threshold constant bounds; None for other names and for protected ones (DSC-15)."""
        if self.protected(symbol):
            return None
        if subkey is not None:
            spec = self.metrics.get(subkey)
            return spec if spec and spec.nested and _fits(self.nested_names, symbol) else None
        for pattern, key in self.names:
            if _fits((pattern,), symbol):
                return self.metrics[key]
        return None

    def protected(self, symbol: str) -> bool:
        """Whether calibration must never write ``symbol``: sample scope, concurrency, timeouts, slack (SMP-09)."""
        return self.role(symbol) is not None or _fits(self.protected_names, symbol)

    def role(self, symbol: str) -> ScopeRole | None:
        """What ``symbol`` says about the scope of a measurement, if anything."""
        return next((role for role, patterns in self.scope.items() if _fits(patterns, symbol)), None)

    def named_as_nested(self, symbol: str) -> bool:
        """Whether a dict of this name is expected to hold thresholds by concurrency."""
        return not self.protected(symbol) and _fits(self.nested_names, symbol)

    def looks_like_threshold(self, symbol: str) -> bool:
        """Whether a name that matches nothing deserves a line in the list of unrecognised ones (DSC-14)."""
        return not self.protected(symbol) and _fits(self.threshold_like + self.nested_names, symbol)

    def policy(self, group: str) -> GroupPolicy:
        """The group's policy; an unknown group is always asked about and never rounded."""
        return self.groups.get(group, GroupPolicy())


@lru_cache(maxsize=32)
def _read(path: Path, _changed: int) -> tuple[YamlSource, _MetricsFile]:
    source = read_yaml(path)
    file = source.check(_MetricsFile, source.data)
    if file is None:
        raise source.refusal()
    return source, file


def load_metric_rules(model_metrics: Path | None = None) -> MetricRules:
    """The shipped rules, with a model's ``metrics.yaml`` on top. Raises INVALID_CONFIG naming file, line and key."""
    _, shipped = _read(SHIPPED_METRICS, 0)
    if model_metrics is None:
        return _merge(_MetricsFile(), shipped)
    source, own = _read(model_metrics, model_metrics.stat().st_mtime_ns)
    metrics = shipped.metrics | own.metrics
    groups = shipped.groups | own.groups
    problems = len(source.problems)
    for index, name in enumerate(own.names):
        if name.metric not in metrics:
            source.note(("names", index, "metric"), f"there is no metric {name.metric!r}", "DSC-16")
    for key, metric in own.metrics.items():
        if metric.group not in groups:
            source.note(("metrics", key, "group"), f"there is no group {metric.group!r}; add it to groups", "DSC-16")
    if len(source.problems) > problems:
        raise source.refusal()
    return _merge(own, shipped)


def family(group: str, policy: GroupPolicy | None) -> Family:
    """How a group's metrics scatter: as its policy says, else as the shipped group of that name, else ``other``."""
    _, shipped = _read(SHIPPED_METRICS, 0)
    known = policy.family if policy else None
    return known or shipped.groups.get(group, GroupPolicy()).family or "other"


def _merge(own: _MetricsFile, shipped: _MetricsFile) -> MetricRules:
    return MetricRules(
        metrics={key: _spec(key, metric) for key, metric in (shipped.metrics | own.metrics).items()},
        groups=shipped.groups | own.groups,
        names=tuple((re.compile(name.pattern), name.metric) for name in own.names + shipped.names),
        nested_names=_compiled(own.nested_names + shipped.nested_names),
        scope={role: _compiled(own.scope.get(role, ()) + shipped.scope.get(role, ())) for role in SCOPE_ROLES},
        protected_names=_compiled(own.protected + shipped.protected),
        threshold_like=_compiled(own.threshold_like + shipped.threshold_like),
        layouts=own.layouts + shipped.layouts,
    )


def _spec(key: str, metric: _Metric) -> MetricSpec:
    display = Display(label=metric.label, scale=metric.scale, digits=metric.digits)
    return MetricSpec(key, metric.group, metric.worst, display, metric.nested, metric.integer)


def _compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


def _fits(patterns: Iterable[re.Pattern[str]], symbol: str) -> bool:
    bare = symbol.lstrip("_")
    return any(pattern.fullmatch(bare) or pattern.fullmatch(symbol) for pattern in patterns)
