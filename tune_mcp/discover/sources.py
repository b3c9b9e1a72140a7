"""Where the numbers of one stage stand: what config says, else what the test's code suggests (DSC-06 to DSC-09)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tune_mcp.config.fields import locate
from tune_mcp.config.metrics import SampleSource
from tune_mcp.config.model import FileSource, ResultSource
from tune_mcp.config.stages import ONE, Location, SampleCounts
from tune_mcp.discover.infer import Inferred


@dataclass(frozen=True)
class StageSources:
    """The places for one result tree of a test. A variant's own words beat the file's, and both beat inference."""

    levels: tuple[ResultSource, ...]
    inferred: Inferred

    @classmethod
    def of(cls, config: FileSource, variant: str | None, inferred: Inferred) -> StageSources:
        """The sources of ``variant``. Inference knows nothing of variants, so it serves files without them."""
        levels = (config.variants[variant], config) if variant else (config,)
        return cls(
            levels, Inferred(reason="it has variants", recordings=inferred.recordings) if config.variants else inferred
        )

    @property
    def json_file(self) -> str | None:
        """The configured default file."""
        return next((level.json_file for level in self.levels if level.json_file), None)

    def configured(self, metric: str) -> Location | None:
        """Where config says that a metric stands."""
        for level in self.levels:
            path = level.paths.get(metric)
            if path is not None:
                return locate(path, level.json_file or self.json_file or self.inferred.json_file)
        return None

    def metric(self, metric: str) -> Location | None:
        """Where a metric stands, None when nobody knows: that is NEEDS_CONFIG."""
        return (
            self.configured(metric)
            or self.inferred.recorded(metric)
            or self._unless_elsewhere(self.inferred.metric(metric))
        )

    def configured_counts(self, group: str) -> SampleCounts | Literal["one"] | None:
        """Where config says that a group's sample counts stand."""
        for level in self.levels:
            source = level.sample_counts_by_group.get(group, level.sample_counts)
            if source == ONE:
                return ONE
            if isinstance(source, SampleSource):
                return self._counts(source, level.json_file or self.json_file or self.inferred.json_file)
        return None

    def counts(self, group: str) -> SampleCounts | Literal["one"] | None:
        """Where a group's sample counts stand, None when nobody knows."""
        found = self.inferred.counts()
        return self.configured_counts(group) or (found if found and self._unless_elsewhere(found.total) else None)

    def validity(self) -> Location | None:
        """Where the test says whether a repeat is an observation at all."""
        for level in self.levels:
            if level.observation_validity:
                return locate(level.observation_validity, level.json_file or self.json_file)
        return None

    def expected(self, group: str) -> tuple[int | str, ...]:
        """What config says about a group's number of samples."""
        return next((found for level in self.levels if (found := level.expected(group))), ())

    def conflicts(self, test: str, stages: Iterable[tuple[str, Iterable[str]]]) -> Iterator[str]:
        """A line for each place where config and code disagree; config is used (DSC-06)."""
        told: set[str] = set()
        if self.inferred.layout is None and self.json_file and self.inferred.json_file not in (None, self.json_file):
            told.add(_conflict(test, "json_file", self.json_file, str(self.inferred.json_file)))
        for group, metrics in stages:
            for metric in metrics:
                ours, theirs = self.configured(metric), self.inferred.metric(metric)
                if ours and theirs and ours != theirs:
                    told.add(_conflict(test, f"paths.{metric}", _text(ours), _text(theirs)))
            counts, other = self.configured_counts(group), self.inferred.counts()
            if counts and counts != ONE and other:
                parts = (("total", counts.total, other.total), ("ok", counts.ok, other.ok))
                told |= {_conflict(test, f"sample_counts.{k}", _text(a), _text(b)) for k, a, b in parts if a != b}
        yield from sorted(told)

    def _unless_elsewhere(self, location: Location | None) -> Location | None:
        """Inferred keys are those of the inferred file; where config names another file they mean nothing."""
        return location if location and self.json_file in (None, location.json_file) else None

    def _counts(self, source: SampleSource, json_file: str | None) -> SampleCounts | None:
        total, ok = locate(source.total, json_file), locate(source.ok, json_file)
        return SampleCounts(total=total, ok=ok) if total and ok else None


def _text(location: Location) -> str:
    return f"{location.json_file}::{location.json_path}"


def _conflict(test: str, key: str, ours: str, theirs: str) -> str:
    return f"{test}: {key} is {ours} in config.yaml, {theirs} by the test's code; config.yaml is used"
