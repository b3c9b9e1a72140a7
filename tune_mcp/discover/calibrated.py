"""The test files that a model's globs find, and what config's per-test keys say about them (rules DSC-13, STG-07)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tune_mcp.config.metrics import MetricRules
from tune_mcp.config.model import FileSource, ModelConfig
from tune_mcp.config.stages import DOCS_GROUP
from tune_mcp.discover.constants import ModuleConstants
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.discover.scope import ScopeReader
from tune_mcp.errors import Code, Refusal


@dataclass(frozen=True)
class CalibratedFile:
    """One test file with everything that its stages share. ``base`` opens the keys of its stages."""

    path: str
    name: str
    base: str
    data: bytes
    config: FileSource
    module: ModuleConstants
    thresholds: ModuleConstants
    scope: ScopeReader


@dataclass
class CalibratedFiles:
    """Finds and reads the test files of one model; ``problems`` are what config says to no effect."""

    model: ModelConfig
    rules: MetricRules
    files: PythonFiles
    problems: list[str] = field(default_factory=list[str])

    def paths(self) -> Iterator[str]:
        """Paths relative to the repository, each once, in the order of the globs and sorted within each.

        Raises INVALID_CONFIG for two files of one name: config's keys could not tell them apart.
        """
        root = self.files.repo_root
        seen: dict[str, str] = {}
        for pattern in self.model.test_globs:
            found = sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.suffix == ".py")
            if not found:
                self.problems.append(f"test_globs entry {pattern} finds no file below {root}")
            for path in found:
                name = PurePosixPath(path).name
                if name not in seen:
                    seen[name] = path
                    yield path
                elif seen[name] != path:
                    raise clash(f"{seen[name]} and {path} have one file name", "rename one, or narrow test_globs")

    def read(self, path: str) -> CalibratedFile:
        """Read one. Raises INVALID_CONFIG when it or its threshold file is missing, no Python, or leaves no base."""
        name = PurePosixPath(path).name
        config = self.model.metric_sources.get(name, FileSource())
        stem = PurePosixPath(path).stem
        base = stem.removeprefix(self.model.stage_base_strip_prefix)
        base = base.removesuffix(self.model.stage_base_strip_suffix).strip("_.-")
        if not base:
            raise clash(f"nothing is left of {stem} without its prefix and suffix", "shorten stage_base_strip_*")
        module = self.files.with_stars(self._module(path, "test_globs"))
        source = f"metric_sources.{name}.threshold_file"
        thresholds = self._module(config.threshold_file, source) if config.threshold_file else module
        scope = ScopeReader(module, self.files, self.rules, tuple(config.variants))
        self._check_keys(name, config)
        return CalibratedFile(path, name, base, self.files.data(path) or b"", config, module, thresholds, scope)

    def unused_names(self, files: Iterable[CalibratedFile]) -> Iterator[str]:
        """A line for each test file that config describes and no glob finds."""
        known = [file.name for file in files]
        for name in self.model.named_tests():
            if name not in known:
                yield f"config.yaml describes {name}, which no test_globs entry finds{_hint(name, known)}"

    def _module(self, path: str, key: str) -> ModuleConstants:
        if not path.endswith(".py"):
            what = f"{path} is no Python file; only Python files are edited, none in YAML, TOML or JSON"
            step = "keep the thresholds as numbers in a Python file that the test imports, and name that one"
            raise Refusal(Code.INVALID_CONFIG, "DSC-13", what, step, {"key": key, "file_given": path})
        module = self.files.constants(path)
        if module is None:
            there = os.path.lexists(self.files.repo_root / path)
            what = f"{path} is no plain file" if there else f"there is no file {path} inside {self.files.repo_root}"
            step = "remove it, or correct config.yaml" if there else "correct config.yaml"
            raise Refusal(Code.INVALID_CONFIG, "DSC-13", what, step, {"key": key, "missing": path})
        return module

    def _check_keys(self, test: str, config: FileSource) -> None:
        """Metrics and groups that do not exist: misspelt, they would do nothing without a word."""
        groups = [*self.rules.file.groups, DOCS_GROUP, "default"]
        named = {metric for constants in self.model.thresholds.values() for metric in constants.values()}
        metrics = [*self.rules.metrics, *sorted(named - self.rules.metrics.keys())]
        for level in (config, *config.variants.values()):
            expected = level.expected_samples
            words = [*level.sample_counts_by_group, *(expected if isinstance(expected, dict) else ())]
            for kind, names, known in (("metric", level.paths, metrics), ("group", words, groups)):
                for name in names:
                    if name not in known:
                        what = f"{test}: config.yaml names the {kind} {name}, which does not exist"
                        self.problems.append(f"{what}{_hint(name, known)}")


def clash(what: str, next: str) -> Refusal:
    """INVALID_CONFIG for names that are ambiguous (rule STG-07)."""
    return Refusal(Code.INVALID_CONFIG, "STG-07", what, next, {"key": "test_globs"})


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
