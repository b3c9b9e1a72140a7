"""The Python files of a repository in which the numbers stand that a test file asserts: its own, or others."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tune_mcp.config.metrics import MetricRules, MetricSpec
from tune_mcp.config.model import FileSource, ModelConfig
from tune_mcp.discover.asserted import asserted
from tune_mcp.discover.assertions import AssertionReader, Unread
from tune_mcp.discover.calibrated import CalibratedFile, CalibratedFiles
from tune_mcp.discover.claimants import Unclaimed, unclaimed
from tune_mcp.discover.constants import ConstantKind
from tune_mcp.discover.places import names_in, root_of
from tune_mcp.discover.routing import Routing, route_constants
from tune_mcp.discover.source_tree import AnyFunction
from tune_mcp.errors import Refusal


@dataclass(frozen=True)
class AssertedNumbers:
    """The asserted numbers that stand in one file. ``of_tests``: it belongs to the tests, not to what they test."""

    path: str
    numbers: tuple[Unclaimed, ...]
    of_tests: bool = True

    @property
    def nameable(self) -> list[Unclaimed]:
        """Those that config can name."""
        return [one for one in self.numbers if one.nameable]


def numbers_elsewhere(path: str, rules: MetricRules, reader: AssertionReader) -> Iterator[AssertedNumbers]:
    """The asserted numbers of the test file ``path`` in other files, one item a file."""
    files = reader.files
    reached = {place for test in reader.names.tests(path) for place, _ in reader.names.reached(path, test)}
    for place in sorted(reached - {path}):
        if files.tree(place) is None:
            continue
        try:
            file = _read(path, place, rules, reader)
        except Refusal:
            continue
        numbers = tuple(one for one in unclaimed(file, Routing(), rules, reader) if one.source)
        if numbers:
            yield AssertedNumbers(place, numbers, _belongs_to_tests(place, path, reader))


def _belongs_to_tests(place: str, test: str, reader: AssertionReader) -> bool:
    """Whether a file is in a test file's outermost test folder; where that has none, beside it and without code."""
    folders = [folder for folder in PurePosixPath(test).parents if folder.name in ("test", "tests", "testing")]
    if folders:
        return PurePosixPath(place).is_relative_to(folders[-1])
    tree = reader.files.tree(place)
    computes = tree is None or any(isinstance(node, AnyFunction) for node in ast.walk(tree))
    return PurePosixPath(place).parent == PurePosixPath(test).parent and not computes


def _read(path: str, threshold_file: str | None, rules: MetricRules, reader: AssertionReader) -> CalibratedFile:
    """A test file with its numbers in that file, in an otherwise empty config. Raises INVALID_CONFIG."""
    source = FileSource(threshold_file=threshold_file)
    model = ModelConfig(name="m", test_globs=(path,), metric_sources={PurePosixPath(path).name: source})
    return CalibratedFiles(model, rules, reader.files).read(path)


def claimed_by_name(
    path: str, threshold_file: str | None, named: Mapping[str, MetricSpec], rules: MetricRules, reader: AssertionReader
) -> Iterator[str]:
    """The constants that the test reads and whose names alone would make them thresholds beside the ``named`` ones."""
    file = _read(path, threshold_file, rules, reader)
    place, routing = file.thresholds.path, route_constants(file, rules, named, reader)
    claims = [*routing.claims(), *(rival for route in routing.routes for rival in route.rivals)]
    for source in dict.fromkeys(claim.source for claim in claims):
        made = any(reader.derives(place, root_of(source), one) for one in named)
        if source not in named and not made and reader.reading_tests(path, place, source).tests:
            yield source


def chosen_of(own: AssertedNumbers, others: Sequence[AssertedNumbers]) -> AssertedNumbers:
    """Whose numbers are the thresholds of a test file: its own before others, of others those of the file with most.

    A constant of what is tested is none of them: nobody sees that a measurement shall change it.
    """
    others = [one for one in others if one.of_tests]
    return own if own.nameable else max((own, *others), key=lambda one: len(one.nameable))


def left_out(test: str, chosen: AssertedNumbers, found: Sequence[AssertedNumbers]) -> Iterator[str]:
    """A line for each file whose numbers a test file asserts too, but that config cannot name beside the chosen one."""
    name = PurePosixPath(test).name
    for other in found:
        if other is not chosen and other.nameable:
            sources = ", ".join(one.source for one in other.nameable)
            why = f"The thresholds of a test file are in one file, here {chosen.path}: move all of them into one"
            if not other.of_tests:
                why = "That is no file of the tests, so they may be the program's own: move thresholds to the tests"
            yield (
                f"{test} asserts numbers of {other.path} too: {sources}. {why} and run init --replace, or write "
                f"threshold_file: {other.path} below metric_sources.{name} and name these below thresholds.{name}"
            )


def not_measured(path: str, rules: MetricRules, reader: AssertionReader) -> Iterator[str]:
    """A line for each number with a name that a test orders against something in which no measured value is seen."""
    for (place, name), use in asserted(reader.names, path).named.items():
        module = reader.files.constants(place) if use.side else None
        for source, constant in {**module.constants, **module.leaves}.items() if module else ():
            protected = any(map(rules.protected, names_in(source)))
            if root_of(source) != name or constant.kind is not ConstantKind.NUMBER or protected:
                continue
            gate = reader.gate(path, place, source, None)
            if isinstance(gate, Unread):
                yield (
                    f"{use.path}:{use.line}: {source} is asserted, but no measured value is seen beside it; a number "
                    f"that the code itself holds or computes, as a stub does, is none: {gate.reason}"
                )
