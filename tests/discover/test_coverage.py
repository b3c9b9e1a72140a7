"""Which numbers the tests of a repository assert, and who keeps each of them up to date."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import toy

from tune_mcp.contract.coverage import CoverageCounts
from tune_mcp.discover.asserted import asserted, plainly_asserted
from tune_mcp.discover.assertions import AssertionReader
from tune_mcp.discover.coverage import Covered, Keeper, markdown
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.coverage import read_coverage
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project

TEST = """\
import helpers
from limits import LIMITS, TABLE_THRESHOLDS

TOY_SAMPLES = 4
TOY_ACC_MIN = 0.7
TOY_SLACK = 0.9
TOY_ACC_LIMIT = round(TOY_ACC_MIN * TOY_SLACK, 4)
TOY_RETRIES_MAX = 3
TOY_MEMORY_MAX = 512
TOY_PINNED_MAX = round(0.5 * 2, 1)
TOY_OFF_MAX = None
TOY_IGNORED_RTF_MAX = 0.3


def test_toy(results, tmp_path):
    for _ in range(TOY_RETRIES_MAX):
        run(tmp_path, samples=TOY_SAMPLES)
    assert results["total"] == TOY_SAMPLES
    assert results["accuracy"] >= TOY_ACC_LIMIT
    limit = TOY_MEMORY_MAX * 2
    assert results["memory"] <= limit
    helpers.check_share_max(results["share"], TOY_PINNED_MAX)
    if TOY_OFF_MAX is not None:
        assert results["off"] < TOY_OFF_MAX
    assert 0.25 <= results["ratio"] < 0.75
    assert results["count"] > 0
    assert results["lag"] < LIMITS.lag_max
    helpers.verify(results, TABLE_THRESHOLDS)
    assert results["rtf"] <= TOY_IGNORED_RTF_MAX
"""
LIMITS = """\
class LIMITS:
    lag_max = 2.5

TABLE_P95 = {8: {"depth": 9.0}}
TABLE_THRESHOLDS = widen(TABLE_P95)
"""
HELPERS = """\
FLOOR = 0.125
CEILING = 6
LOWEST = 0.5
def check_share_max(value, most):
    assert value <= most
    assert value >= FLOOR
    if value * 2 > CEILING or value * 4 < LOWEST:
        raise AssertionError("out of its budget")
def verify(results, table):
    assert results["depth"] <= table[8]["depth"]
"""
OTHER = """\
import unittest
ELAPSED_MAX = 5
class TestOther(unittest.TestCase):
    def test_it(self):
        assert elapsed() < ELAPSED_MAX
        self.assertGreaterEqual(speed(), 12)
        assert elapsed() == 7
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    source = toy.CONFIG["metric_sources"]["test_toy_ci.py"] | {"ignored_constants": ["TOY_IGNORED_RTF_MAX"]}
    files = {"tests/limits.py": LIMITS, "tests/helpers.py": HELPERS, "tests/unit/test_other.py": OTHER}
    config = toy.CONFIG | {"metric_sources": {"test_toy_ci.py": source}}
    return toy.make_toy(tmp_path / "repo", test_source=TEST, config=config, files=files)


@pytest.fixture
def rows(project: Project) -> dict[str, Covered]:
    found = read_coverage(project, "toy", project.places.stages("toy"))
    return {one.name or f"{one.value:g}": one for one in found}


@pytest.mark.rule("DSC-14")
@pytest.mark.parametrize(
    ("name", "keeper", "side", "by"),
    [
        ("TOY_ACC_MIN", Keeper.CALIBRATED, "min", "toy: toy_accuracy/accuracy"),
        ("TOY_ACC_LIMIT", Keeper.DERIVED, "min", "made of TOY_ACC_MIN"),
        ("TOY_SAMPLES", Keeper.PROTECTED, "", "scope"),
        ("TOY_SLACK", Keeper.PROTECTED, "min", "slack"),
        ("TOY_MEMORY_MAX", Keeper.NOBODY, "max", "no metric claims it"),
        ("TOY_PINNED_MAX", Keeper.NOBODY, "max", "an expression of plain numbers"),
        ("TOY_OFF_MAX", Keeper.NOBODY, "max", "this gate is off"),
        ("TOY_IGNORED_RTF_MAX", Keeper.NOBODY, "max", "ignored_constants"),
        ("LIMITS.lag_max", Keeper.NOBODY, "max", "no metric claims it"),
        ("TABLE_P95['depth']", Keeper.NOBODY, "", "no metric claims it"),
        ("FLOOR", Keeper.NOBODY, "min", "no metric claims it"),
        ("CEILING", Keeper.NOBODY, "max", "no metric claims it"),
        ("LOWEST", Keeper.NOBODY, "min", "no metric claims it"),
        ("0.25", Keeper.NOBODY, "min", "no name"),
        ("0.75", Keeper.NOBODY, "max", "no name"),
        ("ELAPSED_MAX", Keeper.NOBODY, "max", "no metric claims it"),
        ("12", Keeper.NOBODY, "min", "no model covers this file"),
    ],
)
def test_each_asserted_number_has_one_keeper(
    rows: dict[str, Covered], name: str, keeper: Keeper, side: str, by: str
) -> None:
    one = rows[name]
    assert (one.keeper, one.side) == (keeper, side)
    assert by in one.by


@pytest.mark.rule("DSC-14")
def test_numbers_that_nothing_is_compared_with_are_left_out(rows: dict[str, Covered]) -> None:
    assert not rows.keys() & {"TOY_RETRIES_MAX", "0", "7"}


@pytest.mark.rule("DSC-14")
def test_discover_counts_them_and_catalog_repeats_what_discover_kept(project: Project, tmp_path: Path) -> None:
    before = catalog(project, "toy")
    to = tmp_path / "coverage for review.md"

    shown = discover(project, "toy", write=False)
    kept = discover(project, "toy", coverage_to=to).coverage
    after = catalog(project, "toy")

    assert before.coverage is None and shown.coverage and not shown.coverage.table
    assert isinstance(kept, CoverageCounts) and after.coverage == kept
    assert kept.asserted == kept.calibrated + kept.derived + kept.protected + kept.nobody
    assert len(kept.first) == 5 and "CEILING = 6 (at most)" in " ".join(kept.first)
    table = project.repo_root / kept.table
    assert to.read_text() == table.read_text()
    assert f"{kept.asserted} numbers are asserted" in table.read_text()
    assert not toy.git(project.repo_root, "status", "--porcelain", "--", ".tune-runs")


@pytest.mark.rule("DSC-14")
def test_the_table_is_whole_and_says_first_what_nobody_keeps(rows: dict[str, Covered]) -> None:
    text = markdown(tuple(rows.values()))

    assert text.index("Kept by nobody") < text.index("Protected") < text.index("## Calibrated")
    assert text.count("\n| tests/") == len(rows)
    assert "| tests/test_toy_ci.py:5 | `TOY_ACC_MIN` | 0.7 | at least | toy: toy_accuracy/accuracy |" in text


@pytest.mark.parametrize(
    ("code", "side"),
    [
        ("assert v > BUDGET", "min"),
        ("assert not v > BUDGET", "max"),
        ("assert not (v > BUDGET or w)", "max"),
        ("assert not not v > BUDGET", "min"),
        ("self.assertFalse(v > BUDGET)", "max"),
        ("self.assertTrue(not v > BUDGET)", "max"),
        ("assert not any(v > BUDGET for v in w)", "max"),
        ("if v > BUDGET:\n        raise ValueError(v)", "max"),
        ("if not v > BUDGET:\n        raise ValueError(v)", "min"),
    ],
)
def test_a_comparison_that_must_not_hold_bounds_the_other_side(tmp_path: Path, code: str, side: str) -> None:
    (tmp_path / "test_a.py").write_text(f"BUDGET = 2.0\n\n\ndef test_a(self, v, w):\n    {code}\n")

    found = asserted(AssertionReader(tmp_path).names, "test_a.py")

    assert found.named["test_a.py", "BUDGET"].side == side
    if not code.startswith("if"):
        tree = ast.parse((tmp_path / "test_a.py").read_text())
        assert plainly_asserted(tree, "test_a.py").named["test_a.py", "BUDGET"].side == side
