"""Who else reads a threshold than the tests that were measured.

A limit that two tests read may be too tight for the one that did not run, so it is tightened only if a person agrees
(rule APL-11).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tune_mcp.config.stages import Stage
from tune_mcp.discover.constants import split_source
from tune_mcp.discover.leaves import root_of
from tune_mcp.discover.source_tree import read_tree
from tune_mcp.errors import Refusal
from tune_mcp.files import read_plain

_TEST_FILE = re.compile(r"test_.*\.py|.*_test\.py")


@dataclass
class Readers:
    """Answers for one run: ``measured`` are its stages, ``catalogue`` all stages of its model as they are now."""

    repo_root: Path
    measured: Mapping[str, Stage]
    catalogue: Mapping[str, Stage]
    _imported: dict[str, dict[str, list[str]]] = field(default_factory=dict[str, dict[str, list[str]]])

    def unmeasured(self, file: str, source: str) -> str | None:
        """A stage or test file that reads this threshold of ``file`` and is not part of the run; None for none."""
        symbol, subkey = split_source(source)
        root = root_of(source)
        for key, stage in self.catalogue.items():
            sources = [split_source(metric.source) for metric in stage.metrics.values()]
            if key not in self.measured and stage.threshold_path == file and (symbol, subkey) in sources:
                return f"stage {key}"
        if file not in self._imported:
            self._imported[file] = self._importers(file)
        found = self._imported[file]
        return next(iter([*found.get(root, ()), *found.get("*", ())]), None)

    def _importers(self, file: str) -> dict[str, list[str]]:
        """Symbol (``*`` for all of them) -> the unmeasured test files that take it from ``file``."""
        folder, _, rest = file.partition("/")
        stem = PurePosixPath(file).stem
        near = (self.repo_root / folder).rglob("*.py") if rest else self.repo_root.glob("*.py")
        measured = {stage.test for stage in self.measured.values()} | {file}
        found: dict[str, list[str]] = {}
        for path in sorted(near):
            name = path.relative_to(self.repo_root).as_posix()
            if name in measured or not _TEST_FILE.fullmatch(path.name):
                continue
            try:
                data = read_plain(path)
            except OSError:
                continue  # a pipe, a folder or a dangling link of that name: no test reads anything from it
            if stem.encode() not in data:
                continue
            try:
                tree = read_tree(data, name).tree
            except Refusal:
                # A test that does not parse runs nowhere, so it reads nothing.
                continue
            for symbol in set(_taken(tree, stem)):
                found.setdefault(symbol, []).append(name)
        return found


def _taken(tree: ast.Module, stem: str) -> Iterator[str]:
    """What a module takes from a module called ``stem``: names, ``*``, or attributes of the imported module."""
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if (node.module or "").rpartition(".")[2] == stem:
                yield from (alias.name for alias in node.names)
            modules |= {alias.asname or alias.name for alias in node.names if alias.name == stem}
        elif isinstance(node, ast.Import):
            modules |= {alias.asname or stem for alias in node.names if alias.name.rpartition(".")[2] == stem}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner in modules:
                yield node.attr
