"""Whether two versions of a file are the same code but for given number literals (RES-02; note A1.3).

Only the leaves that the caller names are blanked, by where they stand: a batch size, a temperature or any other number
still counts. Comments and layout do not, because only the syntax trees are compared.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from tune_mcp.discover.constants import NumberLiteral
from tune_mcp.discover.source_tree import read_tree


def same_but_for(
    old: bytes, new: bytes, path: str, old_leaves: Iterable[NumberLiteral], new_leaves: Iterable[NumberLiteral]
) -> bool:
    """Compare both trees with the leaves blanked. Raises ``Refusal`` INVALID_CONFIG for a file that does not parse."""
    return _blanked(old, path, old_leaves) == _blanked(new, path, new_leaves)


def _blanked(data: bytes, path: str, leaves: Iterable[NumberLiteral]) -> str:
    source = read_tree(data, path)
    blank = {(leaf.start, leaf.end): f"{leaf.symbol}[{leaf.concurrency}][{leaf.subkey}]" for leaf in leaves}

    class Blanking(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if isinstance(node, (ast.Constant, ast.UnaryOp)) and (name := blank.get(source.span(node))):
                return ast.Name(name, ast.Load())
            # Positions inside an f-string are not reliable before Python 3.12; no leaf stands in one.
            return node if isinstance(node, ast.JoinedStr) else self.generic_visit(node)

    return ast.dump(Blanking().visit(source.tree))
