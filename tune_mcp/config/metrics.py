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
    """The shipped ``metrics.yaml`` with one model's on top.

    ``file`` is all of it, shipped entries first in each mapping. ``metrics`` are those whose ``worst`` is known: the
    tests decide that of any other.
    """

    file: MetricsFile
    metrics: dict[str, MetricSpec]

    def completed(self, key: str, worst: WorstOp) -> MetricSpec:
        """The metric of that name, known or not, for a test that asserts it on that side."""
        unnamed = Metric(digits=_DIGITS_UNNAMED)
        return self.metrics.get(key) or self._spec(key, self.file.metrics.get(key, unnamed), worst)

    def extended(self, specs: Iterable[MetricSpec]) -> MetricRules:
        """These rules with more metrics behind the known ones."""
        return replace(self, metrics=self.metrics | {spec.key: spec for spec in specs})

    def without_names(self) -> MetricRules:
        """These rules without anything that finds a metric by the name of a constant."""
        nothing: dict[str, object] = {"metrics": {}, "names": (), "nested_names": (), "layouts": ()}
        return MetricRules(self.file.model_copy(update=nothing), {})

    def group_of(self, key: str) -> str:
        """The group that a metric's name speaks of."""
        return next((one.group for one in self.file.group_names if re.fullmatch(one.pattern, key)), OTHER)

    def _spec(self, key: str, metric: Metric, worst: WorstOp) -> MetricSpec:
        digits = _DIGITS if metric.digits is None else metric.digits
        display = Display(label=metric.label or key, scale=metric.scale, digits=digits)
        return MetricSpec(key, metric.group or self.group_of(key), worst, display, metric.nested, metric.integer)

    def match(self, symbol: str, subkey: str | None) -> MetricSpec | None:
        """The metric that a threshold constant bounds; None for other names and for protected ones (DSC-15)."""
        if self.protected(symbol):
            return None
        if subkey is not None:
            spec = self.metrics.get(subkey)
            return spec if spec and spec.nested and _fits(self.file.nested_names, symbol) else None
        return next((self.metrics[one.metric] for one in self.file.names if _fits((one.pattern,), symbol)), None)

    def protected(self, symbol: str) -> bool:
        """Whether calibration must never write ``symbol``: sample scope, concurrency, timeouts, slack (SMP-09)."""
        return self.role(symbol) is not None or _fits(self.file.protected, symbol)

    def role(self, symbol: str) -> ScopeRole | None:
        """What ``symbol`` says about the scope of a measurement, if anything."""
        return next((role for role, patterns in self.file.scope.items() if _fits(patterns, symbol)), None)

    def named_as_nested(self, symbol: str) -> bool:
        """Whether a dict of this name is expected to hold thresholds by concurrency."""
        return not self.protected(symbol) and _fits(self.file.nested_names, symbol)

    def looks_like_threshold(self, symbol: str) -> bool:
        """Whether a name that matches nothing deserves a line in the list of unrecognised ones (DSC-14)."""
        return not self.protected(symbol) and _fits(self.file.threshold_like + self.file.nested_names, symbol)

    def policy(self, group: str) -> GroupPolicy:
        """The group's policy; an unknown group is always asked about and never rounded."""
        return self.file.groups.get(group, GroupPolicy())


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
    if model_metrics is not None:
        source, own = _read(model_metrics, model_metrics.stat().st_mtime_ns)
        problems = len(source.problems)
        for path, what in unknown_names(own, _rules(shipped)):
            source.note(path, what, "DSC-16")
        if len(source.problems) > problems:
            raise source.refusal()
        shipped = _joined(own, shipped)
    return _rules(shipped if inline is None else _joined(inline, shipped))


def unknown_names(own: MetricsFile, rules: MetricRules) -> Iterable[tuple[KeyPath, str]]:
    """Names in a model's own metrics that nothing defines: the path of each, and what is wrong."""
    metrics = {*rules.file.metrics, *own.metrics}
    groups = {*rules.file.groups, *own.groups}
    for index, name in enumerate(own.names):
        if name.metric not in metrics:
            yield ("names", index, "metric"), f"there is no metric {name.metric!r}"
        elif name.metric in own.metrics and own.metrics[name.metric].worst is None:
            what = f"the metric {name.metric!r} needs worst: min or max to be used by a pattern"
            yield ("names", index, "metric"), what
    for key, metric in own.metrics.items():
        if metric.group is not None and metric.group not in groups:
            yield ("metrics", key, "group"), f"there is no group {metric.group!r}; add it to groups"


def _joined(own: MetricsFile, shipped: MetricsFile) -> MetricsFile:
    """Join two files: in a mapping the own entry counts for its key, own patterns and layouts come first."""
    joined: dict[str, object] = {}
    for name in MetricsFile.model_fields:
        ours, theirs = getattr(own, name), getattr(shipped, name)
        joined[name] = theirs | ours if isinstance(theirs, dict) else ours + theirs
    joined["scope"] = {role: own.scope.get(role, ()) + shipped.scope.get(role, ()) for role in SCOPE_ROLES}
    return own.model_copy(update=joined)


def family(group: str, policy: GroupPolicy | None) -> Family:
    """How a group's metrics scatter: as its policy says, else as the shipped group of that name, else ``other``."""
    _, shipped = _read(SHIPPED_METRICS, 0)
    known = policy.family if policy else None
    return known or shipped.groups.get(group, GroupPolicy()).family or "other"


def _rules(file: MetricsFile) -> MetricRules:
    rules = MetricRules(file, {})
    return rules.extended(rules.completed(key, one.worst) for key, one in file.metrics.items() if one.worst)


@lru_cache(maxsize=1024)
def _fits(patterns: tuple[str, ...], symbol: str) -> bool:
    bare = symbol.lstrip("_")
    return any(re.fullmatch(pattern, bare) or re.fullmatch(pattern, symbol) for pattern in patterns)
