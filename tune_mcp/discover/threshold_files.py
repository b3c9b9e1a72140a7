"""The Python files of a repository in which the numbers stand that a test file asserts: its own, or others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tune_mcp.config.metrics import MetricRules
from tune_mcp.config.model import FileSource, ModelConfig
from tune_mcp.discover.asserted import asserted
from tune_mcp.discover.assertions import AssertionReader, Unread
from tune_mcp.discover.calibrated import CalibratedFiles
from tune_mcp.discover.claimants import Unclaimed, unclaimed
from tune_mcp.discover.constants import ConstantKind
from tune_mcp.discover.places import names_in, root_of
from tune_mcp.discover.routing import Routing
from tune_mcp.errors import Refusal


@dataclass(frozen=True)
class AssertedNumbers:
    """The asserted numbers that stand in one file."""

    path: str
    numbers: tuple[Unclaimed, ...]

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
        source = FileSource(threshold_file=place)
        model = ModelConfig(name="m", test_globs=(path,), metric_sources={PurePosixPath(path).name: source})
        try:
            file = CalibratedFiles(model, rules, files).read(path)
        except Refusal:
            continue
        numbers = tuple(one for one in unclaimed(file, Routing(), rules, reader) if one.source)
        if numbers:
            yield AssertedNumbers(place, numbers)


def chosen_of(own: AssertedNumbers, others: Sequence[AssertedNumbers]) -> AssertedNumbers:
    """Whose numbers are the thresholds of a test file: its own before others, of others those of the file with most."""
    return own if own.nameable else max((own, *others), key=lambda one: len(one.nameable))


def left_out(test: str, chosen: AssertedNumbers, found: Sequence[AssertedNumbers]) -> Iterator[str]:
    """A line for each file whose numbers a test file asserts too, but that config cannot name beside the chosen one."""
    name = PurePosixPath(test).name
    for other in found:
        if other is not chosen and other.nameable:
            sources = ", ".join(one.source for one in other.nameable)
            yield (
                f"{test} asserts numbers of {other.path} too: {sources}. The thresholds of a test file are in one "
                f"file, here {chosen.path}: move all of them into one and run init --replace, or write threshold_file: "
                f"{other.path} below metric_sources.{name} and name these below thresholds.{name}"
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
