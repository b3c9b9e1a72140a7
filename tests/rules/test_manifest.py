"""The manifest ties rules of the register to the tests that try to break them, in both directions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFEST: dict[str, str] = yaml.safe_load(Path(__file__).with_name("manifest.yaml").read_text())


def marked() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """(rule id, test, file) for every ``@pytest.mark.rule("ID", ...)`` below tests/."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.rule":
                    for argument in mark.args:
                        yield ast.literal_eval(argument), node, str(path.relative_to(ROOT))


def asserts(test: ast.AST) -> bool:
    """Whether a test can fail: it asserts, expects a refusal, or hands over to a helper that does."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("raises", "fail") or name.startswith(("assert", "refus", "expect", "check")):
                return True
    return False


def test_every_rule_that_is_claimed_has_a_test_that_can_fail() -> None:
    found = {rule for rule, test, _ in marked() if asserts(test)}

    assert sorted(set(MANIFEST) - found) == []


def test_no_test_claims_a_rule_that_the_manifest_does_not_know() -> None:
    assert sorted({f"{rule} in {file}" for rule, _, file in marked() if rule not in MANIFEST}) == []


@pytest.mark.parametrize("place", sorted(set(MANIFEST.values())))
def test_every_rule_is_kept_in_a_module_that_exists(place: str) -> None:
    assert (ROOT / place).is_file()
