"""Whether two versions of a file are the same code but for given number literals (RES-02).

Only the leaves that the caller names are blanked, by where they stand: a batch size, a temperature or any other number
still counts. Comments and layout do not, because only the syntax trees are compared.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from tune_mcp.discover.blanks import Blank, BlankForm
from tune_mcp.discover.constants import NumberLiteral
from tune_mcp.discover.source_tree import read_tree

Pair = tuple[NumberLiteral | Blank, NumberLiteral]
"""One threshold before and after; a Blank had no value yet."""


def same_but_for(old: bytes, new: bytes, path: str, pairs: Iterable[Pair]) -> bool:
    """Compare both trees with the pairs blanked. Raises ``Refusal`` INVALID_CONFIG for a file that does not parse.

    A first value may be the number in the place of a ``None``, or a new entry of its table, wherever it comes there.
    """
    pairs = list(pairs)
    added = [(before, after) for before, after in pairs if _is_absent(before)]
    there = [(before, after) for before, after in pairs if not _is_absent(before)]
    return _blanked(old, path, [before for before, _ in there], []) == _blanked(
        new, path, [after for _, after in there], added
    )


def _is_absent(place: NumberLiteral | Blank) -> bool:
    return isinstance(place, Blank) and place.form is not BlankForm.NONE


def _blanked(data: bytes, path: str, leaves: Sequence[NumberLiteral | Blank], added: Sequence[Pair]) -> str:
    """The tree as text, with names in the place of the leaves and without the entries that were added."""
    source = read_tree(data, path)
    blank = {(leaf.start, leaf.end): f"{leaf.symbol}[{leaf.concurrency}][{leaf.subkey}]" for leaf in leaves}
    entries = {(after.start, after.end): before for before, after in added}

    class Blanking(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if isinstance(node, (ast.Constant, ast.UnaryOp)) and (name := blank.get(source.span(node))):
                return ast.Name(name, ast.Load())
            if isinstance(node, ast.Dict):
                kept = [pair for pair in zip(node.keys, node.values, strict=True) if not _was_added(pair[1])]
                node.keys, node.values = [key for key, _ in kept], [value for _, value in kept]
            # Positions inside an f-string are not reliable before Python 3.12; no leaf stands in one.
            return node if isinstance(node, ast.JoinedStr) else self.generic_visit(node)

    def _was_added(value: ast.expr, whole: bool = False) -> bool:
        """Whether the entry is a first value, or a table of nothing else that was not there before."""
        if isinstance(value, ast.Dict) and value.values:
            return all(_was_added(one, whole=True) for one in value.values)
        found = entries.get(source.span(value)) if isinstance(value, (ast.Constant, ast.UnaryOp)) else None
        return isinstance(found, Blank) and (not whole or found.form is BlankForm.NO_TABLE)

    return ast.dump(Blanking().visit(source.tree))
