"""Every rule of the register is placed, and has a test that runs, can fail, and tries to break it."""

from __future__ import annotations

import ast
import re

import pytest
from register import ROOT, Mark, marks

from tune_mcp.rules import How, register, table

RULES = 376
PROMPTS = 12


def asserts(test: ast.AST) -> bool:
    """Whether a test can fail: it asserts, expects a refusal, or hands over to a function that does."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("raises", "fail") or name.startswith(("assert", "refus", "expect", "check")):
                return True
    return False


def left_out(mark: Mark) -> bool:
    """Whether a test is skipped or expected to fail, by a mark of its own or of its module, or from inside."""
    whole = [
        one for one in mark.module.body if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "pytestmark"
    ]
    names = (
        ast.unparse(node) for one in (mark.node, *whole) for node in ast.walk(one) if isinstance(node, ast.Attribute)
    )
    return any(re.fullmatch(r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)", name) for name in names)


def test_every_rule_is_there_once_and_few_are_left_to_a_prompt() -> None:
    assert len(register()) == RULES
    assert all(re.fullmatch(r"[A-Z]{3,4}-\d\d", name) for name in register())
    assert sum(rule.how is How.PROMPT for rule in register().values()) <= PROMPTS


def test_every_rule_has_a_test_that_can_fail_and_is_never_left_out() -> None:
    tried = {mark.rule for mark in marks() if asserts(mark.node) and not left_out(mark)}

    assert sorted(set(register()) - tried) == []


def test_no_marked_test_is_left_out_or_cannot_fail() -> None:
    assert sorted({mark.test for mark in marks() if left_out(mark) or not asserts(mark.node)}) == []


def test_no_test_claims_a_rule_that_the_register_does_not_have() -> None:
    assert sorted({f"{mark.rule} in {mark.test}" for mark in marks() if mark.rule not in register()}) == []


@pytest.mark.parametrize("place", sorted({rule.where for rule in register().values()}))
def test_every_rule_is_kept_in_a_file_that_exists(place: str) -> None:
    assert (ROOT / place).is_file()


def test_a_rule_is_kept_where_its_kind_says() -> None:
    """What is enforced or automatic is code or data; a prompt is a prompt, and says what the server notices."""
    odd = {
        name
        for name, rule in register().items()
        if rule.where.startswith("tests/")
        or (rule.how is How.ENFORCED and not rule.where.startswith("tune_mcp/"))
        or (rule.how is How.PROMPT) != (rule.where.startswith("prompts/") and bool(rule.notices))
    }

    assert odd == set()


def test_each_rule_is_one_plain_line_and_no_registry_is_named() -> None:
    for name, rule in register().items():
        assert re.fullmatch(r"[A-Z].{10,140}\.|[a-z].{10,140}\.|\d.{10,140}\.", rule.rule), name
        assert not re.search(r"://|\b[\w-]+\.(com|io|org|cn)\b", rule.rule + rule.notices), name
        assert f"| {name} | {rule.rule}" in table()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("@pytest.mark.skip\ndef test_x(): assert 0", True),
        ("@pytest.mark.skipif(True, reason='x')\ndef test_x(): assert 0", True),
        ("@pytest.mark.xfail\ndef test_x(): assert 0", True),
        ("def test_x():\n    pytest.skip('no')\n    assert 0", True),
        ("pytestmark = pytest.mark.skip\ndef test_x(): assert 0", True),
        ("@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.xfail)])\ndef test_x(x): assert x", True),
        ("@pytest.mark.parametrize('x', ['pytest.skip()'])\ndef test_x(x): assert x", False),
        ("pytestmark = pytest.mark.anyio\ndef test_x(): assert 0", False),
    ],
)
def test_a_test_that_is_skipped_in_any_way_is_noticed(text: str, left: bool) -> None:
    module = ast.parse(text)
    test = module.body[-1]
    assert isinstance(test, ast.FunctionDef)

    assert left_out(Mark("X", "x", test, module)) is left
