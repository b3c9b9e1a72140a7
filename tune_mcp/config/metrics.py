"""Metrics, their groups and the names of their thresholds, read from ``metrics.yaml`` (rules MET-03, DSC-14..16)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast

from pydantic import Field

from tune_mcp.config.fields import ConfigModel, JsonSource, Regex
from tune_mcp.config.stages import Display, Family, GroupPolicy, WorstOp
from tune_mcp.config.yaml_source import KeyPath, YamlSource, read_yaml

SHIPPED_METRICS = Path(__file__).with_name("metrics.yaml")

ScopeRole = Literal["samples", "tokens", "concurrency"]
OTHER = "other"
"""The group of a metric whose name speaks of none."""
_DIGITS, _DIGITS_UNNAMED = 4, 6
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


class Metric(ConfigModel):
    """One metric in a file: without ``group`` its name decides, without ``worst`` what the tests assert."""

    group: str | None = None
    worst: WorstOp | None = None
    label: str | None = None
    scale: float = 1
    digits: int | None = Field(default=None, ge=0, le=12)
    nested: bool = False
    integer: bool = False


class _Name(ConfigModel):
    pattern: Regex
    metric: str


class _GroupName(ConfigModel):
    pattern: Regex
    group: str


class MetricsFile(ConfigModel):
    """The form of metrics.yaml, and of ``metrics`` in a model's config.yaml."""

    groups: dict[str, GroupPolicy] = Field(default_factory=dict)
    metrics: dict[str, Metric] = Field(default_factory=dict)
    names: tuple[_Name, ...] = ()
    nested_names: tuple[Regex, ...] = ()
    scope: dict[ScopeRole, tuple[Regex, ...]] = Field(default_factory=lambda: dict[ScopeRole, tuple[Regex, ...]]())
    protected: tuple[Regex, ...] = ()
    threshold_like: tuple[Regex, ...] = ()
    layouts: tuple[Layout, ...] = ()
    group_names: tuple[_GroupName, ...] = ()


def inline_form(value: object) -> object:
    """``metrics`` of a config.yaml: the whole form of metrics.yaml, or only its ``metrics``."""
    if not isinstance(value, dict):
        return value
    given = cast("dict[str, object]", value)
    return given if set(given) <= set(MetricsFile.model_fields) else {"metrics": given}


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
    """The shipped ``metrics.yaml``, extended by one model's. Orders are those of the files, shipped ones first.

    ``open`` are metrics that a model names without ``worst``: what the tests assert decides it.
    """

    metrics: dict[str, MetricSpec]
    open: dict[str, Metric]
    groups: dict[str, GroupPolicy]
    names: tuple[tuple[re.Pattern[str], str], ...]
    nested_names: tuple[re.Pattern[str], ...]
    scope: dict[ScopeRole, tuple[re.Pattern[str], ...]]
    protected_names: tuple[re.Pattern[str], ...]
    threshold_like: tuple[re.Pattern[str], ...]
    layouts: tuple[Layout, ...]
    group_names: tuple[tuple[re.Pattern[str], str], ...]

    def completed(self, key: str, worst: WorstOp) -> MetricSpec:
        """The metric of that name, known or not, for a test that asserts it on that side."""
        known = self.metrics.get(key)
        return known or _spec(key, self.open.get(key, Metric(digits=_DIGITS_UNNAMED)), worst, self.group_of(key))

    def extended(self, specs: Iterable[MetricSpec]) -> MetricRules:
        """These rules with more metrics behind the known ones."""
        return replace(self, metrics=self.metrics | {spec.key: spec for spec in specs})

    def without_names(self) -> MetricRules:
        """These rules without anything that finds a metric by the name of a constant."""
        return replace(self, metrics={}, names=(), nested_names=(), layouts=())

    def group_of(self, key: str) -> str:
        """The group that a metric's name speaks of."""
        return next((group for pattern, group in self.group_names if pattern.fullmatch(key)), OTHER)

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
def _read(path: Path, _changed: int) -> tuple[YamlSource, MetricsFile]:
    source = read_yaml(path)
    file = source.check(MetricsFile, source.data)
    if file is None:
        raise source.refusal()
    return source, file


def load_metric_rules(model_metrics: Path | None = None, inline: MetricsFile | None = None) -> MetricRules:
    """The shipped rules, with a model's ``metrics.yaml`` on top, and ``metrics`` of its config.yaml on top of that.

    Raises INVALID_CONFIG naming file, line and key.
    """
    _, shipped = _read(SHIPPED_METRICS, 0)
    rules = _merge(MetricsFile(), shipped)
    if model_metrics is not None:
        source, own = _read(model_metrics, model_metrics.stat().st_mtime_ns)
        problems = len(source.problems)
        for path, what in unknown_names(own, rules):
            source.note(path, what, "DSC-16")
        if len(source.problems) > problems:
            raise source.refusal()
        shipped = _joined(own, shipped)
        rules = _merge(own, shipped)
    return rules if inline is None else _merge(inline, shipped)


def unknown_names(own: MetricsFile, rules: MetricRules) -> Iterable[tuple[KeyPath, str]]:
    """Names in a model's own metrics that nothing defines: the path of each, and what is wrong."""
    metrics = {*rules.metrics, *rules.open, *own.metrics}
    groups = {*rules.groups, *own.groups}
    for index, name in enumerate(own.names):
        if name.metric not in metrics:
            yield ("names", index, "metric"), f"there is no metric {name.metric!r}"
        elif name.metric in own.metrics and own.metrics[name.metric].worst is None:
            yield (
                ("names", index, "metric"),
                f"the metric {name.metric!r} needs worst: min or max to be used by a pattern",
            )
    for key, metric in own.metrics.items():
        if metric.group is not None and metric.group not in groups:
            yield ("metrics", key, "group"), f"there is no group {metric.group!r}; add it to groups"


def _joined(own: MetricsFile, shipped: MetricsFile) -> MetricsFile:
    return MetricsFile(
        groups=shipped.groups | own.groups,
        metrics=shipped.metrics | own.metrics,
        names=own.names + shipped.names,
        nested_names=own.nested_names + shipped.nested_names,
        scope={role: own.scope.get(role, ()) + shipped.scope.get(role, ()) for role in SCOPE_ROLES},
        protected=own.protected + shipped.protected,
        threshold_like=own.threshold_like + shipped.threshold_like,
        layouts=own.layouts + shipped.layouts,
        group_names=own.group_names + shipped.group_names,
    )


def family(group: str, policy: GroupPolicy | None) -> Family:
    """How a group's metrics scatter: as its policy says, else as the shipped group of that name, else ``other``."""
    _, shipped = _read(SHIPPED_METRICS, 0)
    known = policy.family if policy else None
    return known or shipped.groups.get(group, GroupPolicy()).family or "other"


def _merge(own: MetricsFile, shipped: MetricsFile) -> MetricRules:
    all = _joined(own, shipped)
    group_names = tuple((re.compile(name.pattern), name.group) for name in all.group_names)
    rules = MetricRules(
        metrics={},
        open={key: metric for key, metric in all.metrics.items() if metric.worst is None},
        groups=all.groups,
        names=tuple((re.compile(name.pattern), name.metric) for name in all.names),
        nested_names=_compiled(all.nested_names),
        scope={role: _compiled(all.scope[role]) for role in SCOPE_ROLES},
        protected_names=_compiled(all.protected),
        threshold_like=_compiled(all.threshold_like),
        layouts=all.layouts,
        group_names=group_names,
    )
    return rules.extended(
        _spec(key, metric, metric.worst, rules.group_of(key)) for key, metric in all.metrics.items() if metric.worst
    )


def _spec(key: str, metric: Metric, worst: WorstOp, group: str) -> MetricSpec:
    digits = _DIGITS if metric.digits is None else metric.digits
    display = Display(label=metric.label or key, scale=metric.scale, digits=digits)
    return MetricSpec(key, metric.group or group, worst, display, metric.nested, metric.integer)


def _compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


def _fits(patterns: Iterable[re.Pattern[str]], symbol: str) -> bool:
    bare = symbol.lstrip("_")
    return any(pattern.fullmatch(bare) or pattern.fullmatch(symbol) for pattern in patterns)
