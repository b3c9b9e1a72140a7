"""Facts of a Python file's module level, read from its syntax tree and located in bytes.

Nothing is searched as text, so a docstring, a comment or an equal number elsewhere cannot mislead (rules APL-15,
APL-16). Only a symbol that is bound exactly once, by one plain assignment outside any block, may ever be edited;
every other one keeps a ``problem`` that says why not (rule APL-17).
"""

from __future__ import annotations

import ast
import io
import keyword
import math
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_bytes

_BOM = b"\xef\xbb\xbf"
_LINE_BREAK = re.compile(rb"\r\n|\r|\n")
_SOURCE = re.compile(r"(?P<symbol>\w+)(?:(?:\[(?P<outer>-?\d+)\])?\[(?P<quote>['\"])(?P<key>[^'\"\\\n]+)(?P=quote)\])?")
_MUTATORS = frozenset({"update", "setdefault", "pop", "popitem", "clear", "__setitem__", "__delitem__", "__ior__"})


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
class Gap:
    """An entry of a nested dict that is no editable number; ``subkey`` None means the whole outer entry."""

    concurrency: int | None
    subkey: str | None
    line: int
    reason: str


@dataclass(frozen=True)
class Constant:
    """One assigned name. ``problem`` says why it may not be edited; None when it is plain.

    ``literals`` holds one number for NUMBER, every number leaf of ``{int|Name: {str: number}}`` for NESTED, else
    none. ``alias`` is the name right of ``A = B``.
    """

    name: str
    kind: ConstantKind
    line: int
    literals: tuple[NumberLiteral, ...]
    problem: str | None
    gaps: tuple[Gap, ...] = ()
    alias: str | None = None


@dataclass(frozen=True)
class ModuleConstants:
    """The constants of one file. ``imports`` are the dotted modules imported anywhere in it (``from a.b import c``
    gives ``a.b`` and ``a.b.c``); ``elsewhere`` says how a name that no assignment binds is bound.
    """

    path: str
    sha256: str
    constants: dict[str, Constant]
    imports: frozenset[str]
    elsewhere: dict[str, str] = field(default_factory=lambda: dict[str, str]())

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
        symbol, outer, subkey = _parts(source)
        if outer is not None and concurrency is not None and outer != concurrency:
            raise _bad_source(source, f"it names concurrency {outer}, but {concurrency} is asked for")
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
            raise self._unknown(rule if plain else "APL-17", source, constant.line, _WHAT[constant.kind])
        if subkey is None:
            return constant.literals[0]
        return self._entry(source, constant, wanted, subkey)

    def _entry(self, source: str, constant: Constant, wanted: int | None, subkey: str) -> NumberLiteral:
        outers = sorted({entry.concurrency for entry in (*constant.literals, *constant.gaps)} - {None}, key=str)
        if wanted is None:
            if len(outers) != 1:
                keys = ", ".join(map(str, outers))
                reason = f"it has {len(outers)} concurrency keys ({keys}) and no concurrency is known"
                raise self._unknown("APL-16", source, constant.line, reason)
            wanted = outers[0]
        for literal in constant.literals:
            if (literal.concurrency, literal.subkey) == (wanted, subkey):
                return literal
        for gap in constant.gaps:
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


_WHAT: Mapping[ConstantKind, str] = {
    ConstantKind.NUMBER: "it is a bare number and has no keys",
    ConstantKind.NESTED: "it is a dict; the source must name a key",
    ConstantKind.NONE: "it is None: not calibrated or disabled",
    ConstantKind.DERIVED: "it is derived by an expression",
    ConstantKind.STRING: "it is a string",
    ConstantKind.OTHER: "it is not a number",
}


def split_source(source: str) -> tuple[str, str | None]:
    """Symbol and inner key of ``NAME``, ``_X['k']`` or ``_X[8]['k']``. Raises ``Refusal`` INVALID_ARGUMENT."""
    symbol, _, subkey = _parts(source)
    return symbol, subkey


def _parts(source: str) -> tuple[str, int | None, str | None]:
    match = _SOURCE.fullmatch(source)
    if match is None or not match["symbol"].isidentifier() or keyword.iskeyword(match["symbol"]):
        raise _bad_source(source, "it has neither the form NAME nor _NAME['key']")
    return match["symbol"], None if match["outer"] is None else int(match["outer"]), match["key"]


def _bad_source(source: str, reason: str) -> Refusal:
    return Refusal(
        Code.INVALID_ARGUMENT,
        "APL-15",
        f"{source!r} is no threshold source: {reason}",
        "take the source from apply_plan as it stands",
        {"source": source, "reason": reason},
    )


@dataclass(frozen=True)
class SourceTree:
    """A parsed file: its bytes, its tree, and where each line starts in bytes."""

    path: str
    data: bytes
    tree: ast.Module
    starts: tuple[int, ...]

    def span(self, node: ast.expr) -> tuple[int, int]:
        """Byte offsets of ``node``: the tree counts UTF-8 bytes within a line, and does not count a BOM."""
        if node.end_lineno is None or node.end_col_offset is None:
            raise RuntimeError(f"{self.path}:{node.lineno}: a node without an end")
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset


def read_tree(data: bytes, path: str) -> SourceTree:
    """Parse the bytes of a file. Raises ``Refusal`` INVALID_CONFIG unless they are valid Python in UTF-8."""
    first = len(_BOM) if data.startswith(_BOM) else 0
    try:
        # A lone CR ends a line too. Bytes beyond ASCII say nothing about the cookie; they are judged below.
        head = re.sub(rb"[\x80-\xff]", b"?", _LINE_BREAK.sub(b"\n", data[first:]))
        encoding, _ = tokenize.detect_encoding(io.BytesIO(head).readline)
        if encoding not in ("utf-8", "utf-8-sig", "ascii"):
            raise _unreadable(path, f"it declares the encoding {encoding}, only UTF-8 is edited")
        data.decode("utf-8")
        tree = ast.parse(data, filename=path)
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"byte {error.start} is not UTF-8") from error
    except SyntaxError as error:
        raise _unreadable(path, f"line {error.lineno or 1}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error
    starts = (first, *(found.end() for found in _LINE_BREAK.finditer(data)))
    return SourceTree(path, data, tree, starts)


def _unreadable(path: str, reason: str) -> Refusal:
    return Refusal(
        Code.INVALID_CONFIG,
        "DSC-13",
        f"{path} does not parse as Python: {reason}",
        "mend the file, then run discover",
        {"file": path, "reason": reason},
    )


def number_of(node: ast.expr) -> int | float | None:
    """The finite number that ``node`` spells, with at most one sign; None for anything else (a bool is none)."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = number_of(node.operand) if isinstance(node.operand, ast.Constant) else None
        return inner if inner is None or isinstance(node.op, ast.UAdd) else -inner
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
        return None
    return node.value if isinstance(node.value, int) or math.isfinite(node.value) else None


def parse_module(data: bytes, path: str) -> ModuleConstants:
    """Read all module-level constants of a file. Raises ``Refusal`` INVALID_CONFIG for one that does not parse."""
    source = read_tree(data, path)
    scope = _ModuleScope()
    scope.visit(source.tree)
    reader = _Reader(source)
    found: dict[str, Constant] = {}
    nested: list[tuple[str, ast.Dict]] = []
    elsewhere: dict[str, str] = {}
    for name, bindings in scope.bindings.items():
        last = next((entry for entry in reversed(bindings) if entry.how in _ASSIGNING), None)
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
    return ModuleConstants(path, sha256_bytes(data), constants, frozenset(_imports(source.tree)), elsewhere)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            joint = "" if module.endswith(".") else "."
            yield from (f"{module}{joint}{alias.name}" for alias in node.names if alias.name != "*")


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
        return Constant(name, _kind(value), line, (), problem)

    def literal(
        self, symbol: str, concurrency: int | None, subkey: str | None, node: ast.expr
    ) -> tuple[NumberLiteral, str | None]:
        value = number_of(node)
        start, end = self.source.span(node)
        token = self.source.data[start:end].decode()
        if value is None or number_of(ast.parse(f"({token}\n)", mode="eval").body) != value:
            raise RuntimeError(f"{self.source.path}:{node.lineno}: {token!r} is not where the tree says it is")
        trouble = "a comment stands inside the number" if "#" in token else None
        return NumberLiteral(symbol, concurrency, subkey, value, token, start, end, node.lineno), trouble

    def nested(self, bare: Constant, outer: ast.Dict, numbers: ModuleConstants) -> Constant:
        literals: list[NumberLiteral] = []
        gaps: list[Gap] = []
        troubles: list[str | None] = [bare.problem]
        inner_dicts = [value for value in outer.values if isinstance(value, ast.Dict)]
        keys = [(key, _outer_key(key, numbers)) for key in outer.keys]
        if not inner_dicts or any(found is None and not isinstance(key, (ast.Name, type(None))) for key, found in keys):
            return bare
        troubles += [_unresolved(key) for key, found in keys if found is None]
        troubles += _doubled([found for _, found in keys if found is not None])
        for (_, concurrency), value in zip(keys, outer.values, strict=True):
            if concurrency is None:
                continue
            if not isinstance(value, ast.Dict) or not value.keys:
                reason = "an empty dict" if isinstance(value, ast.Dict) else _WHAT[_kind(value)]
                gaps.append(Gap(concurrency, None, value.lineno, reason))
                continue
            subkeys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
            troubles += [
                f"a key under {concurrency} is not a plain string" for key in subkeys if not isinstance(key, str)
            ]
            troubles += _doubled([key for key in subkeys if isinstance(key, str)])
            for subkey, leaf in zip(subkeys, value.values, strict=True):
                if not isinstance(subkey, str):
                    continue
                if number_of(leaf) is None:
                    gaps.append(Gap(concurrency, subkey, leaf.lineno, _WHAT[_kind(leaf)]))
                    continue
                literal, trouble = self.literal(bare.name, concurrency, subkey, leaf)
                if trouble is None:
                    literals.append(literal)
                else:
                    gaps.append(Gap(concurrency, subkey, leaf.lineno, trouble))
        problem = next((trouble for trouble in troubles if trouble is not None), None)
        return Constant(bare.name, ConstantKind.NESTED, bare.line, tuple(literals), problem, tuple(gaps))


def _outer_key(key: ast.expr | None, numbers: ModuleConstants) -> int | None:
    found = numbers.number(key.id) if isinstance(key, ast.Name) else None if key is None else number_of(key)
    return found if isinstance(found, int) else None


def _unresolved(key: ast.expr | None) -> str:
    return f"the key {key.id} cannot be resolved in this file" if isinstance(key, ast.Name) else "it holds a ** spread"


def _doubled(keys: list[int] | list[str]) -> list[str]:
    return [f"the key {key!r} stands twice" for number, key in enumerate(keys) if key in keys[:number]]


def _kind(value: ast.expr | None) -> ConstantKind:
    if isinstance(value, ast.Constant):
        if value.value is None:
            return ConstantKind.NONE
        return ConstantKind.STRING if isinstance(value.value, str) else ConstantKind.OTHER
    if value is None or isinstance(value, (ast.Dict, ast.List, ast.Tuple, ast.Set)):
        return ConstantKind.OTHER
    return ConstantKind.DERIVED


_ASSIGNMENT = "an assignment"
_EXPRESSION = "an assignment expression"
_HOW: Mapping[type[ast.AST], str] = {
    ast.AugAssign: "an augmented assignment",
    ast.Delete: "a del statement",
    ast.For: "a for statement",
    ast.AsyncFor: "a for statement",
    ast.With: "a with statement",
    ast.AsyncWith: "a with statement",
}
_ASSIGNING = frozenset({_ASSIGNMENT, _EXPRESSION, _HOW[ast.AugAssign]})
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


@dataclass(frozen=True)
class _Binding:
    line: int
    how: str
    value: ast.expr | None
    conditional: bool
    alone: bool


class _ModuleScope(ast.NodeVisitor):
    """Collects everything that binds, or changes in place, a name of the module's own scope."""

    def __init__(self) -> None:
        self.bindings: dict[str, list[_Binding]] = {}
        self.changed: dict[str, str] = {}
        self.stars: list[int] = []
        self.depth = 0
        self.how = ""

    def problem(self, name: str) -> str | None:
        """Why ``name`` may not be edited, or None."""
        bindings = self.bindings[name]
        assigned = [entry for entry in bindings if entry.how == _ASSIGNMENT]
        other = next((entry for entry in bindings if entry.how != _ASSIGNMENT), None)
        if other is not None:
            return f"bound by {other.how} on line {other.line}"
        if all(entry.conditional for entry in assigned):
            return "defined under a condition"
        if len(assigned) > 1:
            return f"assigned {len(assigned)} times"
        if not assigned[0].alone:
            return "several targets"
        if name in self.changed:
            return self.changed[name]
        star = next((line for line in self.stars if line > assigned[0].line), None)
        return None if star is None else f"perhaps bound again by the star import on line {star}"

    def bind(self, name: str | None, line: int, how: str, value: ast.expr | None = None, alone: bool = False) -> None:
        if name is not None:
            self.bindings.setdefault(name, []).append(_Binding(line, how, value, self.depth > 0, alone))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self.how = _HOW.get(type(node), "another statement")
        inside = isinstance(node, _BLOCKS)
        self.depth += inside
        super().visit(node)
        self.depth -= inside

    def visit_Module(self, node: ast.Module) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Global):
                for name in inner.names:
                    self.changed.setdefault(name, f"declared global on line {inner.lineno}")
            elif isinstance(inner, ast.Subscript) and not isinstance(inner.ctx, ast.Load):
                self.change(inner)
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in _MUTATORS:
                self.change(inner.func)
        self.generic_visit(node)

    def change(self, node: ast.expr) -> None:
        # Also inside functions: a local of the same name is refused needlessly, which is the safe side.
        root = node
        while isinstance(root, (ast.Subscript, ast.Attribute)):
            root = root.value
        if isinstance(root, ast.Name):
            self.changed.setdefault(root.id, f"changed in place on line {node.lineno}")

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.bind(node.id, node.lineno, self.how)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self.how = _ASSIGNMENT
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.bind(target.id, target.lineno, _ASSIGNMENT, node.value, len(node.targets) == 1)
            else:
                self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            if isinstance(node.target, ast.Name):
                self.bind(node.target.id, node.target.lineno, _ASSIGNMENT, node.value, alone=True)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target.id, node.lineno, _EXPRESSION)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.bind(alias.asname or alias.name.partition(".")[0], node.lineno, "an import")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.stars += [node.lineno for alias in node.names if alias.name == "*"]
        for alias in node.names:
            how = f"an import from {'.' * node.level}{node.module or ''}"
            self.bind(None if alias.name == "*" else alias.asname or alias.name, node.lineno, how)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.bind(node.name, node.lineno, "an except clause")
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        self.bind(name, node.lineno, "a match pattern")
        self.generic_visit(node)

    visit_MatchStar = visit_MatchMapping = visit_MatchAs

    def visit_comprehension(self, node: ast.comprehension) -> None:
        # Its targets live in a scope of their own, but a walrus in it binds the module's name.
        for part in (node.iter, *node.ifs):
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.bind(node.name, node.lineno, "a function definition")
        for part in (*node.decorator_list, node.args, node.returns):
            if part is not None:
                self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bind(node.name, node.lineno, "a class definition")
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
