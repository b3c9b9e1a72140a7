"""Tests that fail for no threshold's sake, while a run stands: the same judgement as in its apply plan."""

from __future__ import annotations

from tune_mcp.apply import reading, reality
from tune_mcp.apply.locating import Files
from tune_mcp.calibration import seeing
from tune_mcp.calibration.project import Project
from tune_mcp.errors import Refusal
from tune_mcp.observe.audit import Audit
from tune_mcp.run_dir import RunDir
from tune_mcp.session.plan import Plan

_known: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
"""By run and digests of what was recorded: a status is asked for again and again."""


def failed_tests(project: Project, run: RunDir, plan: Plan, audited: Audit) -> tuple[str, ...]:
    """One line for each of them among the repeats that were recorded; nothing is read where pytest ended well."""
    stored = {
        (stage.stage.test_key, repeat): cell.stored
        for stage in audited.stages
        for repeat, cell in enumerate(stage.cells, 1)
        if cell.stored and cell.stored.content.pytest_rc not in (0, None)
    }
    if plan.legacy or not stored:
        return ()
    key = (str(run.path), frozenset(one.sha256 for one in stored.values()))
    if key not in _known:
        outcomes = {
            at: found
            for at, found in seeing.outcomes(run, plan, [test for test, _ in stored]).items()
            if at in stored and found.failures
        }
        try:
            tests = {test for test, _ in outcomes}
            readings = reading.read(Files(project.repo_root), plan, audited, seeing.before(run), tests)
        except Refusal:  # a test file that is gone or no Python: said by whoever needs it
            return ()
        failed = reality.failed_tests(reading.by_test(readings.values()), outcomes, seeing.allowed(project, run, plan))
        _known.clear()
        _known[key] = tuple(one.text + (f" (accepted: {one.allowed})" if one.allowed else "") for one in failed)
    return _known[key]
