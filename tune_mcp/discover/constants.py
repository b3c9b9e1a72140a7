"""Facts of a Python file's module level, read from its syntax tree and located in bytes.

Nothing is searched as text, so a docstring, a comment or an equal number elsewhere cannot mislead (rules APL-15,
APL-16). Only a symbol that is bound exactly once, by one plain assignment outside any block, may ever be edited;
every other one keeps a ``problem`` that says why not (rule APL-17).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from tune_mcp.discover.bindings import ASSIGNING, ModuleScope
from tune_mcp.discover.blanks import Blank, BlankForm, is_none, table_uses
from tune_mcp.discover.leaves import leaf_nodes
from tune_mcp.discover.places import bad_source, root_of, source_parts
from tune_mcp.discover.source_tree import Imported, SourceTree, imports_in, number_of, parsed_expression, read_tree
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_bytes


@dataclass(frozen=True)
class NumberLiteral:
    """One number in a file. ``start`` and ``end`` are byte offsets; ``token`` holds the sign, not the parentheses."""

    symbol: str
    concurrency: int | None
    subkey: str | None
    value: int | float
    token: str
    start: int
    end: int
    line: int


class ConstantKind(StrEnum):
    """What stands right of the equals sign. DERIVED: a call, arithmetic, a name, a conditional."""

    NUMBER = "number"
    NONE = "none"
    NESTED = "nested"
    DERIVED = "derived"
    STRING = "string"
    OTHER = "other"


@dataclass(frozen=True)
class Unusable:
    """An entry of a nested dict that is no editable number; ``subkey`` None means the whole outer entry."""

    concurrency: int | None
    subkey: str | None
    line: int
    reason: str


@dataclass(frozen=True)
class Constant:
    """One assigned name. ``problem`` says why it may not be edited; None when it is plain.

    ``literals`` holds one number for NUMBER, every number leaf of ``{int|Name: {str: number}}`` for NESTED, else
    none. ``alias`` is the name right of ``A = B``. ``blanks`` are its places without a value; one without ``subkey`` in
    a NESTED constant stands for every key that is not there.
    """

    name: str
    kind: ConstantKind
    line: int
    literals: tuple[NumberLiteral, ...]
    problem: str | None
    unusable: tuple[Unusable, ...] = ()
    alias: str | None = None
    blanks: tuple[Blank, ...] = ()

    def has(self, concurrency: int | None, subkey: str) -> bool:
        """Whether a table has that key; of all tables when ``concurrency`` is None."""
        entries = ((entry.concurrency, entry.subkey) for entry in (*self.literals, *self.unusable))
        return any(key == subkey and concurrency in (None, outer) for outer, key in entries)


@dataclass(frozen=True)
class ModuleConstants:
    """The constants of one file. ``imports`` are the dotted modules imported anywhere in it (``from a.b import c``
    gives ``a.b`` and ``a.b.c``); ``elsewhere`` says how a name that no assignment binds is bound. ``indexed`` maps a
    name to every whole number and every name by which it is subscripted anywhere in the file. ``keywords`` are the
    keyword arguments of calls anywhere in it that are whole numbers. ``keys_read`` maps a name to the string keys that
    the file asks it for, ``handed_on`` are the names that it gives to other code as a whole. ``leaves`` are numbers
    (or ``None``) inside a class, a dict or an object, each a constant by the expression that reads it (``Limits.acc``).
    ``stars`` are the modules of its star imports.
    """

    path: str
    sha256: str
    constants: dict[str, Constant]
    imports: frozenset[str]
    elsewhere: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    indexed: dict[str, frozenset[int | str]] = field(default_factory=lambda: dict[str, frozenset[int | str]]())
    keywords: frozenset[tuple[str, int]] = frozenset()
    keys_read: dict[str, frozenset[str]] = field(default_factory=lambda: dict[str, frozenset[str]]())
    handed_on: frozenset[str] = frozenset()
    leaves: dict[str, Constant] = field(default_factory=lambda: dict[str, Constant]())
    stars: tuple[str, ...] = ()

    @property
    def names_read(self) -> frozenset[str]:
        """Every name that the file uses."""
        return frozenset(self.keys_read)

    def constant(self, symbol: str) -> Constant | None:
        """The constant or leaf of that name."""
        return self.constants.get(symbol) or self.leaves.get(symbol)

    def table_entry(self, source: str) -> bool:
        """Whether ``source`` names a key of a table by load, ``TABLE['key']`` or ``TABLE[8]['key']``."""
        try:
            symbol, outer, subkey = source_parts(source)
        except Refusal:
            return False
        found = self.constants.get(symbol)
        return found is not None and subkey is not None and found.has(outer, subkey)

    def number(self, name: str) -> int | float | None:
        """Value of a plain NUMBER constant, also through one alias ``A = B``; None for anything else."""
        found = self.constants.get(name)
        if found is not None and found.problem is None and found.alias is not None:
            found = self.constants.get(found.alias)
        if found is None or found.problem is not None or found.kind is not ConstantKind.NUMBER:
            return None
        return found.literals[0].value

    def find(self, source: str, concurrency: int | None) -> NumberLiteral:
        """The one literal that ``source`` (``NAME`` or ``_NAME['key']``) means at ``concurrency``.

        ``concurrency`` None takes the only outer key of a nested dict; a bare number has none. Raises ``Refusal``
        THRESHOLD_UNKNOWN for everything that may not be edited (rules APL-15, APL-16, APL-17).
        """
        if (leaf := self.leaves.get(source)) is not None:
            if leaf.problem is not None:
                raise self._unknown("APL-17", source, leaf.line, leaf.problem)
            if leaf.kind is ConstantKind.NONE:
                raise self._unknown("APL-17", source, leaf.line, WHAT[leaf.kind])
            return leaf.literals[0]
        symbol, outer, subkey = source_parts(source)
        if outer is not None and concurrency is not None and outer != concurrency:
            raise bad_source(source, f"it names concurrency {outer}, but {concurrency} is asked for")
        wanted = concurrency if outer is None else outer
        rule = "APL-15" if subkey is None else "APL-16"
        constant = self.constants.get(symbol)
        if constant is None:
            raise self._unknown(rule, source, None, self.elsewhere.get(symbol, "no such symbol at module level"))
        if constant.problem is not None:
            raise self._unknown("APL-17", source, constant.line, constant.problem)
        expected = ConstantKind.NUMBER if subkey is None else ConstantKind.NESTED
        if constant.kind is not expected:
            plain = constant.kind in (ConstantKind.NUMBER, ConstantKind.NESTED)
            raise self._unknown(rule if plain else "APL-17", source, constant.line, WHAT[constant.kind])
        if subkey is None:
            return constant.literals[0]
        return self._entry(source, constant, wanted, subkey)

    def blank(self, source: str, concurrency: int | None) -> Blank | None:
        """The place of ``source`` that has no value yet; None when it has one, or when nothing may be written there.

        ``concurrency`` None takes the only outer key; an empty table has none. Raises INVALID_ARGUMENT.
        """
        if (leaf := self.leaves.get(source)) is not None:
            return next(iter(leaf.blanks), None) if leaf.problem is None else None
        symbol, outer, subkey = source_parts(source)
        constant = self.constants.get(symbol)
        if constant is None or constant.problem is not None:
            return None
        if subkey is None:
            return next((one for one in constant.blanks if constant.kind is ConstantKind.NONE), None)
        tables = [one for one in constant.blanks if one.subkey is None]
        wanted = concurrency if outer is None else outer
        if wanted is None and len(tables) == 1:
            wanted = tables[0].concurrency
        for one in constant.blanks:
            if one.subkey == subkey and one.concurrency == wanted:
                return one
        if wanted is None or constant.kind is not ConstantKind.NESTED or constant.has(wanted, subkey):
            return None
        fitting = (one for one in tables if one.form is BlankForm.NO_TABLE or one.concurrency == wanted)
        return next((replace(one, concurrency=wanted, subkey=subkey) for one in fitting), None)

    def _entry(self, source: str, constant: Constant, wanted: int | None, subkey: str) -> NumberLiteral:
        outers = sorted({entry.concurrency for entry in (*constant.literals, *constant.unusable)} - {None}, key=str)
        if wanted is None:
            if len(outers) != 1:
                keys = ", ".join(map(str, outers))
                reason = f"it has {len(outers)} concurrency keys ({keys}) and no concurrency is known"
                raise self._unknown("APL-16", source, constant.line, reason)
            wanted = outers[0]
        for literal in constant.literals:
            if (literal.concurrency, literal.subkey) == (wanted, subkey):
                return literal
        for gap in constant.unusable:
            if gap.concurrency == wanted and gap.subkey in (None, subkey):
                raise self._unknown("APL-17", source, gap.line, gap.reason)
        reason = f"no key {subkey!r} under concurrency {wanted}" if wanted in outers else f"no concurrency key {wanted}"
        raise self._unknown("APL-16", source, constant.line, reason)

    def _unknown(self, rule: str, source: str, line: int | None, reason: str) -> Refusal:
        place = self.path if line is None else f"{self.path}:{line}"
        return Refusal(
            Code.THRESHOLD_UNKNOWN,
            rule,
            f"{source} cannot be edited at {place}: {reason}",
            "write it as one plain number at module level or change the stage's source, then run discover",
            {"source": source, "file": self.path, "line": line, "reason": reason},
        )


WHAT: dict[ConstantKind, str] = {
    ConstantKind.NUMBER: "it is a bare number and has no keys",
    ConstantKind.NESTED: "it is a dict; the source must name a key",
    ConstantKind.NONE: "it is None: not calibrated or disabled",
    ConstantKind.DERIVED: "it is derived by an expression",
    ConstantKind.STRING: "it is a string",
    ConstantKind.OTHER: "it is not a number",
}
"""Why a constant of a kind is no editable number."""


@lru_cache(maxsize=64)
def parse_module(data: bytes, path: str) -> ModuleConstants:
    """Read all module-level constants of a file. Raises ``Refusal`` INVALID_CONFIG for one that does not parse.

    A plan, its report and its edits ask for the same bytes again and again.
    """
    source = read_tree(data, path)
    scope = ModuleScope()
    scope.visit(source.tree)
    reader = _Reader(source)
    found: dict[str, Constant] = {}
    nested: list[tuple[str, ast.Dict]] = []
    elsewhere: dict[str, str] = {}
    for name, bindings in scope.bindings.items():
        last = next((entry for entry in reversed(bindings) if entry.how in ASSIGNING), None)
        if last is None:
            elsewhere[name] = f"bound by {bindings[-1].how} on line {bindings[-1].line}, not by an assignment"
            continue
        problem = scope.problem(name)
        found[name] = reader.plain(name, last.line, last.value, problem)
        if isinstance(last.value, ast.Dict):
            nested.append((name, last.value))
    numbers = ModuleConstants(path, "", found, frozenset())
    filled = {name: reader.nested(found[name], value, numbers) for name, value in nested}
    constants = {name: filled.get(name, constant) for name, constant in found.items()}
    imported = list(imports_in(ast.walk(source.tree)))
    imports, keywords = frozenset(_imports(imported)), frozenset(_keywords(source.tree))
    uses = table_uses(source.tree)
    leaves: dict[str, Constant] = {}
    tables = {name for name, constant in constants.items() if constant.kind is ConstantKind.NESTED}
    for leaf in leaf_nodes(source.tree).values():
        if root_of(leaf.source) in tables:
            continue
        leaves[leaf.source] = reader.plain(leaf.source, leaf.node.lineno, leaf.node, leaf.problem)
    return ModuleConstants(
        path,
        sha256_bytes(data),
        constants,
        imports,
        elsewhere,
        _indexed(source.tree),
        keywords,
        uses.keys,
        uses.handed_on,
        leaves,
        tuple(one.dotted for one in imported if one.name == "*"),
    )


def _indexed(tree: ast.Module) -> dict[str, frozenset[int | str]]:
    found: dict[str, set[int | str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            index = node.slice.id if isinstance(node.slice, ast.Name) else number_of(node.slice)
            if isinstance(index, int | str):
                found.setdefault(node.value.id, set()).add(index)
    return {name: frozenset(indexes) for name, indexes in found.items()}


def _keywords(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg and isinstance(value := number_of(node.value), int):
            yield node.arg, value


def _imports(found: Iterable[Imported]) -> Iterator[str]:
    for one in found:
        yield one.dotted
        if one.name not in (None, "*"):
            yield f"{one.dotted}{'' if one.dotted.endswith('.') else '.'}{one.name}"


class _Reader:
    """Turns the right-hand sides of assignments into constants."""

    def __init__(self, source: SourceTree) -> None:
        self.source = source

    def plain(self, name: str, line: int, value: ast.expr | None, problem: str | None) -> Constant:
        if value is not None and number_of(value) is not None:
            literal, trouble = self.literal(name, None, None, value)
            return Constant(name, ConstantKind.NUMBER, line, (literal,), problem or trouble)
        if isinstance(value, ast.Name):
            return Constant(name, ConstantKind.DERIVED, line, (), problem, alias=value.id)
        blanks = (self.blank(name, None, None, BlankForm.NONE, value),) if value is not None and is_none(value) else ()
        return Constant(name, _kind(value), line, (), problem, blanks=blanks)

    def blank(self, symbol: str, concurrency: int | None, subkey: str | None, form: BlankForm, node: ast.expr) -> Blank:
        return Blank(symbol, concurrency, subkey, form, *self.source.span(node), node.lineno)

    def literal(
        self, symbol: str, concurrency: int | None, subkey: str | None, node: ast.expr
    ) -> tuple[NumberLiteral, str | None]:
        value = number_of(node)
        start, end = self.source.span(node)
        token = self.source.data[start:end].decode()
        if value is None or number_of(parsed_expression(f"({token}\n)")) != value:
            raise RuntimeError(f"{self.source.path}:{node.lineno}: {token!r} is not where the tree says it is")
        trouble = "a comment stands inside the number" if "#" in token else None
        return NumberLiteral(symbol, concurrency, subkey, value, token, start, end, node.lineno), trouble

    def nested(self, bare: Constant, outer: ast.Dict, numbers: ModuleConstants) -> Constant:
        literals: list[NumberLiteral] = []
        unusable: list[Unusable] = []
        blanks: list[Blank] = []
        troubles: list[str | None] = [bare.problem]
        inner_dicts = [value for value in outer.values if isinstance(value, ast.Dict)]
        keys = [(key, _outer_key(key, numbers)) for key in outer.keys]
        if not keys:
            empty = self.blank(bare.name, None, None, BlankForm.NO_TABLE, outer)
            return replace(bare, kind=ConstantKind.NESTED, blanks=(empty,))
        if not inner_dicts or any(found is None and not isinstance(key, (ast.Name, type(None))) for key, found in keys):
            return bare
        troubles += [_unresolved(key) for key, found in keys if found is None]
        troubles += _doubled([found for _, found in keys if found is not None])
        for (_, concurrency), value in zip(keys, outer.values, strict=True):
            if concurrency is None:
                continue
            if isinstance(value, ast.Dict):
                blanks.append(self.blank(bare.name, concurrency, None, BlankForm.NO_KEY, value))
            if not isinstance(value, ast.Dict) or not value.keys:
                reason = "an empty dict" if isinstance(value, ast.Dict) else WHAT[_kind(value)]
                unusable.append(Unusable(concurrency, None, value.lineno, reason))
                continue
            subkeys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
            troubles += [
                f"a key under {concurrency} is not a plain string" for key in subkeys if not isinstance(key, str)
            ]
            troubles += _doubled([key for key in subkeys if isinstance(key, str)])
            for subkey, leaf in zip(subkeys, value.values, strict=True):
                if not isinstance(subkey, str):
                    continue
                if is_none(leaf):
                    blanks.append(self.blank(bare.name, concurrency, subkey, BlankForm.NONE, leaf))
                if number_of(leaf) is None:
                    unusable.append(Unusable(concurrency, subkey, leaf.lineno, WHAT[_kind(leaf)]))
                    continue
                literal, trouble = self.literal(bare.name, concurrency, subkey, leaf)
                if trouble is None:
                    literals.append(literal)
                else:
                    unusable.append(Unusable(concurrency, subkey, leaf.lineno, trouble))
        problem = next((trouble for trouble in troubles if trouble is not None), None)
        parts = tuple(literals), problem, tuple(unusable)
        return Constant(bare.name, ConstantKind.NESTED, bare.line, *parts, blanks=tuple(blanks))


def _outer_key(key: ast.expr | None, numbers: ModuleConstants) -> int | None:
    found = numbers.number(key.id) if isinstance(key, ast.Name) else None if key is None else number_of(key)
    return found if isinstance(found, int) else None


def _unresolved(key: ast.expr | None) -> str:
    return f"the key {key.id} cannot be resolved in this file" if isinstance(key, ast.Name) else "it holds a ** spread"


def _doubled(keys: list[int] | list[str]) -> list[str]:
    return [f"duplicate key {key!r}" for number, key in enumerate(keys) if key in keys[:number]]


def _kind(value: ast.expr | None) -> ConstantKind:
    if isinstance(value, ast.Constant):
        if value.value is None:
            return ConstantKind.NONE
        return ConstantKind.STRING if isinstance(value.value, str) else ConstantKind.OTHER
    if value is None or isinstance(value, (ast.Dict, ast.List, ast.Tuple, ast.Set)):
        return ConstantKind.OTHER
    return ConstantKind.DERIVED
