"""Every bug of the older script that concerns a run has tests that would find it again, and they exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BUGS: dict[int, list[str]] = yaml.safe_load(Path(__file__).with_name("older_bugs.yaml").read_text())


def test_no_bug_is_left_out() -> None:
    assert list(BUGS) == [1, 6, 7, 8, 9, *range(13, 28)]


@pytest.mark.parametrize("name", sorted({name for names in BUGS.values() for name in names}))
def test_every_test_that_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_bytes())

    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
