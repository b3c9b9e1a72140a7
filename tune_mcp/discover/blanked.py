"""Whether two versions of a file are the same code but for given number literals (RES-02, APL-15, APL-16).

Only the leaves that the caller names may differ, by where they stand: a batch size, a temperature or any other number
still counts. Comments and layout do not, because only the syntax trees are compared.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import cast

from tune_mcp.discover.blanks import Blank, BlankForm
from tune_mcp.discover.constants import NumberLiteral
from tune_mcp.discover.source_tree import read_tree

Pair = tuple[NumberLiteral | Blank, NumberLiteral]
"""One threshold before and after; a Blank had no value yet."""


def is_absent(place: NumberLiteral | Blank) -> bool:
    """Whether not even a ``None`` stands where the value comes: its entry is added to a table."""
    return isinstance(place, Blank) and place.form is not BlankForm.NONE


def same_but_for(old: bytes, new: bytes, path: str, pairs: Iterable[Pair]) -> bool:
    """Compare both trees but for the pairs. Raises ``Refusal`` INVALID_CONFIG for a file that does not parse.

    A first value may be the number in the place of a ``None``, or a new entry of its table, wherever it comes there.
    """
    pairs = list(pairs)
    before, after = read_tree(old, path), read_tree(new, path)
    moved = {(was.start, was.end): (now.start, now.end) for was, now in pairs if not is_absent(was)}
    entries = {(now.start, now.end): was for was, now in pairs if is_absent(was)}

    def added(value: ast.expr, whole: bool = False) -> bool:
        """Whether the entry is a first value, or a table of nothing else that was not there before."""
        if isinstance(value, ast.Dict) and value.values:
            return all(added(one, whole=True) for one in value.values)
        found = entries.get(after.span(value)) if isinstance(value, (ast.Constant, ast.UnaryOp)) else None
        return isinstance(found, Blank) and (not whole or found.form is BlankForm.NO_TABLE)

    met: set[tuple[int, int]] = set()
    todo: list[tuple[object, object]] = [(before.tree, after.tree)]
    while todo:
        ours, theirs = todo.pop()
        if isinstance(ours, (ast.Constant, ast.UnaryOp)) and isinstance(theirs, (ast.Constant, ast.UnaryOp)):
            span = before.span(ours)
            if span in moved and moved[span] == after.span(theirs):
                met.add(span)
                continue
        if isinstance(theirs, ast.Dict):
            kept = [pair for pair in zip(theirs.keys, theirs.values, strict=True) if not added(pair[1])]
            theirs = ast.Dict([key for key, _ in kept], [value for _, value in kept])
        if type(ours) is not type(theirs):
            return False
        if isinstance(ours, ast.JoinedStr) and isinstance(theirs, ast.JoinedStr):
            # Positions inside an f-string are not reliable before Python 3.12; no leaf stands in one.
            same = ast.dump(ours) == ast.dump(theirs)
        elif isinstance(ours, ast.AST):
            same = True
            todo += [(getattr(ours, name, None), getattr(theirs, name, None)) for name in ours._fields]
        elif isinstance(ours, list):
            left, right = cast("list[object]", ours), cast("list[object]", theirs)
            same = len(left) == len(right)
            todo += zip(left, right, strict=False)
        else:
            # repr tells 0.0 from -0.0; a huge int has none, but is exact under ==.
            same = repr(ours) == repr(theirs) if isinstance(ours, (float, complex)) else ours == theirs
        if not same:
            return False
    return met == set(moved)
