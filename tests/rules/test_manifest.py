"""Each rule was taken out once, and a test of that rule was seen to fail: ``manifest.yaml`` still fits the source.

``make take-out`` does it again, harm by harm; here only what can go stale is compared.
"""

from __future__ import annotations

import ast
from pathlib import PurePosixPath

from register import ROOT, marks
from rules.take_out import manifest

from tune_mcp.rules import register


def test_every_rule_was_taken_out_and_some_test_noticed() -> None:
    assert sorted(manifest()) == sorted(register())
    assert [rule for rule, proof in manifest().items() if not proof.noticed_by] == []


def test_every_harm_still_fits_its_file_and_is_one() -> None:
    stale: dict[str, str] = {}
    for rule, proof in manifest().items():
        for harm in proof.taken_out:
            before = (ROOT / harm.file).read_text()
            try:
                after = harm.done_to(before)
            except ValueError as error:
                stale[rule] = str(error)
                continue
            if after == before or PurePosixPath(harm.file).parts[0] == "tests":
                stale[rule] = f"{harm.file} is not harmed"
            if harm.file.endswith(".py"):
                ast.parse(after)

    assert stale == {}


def test_the_test_that_noticed_is_one_of_the_rule_s_own() -> None:
    own = {(mark.rule, mark.test) for mark in marks()}

    assert {rule: proof.noticed_by for rule, proof in manifest().items() if (rule, proof.noticed_by) not in own} == {}
