"""How config and stages.yaml name a threshold: ``NAME``, ``_X[8]['k']``, or the expression that reads a leaf."""

from __future__ import annotations

import ast
import keyword
import re

from tune_mcp.discover.source_tree import number_of, parsed_expression
from tune_mcp.errors import Code, Refusal

_SOURCE = re.compile(r"(?P<symbol>\w+)(?:(?:\[(?P<outer>-?\d+)\])?\[(?P<quote>['\"])(?P<key>[^'\"\\\n]+)(?P=quote)\])?")


def split_source(source: str) -> tuple[str, str | None]:
    """Symbol and inner key of ``NAME``, ``_X['k']`` or ``_X[8]['k']``; a leaf of another form is its own symbol.

    Raises ``Refusal`` INVALID_ARGUMENT.
    """
    symbol, _, subkey = source_parts(source)
    return symbol, subkey


def source_parts(source: str) -> tuple[str, int | None, str | None]:
    """Symbol, load and inner key of a source. Raises ``Refusal`` INVALID_ARGUMENT."""
    match = _SOURCE.fullmatch(source)
    if match is None or not match["symbol"].isidentifier() or keyword.iskeyword(match["symbol"]):
        try:
            if not source.isidentifier() and canonical(source) == source:
                return source, None, None
        except ValueError:
            pass
        raise bad_source(source, "it has neither the form NAME nor NAME['key'], nor that of an attribute or entry")
    return match["symbol"], None if match["outer"] is None else int(match["outer"]), match["key"]


def bad_source(source: str, reason: str) -> Refusal:
    """INVALID_ARGUMENT for a source that names no threshold."""
    return Refusal(
        Code.INVALID_ARGUMENT,
        "APL-15",
        f"{source!r} is no threshold source: {reason}",
        "take the source from apply_plan as it stands",
        {"source": source, "reason": reason},
    )


def canonical(source: str) -> str:
    """The one spelling of a threshold's place. Raises ValueError for what is no chain of names and plain keys."""
    try:
        node = parsed_expression(source.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{source!r} is no Python expression") from error
    _steps(node)
    return ast.unparse(node)


def root_of(source: str) -> str:
    """The name at the module's level that a place begins with."""
    node = parsed_expression(source)
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return ast.unparse(node)


def names_in(source: str) -> tuple[str, ...]:
    """The names, attributes and string keys of a place, outermost first."""
    node = parsed_expression(source)
    found: list[str] = []
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            found.append(node.slice.value)
        node = node.value
    return (*([node.id] if isinstance(node, ast.Name) else []), *reversed(found))


def attributes_of(source: str) -> frozenset[str]:
    """The attribute names in a place."""
    return frozenset(node.attr for node in ast.walk(parsed_expression(source)) if isinstance(node, ast.Attribute))


def load_of(source: str) -> int | None:
    """The one whole number among the keys of a place: the load at which its table is read."""
    keys = [number_of(node.slice) for node in ast.walk(parsed_expression(source)) if isinstance(node, ast.Subscript)]
    numbers = [key for key in keys if isinstance(key, int)]
    return numbers[0] if len(numbers) == 1 else None


def _steps(node: ast.expr) -> None:
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Subscript) and plain_key(node.slice) is not None):
            node = node.value
            continue
        raise ValueError(f"{ast.unparse(node)!r} is no name, attribute or plain key")


def plain_key(node: ast.expr | None) -> ast.expr | None:
    """The node if it is a plain key: a string, a number, or a tuple of them."""
    if isinstance(node, ast.Tuple) and node.elts and all(plain_key(one) is not None for one in node.elts):
        return node
    if node is None or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return node if node is not None and node.value else None
    return None if number_of(node) is None else node
