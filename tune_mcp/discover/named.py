"""Thresholds that config names outright: which number is which metric, and on which side a test asserts it (DSC-14).

Where config says nothing of a metric's ``worst``, what the tests assert decides; where they say nothing either, the
metric stays NEEDS_CONFIG with the line to add.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from tune_mcp.config.metrics import MetricRules, MetricSpec
from tune_mcp.config.model import ModelConfig
from tune_mcp.discover.assertions import AssertionReader, Gate
from tune_mcp.discover.calibrated import CalibratedFile
from tune_mcp.discover.constants import ModuleConstants
from tune_mcp.discover.leaves import canonical
from tune_mcp.errors import Code, Refusal


@dataclass
class Named:
    """Per test file the metric of each named number by its one spelling, and what is wrong with some of them."""

    metrics: dict[str, dict[str, MetricSpec]] = field(default_factory=dict[str, dict[str, MetricSpec]])
    problems: list[str] = field(default_factory=list[str])

    def of(self, test: str) -> dict[str, MetricSpec]:
        """Those of one test file."""
        return self.metrics.get(test, {})

    def specs(self) -> Iterable[MetricSpec]:
        """Every metric that is named."""
        return (spec for named in self.metrics.values() for spec in named.values())


def read_named(
    model: ModelConfig, rules: MetricRules, files: Iterable[CalibratedFile], reader: AssertionReader
) -> Named:
    """Read ``thresholds`` of a model's config for its files.

    Raises INVALID_CONFIG for a place that is no number of its file, one that may never be written, and a metric that
    one test asserts from below and another from above.
    """
    found = Named()
    sides: dict[str, tuple[MetricSpec, str]] = {}
    for file in files:
        for written, metric in model.thresholds.get(file.name, {}).items():
            key = f"thresholds.{file.name}.{written}"
            source = _known(written, file.thresholds, key)
            symbol = source.rpartition(".")[2]
            if rules.protected(source) or rules.protected(symbol):
                what = f"{source} fixes the sample scope, the load or a time limit of the test; it is never calibrated"
                raise _refusal(what, "SMP-09", key, "take it out of thresholds")
            gate = reader.gate(file.path, file.thresholds.path, source, None)
            declared = rules.metrics.get(metric)
            if isinstance(gate, Gate):
                spec = rules.completed(metric, gate.worst)
            elif declared is not None:
                spec = declared
            else:
                found.problems.append(
                    f"{file.thresholds.path}: {source} is not calibrated, since the tests do not show which side of "
                    f"{metric} is bad: {gate.reason}; add it to config.yaml: metrics: {{{metric}: {{worst: min}}}} for "
                    "a lower bound, max for an upper one"
                )
                continue
            if isinstance(gate, Gate) and gate.worst != spec.worst:
                found.problems.append(
                    f"{file.thresholds.path}: {source} is asserted as {_BOUND[gate.worst]} ({gate.how}), but the worst "
                    f"of {metric} is {spec.worst}: correct one of them, or name another metric"
                )
            other, place = sides.setdefault(metric, (spec, f"{file.name}: {source}"))
            if other.worst != spec.worst:
                what = f"{metric} is {_BOUND[other.worst]} in {place} and {_BOUND[spec.worst]} in {file.name}: {source}"
                raise _refusal(what, "MET-04", key, "give each its own metric")
            found.metrics.setdefault(file.name, {})[source] = spec
    return found


_BOUND = {"min": "a lower bound", "max": "an upper bound"}


def _known(written: str, module: ModuleConstants, key: str) -> str:
    try:
        source = canonical(written)
    except ValueError as error:
        step = "name a number as Python reads it: LIMIT, TestServing.TTFT_MAX, LIMITS['acc'], LIMITS.acc"
        raise _refusal(str(error), "DSC-14", key, step) from error
    if module.constant(source) is not None or module.table_entry(source):
        return source
    near = difflib.get_close_matches(source, [*module.constants, *module.leaves], 3, 0.5)
    hint = f"name {' or '.join(near)}" if near else "name a number of that file"
    raise _refusal(f"{module.path} has no {source}", "DSC-14", key, hint)


def _refusal(what: str, rule: str, key: str, step: str) -> Refusal:
    return Refusal(Code.INVALID_CONFIG, rule, what, step, {"key": key})
