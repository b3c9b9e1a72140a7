"""One member of a JSON file set or taken out by position: comments, order and layout of everything else stay.

Editors allow comments and trailing commas in their settings, so a file is read with both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")


@dataclass
class Node:
    """A value and where it stands. ``members`` and ``keys`` (where each key begins) are those of an object."""

    start: int
    end: int = 0
    members: dict[str, Node] | None = None
    keys: dict[str, int] = field(default_factory=dict)


def read(text: str) -> Node:
    """The outermost object. Raises ValueError, with the line, for anything else."""
    reader = _Reader(text)
    node = reader.value()
    if reader.skip(node.end) != len(text):
        raise reader.wrong(node.end, "something stands after the end")
    if node.members is None:
        raise ValueError("not an object")
    return node


def with_entry(text: str, table: str, name: str, value: Mapping[str, object]) -> str:
    """``text`` with ``{table: {name: value}}`` in it; the same text where it is there already. Raises ValueError."""
    text = text if text.strip() else "{}\n"
    root = read(text)
    assert root.members is not None
    found = root.members.get(table)
    if found is None:
        return _added(text, root, table, {name: value}, 1)
    if found.members is None:
        raise ValueError(f"{table} is not an object")
    entry = found.members.get(name)
    if entry is None:
        return _added(text, found, name, value, 2)
    if _parsed(text, entry) == value:
        return text
    return text[: entry.start] + _shown(text, value, 2) + text[entry.end :]


def without_entry(text: str, table: str, name: str) -> str:
    """``text`` without that entry, and without the table where nothing else is in it; empty when nothing is left."""
    root = read(text) if text.strip() else None
    found = root.members.get(table) if root and root.members else None
    if root is None or root.members is None or found is None or not found.members or name not in found.members:
        return text
    entry = found.members[name]
    around = text[found.start + 1 : found.keys[name]] + text[entry.end : found.end - 1]
    if len(found.members) > 1 or around.strip(", \t\n"):  # a comment in the table keeps it
        return _removed(text, found, name)
    if len(root.members) > 1:
        return _removed(text, root, table)
    left = _removed(text, root, table)
    return "" if left.split() in (["{}"], ["{", "}"]) else left


def _parsed(text: str, node: Node) -> object:
    try:
        return json.loads(text[node.start : node.end])
    except ValueError:
        return None


def _indent(text: str) -> str:
    found = re.search(r"\{[^\S\n]*\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _shown(text: str, value: object, depth: int) -> str:
    unit = _indent(text)
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", "\n" + unit * depth)


def _added(text: str, node: Node, name: str, value: object, depth: int) -> str:
    """A new last member on lines of its own before the brace, with a comma after it where the one before had one."""
    assert node.members is not None
    unit = _indent(text)
    brace = node.end - 1
    last = max((one.end for one in node.members.values()), default=None)
    comma = last is not None and text[_Reader(text).skip(last)] != ","
    trailing = "" if comma or last is None else ","
    member = f"{unit * depth}{json.dumps(name)}: {_shown(text, value, depth)}{trailing}\n{unit * (depth - 1)}"
    head = text[:brace] if last is None else text[:last] + ("," if comma else "") + text[last:brace]
    head = head.rstrip(" \t")
    return f"{head}{'' if head.endswith(chr(10)) else chr(10)}{member}{text[brace:]}"


def _removed(text: str, node: Node, name: str) -> str:
    """Without a member, its own line and its comma; every comment stays."""
    assert node.members is not None
    start, end = node.keys[name], node.members[name].end
    after = _Reader(text).skip(end)
    if text[after] == ",":
        end = after + 1
        if len(node.members) > 1:
            last_of_all = start == max(node.keys.values()) and re.match(r"[^\S\n]*\n", text[end:])
            return text[:start].rstrip() + text[end:] if last_of_all else text[:start] + text[end:].lstrip()
    ends = [one.end for key, one in node.members.items() if node.keys[key] < start]
    last = max(ends, default=start)
    between = text[last:start].replace(",", "", 1) if ends else ""
    return text[:last].rstrip() + between.rstrip() + text[end:]


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def wrong(self, at: int, why: str) -> ValueError:
        return ValueError(f"line {self.text.count(chr(10), 0, at) + 1}: {why}")

    def skip(self, at: int) -> int:
        """Where the next sign stands that is neither blank nor comment."""
        found = _BLANK.match(self.text, at)
        return found.end() if found else at

    def sign(self, at: int) -> str:
        return self.text[at : at + 1]

    def value(self, at: int = 0) -> Node:
        at = self.skip(at)
        if self.sign(at) in ("{", "["):
            return self._inside(at)
        found = _STRING.match(self.text, at) or _PLAIN.match(self.text, at)
        if found is None:
            raise self.wrong(at, "a value is missing")
        json.loads(found[0], strict=False)
        return Node(at, found.end())

    def _inside(self, start: int) -> Node:
        close = {"{": "}", "[": "]"}[self.text[start]]
        node = Node(start, members={} if close == "}" else None)
        at = self.skip(start + 1)
        while self.sign(at) != close:
            key_at, key = at, ""
            if node.members is not None:
                found = _STRING.match(self.text, at)
                if found is None:
                    raise self.wrong(at, "a name in quotes is missing")
                key, at = json.loads(found[0], strict=False), self.skip(found.end())
                if self.sign(at) != ":":
                    raise self.wrong(at, "a colon is missing")
                at += 1
            one = self.value(at)
            if node.members is not None:
                if key in node.members:
                    raise self.wrong(key_at, f"duplicate key {key!r}")
                node.members[key], node.keys[key] = one, key_at
            at = self.skip(one.end)
            if self.sign(at) == ",":
                at = self.skip(at + 1)
            elif self.sign(at) != close:
                raise self.wrong(at, "a comma or the end is missing")
        node.end = at + 1
        return node
