"""Which test tries to break which rule: every ``@pytest.mark.rule("ID", ...)`` below tests/."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mark:
    """One rule on one test; ``test`` is its node id without parameters."""

    rule: str
    test: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    module: ast.Module


@cache
def marks() -> tuple[Mark, ...]:
    """All of them, by reading the tests, so that none has to be imported."""
    found: list[Mark] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_bytes())
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                test = f"{path.relative_to(ROOT)}::{node.name}"
                found += [Mark(rule, test, node, module) for rule in named(node)]
    return tuple(found)


def named(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The rules on one test."""
    calls = [mark for mark in test.decorator_list if isinstance(mark, ast.Call)]
    return [
        ast.literal_eval(argument)
        for call in calls
        if ast.unparse(call.func) == "pytest.mark.rule"
        for argument in call.args
    ]
