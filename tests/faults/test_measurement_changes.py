"""The table of what can change a measurement names tests that exist, and users read what nothing notices."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from measurement_changes import WAYS, Way

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/never.md"


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("way", [way for way in WAYS if not way.why], ids=lambda way: way.what)
def test_whatever_is_noticed_has_a_module_that_does_it_and_a_test_that_tries(way: Way) -> None:
    file, _, name = way.test.partition("::")

    assert (ROOT / "tune_mcp" / way.by).is_file(), way.by
    assert name in functions(ROOT / "tests" / file), way.test


def test_what_nothing_can_notice_is_told_to_users_with_its_reason() -> None:
    page = PAGE.read_text()

    missing = [way.what for way in WAYS if way.why and f"- {way.what}: {way.why}.\n" not in page]
    assert not missing
    assert len({way.what for way in WAYS}) == len(WAYS)
