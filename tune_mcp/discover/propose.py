"""A first config.yaml for a repository's own tests: what they assert, and where one run of them left the values.

What is certain is written as it counts; what is not stands as a comment, with the places that might be meant.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tune_mcp.config.metrics import MetricRules
from tune_mcp.config.stages import Number, finite_number
from tune_mcp.discover.assertions import BOUND, AssertionReader, Gate
from tune_mcp.discover.assertions.left import LeftAt
from tune_mcp.discover.claimants import Unclaimed
from tune_mcp.discover.recorded import recorded
from tune_mcp.discover.sources import tmp_path_folder
from tune_mcp.discover.stages import Discovery
from tune_mcp.discover.suggest import count_lines, metric_names, names_for, needs_no_gpu, quoted, threshold_line
from tune_mcp.discover.threshold_files import (
    AssertedNumbers,
    chosen_of,
    claimed_by_name,
    left_out,
    not_measured,
    numbers_elsewhere,
)
from tune_mcp.errors import Json
from tune_mcp.files import parse_result, read_plain
from tune_mcp.run_dir import RECORD_FILE

_MOST_FILES = 200
_MOST_BYTES = 8 * 1024 * 1024
_MOST_SHOWN = 3
_NOT_SHOWN = "the test's code does not show that a value in a file is the very one that it compares"
_KEYS = re.compile(r"\['([^']+)'\]|\.([A-Za-z_]\w*)(?!\w*\()")
_TOTAL = ("total_samples", "total_requests", "num_samples", "num_prompts", "num_requests", "samples_total", "total")
_OK = ("successful_samples", "completed_requests", "successful_requests", "samples_ok", "completed", "evaluated", "ok")


@dataclass(frozen=True)
class ResultPlace:
    """A number in a result file below basetemp."""

    file: str
    keys: tuple[str, ...]
    value: Number

    @property
    def source(self) -> str:
        """As config names it: ``file::dotted.path``."""
        return f"{self.file}::{'.'.join(self.keys)}"

    def __str__(self) -> str:
        """``file::dotted.path (0.5)``."""
        return f"{self.source} ({self.value:g})"

    def is_at(self, left: LeftAt) -> bool:
        """Whether the tests leave their value here, as far as the names of file and keys say."""
        name = self.file.rpartition("/")[2]
        return self.keys == left.keys and (name == left.file or (not left.file and self.file != RECORD_FILE))


@dataclass(frozen=True)
class Limit:
    """One threshold of a test file, its metric, and where the metric's value stands.

    ``maybe`` are places that may be meant, ``why`` says why none is certain.
    """

    source: str
    metric: str
    gate: Gate
    present: Number | None
    group: str
    place: str = ""
    maybe: tuple[ResultPlace, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class TestPlan:
    """What is proposed for one test file. ``threshold_file`` holds its numbers where they are not in the test file.

    ``tests`` are the names of its tests, ``ignored`` the constants that are no thresholds in spite of their names.
    """

    __test__ = False
    path: str
    limits: tuple[Limit, ...]
    gpus: int
    tests: tuple[str, ...]
    counts: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()
    threshold_file: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name, as config's keys have it."""
        return self.path.rpartition("/")[2]

    @property
    def complete(self) -> bool:
        """Whether every limit's value has a place."""
        return all(limit.place for limit in self.limits)


@dataclass(frozen=True)
class ConfigProposal:
    """The config of one model."""

    model: str
    python: str | None
    tests: tuple[TestPlan, ...]
    problems: tuple[str, ...] = field(default=())
    test_outputs: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing has to be added by hand."""
        return all(test.complete for test in self.tests)


def config_proposal(
    model: str, python: str | None, found: Discovery, rules: MetricRules, reader: AssertionReader
) -> ConfigProposal:
    """Read what the tests of an otherwise empty config assert."""
    by_test: dict[str, list[Unclaimed]] = {path: [] for path in found.without}
    for path, one in found.unclaimed:
        by_test.setdefault(path, []).append(one)
    tests: list[TestPlan] = []
    problems: list[str] = []
    for path, ones in by_test.items():
        own = AssertedNumbers(path, tuple(ones))
        others = list(numbers_elsewhere(path, rules.without_names(), reader))
        chosen = chosen_of(own, others)
        names = recorded(reader.files.tree(path) or ast.Module([], []))
        limits = tuple(_limits(chosen.nameable, names, rules))
        notes = [one.text for numbers in (own, *others) for one in numbers.numbers if not one.nameable]
        notes += [line for test, line in found.empty if test == path]
        notes += left_out(path, chosen, (own, *others))
        if limits:
            gpus = 0 if needs_no_gpu(reader.files, path) else 1
            threshold_file = chosen.path if chosen is not own else ""
            functions = tuple(test.name.rpartition("::")[2] for test in reader.names.tests(path))
            counts = _recorded_counts(names)
            specs = {limit.source: rules.completed(limit.metric, limit.gate.worst) for limit in limits}
            ignored = tuple(claimed_by_name(path, threshold_file or None, specs, rules, reader))
            tests.append(TestPlan(path, limits, gpus, functions, counts, tuple(notes), threshold_file, ignored))
            continue
        if path in found.without and not notes:
            notes = list(not_measured(path, rules, reader)) or [
                f"{path}: no number with a name is asserted as a bound in it, so it is left out"
            ]
        problems += notes
    return ConfigProposal(model, python, tuple(tests), tuple(dict.fromkeys(problems)))


def _limits(ones: Sequence[Unclaimed], names: Collection[str], rules: MetricRules) -> Iterator[Limit]:
    """The limits of a test file that records values under these names."""
    given = names_for(ones)
    # A stage reads what is recorded under its metric's name, so no other value may have that name.
    rest = metric_names([one.source for one in ones if one.source not in given], names)
    for one in ones:
        if not isinstance(one.gate, Gate):
            continue
        metric = given.get(one.source) or rest[one.source]
        spec = rules.completed(metric, one.gate.worst)
        if spec.worst != one.gate.worst:  # a shipped metric of that name is bad on the other side
            metric = f"{metric}_{'floor' if one.gate.worst == 'min' else 'ceiling'}"
            spec = rules.completed(metric, one.gate.worst)
        place = f"{RECORD_FILE}::{given[one.source]}" if one.source in given else ""
        yield Limit(one.source, metric, one.gate, one.value, spec.group, place)


def _recorded_counts(names: Collection[str]) -> tuple[str, str] | None:
    if "samples_total" in names and "samples_ok" in names:
        return f"{RECORD_FILE}::samples_total", f"{RECORD_FILE}::samples_ok"
    return None


# What one run left


def filled(test: TestPlan, basetemp: Path, failed: Collection[str], chosen: Mapping[str, str]) -> TestPlan:
    """The plan with the places that the result files of a run show; ``failed`` are the tests that failed in it.

    ``chosen`` are places that a person named, by metric.
    """
    places = list(_places(basetemp))
    limits = tuple(
        _located(limit, [place for place in places if _may_hold(place, limit, test.tests)], failed, chosen)
        for limit in test.limits
    )
    counts = test.counts or _counts(limits, places)
    return replace(test, limits=limits, counts=counts)


def _located(limit: Limit, places: Sequence[ResultPlace], failed: Collection[str], chosen: Mapping[str, str]) -> Limit:
    if limit.metric in chosen:
        return replace(limit, place=chosen[limit.metric])
    if any(place.source == limit.place for place in places):
        return limit
    passed = not any(test in failed for test in limit.gate.tests)
    certain = [[place for place in places if place.is_at(left)] for left in limit.gate.left]
    found = sorted(one[0].source for one in certain if len(one) == 1 and _agrees(limit, one[0], passed))
    if found:
        return replace(limit, place=found[0], maybe=())
    likely = sorted(places, key=lambda place: -_likeness(limit, place))
    likely = [place for place in likely if _likeness(limit, place) and _agrees(limit, place, passed)]
    same = sorted({place.file for one in certain for place in one if len(one) > 1})
    why = f"more than one file of the run has such a value: {', '.join(same[:_MOST_SHOWN])}" if same else _NOT_SHOWN
    return replace(limit, place="", maybe=tuple(likely[:_MOST_SHOWN]), why=why)


def _may_hold(place: ResultPlace, limit: Limit, tests: Iterable[str]) -> bool:
    """Whether a place may hold the value of a limit: nothing that another test of the file left does."""
    folder = place.file.partition("/")[0]
    ours = {test.rpartition("::")[2] for test in limit.gate.tests}
    beginnings = [(len(begins), test) for test in tests if folder.startswith(begins := tmp_path_folder(test)[:-1])]
    owners = {test for length, test in beginnings if length == max(beginnings)[0]}
    return not owners or not ours.isdisjoint(owners)


def _agrees(limit: Limit, place: ResultPlace, passed: bool) -> bool:
    """Whether the value could have given what pytest reported."""
    if limit.present is None or not passed:
        return True
    return limit.gate.passes(place.value, limit.present)


def _likeness(limit: Limit, place: ResultPlace) -> int:
    """How alike a place and what the test compares are called: the keys that it reads, the words of the metric."""
    keys = _keys(limit.gate.measured)
    suffix = 0
    while suffix < min(len(keys), len(place.keys)) and keys[-1 - suffix] == place.keys[-1 - suffix]:
        suffix += 1
    words = {*limit.metric.split("_"), *re.findall(r"[a-z0-9]+", limit.gate.how.partition(": ")[2].lower())}
    return 10 * suffix + len(words & {*re.split(r"[^a-z0-9]+", "_".join(place.keys).lower())})


def _keys(code: str) -> list[str]:
    """The keys and attributes that code reads."""
    return [one or other for one, other in _KEYS.findall(code)]


def _places(basetemp: Path) -> Iterator[ResultPlace]:
    """Every number of every JSON file below basetemp that a path can name."""
    files = sorted(path for path in basetemp.rglob("*.json") if path.is_file() and not path.is_symlink())
    for path in files[:_MOST_FILES]:
        try:
            document = parse_result(read_plain(path, _MOST_BYTES))
        except (OSError, ValueError):
            continue
        name = path.relative_to(basetemp).as_posix()
        yield from (ResultPlace(name, keys, value) for keys, value in _numbers(document, ()))


def _numbers(node: Json, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Number]]:
    if isinstance(node, dict) and len(keys) < 8:
        for key, inner in node.items():
            if key and "." not in key:
                yield from _numbers(inner, (*keys, key))
    elif keys and (number := finite_number(node)) is not None:
        yield keys, number


def _counts(limits: Iterable[Limit], places: Sequence[ResultPlace]) -> tuple[str, str] | None:
    """The one pair of counts that stands in the files of these limits, all samples and the good ones."""
    files = {limit.place.partition("::")[0] for limit in limits}
    found: list[tuple[str, str]] = []
    for total in places:
        if total.file not in files or total.keys[-1] not in _TOTAL:
            continue
        for ok in places:
            good = ok.keys[-1] in _OK and ok.file == total.file and ok.keys[:-1] == total.keys[:-1]
            if good and isinstance(ok.value, int) and isinstance(total.value, int) and ok.value <= total.value:
                found.append((total.source, ok.source))
    return found[0] if len(found) == 1 else None


# The text


def config_text(plan: ConfigProposal) -> str:
    """The config_proposal as config.yaml."""
    lines = [
        "# Written by `tune-mcp init` from what the tests assert; it is yours now. Change it, then run discover.",
        f"name: {plan.model}",
        "test_globs:",
        *(f"  - {quoted(test.path)}" for test in plan.tests),
    ]
    if plan.python:
        lines.append(f"default_venv_python: {quoted(plan.python)}")
    lines += ["venv_imports: []  # modules that precheck loads before a run", "gpus_per_test:"]
    lines += [
        f"  {test.name}: {test.gpus}{'  # it may use one; 0 where it needs none' if test.gpus else ''}"
        for test in plan.tests
    ]
    if plan.test_outputs:
        lines.append("test_outputs:  # tracked files that the tests rewrite")
        lines += [f"  - {quoted(one)}" for one in plan.test_outputs]
    lines.append("thresholds:  # what bounds which metric; its group and its bad side follow from name and assertion")
    for test in plan.tests:
        lines.append(f"  {test.name}:")
        for limit in test.limits:
            side = f"{BOUND[limit.gate.worst]}, group {limit.group}"
            lines.append(threshold_line(limit.source, limit.metric, side))
    lines.append("metric_sources:  # where each value is, below pytest's basetemp")
    for test in plan.tests:
        lines.append(f"  {test.name}:")
        if test.threshold_file:
            lines.append(f"    threshold_file: {quoted(test.threshold_file)}  # where the numbers are")
        if test.ignored:
            lines.append("    ignored_constants:  # named like a shipped metric, and left out: the notes below say why")
            lines += [f"      - {quoted(one)}" for one in test.ignored]
        if test.counts:
            lines += count_lines(*test.counts)
        else:
            lines.append("    sample_counts: one  # no count of samples was found: each repeat is one measurement")
        lines.append("    paths:")
        for limit in test.limits:
            unknown = f" # not known: {limit.why}" if limit.maybe else " # not known"
            lines.append(f"      {limit.metric}: {quoted(limit.place, unknown)}")
            lines += [f"      #   perhaps {quoted(place.source)}, which was {place.value:g}" for place in limit.maybe]
        lines += [f"  # {line}" for line in test.notes]
    return "\n".join(lines) + "\n"
