"""Who else reads a threshold than the tests that were measured.

A limit that two tests read may be too tight for the one that did not run, so it is tightened only if a person agrees
(rule APL-11).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from tune_mcp.config.stages import Stage
from tune_mcp.discover.assertions import AssertionReader
from tune_mcp.discover.places import root_of, split_source
from tune_mcp.discover.python_files import PythonFiles, remembered
from tune_mcp.discover.source_tree import is_test_file


@dataclass
class Readers:
    """Answers for one run: ``measured`` are its stages, ``catalogue`` all stages of its model as they are now."""

    assertions: AssertionReader
    measured: Mapping[str, Stage]
    catalogue: Mapping[str, Stage]

    def unmeasured(self, file: str, source: str) -> str | None:
        """A stage or test file that reads this threshold without a metric of it in the run; None for none."""
        symbol, subkey = split_source(source)
        root = root_of(source)
        for key, stage in self.catalogue.items():
            sources = [split_source(metric.source) for metric in stage.metrics.values()]
            if key not in self.measured and stage.threshold_path == file and (symbol, subkey) in sources:
                return f"stage {key}"
        found = self._importers(file)
        for name in [*found.get(root, ()), *found.get("*", ())]:
            stages = [stage for stage in self.measured.values() if stage.test == name]
            sources = {split_source(metric.source) for stage in stages for metric in stage.metrics.values()}
            of_it = any(stage.threshold_path == file for stage in stages) and (symbol, subkey) in sources
            if not stages or (not of_it and self.assertions.reading_tests(name, file, source).tests):
                return name
        return None

    @property
    def files(self) -> PythonFiles:
        """The repository's Python files."""
        return self.assertions.files

    @remembered
    def _importers(self, file: str) -> dict[str, list[str]]:
        """Symbol (``*`` for all of them) -> the other test files that take it from ``file``."""
        folder, _, inner = file.partition("/")
        root = self.files.repo_root
        near = (root / folder).rglob("*.py") if inner else root.glob("*.py")
        found: dict[str, list[str]] = {}
        for path in sorted(near):
            name = path.relative_to(root).as_posix()
            # A test that does not parse runs nowhere, so it reads nothing.
            if name != file and is_test_file(name):
                for symbol in set(self._taken(name, file)):
                    found.setdefault(symbol, []).append(name)
        return found

    def _taken(self, name: str, file: str) -> Iterator[str]:
        """What the test file ``name`` takes from ``file``: names, ``*``, or attributes of the imported module."""
        stem = PurePosixPath(file).stem
        try:
            if stem.encode() not in (self.files.data(name) or b""):
                return
        except OSError:
            return  # a pipe or a folder of that name
        modules: set[str] = set()
        for one in self.files.imports(name):
            # A path that only a conftest puts on sys.path leads nowhere here: then the module's name counts.
            if one.name is not None and self._is(file, name, one.module, one.level):
                yield one.name
            elif self._is(file, name, one.inner, one.level):
                modules |= {one.bound, stem}
        for node in ast.walk(self.files.tree(name) or ast.Module([], [])):
            if isinstance(node, ast.Attribute):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if owner in modules:
                    yield node.attr

    def _is(self, file: str, importer: str, module: str, level: int) -> bool:
        found = self.files.resolve(importer, module, level)
        return found == file or (found is None and module.rpartition(".")[2] == PurePosixPath(file).stem)
