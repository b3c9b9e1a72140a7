"""Builds the catalogue of stages from configuration and test files (rules DSC-01 to DSC-16, STG-07 to STG-09).

A pure function of the files: no clock but the one handed in, no network, a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath

from tune_mcp.config.metrics import MetricRules
from tune_mcp.config.model import ModelConfig
from tune_mcp.config.stages import DOCS_GROUP, ONE, Location, Stage, StageMetric, StageTable
from tune_mcp.discover.assertions import AssertionReader, Gate
from tune_mcp.discover.assertions.left import LeftAt
from tune_mcp.discover.calibrated import CalibratedFile, CalibratedFiles, clash
from tune_mcp.discover.claimants import (
    Unclaimed,
    data_files,
    derived_of_nothing,
    drop_unread,
    empty_tables,
    rivals_of,
    unclaimed,
)
from tune_mcp.discover.routing import Claim, Route, Routing, read_named, route_constants
from tune_mcp.discover.sources import Inferred, StageSources, infer
from tune_mcp.discover.suggest import needs_no_gpu, suggestion
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RECORD_FILE, iso


@dataclass
class Discovery:
    """What ``discover`` found.

    ``added``, ``removed`` and ``changed`` are stage keys against the previous table, ``last_discovered_at`` aside.
    ``collisions`` are lines about constants that claim one metric of one stage; it is NEEDS_CONFIG until config ignores
    all but one. ``unrecognised`` are lines about numbers that a test asserts against, or that look like thresholds, and
    that no metric claims (DSC-14); ``unclaimed`` are these numbers, each with its test file; ``empty`` are
    lines about keys of empty tables that a test compares with, each with its test file. ``without`` are test files
    in which no threshold was found and that config does not declare to have none. ``suggestions`` are YAML blocks for
    config.yaml by test file name (MOD-06).
    """

    stages: StageTable = field(default_factory=dict[str, Stage])
    added: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])
    collisions: list[str] = field(default_factory=list[str])
    unrecognised: list[str] = field(default_factory=list[str])
    conflicts: list[str] = field(default_factory=list[str])
    suggestions: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])
    without: list[str] = field(default_factory=list[str])
    unclaimed: list[tuple[str, Unclaimed]] = field(default_factory=list[tuple[str, Unclaimed]])
    empty: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def needs_config(self) -> list[str]:
        """``stage/metric: source`` of each metric whose place nobody knows."""
        return [
            f"{stage.key}/{key}: {metric.source}"
            for stage in self.stages.values()
            for key, metric in stage.metrics.items()
            if metric.status == "NEEDS_CONFIG"
        ]


def discover(
    model: ModelConfig,
    rules: MetricRules,
    repo_root: Path,
    previous: StageTable | None,
    now: datetime,
    *,
    only_stages: bool = False,
) -> Discovery:
    """Read the tests of ``model`` below ``repo_root`` and build their stages.

    ``only_stages``: leave out the search for numbers that no metric claims, which takes time.

    Raises INVALID_CONFIG for files that do not parse, constants that fit two presets or variants, a missing threshold
    file, and two stages of one key.
    """
    builder = _Builder(model, rules, AssertionReader(repo_root), only_stages)
    builder.build()
    found, before = builder.found, previous or {}
    for key, stage in found.stages.items():
        old = before.get(key)
        same = old is not None and _undated(old) == stage
        stamp = old.last_discovered_at if old and same and old.last_discovered_at else iso(now)
        found.stages[key] = stage.model_copy(update={"last_discovered_at": stamp})
        found.added += [key] if old is None else []
        found.changed += [key] if old is not None and not same else []
    found.removed += [key for key in before if key not in found.stages]
    found.unrecognised = list(dict.fromkeys(found.unrecognised))
    found.problems = list(dict.fromkeys(found.problems))
    return found


def _undated(stage: Stage) -> Stage:
    return stage.model_copy(update={"last_discovered_at": None})


@dataclass
class _Builder:
    model: ModelConfig
    rules: MetricRules
    reader: AssertionReader
    only_stages: bool = False
    found: Discovery = field(default_factory=Discovery)
    blind: dict[str, dict[str, Location]] = field(default_factory=dict[str, dict[str, Location]])

    def build(self) -> None:
        files = CalibratedFiles(self.model, self.rules, self.reader.files)
        found = [files.read(path) for path in files.paths()]
        named, problems = read_named(self.model, self.rules, found, self.reader)
        self.found.problems += problems
        self.rules = self.rules.extended(spec for specs in named.values() for spec in specs.values())
        routings = [(file, route_constants(file, self.rules, named.get(file.name, {}), self.reader)) for file in found]
        self.found.problems += drop_unread(routings, self.reader)
        for file, routing in routings:
            self.found.problems += derived_of_nothing(file, routing, self.reader)
        claimed = {(file.thresholds.path, claim.source) for file, one in routings for claim in one.claims()}
        strays = {place: line for _, routing in routings for place, line in routing.strays.items()}
        self.found.problems += [line for place, line in strays.items() if place not in claimed]
        docs = [file for file, routing in routings if not routing.routes]
        for file, routing in routings:
            self.found.problems += routing.problems
            self.test_file(file, routing, only_docs=docs == [file])
        self.found.problems += files.problems
        self.found.problems += files.unused_names(found)

    def test_file(self, file: CalibratedFile, routing: Routing, only_docs: bool) -> None:
        self.found.problems += _of_no_variant(file, routing)
        inferred = infer(file.data, file.path, self.rules, file.module.imports)
        for route in routing.routes:
            sources = StageSources.of(file.config, route.variant, inferred)
            groups = self.groups(route, routing)
            for group in groups:
                self.stage(file, route, group, sources)
            stages = [(group, [c.spec.key for c in route.claims if c.spec.group == group]) for group in groups]
            self.found.conflicts += [
                line for line in sources.conflicts(file.name, stages) if line not in self.found.conflicts
            ]
        self.countable(file)
        if not routing.routes:
            override = self.model.stage_base_docs_override if only_docs else None
            if self.is_docs(file) or override:
                key, sources = override or f"{file.base}_{DOCS_GROUP}", StageSources.of(file.config, None, inferred)
                self.add(file, key, DOCS_GROUP, Route(None, None), sources, {})
            else:
                self.found.without.append(file.path)
        if not self.only_stages:
            self.report_unclaimed(file, routing, inferred)

    def countable(self, file: CalibratedFile) -> None:
        """Refuse a test file of which no repeat could ever be strict (rule SMP-01)."""
        blind = self.blind.get(file.name, {})
        if blind and not any(one.sample_counts for one in self.found.stages.values() if one.test == file.path):
            raise Refusal(
                Code.INVALID_CONFIG,
                "SMP-01",
                f"{file.name}: {_same_place(next(iter(blind.values())))}",
                f"correct it: {_NAME_OK}",
                {"key": f"metric_sources.{file.name}.sample_counts"},
            )

    def is_docs(self, file: CalibratedFile) -> bool:
        """Whether a test file without thresholds is meant to have none: config says so, or its folder does."""
        said = self.model.thresholds.get(file.name)
        return DOCS_GROUP in PurePosixPath(file.path).parts or (said is not None and not said)

    def report_unclaimed(self, file: CalibratedFile, routing: Routing, inferred: Inferred) -> None:
        """What a person must say about a test file, and the block to paste."""
        found = unclaimed(file, routing, self.rules, self.reader)
        self.found.unclaimed += [(file.path, one) for one in found]
        listed = {one.source.partition("[")[0] for one in found}
        claimed = {claim.spec.key for route in routing.routes for claim in (*route.claims, *route.rivals)}
        self.found.unrecognised += [one.text for one in found]
        self.found.unrecognised += [
            f"{file.thresholds.path}: {name}" for name in routing.unrecognised if name not in listed
        ]
        self.found.empty += [(file.path, one) for one in empty_tables(file, routing, self.rules, self.reader)]
        self.found.unrecognised += [line for path, line in self.found.empty if path == file.path]
        self.found.problems += data_files(file, self.reader)
        for level in (file.config, *file.config.variants.values()):
            for metric in level.paths:
                if metric not in claimed and metric in self.rules.metrics:
                    where = f"metric_sources.{file.name}.paths names {metric}"
                    self.found.problems.append(f"{where}, and no constant of {file.thresholds.path} claims it")
        new = file.name not in self.model.metric_sources or file.path in self.found.without
        if new or any(one.nameable for one in found):
            cpu = file.name not in self.model.gpus_per_test and needs_no_gpu(self.reader.files, file.path)
            stages = [stage for stage in self.found.stages.values() if stage.test == file.path]
            metrics = [item for stage in stages for item in stage.metrics.items()]
            recorded = {key for key, metric in metrics if metric.json_file == RECORD_FILE}
            blank = {key for key, metric in metrics if not metric.json_path}
            keys = [key for key in self.rules.metrics if key in claimed and (new or key in blank)]
            self.found.suggestions[file.name] = suggestion(file, keys, inferred, found, recorded, new=new, cpu=cpu)

    def groups(self, route: Route, routing: Routing) -> list[str]:
        """The groups of a route in the order of the rules, with those that only a sibling preset has (TTS-05)."""
        siblings = [other for other in routing.routes if other.variant == route.variant]
        present = {claim.spec.group for other in siblings for claim in other.claims}
        return [group for group in self.rules.file.groups if group in present]

    def stage(self, file: CalibratedFile, route: Route, group: str, sources: StageSources) -> None:
        key = "_".join(part for part in (*_name(file, route), group) if part)
        claims: dict[str, list[Claim]] = {}
        for claim in route.claims:
            if claim.spec.group == group:
                claims.setdefault(claim.spec.key, []).append(claim)
        metrics: dict[str, StageMetric] = {}
        for metric_key in (known for known in self.rules.metrics if known in claims):
            rivals = rivals_of(metric_key, claims[metric_key], route, file, self.reader)
            location = self.location(file, key, claims[metric_key], sources)
            mine = self.claimants(key, claims[metric_key], rivals, location)
            if mine:
                metrics[metric_key] = self.metric(file.name, key, mine, rivals, location)
        if not metrics:
            what = f"{key}: preset {route.preset} has no {group} threshold although another preset has"
            self.found.problems.append(f"{what}; it is run and counted, never applied")
        self.add(file, key, group, route, sources, metrics)

    def location(
        self, file: CalibratedFile, stage_key: str, claims: list[Claim], sources: StageSources
    ) -> Location | None:
        """Where the value of a metric stands, None when nobody knows."""
        key, tests = claims[0].spec.key, sources.inferred.recordings.get(claims[0].spec.key)
        other = "" if tests is None else self._records_another(file, key, tests, claims)
        found = sources.metric(key, recorded=tests is not None and not other)
        if other and found is None:
            self.found.problems.append(
                f"{stage_key}: a value is recorded as {key}, but {other}; if it is the right one, write "
                f"metric_sources.{file.name}.paths.{key}: {RECORD_FILE}::{key}"
            )
        return found

    def _records_another(self, file: CalibratedFile, key: str, tests: frozenset[str], claims: list[Claim]) -> str:
        """Why what ``tests`` record under a metric's name may be another value; empty if it is the asserted one."""
        for claim in claims:
            asked = (file.path, file.thresholds.path, claim.source)
            gate = self.reader.gate(*asked, None)
            if isinstance(gate, Gate) and LeftAt(RECORD_FILE, (key,)) not in gate.left:
                return f"the tests do not show that it is the one that they compare with {claim.source} ({gate.how})"
            reading = {test.rpartition("::")[2] for test in self.reader.reading_tests(*asked).tests}
            if not isinstance(gate, Gate) and not tests <= reading:
                return f"{', '.join(sorted(tests - reading))} records it and does not read {claim.source}"
        return ""

    def claimants(
        self, stage_key: str, claims: list[Claim], rivals: list[Claim], location: Location | None
    ) -> list[Claim]:
        """The claims that stand for a metric: a missing key only where nothing else does, no value without a path."""
        spec = claims[0].spec
        there = [claim for claim in claims if not claim.absent]
        if there or rivals or len(claims) > 1:
            if not there and not rivals:
                names = " and ".join(claim.source for claim in claims)
                self.found.problems.append(f"{stage_key}: {names} could each be the missing {spec.key}; none is filled")
            claims = there
        if claims and all(claim.blank for claim in claims) and location is None:
            names = " and ".join(claim.source for claim in claims)
            what = f"it has no value, and no path of {spec.key} is known to measure its first one"
            self.found.problems.append(f"{stage_key}: {names} is not calibrated: {what}")
            return []
        return claims

    def metric(
        self, file_name: str, stage_key: str, claims: list[Claim], rivals: list[Claim], location: Location | None
    ) -> StageMetric:
        spec = claims[0].spec
        if len(claims) + len(rivals) > 1:
            names = [claim.source for claim in (*claims, *rivals)]
            self.found.collisions.append(f"{stage_key}/{spec.key} is claimed by {', '.join(names)}")
            what = f"{stage_key}: {' and '.join(names)} both claim {spec.key}"
            apart = f"or give each its own variant in metric_sources.{file_name}.variants"
            self.found.problems.append(f"{what}; put all but one into ignored_constants, {apart}")
            location = None
        return StageMetric(
            source=claims[0].source,
            json_file=location.json_file if location else None,
            json_path=location.json_path if location else None,
            worst=spec.worst,
            display=spec.display,
            status="OK" if location else "NEEDS_CONFIG",
        )

    def add(
        self,
        file: CalibratedFile,
        key: str,
        group: str,
        route: Route,
        sources: StageSources,
        metrics: dict[str, StageMetric],
    ) -> None:
        if key in self.found.stages:
            what = f"{file.path} and {self.found.stages[key].test} both make the stage {key}"
            raise clash(what, "rename a test, preset or variant, or change stage_base_strip_*")
        preset = file.config.calibration_presets.get(route.preset) if route.preset else None
        variant = file.config.variants.get(route.variant) if route.variant else None
        scope = file.scope.scope(group, route.variant, sources.expected(group), variant.context_vars if variant else ())
        self.found.problems += scope.problems
        counts = sources.counts(group)
        if counts and counts != ONE and counts.total == counts.ok:
            if sources.configured_counts(group):
                self.blind.setdefault(file.name, {})[key] = counts.total
                self.found.problems.append(
                    f"{key}: {_same_place(counts.total)}; no repeat of it can be strict until {_NAME_OK}"
                )
            counts = None
        if counts is None and group != DOCS_GROUP and key not in self.blind.get(file.name, {}):
            self.found.problems.append(f"{key}: sample_counts are not known, so no repeat of it can be strict")
        own_file = file.config.threshold_file
        policy = self.rules.policy(group)
        base, preset_word, variant_word = _name(file, route)
        words = [base.replace("_", " ").upper(), preset_word, variant_word, policy.label or group]
        self.found.stages[key] = Stage(
            key=key,
            test=file.path,
            title=" ".join(word for word in words if word),
            group=group,
            extra_env=self.model.extra_env.get(file.name, {}) | (preset.extra_env if preset else {}),
            context_vars=scope.context_vars,
            variant=route.variant,
            calibration_preset=route.preset,
            gpus=preset.gpus if preset and preset.gpus is not None else self.model.gpus_per_test.get(file.name),
            hf_model_ids=self.model.model_ids(file.name, route.preset),
            test_file_sha256=file.module.sha256,
            threshold_file=own_file,
            threshold_file_sha256=file.thresholds.sha256 if own_file else None,
            expected_samples=scope.expected_samples,
            sample_counts=counts,
            observation_validity=sources.validity(),
            metrics=metrics,
        )


def _of_no_variant(file: CalibratedFile, routing: Routing) -> list[str]:
    """Take out constants of no variant where a variant's stages have the test's own name; a line for each."""
    taken = {_name(file, route): route.variant for route in routing.routes if route.variant is not None}
    strays = [route for route in routing.routes if route.variant is None and _name(file, route) in taken]
    routing.routes = [route for route in routing.routes if route not in strays]
    return [
        f"{file.thresholds.path}: {claim.source} fits no variant of {file.name} and is not calibrated; the stages of "
        f"that name are those of {taken[_name(file, route)]}"
        for route in strays
        for claim in route.claims
    ]


def _name(file: CalibratedFile, route: Route) -> tuple[str, str | None, str | None]:
    """What a route's stage keys and titles begin with: base, preset and variant, as config names them."""
    if route.variant is None:
        return file.base, route.preset, None
    variant = file.config.variants[route.variant]
    return (
        variant.stage_base_override or file.base,
        route.preset,
        None if variant.omit_variant_suffix else route.variant,
    )


_NAME_OK = "sample_counts name the key that counts the good samples as ok, and the one that counts all as total"


def _same_place(place: Location) -> str:
    found = f"{place.json_file}::{place.json_path}"
    return f"its sample_counts read total and ok from the same place, {found}, so no lost sample could ever be seen"
