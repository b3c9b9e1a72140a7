"""The first value of a threshold: a number in the place of ``None``, or an entry in a dict literal that lacks it.

The entry is written as the dict's own entries are: in their line, or on a line of its own with their indentation, with
a trailing comma where they have one; an empty table becomes ``{8: {"key": value}}``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tune_mcp.discover.blanks import Blank, BlankForm
from tune_mcp.discover.source_tree import SourceTree, read_tree
from tune_mcp.errors import Code, Refusal

_INDENT = b"    "


@dataclass(frozen=True)
class _Change:
    """Bytes ``start`` to ``end`` become ``text``."""

    start: int
    end: int
    text: bytes


def fill(data: bytes, path: str, values: Sequence[tuple[Blank, str]]) -> bytes:
    """The bytes of ``path`` with the text of a number in every place.

    Raises ``Refusal`` THRESHOLD_UNKNOWN for a dict whose layout leaves no place that is beyond doubt.
    """
    source = read_tree(data, path)
    places: dict[tuple[int, int], list[tuple[Blank, str]]] = {}
    for blank, text in values:
        places.setdefault((blank.start, blank.end), []).append((blank, text))
    nodes = {source.span(node): node for node in ast.walk(source.tree) if isinstance(node, (ast.Constant, ast.Dict))}
    changes: list[_Change] = []
    for span, mine in places.items():
        node = nodes[span]
        if isinstance(node, ast.Dict):
            changes += _entries(source, node, _texts(source, node, mine))
        else:
            changes.append(_Change(*span, mine[0][1].encode()))
    for change in sorted(changes, key=lambda one: one.start, reverse=True):
        data = data[: change.start] + change.text + data[change.end :]
    return data


def _texts(source: SourceTree, node: ast.Dict, mine: Sequence[tuple[Blank, str]]) -> list[bytes]:
    """The new entries of a dict as text."""
    last, table = node.keys[-1] if node.keys else None, mine[0][0]
    start = source.span(last)[0] if last is not None else 0
    quote = "'" if last is not None and source.data[start : start + 1] == b"'" else '"'
    entries = [f"{quote}{blank.subkey}{quote}: {text}".encode() for blank, text in mine]
    if table.form is BlankForm.NO_TABLE:
        return [f"{table.concurrency}: ".encode() + b"{" + b", ".join(entries) + b"}"]
    return entries


def _entries(source: SourceTree, node: ast.Dict, texts: Sequence[bytes]) -> list[_Change]:
    """How ``texts`` come behind the last entry of a dict."""
    data = source.data
    start, end = source.span(node)
    brace = end - 1
    if not node.values:
        inside = data[start + 1 : brace]
        if not inside.strip():
            return [_Change(start + 1, brace, b", ".join(texts))]
        indent = _own_line(data, brace)
        if indent is None or not inside.lstrip(b" \t").startswith((b"#", b"\n", b"\r")):
            raise _no_place(source, node)
        line = brace - len(indent)
        newline = _newline(data, brace)
        return [_Change(line, line, b"".join(indent + _INDENT + text + b"," + newline for text in texts))]
    behind = source.span(node.values[-1])[1]
    comma, closed = _behind(source, node, behind, brace)
    key = node.keys[-1]
    first = _own_line(data, source.span(key)[0]) if key is not None else None
    if first is None or b"\n" not in data[closed:brace].replace(b"\r", b"\n"):
        at = comma if comma is not None else closed
        joined = b", ".join(texts)
        return [_Change(at, at, b" " + joined + b"," if comma is not None else b", " + joined)]
    newline = _newline(data, brace)
    line_end = min(place for mark in (b"\n", b"\r") if (place := data.find(mark, comma or closed)) >= 0)
    if comma is not None:
        lines = b"".join(newline + first + text + b"," for text in texts)
        return [_Change(line_end, line_end, lines)]
    lines = (b",").join(newline + first + text for text in texts)
    if line_end == closed:
        return [_Change(closed, closed, b"," + lines)]
    return [_Change(closed, closed, b","), _Change(line_end, line_end, lines)]


def _behind(source: SourceTree, node: ast.Dict, behind: int, brace: int) -> tuple[int | None, int]:
    """The end of the comma behind the last value, None without one; and where the value ends with its parentheses."""
    comma: int | None = None
    closed = behind
    position = behind
    while position < brace:
        byte = source.data[position : position + 1]
        if byte == b"#":
            ends = [place for mark in (b"\n", b"\r") if (place := source.data.find(mark, position)) >= 0]
            position = min(ends, default=brace)
        elif byte == b"," and comma is None:
            comma = position + 1
        elif byte == b")" and comma is None:
            closed = position + 1
        elif byte not in b" \t\r\n\f":
            raise _no_place(source, node)
        position += 1
    return comma, closed


def _own_line(data: bytes, position: int) -> bytes | None:
    """The white space before ``position`` when its line has nothing else before it."""
    start = max(data.rfind(b"\n", 0, position), data.rfind(b"\r", 0, position)) + 1
    before = data[start:position]
    return before if not before.strip(b" \t") else None


def _newline(data: bytes, position: int) -> bytes:
    """How the last line before ``position`` ends."""
    found = re.findall(rb"\r\n|\r|\n", data[:position])
    return found[-1] if found else b"\n"


def _no_place(source: SourceTree, node: ast.Dict) -> Refusal:
    return Refusal(
        Code.THRESHOLD_UNKNOWN,
        ("APL-16", "APL-17"),
        f"the dict at {source.path}:{node.lineno} is laid out in a way that leaves no place for a new entry",
        "put its closing brace on a line of its own, commit, and start a new run; or write the first value by hand",
        {"file": source.path, "line": node.lineno},
    )
