"""Builds the catalogue of stages from configuration and test files (rules DSC-01 to DSC-16, STG-07 to STG-09).

A pure function of the files: no clock but the one handed in, no network, a fixed order.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath

from tune_mcp.config.metrics import MetricRules
from tune_mcp.config.model import FileSource, ModelConfig
from tune_mcp.config.stages import Stage, StageMetric, StageTable
from tune_mcp.discover.constants import ModuleConstants
from tune_mcp.discover.infer import infer
from tune_mcp.discover.routing import Claim, Routing, Tree, route
from tune_mcp.discover.scope import Modules, ScopeReader
from tune_mcp.discover.sources import StageSources
from tune_mcp.discover.suggest import suggestion
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.files import inside
from tune_mcp.run_dir import iso

DOCS_GROUP = "docs"


@dataclass(frozen=True)
class Collision:
    """Constants that claim one metric of one stage; the metric is NEEDS_CONFIG until config ignores all but one."""

    stage_key: str
    metric_key: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Discovery:
    """What ``discover`` found.

    ``added``, ``removed`` and ``changed`` are stage keys against the previous table, ``last_discovered_at`` aside.
    ``needs_config`` holds (stage key, metric key, source). ``unrecognised`` are ``path: NAME`` of numbers that look
    like thresholds and match no pattern (DSC-14). ``suggestions`` are YAML blocks by test file name (MOD-06).
    """

    stages: StageTable
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    needs_config: tuple[tuple[str, str, str], ...]
    collisions: tuple[Collision, ...]
    unrecognised: tuple[str, ...]
    conflicts: tuple[str, ...]
    suggestions: dict[str, str]
    problems: tuple[str, ...]


def discover(
    model: ModelConfig, rules: MetricRules, repo_root: Path, previous: StageTable | None, now: datetime
) -> Discovery:
    """Read the tests of ``model`` below ``repo_root`` and build their stages.

    Raises INVALID_CONFIG for files that do not parse, constants that fit two presets or variants, a missing threshold
    file, and two stages of one key.
    """
    builder = _Builder(model, rules, Modules(repo_root))
    builder.build()
    before = previous or {}
    stages: StageTable = {}
    for key, stage in builder.stages.items():
        old = before.get(key)
        same = old is not None and _undated(old) == _undated(stage)
        stamp = old.last_discovered_at if old and same and old.last_discovered_at else iso(now)
        stages[key] = stage.model_copy(update={"last_discovered_at": stamp})
    both = [key for key in stages if key in before]
    return Discovery(
        stages=stages,
        added=tuple(key for key in stages if key not in before),
        removed=tuple(key for key in before if key not in stages),
        changed=tuple(key for key in both if _undated(stages[key]) != _undated(before[key])),
        needs_config=tuple(
            (stage.key, key, metric.source)
            for stage in stages.values()
            for key, metric in stage.metrics.items()
            if metric.status == "NEEDS_CONFIG"
        ),
        collisions=tuple(builder.collisions),
        unrecognised=tuple(dict.fromkeys(builder.unrecognised)),
        conflicts=tuple(builder.conflicts),
        suggestions=builder.suggestions,
        problems=tuple(dict.fromkeys(builder.problems)),
    )


def _undated(stage: Stage) -> Stage:
    return stage.model_copy(update={"last_discovered_at": None})


@dataclass(frozen=True)
class _TestFile:
    """One test file with everything that its stages share."""

    path: str
    name: str
    base: str
    config: FileSource
    module: ModuleConstants
    thresholds: ModuleConstants
    scope: ScopeReader


@dataclass
class _Builder:
    model: ModelConfig
    rules: MetricRules
    modules: Modules
    stages: StageTable = field(default_factory=dict[str, Stage])
    collisions: list[Collision] = field(default_factory=list[Collision])
    unrecognised: list[str] = field(default_factory=list[str])
    conflicts: list[str] = field(default_factory=list[str])
    suggestions: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])

    def build(self) -> None:
        files = [self.read(path) for path in self.paths()]
        routes = [(file, route(file.name, file.config, file.thresholds, self.rules)) for file in files]
        docs = [file for file, routing in routes if not routing.trees]
        for file, routing in routes:
            self.unrecognised += [f"{file.thresholds.path}: {name}" for name in routing.unrecognised]
            self.problems += routing.problems
            self.test_file(file, routing, only_docs=docs == [file])
        named = {file.name for file in files}
        for name in self.model.named_tests():
            if name not in named:
                near = difflib.get_close_matches(name, named, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.problems.append(f"config.yaml describes {name}, which no test_globs entry finds{hint} [MOD-02]")

    def paths(self) -> Iterator[str]:
        """The test files, each once, in the order of the globs and sorted within each."""
        root = self.modules.repo_root
        seen: dict[str, str] = {}
        for pattern in self.model.test_globs:
            found = sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.suffix == ".py")
            if not found:
                self.problems.append(f"test_globs entry {pattern} finds no file below {root} [MOD-02]")
            for path in found:
                name = PurePosixPath(path).name
                if seen.setdefault(name, path) != path:
                    raise _clash(f"{seen[name]} and {path} have one file name", "rename one, or narrow test_globs")
                if path not in seen.values() or seen[name] == path:
                    yield path

    def read(self, path: str) -> _TestFile:
        name = PurePosixPath(path).name
        config = self.model.metric_sources.get(name, FileSource())
        stem = PurePosixPath(path).stem
        base = stem.removeprefix(self.model.stage_base_strip_prefix)
        base = base.removesuffix(self.model.stage_base_strip_suffix).strip("_.-")
        if not base:
            raise _clash(f"nothing is left of {stem} without its prefix and suffix", "shorten stage_base_strip_*")
        module = self.module(path, "test_globs")
        thresholds = self.module(config.threshold_file, "threshold_file") if config.threshold_file else module
        scope = ScopeReader(module, self.modules, self.rules, tuple(config.variants))
        return _TestFile(path, name, base, config, module, thresholds, scope)

    def module(self, path: str, key: str) -> ModuleConstants:
        module = self.modules.read(path)
        if module is None:
            what = f"{key}: there is no file {path} inside {self.modules.repo_root}"
            raise Refusal(Code.INVALID_CONFIG, "DSC-13", what, "correct config.yaml", {"key": key, "file": path})
        return module

    def test_file(self, file: _TestFile, routing: Routing, only_docs: bool) -> None:
        data = inside(self.modules.repo_root, file.path).read_bytes()
        inferred = infer(data, file.path, self.rules, file.module.imports)
        for tree in routing.trees:
            sources = StageSources.of(file.config, tree.variant, inferred)
            groups = self.groups(tree, routing)
            for group in groups:
                self.stage(file, tree, group, sources)
            stages = [(group, [c.spec.key for c in tree.claims if c.spec.group == group]) for group in groups]
            self.conflicts += [line for line in sources.conflicts(file.name, stages) if line not in self.conflicts]
        if not routing.trees:
            override = self.model.stage_base_docs_override if only_docs else None
            self.docs(file, override or f"{file.base}_{DOCS_GROUP}", StageSources.of(file.config, None, inferred))
        if file.name not in self.model.metric_sources:
            keys = [key for key in self.rules.metrics for tree in routing.trees for c in tree.claims if c.spec.key == key]
            self.suggestions[file.name] = suggestion(file.name, keys, inferred)
        self.check_keys(file)

    def groups(self, tree: Tree, routing: Routing) -> list[str]:
        """The groups of a tree in the order of the rules, with those that only a sibling preset has (TTS-05)."""
        siblings = [other for other in routing.trees if other.variant == tree.variant]
        present = {claim.spec.group for other in siblings for claim in other.claims}
        return [group for group in self.rules.groups if group in present]

    def stage(self, file: _TestFile, tree: Tree, group: str, sources: StageSources) -> None:
        key = "_".join(part for part in (file.base, tree.preset, tree.variant, group) if part)
        claims: dict[str, list[Claim]] = {}
        for claim in tree.claims:
            if claim.spec.group == group:
                claims.setdefault(claim.spec.key, []).append(claim)
        metrics: dict[str, StageMetric] = {}
        for metric_key in (known for known in self.rules.metrics if known in claims):
            metrics[metric_key] = self.metric(key, claims[metric_key], sources)
        if not metrics:
            what = f"{key}: preset {tree.preset} has no {group} threshold although another preset has"
            self.problems.append(f"{what}; it is run and counted, never applied [TTS-05]")
        self.add(file, key, group, tree, sources, metrics)

    def metric(self, stage_key: str, claims: list[Claim], sources: StageSources) -> StageMetric:
        spec = claims[0].spec
        location = sources.metric(spec.key)
        if len(claims) > 1:
            names = tuple(claim.source for claim in claims)
            self.collisions.append(Collision(stage_key, spec.key, names))
            what = f"{stage_key}: {' and '.join(names)} both claim {spec.key}"
            self.problems.append(f"{what}; put all but one into ignored_constants [DSC-10]")
            location = None
        return StageMetric(
            source=claims[0].source,
            json_file=location.json_file if location else None,
            json_path=location.json_path if location else None,
            worst=spec.worst,
            display=spec.display,
            status="OK" if location else "NEEDS_CONFIG",
        )

    def docs(self, file: _TestFile, key: str, sources: StageSources) -> None:
        self.add(file, key, DOCS_GROUP, Tree(None, None), sources, {})

    def add(
        self, file: _TestFile, key: str, group: str, tree: Tree, sources: StageSources, metrics: dict[str, StageMetric]
    ) -> None:
        if key in self.stages:
            what = f"{file.path} and {self.stages[key].test} both make the stage {key}"
            raise _clash(what, "rename a test, preset or variant, or change stage_base_strip_*")
        preset = file.config.calibration_presets.get(tree.preset) if tree.preset else None
        scope = file.scope.scope(group, tree.variant, sources.expected(group))
        self.problems += scope.problems
        counts = sources.counts(group)
        if counts is None and group != DOCS_GROUP:
            self.problems.append(f"{key}: sample_counts are not known, so no repeat of it can be strict [SMP-01]")
        own_file = file.config.threshold_file
        policy = self.rules.policy(group)
        words = [file.base.replace("_", " ").upper(), tree.preset, tree.variant, policy.label or group]
        self.stages[key] = Stage(
            key=key,
            test=file.path,
            title=" ".join(word for word in words if word),
            group=group,
            extra_env=self.model.extra_env.get(file.name, {}) | (preset.extra_env if preset else {}),
            context_vars=scope.context_vars,
            variant=tree.variant,
            calibration_preset=tree.preset,
            gpus=preset.gpus if preset and preset.gpus is not None else self.model.gpus_per_test.get(file.name),
            hf_model_ids=self.model.model_ids(file.name, tree.preset),
            test_file_sha256=file.module.sha256,
            threshold_file=own_file,
            threshold_file_sha256=file.thresholds.sha256 if own_file else None,
            expected_samples=scope.expected_samples,
            sample_counts=counts,
            metrics=metrics,
        )

    def check_keys(self, file: _TestFile) -> None:
        """Names in config that mean nothing: a metric or group misspelt there would silently do nothing."""
        groups = [*self.rules.groups, DOCS_GROUP, "default"]
        for level in (file.config, *file.config.variants.values()):
            expected = level.expected_samples
            named = [*level.sample_counts_by_group, *(expected if isinstance(expected, dict) else ())]
            for kind, names, known in (("metric", level.paths, [*self.rules.metrics]), ("group", named, groups)):
                for name in names:
                    if name not in known:
                        near = difflib.get_close_matches(name, known, 1)
                        hint = f"; did you mean {near[0]}?" if near else ""
                        self.problems.append(f"{file.name}: config.yaml names the {kind} {name}, unknown{hint} [DSC-16]")


def _clash(what: str, next: str) -> Refusal:
    details: dict[str, Json] = {"key": "test_globs"}
    return Refusal(Code.INVALID_CONFIG, "STG-07", what, next, details)
