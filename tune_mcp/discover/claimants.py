"""Which constants may stand for a metric of a test, and which asserted numbers no metric claims (DSC-10, DSC-14).

A result file is a test's own. A constant that the test does not read says nothing about it, whatever its name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tune_mcp.config.metrics import MetricRules
from tune_mcp.discover.asserted import asserted
from tune_mcp.discover.assertions import BOUND, AssertionReader, Gate, Unread, UnreadKind
from tune_mcp.discover.calibrated import CalibratedFile
from tune_mcp.discover.constants import Constant, ConstantKind, NumberLiteral
from tune_mcp.discover.places import names_in, root_of, source_parts, split_source
from tune_mcp.discover.routing import Claim, Route, Routing
from tune_mcp.discover.source_tree import AnyFunction, called, number_of

_SIDE = re.compile(r"_(REF(ERENCE)?|MIN|MAX|THRESHOLD|LIMIT)$")


def drop_unread(routings: Sequence[tuple[CalibratedFile, Routing]], reader: AssertionReader) -> list[str]:
    """Take the claims out of ``routings`` whose constant no test of their file reads.

    The reference of a gate that is off is kept where config says where it is measured: people calibrate it so that they
    can turn the gate on. Gives a line for each such, for each constant that no other test file calibrates, and for each
    that may be read by a computed name.
    """
    kept: set[tuple[str, str]] = set()
    dropped: list[tuple[CalibratedFile, Claim]] = []
    lines: list[str] = []
    for file, routing in routings:
        for route in routing.routes:
            claims: list[Claim] = []
            kept_apart: set[str] = set()
            for claim in route.claims:
                reading = reader.reading_tests(file.path, file.thresholds.path, claim.source)
                if reading.tests or reading.unsure:
                    claims.append(claim)
                    kept.add((file.thresholds.path, claim.source))
                elif off := _gate_that_is_off(file, route, claim, reader):
                    claims.append(claim)
                    kept_apart.add(_stem(claim))
                    kept.add((file.thresholds.path, claim.source))
                    lines.append(f"{file.thresholds.path}: {claim.source} is calibrated, but {off}: nothing asserts it")
                else:
                    dropped.append((file, claim))
                    if not claim.blank:
                        kept_apart.add(_stem(claim))
                if reading.tests and reading.unsure:
                    lines.append(
                        f"{file.thresholds.path}: {claim.source} is assumed to be read by the test: {reading.unsure}"
                    )
            disabled = [claim for claim in claims if claim.blank and _stem(claim) in kept_apart]
            for one in disabled:
                why = "it has no value although its reference has one, so the gate is off on purpose"
                lines.append(f"{file.thresholds.path}: {one.source} is not calibrated: {why}")
            route.claims = [claim for claim in claims if claim not in disabled]
        with_claims = {route.variant for route in routing.routes if route.claims}
        routing.routes = [route for route in routing.routes if route.variant in with_claims]
    for file, claim in dropped:
        place = (file.thresholds.path, claim.source)
        if place not in kept:
            kept.add(place)
            lines.append(f"{place[0]}: {place[1]} is not calibrated: no test of {file.name} reads it")
    return lines


def _gate_that_is_off(file: CalibratedFile, route: Route, claim: Claim, reader: AssertionReader) -> str:
    """``X_MAX, its limit, has no value``, where ``claim`` is X_REF, the test reads X_MAX, and config has its path."""
    variant = file.config.variants.get(route.variant or "", file.config)
    if claim.blank or not claim.writable or not {claim.spec.key} & {*file.config.paths, *variant.paths}:
        return ""
    for name, constant in file.thresholds.constants.items():
        twin = constant.kind is ConstantKind.NONE and _SIDE.sub("", name) == _stem(claim)
        if twin and reader.reading_tests(file.path, file.thresholds.path, name).tests:
            return f"{name}, its limit, has no value"
    return ""


def _stem(claim: Claim) -> str:
    """A constant's name without its side: what a reference and its limit have in common."""
    return _SIDE.sub("", claim.symbol)


def rivals_of(
    metric: str, claims: Sequence[Claim], route: Route, file: CalibratedFile, reader: AssertionReader
) -> list[Claim]:
    """Constants that bear the metric's name as well, are read by the test, and are not made of one of its claims."""
    threshold_file = file.thresholds.path
    return [
        rival
        for rival in route.rivals
        if rival.spec.key == metric
        and reader.reading_tests(file.path, threshold_file, rival.source).tests
        and not any(reader.derives(threshold_file, rival.symbol, claim.source) for claim in claims)
    ]


def derived_of_nothing(file: CalibratedFile, routing: Routing, reader: AssertionReader) -> list[str]:
    """The lines about constants with a metric's name that an expression makes, but of no claim of ``routing``."""
    claims = {claim.source for claim in routing.claims()}
    path = file.thresholds.path
    return [
        line for name, line in routing.derived.items() if not any(reader.derives(path, name, one) for one in claims)
    ]


_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_UNITTEST = frozenset({"assertGreater", "assertGreaterEqual", "assertLess", "assertLessEqual"})
_ORDERING = _UNITTEST | {"assert_array_less"}
_DATA_FILE = re.compile(r"[\w./-]+\.(ya?ml|toml|json)")
_MOST_LITERALS = 40


@dataclass(frozen=True)
class Unclaimed:
    """An asserted number that no metric claims.

    ``source`` is how config names it, empty for a number without a name; ``gate`` is what is asserted, ``why`` says why
    it cannot be written as it stands, ``value`` is the number that it is now.
    """

    path: str
    line: int
    source: str
    gate: Gate | Unread
    why: str = ""
    value: int | float | None = None

    @property
    def text(self) -> str:
        """``tests/test_a.py:7: LIMITS['acc'] is asserted as a lower bound (...) and is no metric yet``."""
        where, name = f"{self.path}:{self.line}", self.source or "a number"
        if isinstance(self.gate, Unread):
            what = f"{where}: {name} is asserted, but is no bound that can be calibrated: {self.gate.reason}"
            return f"{what}; compare the value with one plain number, or put {name} into ignored_constants"
        asserted = f"{where}: {name} is asserted as {BOUND[self.gate.worst]} ({self.gate.how})"
        if not self.source:
            return f"{asserted} and has no name: assign it to a constant at the top of the file"
        return f"{asserted} and is no metric yet" + (f"; it cannot be written: {self.why}" if self.why else "")

    @property
    def assertions(self) -> tuple[str, ...]:
        """The place and the code of each assertion; empty where there is no bound."""
        return (self.gate.how, *self.gate.others) if isinstance(self.gate, Gate) else ()

    @property
    def nameable(self) -> bool:
        """Whether config can name it as a threshold."""
        return bool(self.source) and isinstance(self.gate, Gate) and not self.why


def unclaimed(file: CalibratedFile, routing: Routing, rules: MetricRules, reader: AssertionReader) -> list[Unclaimed]:
    """The asserted numbers of a test file and its threshold file that no metric claims."""
    claims = [claim for route in routing.routes for claim in (*route.claims, *route.rivals)]
    claimed = {claim.source for claim in claims}
    module = file.thresholds
    found: list[Unclaimed] = []
    for source, constant in _candidates(file):
        names = names_in(source)
        if source in claimed or any(rules.protected(name) for name in names):
            continue
        if not reader.reading_tests(file.path, module.path, source).tests:
            continue
        if any(reader.derives(module.path, source, claim) for claim in claimed):
            continue
        asked = {place: reader.gate(file.path, module.path, place, None) for place in _by_load(source, constant)}
        # Of a table with several loads those that a test asserts are listed; where it asserts none, the key as a whole.
        gates = {place: gate for place, gate in asked.items() if isinstance(gate, Gate)}
        for place, gate in (gates or {source: next(iter(asked.values()))}).items():
            if place in claimed or place in file.config.ignored_constants:
                continue
            if isinstance(gate, Gate) or _may_bound(gate, rules.looks_like_threshold(names[-1])):
                why = constant.problem
                why = why or ("" if constant.literals else _FORM.get(constant.kind, "it is no plain number"))
                literal = _literal(place, constant)
                value, line = (literal.value, literal.line) if literal else (None, constant.line)
                found.append(Unclaimed(module.path, line, place, gate, why, value))
    if found:
        # A factor of a threshold that is claimed is asserted with it; it is the test's slack.
        listed = {_how(reader.gate(file.path, module.path, one, None)): _at_any_load(one) for one in claimed}
        listed.pop("", None)
        found = [one for one in found if listed.get(_how(one.gate)) in (None, _at_any_load(one.source))]
    return found + list(_nameless(file, reader))


def _by_load(source: str, constant: Constant) -> list[str]:
    """The places of a key of a table with several loads, ``X[8]['k']`` for ``X['k']``; any other source as it is."""
    symbol, subkey = split_source(source)
    loads = dict.fromkeys(one.concurrency for one in constant.literals)
    if subkey is None or len(loads) < 2:
        return [source]
    here = dict.fromkeys(one.concurrency for one in constant.literals if one.subkey == subkey)
    return [f"{symbol}[{load}][{subkey!r}]" for load in here]


def _literal(source: str, constant: Constant) -> NumberLiteral | None:
    """The number of a place, None where several may be meant."""
    if constant.kind is ConstantKind.NESTED:
        _, load, subkey = source_parts(source)
        found = [one for one in constant.literals if one.subkey == subkey and load in (None, one.concurrency)]
    else:
        found = [*constant.literals]
    return found[0] if len(found) == 1 else None


def _may_bound(gate: Unread, like_a_threshold: bool) -> bool:
    """Whether a person must hear of a number whose assertion was not read: by its name, or since the code orders."""
    if gate.kind is UnreadKind.TWO_SIDED or gate.kind is UnreadKind.NOT_ASSERTED:
        return gate.kind is UnreadKind.TWO_SIDED and like_a_threshold
    return bool(gate.how) and (like_a_threshold or _orders(gate.how.partition(": ")[2]))


def _orders(code: str) -> bool:
    """Whether code asks which of two values is larger; zero only asks whether there is anything."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return False
    return any(
        any(isinstance(op, _ORDERED) for op in node.ops) and 0 not in map(number_of, (node.left, *node.comparators))
        if isinstance(node, ast.Compare)
        else isinstance(node, ast.Call) and called(node) in _ORDERING
        for node in nodes
    )


def _at_any_load(source: str) -> str:
    """Entries of one table for several loads are asserted by the same code, each for itself."""
    return re.sub(r"\[\d+\]", "[]", source)


_FORM = {ConstantKind.DERIVED: "it is derived by an expression", ConstantKind.NONE: ""}


def _how(gate: Gate | Unread) -> str:
    return gate.how if isinstance(gate, Gate) else ""


def _candidates(file: CalibratedFile) -> Iterator[tuple[str, Constant]]:
    ignored = file.config.ignored_constants
    inside = {root_of(leaf) for leaf in file.thresholds.leaves}
    for name, constant in {**file.thresholds.constants, **file.thresholds.leaves}.items():
        if name in ignored or name in inside or constant.kind is ConstantKind.STRING:
            continue
        if constant.kind is not ConstantKind.NESTED:
            yield name, constant
            continue
        for subkey in dict.fromkeys(literal.subkey for literal in constant.literals):
            if f"{name}[{subkey!r}]" not in ignored:
                yield f"{name}[{subkey!r}]", constant


def _nameless(file: CalibratedFile, reader: AssertionReader) -> Iterator[Unclaimed]:
    """Numbers that stand in a test itself: in its comparison, its parameters, or a variable of its own."""
    tree = reader.files.tree(file.path)
    asked = list(dict.fromkeys(_literals(tree)))[:_MOST_LITERALS] if tree else []
    listed: set[tuple[str, int]] = set()
    for node in asked:
        gate = reader.gate_of(file.path, node)
        if isinstance(gate, Gate) and (gate.how, node.lineno) not in listed:
            listed.add((gate.how, node.lineno))
            yield Unclaimed(file.path, node.lineno, "", gate)


def _literals(tree: ast.Module) -> Iterator[ast.expr]:
    for function in ast.walk(tree):
        if not isinstance(function, AnyFunction):
            continue
        for decorator in function.decorator_list:
            if "parametrize" in ast.unparse(decorator):
                yield from _numbers(ast.walk(decorator))
        for node in ast.walk(function):
            match node:
                case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(op, _ORDERED) for op in ops):
                    yield from _numbers((left, *others))
                case ast.Call(func=ast.Attribute(attr=name), args=arguments) if name in _UNITTEST:
                    yield from _numbers(arguments[:2])
                case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                    yield from _numbers((value,))
                case _:
                    continue


def _numbers(nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """Numbers that could bound a measurement: zero only asks whether there is anything."""
    return (node for node in nodes if isinstance(node, ast.expr) and number_of(node))


def empty_tables(file: CalibratedFile, routing: Routing, rules: MetricRules, reader: AssertionReader) -> Iterator[str]:
    """A line for each key that a test compares with, of a table that has no entry at all."""
    module, claimed = file.thresholds, {claim.source for claim in routing.claims()}
    tables = [one for one in module.constants.values() if not one.literals and not one.unusable and one.blanks]
    tables = [one for one in tables if one.kind is ConstantKind.NESTED]
    compared = asserted(reader.names, file.path).named if tables else {}
    for table in tables:
        keys = module.keys_read.get(table.name, frozenset[str]()) | file.module.keys_read.get(table.name, frozenset())
        for key in sorted(keys) if (module.path, table.name) in compared else ():
            source = f"{table.name}[{key!r}]"
            if not {source, table.name} & {*claimed, *file.config.ignored_constants} and not rules.protected(key):
                yield (
                    f"{module.path}:{table.line}: {source} has no value and no place: "
                    f"write a first one into {table.name}, any number that the test passes"
                )


def data_files(file: CalibratedFile, reader: AssertionReader) -> Iterator[str]:
    """A line for each YAML, TOML or JSON file of the repository that a test file names and that is not edited."""
    tree = reader.files.tree(file.path)
    nodes = ast.walk(tree) if tree else ()
    names = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for name in sorted(name for name in names if _DATA_FILE.fullmatch(name)):
        places = (name, str(PurePosixPath(file.path).parent / name))
        path = next((place for place in places if ".." not in place and reader.files.exists(place)), None)
        if path is not None:
            what = "a threshold in it is not calibrated; only Python files are edited"
            yield f"{file.path} reads {path}: {what}"
