"""Every number of a repository that a test asserts against, and who keeps it up to date.

Calibrated: a metric of a stage writes it. Protected: it fixes the scope, load, time or slack of a test. Derived: it is
made of a calibrated one. All others are kept by nobody: only a person changes them.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tune_mcp.config.metrics import MetricRules
from tune_mcp.config.model import ModelConfig, globbed_files
from tune_mcp.config.stages import StageTable
from tune_mcp.discover.asserted import QualifiedName, Use, asserted, plainly_asserted
from tune_mcp.discover.assertions.names import NameReader
from tune_mcp.discover.constants import Constant, ConstantKind, ModuleConstants, NumberLiteral
from tune_mcp.discover.places import names_in, root_of
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.discover.source_tree import is_test_file, number_of
from tune_mcp.errors import Refusal

_SIDES = {"min": "at least", "max": "at most", "": ""}
_SKIPPED = frozenset({"node_modules", "site-packages", "build", "dist"})


class Keeper(StrEnum):
    """Who keeps a number up to date."""

    NOBODY = "nobody"
    DERIVED = "derived"
    PROTECTED = "protected"
    CALIBRATED = "calibrated"


@dataclass(frozen=True)
class Covered:
    """One number. ``name`` is empty for one without; ``by`` says which metrics, what it is made of, or why not."""

    path: str
    line: int
    name: str
    value: int | float | None
    keeper: Keeper
    side: str
    by: str

    @property
    def text(self) -> str:
        """``tests/test_a.py:7 LATENCY_MAX = 3.5 (at most): no metric claims it``."""
        value = "" if self.value is None else f" = {self.value:g}"
        side = f" ({_SIDES[self.side]})" if self.side else ""
        return f"{self.path}:{self.line} {self.name or 'a number'}{value}{side}: {self.by}"


@dataclass(frozen=True)
class Covering:
    """What coverage needs of one model: its config, its rules, and the stages that its tests make now."""

    config: ModelConfig
    rules: MetricRules
    table: StageTable


def coverage(repo_root: Path, models: Mapping[str, Covering]) -> tuple[Covered, ...]:
    """Read all test files of a repository against the tables of all its models; by file and line."""
    reader = _Coverage(repo_root, models)
    rows = {(one.path, one.line, one.name, one.value): one for one in reader.rows()}
    return tuple(sorted(rows.values(), key=lambda one: (one.path, one.line, one.name)))


@dataclass
class _Coverage:
    repo_root: Path
    models: Mapping[str, Covering]
    files: PythonFiles = field(init=False)
    names: NameReader = field(init=False)
    claims: dict[QualifiedName, list[str]] = field(default_factory=dict[QualifiedName, "list[str]"])
    sides: dict[QualifiedName, str] = field(default_factory=dict[QualifiedName, str])
    waiting: dict[QualifiedName, str] = field(default_factory=dict[QualifiedName, str])
    ignored: set[QualifiedName] = field(default_factory=set[QualifiedName])

    def __post_init__(self) -> None:
        self.files = PythonFiles(self.repo_root)
        self.names = NameReader(self.files)
        for name, model in self.models.items():
            for stage in model.table.values():
                for metric, one in stage.metrics.items():
                    place = (stage.threshold_path, one.source)
                    if one.status == "OK":
                        self.claims.setdefault(place, []).append(f"{name}: {stage.key}/{metric}")
                        self.sides[place] = one.worst
                    else:
                        self.waiting[place] = f"{name}: {stage.key}/{metric} is NEEDS_CONFIG"
            for file, sources in model.config.metric_sources.items():
                paths = {stage.threshold_path for stage in model.table.values() if stage.test.endswith(f"/{file}")}
                for level in (sources, *sources.variants.values()):
                    self.ignored |= {(path, name) for path in paths for name in level.ignored_constants}

    def rows(self) -> Iterator[Covered]:
        """Every asserted number, some more than once."""
        used: dict[QualifiedName, Use] = {}
        known: set[str] = set()
        for model in self.models.values():
            for path in globbed_files(self.repo_root, model.config):
                if path in known:
                    continue
                known.add(path)
                try:
                    found = asserted(self.names, path)
                except RecursionError:
                    continue
                used = {**found.named, **used}
                for use, value in found.nameless:
                    yield self._nameless(use, value, "no name: assign it to a constant at the top of the file")
        for path in pytest_files(self.repo_root, self.repo_root):
            tree = None if path in known else self.files.tree(path)
            if tree is not None:
                found = plainly_asserted(tree, path)
                used = {**found.named, **used}
                for use, value in found.nameless:
                    yield self._nameless(use, value, "no model covers this file")
        for path, source in (*self.claims, *self.waiting):
            used.setdefault((path, source), Use(path, 0))
        for (path, name), use in used.items():
            module = self._module(path)
            if module is not None:
                yield from self._named(module, name, use)

    def _module(self, path: str) -> ModuleConstants | None:
        try:
            return self.files.constants(path)
        except Refusal:
            return None

    def _nameless(self, use: Use, value: int | float, why: str) -> Covered:
        return Covered(use.path, use.line, "", value, Keeper.NOBODY, use.side, why)

    def _named(self, module: ModuleConstants, name: str, use: Use) -> Iterator[Covered]:
        """The numbers that a name holds: one, or each entry of a table or attribute of an object."""
        constant = module.constant(name)
        inside = {source: leaf for source, leaf in module.leaves.items() if root_of(source) == name}
        if constant is not None and constant.kind is ConstantKind.NESTED:
            inside = dict.fromkeys(self._entries(module.path, constant), constant)
        for source, one in inside.items():
            yield self._row(module, source, one, use)
        if constant is None or inside or (name != name.upper() and (module.path, name) not in self.claims):
            if "[" in name and not inside and (module.path, name) in {**self.claims, **self.waiting}:
                table = module.constants.get(name.partition("[")[0])
                if table is not None:
                    yield self._row(module, name, table, use)
            return
        if constant.kind in (ConstantKind.NUMBER, ConstantKind.NONE) or self._numeric(module.path, name, constant):
            yield self._row(module, name, constant, use)

    def _entries(self, path: str, constant: Constant) -> Iterator[str]:
        """The entries of a table: by key, and by load and key where a metric claims one load of it."""
        known = {source for place, source in (*self.claims, *self.waiting) if place == path}
        apart = {one.subkey for one in constant.literals if entry(one) in known}
        for one in constant.literals:
            yield entry(one) if one.subkey in apart else f"{constant.name}[{one.subkey!r}]"

    def _numeric(self, path: str, name: str, constant: Constant) -> bool:
        """Whether an expression computes with numbers."""
        if constant.kind is not ConstantKind.DERIVED:
            return False
        nodes = [inner for node in self.names.names(path).statements.get(name, ()) for inner in ast.walk(node)]
        return any(number_of(node) is not None for node in nodes if isinstance(node, ast.expr)) or bool(
            self._made_of(path, name)
        )

    def _made_of(self, path: str, name: str) -> list[QualifiedName]:
        """The numbers of the repository that a constant is made of, tables by each of their entries."""
        seen, waiting = {(path, name)}, [(path, name)]
        found: list[QualifiedName] = []
        while waiting:
            place = waiting.pop()
            module = self._module(place[0])
            constant = module.constants.get(place[1]) if module else None
            if constant is not None and constant.kind in (ConstantKind.NUMBER, ConstantKind.NESTED):
                entries = dict.fromkeys(one.subkey for one in constant.literals if one.subkey)
                found += [(place[0], f"{place[1]}[{key!r}]") for key in entries] or [place]
                continue
            for node in self.names.names(place[0]).statements.get(place[1], ()):
                value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
                for inner in ast.walk(value) if value is not None else ():
                    if isinstance(inner, ast.Name):
                        new = [one for one in self.names.meaning(place[0], inner.id) if one not in seen]
                        seen.update(new)
                        waiting += new
        return found

    def _row(self, module: ModuleConstants, source: str, constant: Constant, use: Use) -> Covered:
        place = (module.path, source)
        inner = next(
            (one for one in constant.literals if source in (entry(one), f"{constant.name}[{one.subkey!r}]")), None
        )
        literal = inner or (constant.literals[0] if len(constant.literals) == 1 else None)
        keeper, by = self._kept(place, constant)
        line = literal.line if literal else constant.line
        side = self.sides.get(place, use.side)
        value = literal.value if literal else None
        return Covered(module.path, line, source, value, keeper, side, by)

    def _kept(self, place: QualifiedName, constant: Constant) -> tuple[Keeper, str]:
        path, source = place
        if place in self.claims:
            return Keeper.CALIBRATED, "; ".join(dict.fromkeys(self.claims[place]))
        names = names_in(source)
        if any(model.rules.protected(name.upper()) for model in self.models.values() for name in names):
            return Keeper.PROTECTED, "scope, load, time limit or slack of the test"
        if place in self.waiting:
            return Keeper.NOBODY, self.waiting[place]
        if place in self.ignored:
            return Keeper.NOBODY, "config names it in ignored_constants"
        if constant.kind is ConstantKind.DERIVED:
            made_of = self._made_of(path, source)
            of = list(dict.fromkeys(one[1].partition("[")[0] for one in made_of if one in self.claims))
            if of:
                return Keeper.DERIVED, f"made of {', '.join(of)}"
            rest = list(dict.fromkeys(one[1].partition("[")[0] for one in made_of))
            return Keeper.NOBODY, f"made of {', '.join(rest)}" if rest else "an expression of plain numbers"
        if constant.kind is ConstantKind.NONE:
            return Keeper.NOBODY, "it has no value: this gate is off"
        return Keeper.NOBODY, constant.problem or "no metric claims it"


def entry(literal: NumberLiteral) -> str:
    """The place of one number of a table by load, ``X[8]['k']``."""
    return f"{literal.symbol}[{literal.concurrency}][{literal.subkey!r}]"


def pytest_files(repo_root: Path, top: Path) -> Iterator[str]:
    """What pytest takes for test files below ``top``, outside hidden folders, environments and build outputs."""
    for folder, inner, files in os.walk(top):
        here = Path(folder)
        inner[:] = sorted(one for one in inner if _is_source(here / one))
        for name in sorted(files):
            if is_test_file(name):
                yield (here / name).relative_to(repo_root).as_posix()


def _is_source(folder: Path) -> bool:
    return not (folder.name.startswith(".") or folder.name in _SKIPPED or (folder / "pyvenv.cfg").exists())


def markdown(rows: tuple[Covered, ...]) -> str:
    """A table for a pull request: counts, then what nobody keeps, then all others."""
    by = counts(rows)
    parts = ", ".join(f"{by[one]} {one.value}" for one in (Keeper.CALIBRATED, Keeper.DERIVED, Keeper.PROTECTED))
    lines = ["# Who keeps the asserted numbers up to date", ""]
    lines += [f"{len(rows)} numbers are asserted: {parts}, {by[Keeper.NOBODY]} by nobody.", ""]
    for keeper, heading in (
        (Keeper.NOBODY, "Kept by nobody"),
        (Keeper.DERIVED, "Made of a calibrated number"),
        (Keeper.PROTECTED, "Protected"),
        (Keeper.CALIBRATED, "Calibrated"),
    ):
        of = [one for one in rows if one.keeper is keeper]
        if of:
            lines += [
                f"## {heading} ({len(of)})",
                "",
                "| where | number | value | asserted | by |",
                "|---|---|---|---|---|",
            ]
            lines += [_line(one) for one in of]
            lines.append("")
    return "\n".join(lines)


def counts(rows: tuple[Covered, ...]) -> dict[str, int]:
    """How many each keeper has."""
    return {keeper.value: sum(one.keeper is keeper for one in rows) for keeper in Keeper}


def _line(one: Covered) -> str:
    name = f"`{one.name}`" if one.name else "(no name)"
    value = "" if one.value is None else f"{one.value:g}" if isinstance(one.value, float) else str(one.value)
    return f"| {one.path}:{one.line} | {name} | {value} | {_SIDES[one.side]} | {one.by} |"
