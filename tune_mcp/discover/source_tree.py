"""A Python file as bytes and syntax tree, and where each node stands in the bytes."""

from __future__ import annotations

import ast
import codecs
import io
import math
import re
import threading
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tune_mcp.errors import Code, Refusal

_BOM = b"\xef\xbb\xbf"
_LINE_BREAK = re.compile(rb"\r\n|\r|\n")
_ONE_AT_A_TIME = threading.Lock()


def parsed(source: str | bytes, filename: str = "<unknown>") -> ast.Module:
    """``ast.parse``, one at a time: Python 3.11 counts its depth for all threads together, and fails when two parse."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, filename=filename)


def parsed_expression(source: str) -> ast.expr:
    """Parse one expression, one at a time as ``parsed``."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode="eval").body


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
        if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig", "ascii"):
            raise _unreadable(path, f"it declares the encoding {encoding}, only UTF-8 is edited")
        data.decode("utf-8")
        tree = parsed(data, path)
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
        "fix the file, then run discover",
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


def number_in(text: str) -> int | float | None:
    """The finite number that ``text`` spells as Python; None for anything else."""
    try:
        # In parentheses, since a sign may stand on a line of its own in the file.
        return number_of(parsed_expression(f"({text}\n)"))
    except (SyntaxError, ValueError):
        return None


AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
"""A function that has a name."""


def last_name(node: ast.AST) -> str:
    """``b`` of the name ``b`` and of ``a.b``; empty for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def root_name(node: ast.AST) -> str:
    """``a`` of ``a.b[0].c``; empty where no plain name is at its root."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def called(node: ast.Call) -> str:
    """The last word of the code that is called: ``fail`` of ``pytest.fail()``."""
    return ast.unparse(node.func).rpartition(".")[2]


def parameters(arguments: ast.arguments) -> list[str]:
    """The names of a function's parameters but for those that take all the rest."""
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def is_test_file(path: str) -> bool:
    """Whether pytest takes a file of that name for a test file by default."""
    name = path.rpartition("/")[2]
    return name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))


def is_fixture(function: AnyFunction) -> bool:
    """Whether pytest calls a function to fill a parameter."""
    return any("fixture" in ast.unparse(one).partition("(")[0] for one in function.decorator_list)


@dataclass(frozen=True)
class Imported:
    """One name that an import binds. ``name``: what it is in ``module``, ``*`` for all of it, None: the module itself.

    ``module`` is dotted, ``level`` counts the dots before it.
    """

    bound: str
    module: str
    level: int
    name: str | None

    @property
    def dotted(self) -> str:
        """``module`` with its dots."""
        return "." * self.level + self.module

    @property
    def inner(self) -> str:
        """The module that ``name`` is where it is no name in ``module``."""
        return ".".join(filter(None, (self.module, self.name)))


def imports_in(nodes: Iterable[ast.AST]) -> Iterator[Imported]:
    """What the import statements among some nodes bind."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Imported(alias.asname or alias.name.partition(".")[0], alias.name, 0, None)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Imported(alias.asname or alias.name, node.module or "", node.level, alias.name)
