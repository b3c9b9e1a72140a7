"""One reader for a repository's tests: which of them read a constant, and what they assert of it."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tune_mcp.discover.assertions.evaluator import Evaluator
from tune_mcp.discover.assertions.formula import Undefined
from tune_mcp.discover.assertions.gate import Gate, Unread, UnreadKind
from tune_mcp.discover.assertions.judging import FailurePath, judge
from tune_mcp.discover.assertions.names import (
    NameReader,
    TestNode,
    class_parts,
    top_folder,
)
from tune_mcp.discover.assertions.outside import ANYTHING
from tune_mcp.discover.assertions.running import Run
from tune_mcp.discover.assertions.values import Target, TooLong
from tune_mcp.discover.leaves import Leaf, leaf_nodes
from tune_mcp.discover.places import attributes_of, load_of, root_of, split_source
from tune_mcp.discover.python_files import PythonFiles, remembered

_GATE_SECONDS, _FILE_SECONDS, _SECONDS = 2.0, 8.0, 20.0
"""The CPU time that one constant, one test file and all of them may take."""
_LONG = "the tests take too many steps to follow"


@dataclass(frozen=True)
class ReadingTests:
    """The tests that read a constant. ``unsure``: why it may be read by tests for which no path was seen, else ""."""

    tests: frozenset[str]
    unsure: str = ""


_Question = tuple[str, str, str, int | None, frozenset[tuple[str, str]]]
"""The arguments of ``AssertionReader.gate``."""


@dataclass(frozen=True)
class _Kept:
    """The gates of a repository. They hold while each path that was looked at for them has its digest."""

    gates: Mapping[_Question, Gate | Unread]
    digests: Mapping[str, str | None]


_KEPT: dict[Path, _Kept] = {}
"""By repository, the last that was read at the end: report, apply_plan and apply ask the same of the same files."""
_MAX_REPOSITORIES, _MAX_GATES = 4, 2_000


@dataclass
class AssertionReader:
    """Reads the tests of one repository; each file is parsed once. Paths are relative to the repository.

    In one process a gate is evaluated once for the same files, unless the CPU time ended it.
    """

    repo_root: Path
    files: PythonFiles = field(init=False)
    names: NameReader = field(init=False)
    _long: set[int] = field(default_factory=set[int])
    _spent: dict[str, float] = field(default_factory=dict[str, float])
    _cut_short: bool = False
    """Whether a limit of time or depth has ended a reading: it, and those after it, may differ from others."""

    def __post_init__(self) -> None:
        self.files = PythonFiles(self.repo_root)
        self.names = NameReader(self.files)

    def gate_of(self, test_file: str, node: ast.expr) -> Gate | Unread:
        """How the tests compare a value with a number without a name, a node of the tree of ``test_file``."""

        def ask(until: float) -> Gate | Unread:
            target = Target(test_file, "", None, None, node)
            evaluator = Evaluator(self.files, target, test_file, {}, lambda _path, _node: True, self._long)
            return self._judged(evaluator, test_file, until, None)

        return self._bounded(test_file, ask)

    def gate(
        self,
        test_file: str,
        threshold_file: str,
        source: str,
        concurrency: int | None,
        env: Mapping[str, str] | None = None,
    ) -> Gate | Unread:
        """How the tests of ``test_file`` compare a measured value with the constant ``source`` of ``threshold_file``.

        ``concurrency`` is the outer key of a nested dict, None takes its only one. ``env`` is the environment of the
        tests; a variable that it does not name is unknown.
        """
        env = env or {}
        question = (test_file, threshold_file, source, concurrency, frozenset(env.items()))
        if question not in self._gates:
            found = self._bounded(test_file, lambda until: self._gate(*question[:-1], env, until))
            if self._cut_short:
                return found
            self._keep(question, found)
        return self._gates[question]

    @cached_property
    def _gates(self) -> dict[_Question, Gate | Unread]:
        """The gates that are known, at first those that were kept for exactly these files."""
        kept = _KEPT.get(self.repo_root)
        return {**kept.gates} if kept and self.files.have(kept.digests) else {}

    def _keep(self, question: _Question, found: Gate | Unread) -> None:
        if len(self._gates) >= _MAX_GATES:
            self._gates.clear()
        self._gates[question] = found
        if (digests := self.files.digests()) is not None:
            _KEPT.pop(self.repo_root, None)
            _KEPT[self.repo_root] = _Kept({**self._gates}, digests)
        for oldest in list(_KEPT)[:-_MAX_REPOSITORIES]:
            _KEPT.pop(oldest, None)

    def _bounded(self, test_file: str, ask: Callable[[float], Gate | Unread]) -> Gate | Unread:
        started = time.thread_time()
        if self._spent.get(test_file, 0.0) > _FILE_SECONDS or sum(self._spent.values()) > _SECONDS:
            self._cut_short = True
            return Unread(_LONG, UnreadKind.UNCLEAR)
        try:
            return ask(started + _GATE_SECONDS)
        except (TooLong, RecursionError) as error:
            self._cut_short = self._cut_short or isinstance(error, RecursionError)
            return Unread(_LONG, UnreadKind.UNCLEAR)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, Undefined) as error:
            # Code in a form that nobody thought of: the limit is unknown, the report is made all the same.
            return Unread(f"the tests could not be followed: {type(error).__name__}: {error}", UnreadKind.UNCLEAR)
        finally:
            spent = time.thread_time() - started
            self._cut_short = self._cut_short or spent > _GATE_SECONDS
            self._spent[test_file] = self._spent.get(test_file, 0.0) + spent

    def _gate(
        self,
        test_file: str,
        threshold_file: str,
        source: str,
        concurrency: int | None,
        env: Mapping[str, str],
        deadline: float,
    ) -> Gate | Unread:
        reading = self.reading_tests(test_file, threshold_file, source)
        symbol, subkey = split_source(source)
        leaf = self.leaf(threshold_file, source)
        if leaf is not None:
            symbol, concurrency = root_of(source), load_of(source) if concurrency is None else concurrency
        attributes = attributes_of(source) if leaf else frozenset[str]()
        target = Target(threshold_file, symbol, subkey, concurrency, leaf.node if leaf else None)

        names = ((threshold_file, symbol), (threshold_file, ANYTHING))

        def reaches(path: str, node: ast.AST) -> bool:
            reached = self.names.closure(path, node)
            return not reached.isdisjoint(names) or _mentions(node, attributes)

        evaluator = Evaluator(self.files, target, test_file, env, reaches, self._long)
        evaluator.deadline = deadline
        evaluator.anew = self.names.set_anew(test_file)
        for conftest in reversed([*self.files.conftests(test_file)]):
            evaluator.module(conftest)
        evaluator.module(test_file)
        evaluator.module(threshold_file)
        if not evaluator.found:
            return Unread(f"{source} is not assigned at the top level of {threshold_file}", UnreadKind.UNCLEAR)
        found = self._judged(evaluator, test_file, deadline, reading.tests)
        for name in re.findall(r"\w+", source) if leaf else ():
            if (where := evaluator.anew.get(name) or evaluator.anew.get(f"[{name}]")) is not None:
                return Unread(f"{where} sets {name} anew", UnreadKind.UNCLEAR)
        if isinstance(found, Unread) and found.kind is UnreadKind.NOT_ASSERTED:
            if reading.unsure:
                return Unread(reading.unsure, UnreadKind.UNCLEAR)
            if evaluator.pinned:
                return Unread(evaluator.pinned, found.kind)
            if evaluator.lost:
                return Unread(f"it goes through {evaluator.lost}, which is not understood", UnreadKind.UNCLEAR)
            if reading.tests and not evaluator.touched:
                return Unread("no way from a test to it was understood", UnreadKind.UNCLEAR)
            if evaluator.decided:
                return Unread(f"what follows from it is not understood ({evaluator.decided})", UnreadKind.UNCLEAR)
            if (threshold_file, symbol) in self.names.hooked(test_file):
                return Unread("a hook of pytest reads it", UnreadKind.UNCLEAR)
        return found

    def _judged(
        self, evaluator: Evaluator, test_file: str, deadline: float, tests: frozenset[str] | None
    ) -> Gate | Unread:
        """What those tests (None: all) of a file assert of the number that the evaluator asks for."""
        evaluator.deadline = deadline
        module = evaluator.module(test_file)
        failures: list[FailurePath] = []
        for test in self.names.tests(test_file):
            if tests is None or test.name in tests:
                failures += Run(evaluator, module, self.names, test).failures()
        return judge(failures, evaluator.present, evaluator.clock)

    def leaf(self, path: str, source: str) -> Leaf | None:
        """The number inside a class, a dict or an object of ``path`` that ``source`` reads, None for any other."""
        return self._leaves(path).get(source)

    @remembered
    def _leaves(self, path: str) -> dict[str, Leaf]:
        tree = self.files.tree(path)
        return leaf_nodes(tree) if tree else {}

    def reading_tests(self, test_file: str, threshold_file: str, source: str) -> ReadingTests:
        """Every test of ``test_file`` that reads the constant: directly, imported, or through a constant made of it.

        Where names are made at run time, a test that may read it counts.
        """
        symbol, _ = split_source(source)
        attributes = frozenset[str]()
        if self.leaf(threshold_file, source):
            symbol, attributes = root_of(source), attributes_of(source)
        certain: set[str] = set()
        unsure: set[str] = set()
        tests = self.names.tests(test_file)
        for test in tests:
            reached = self.names.reached(test_file, test)
            if (threshold_file, symbol) in reached or self._own(test_file, test, threshold_file, symbol, attributes):
                certain.add(test.name)
            elif reached & {(threshold_file, ANYTHING), (top_folder(threshold_file), ANYTHING)}:
                unsure.add(test.name)
        if unsure:
            return ReadingTests(
                frozenset(certain | unsure), f"{', '.join(sorted(unsure))} may read it by a computed name"
            )
        if not tests:
            return ReadingTests(frozenset(), f"{test_file} has no test that can be found by reading the file")
        return ReadingTests(frozenset(certain))

    def _own(
        self, test_file: str, test: TestNode, threshold_file: str, symbol: str, attributes: frozenset[str]
    ) -> bool:
        """Whether a test method reads an attribute of its own class, or of a base, of that name."""
        if test.owner is None or not attributes:
            return False
        lineage = list(self.names.ancestry(test_file, test.owner))
        if not any(path == threshold_file and node.name == symbol for path, node in lineage):
            return False
        parts = [test.function, *(part for _, node in lineage for part in class_parts(node))]
        return any(_mentions(part, attributes) for part in parts)

    def derives(self, threshold_file: str, name: str, source: str) -> bool:
        """Whether the constant ``name`` of ``threshold_file`` is made of ``source`` (of the same file)."""
        symbol, _ = split_source(source)
        seen = {name}
        waiting = [name]
        while waiting:
            for node in self.names.names(threshold_file).statements.get(waiting.pop(), ()):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Name) and inner.id not in seen:
                        seen.add(inner.id)
                        waiting.append(inner.id)
        return symbol in seen and symbol != name


def _mentions(node: ast.AST, attributes: frozenset[str]) -> bool:
    """Whether a piece of code reads an attribute of one of those names from anything."""
    return bool(attributes) and any(
        isinstance(inner, ast.Attribute) and inner.attr in attributes for inner in ast.walk(node)
    )
