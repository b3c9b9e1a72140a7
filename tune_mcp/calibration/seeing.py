"""What is known of a run beside its numbers: what pytest reported of each repeat, and which failures config accepts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tune_mcp.apply.plan import Seen
from tune_mcp.apply.reading import Before
from tune_mcp.apply.reality import Outcome, TestFailure, names
from tune_mcp.calibration import settling
from tune_mcp.calibration.evidence import Evidence
from tune_mcp.calibration.project import Project
from tune_mcp.config.fields import locate
from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.model import FileSource, ModelConfig
from tune_mcp.config.stages import Number
from tune_mcp.errors import Refusal
from tune_mcp.observe.extract import ResultFiles
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.supervise import guard_record, sealed
from tune_mcp.supervise.guard_record import GuardSummary


def model_config(project: Project, plan: Plan) -> ModelConfig:
    """The model's config as it is now, where the run read it. Raises INVALID_CONFIG or UNKNOWN_MODEL."""
    config = Path(plan.config_dir) if plan.config_dir else project.options.config
    return ConfigPlaces.resolve(project.repo_root, config).model(plan.model)


def seen(project: Project, found: Evidence) -> Seen:
    """Everything about the run that its apply plan is held against."""
    run, plan = found.run, found.plan
    return Seen(outcomes(run, plan, plan.tests()), before(run), allowed(project, run, plan))


def outcomes(run: RunDir, plan: Plan, tests: Iterable[str]) -> dict[tuple[str, int], Outcome]:
    """What pytest reported of every repeat that has a record of ours; an older script left none.

    The record counts as its sealed attempt holds it: a file that was changed since is no evidence.
    """
    records = (
        ((test, repeat), _record(run, test, repeat))
        for test in dict.fromkeys(tests)
        for repeat in range(1, plan.repeats + 1)
    )
    return {
        key: Outcome(
            tests=record.executed,
            failures=tuple(
                TestFailure(
                    nodeid=one.nodeid,
                    when=one.when,
                    exception=one.exception,
                    assertion=one.assertion,
                    message=one.message,
                    test_line=one.test_line,
                )
                for one in record.failures
            ),
        )
        for key, record in records
        if record.started
    }


def changed_records(run: RunDir, plan: Plan) -> tuple[str, ...]:
    """A line for each record of pytest that is not as its attempt was sealed with it."""
    return tuple(
        f"{run.guard_record(test, repeat)} is not as it was sealed, so it is no evidence: what was sealed counts"
        for test in plan.tests()
        for repeat in range(1, plan.repeats + 1)
        if (record := _sealed_record(run, test, repeat)) is not None
        and record != guard_record.read(run.guard_record(test, repeat))
    )


def _record(run: RunDir, test: str, repeat: int) -> GuardSummary:
    found = _sealed_record(run, test, repeat)
    return guard_record.read(run.guard_record(test, repeat)) if found is None else found


def _sealed_record(run: RunDir, test: str, repeat: int) -> GuardSummary | None:
    """What the attempt that counts was sealed with, an empty one where its files are other ones now.

    None where no attempt at this repeat was ever sealed.
    """
    live = [one for one in sealed.attempts(run, test, repeat) if one.home == run.test_folder(test)]
    if live:
        return live[-1].result.guard
    key = run.attempt_key(test, repeat, "")
    ledger = (event for event in events.read(run.events, '"sealed"') if event.kind == "sealed")
    return GuardSummary() if any(str(event.facts.get("key")).startswith(key) for event in ledger) else None


def before(run: RunDir) -> Before:
    """The thresholds that the run was measured with, where an apply of it wrote others since (None: there was none)."""
    found: dict[tuple[str, str], Number | None] = {}
    for record in settling.in_effect(run):
        for one in record.applied:
            found.setdefault((one.stage_key, one.metric_key), one.old)
    return found


def allowed(project: Project, run: RunDir, plan: Plan) -> Callable[[str, int, TestFailure], str]:
    """By what config accepts a failure of (test key, repeat); a model that is gone accepts none."""
    try:
        config = model_config(project, plan)
    except Refusal:
        return lambda _test, _repeat, _failure: ""
    names_by_test = {test: PurePosixPath(stages[0].test).name for test, stages in plan.tests().items()}
    accepting = {
        test: Accepting(run, test, config.metric_sources.get(name, FileSource()), config.allowed_pytest_failure)
        for test, name in names_by_test.items()
    }
    return lambda test, repeat, failure: accepting[test].word(repeat, failure)


@dataclass(frozen=True)
class Accepting:
    """Which failures of one test file ``allowed_pytest_failure`` accepts."""

    run: RunDir
    test_key: str
    source: FileSource
    everywhere: Mapping[str, str]

    def word(self, repeat: int, failure: TestFailure) -> str:
        """By what the failure is accepted; empty when it is not."""
        patterns = dict(self.everywhere)
        files = ResultFiles(self.run.basetemp(self.test_key, repeat))
        for level in (self.source, *self.source.variants.values()):
            own = level.allowed_pytest_failure
            if isinstance(own, str):
                place = locate(own, level.json_file or self.source.json_file)
                if place is None or place.json_file.endswith(".py"):
                    patterns[own] = ""
                elif files.flag(place) is True:
                    return f"{own} is true"
            elif own:
                patterns |= own
        return self._by_name(patterns, failure)

    def _by_name(self, patterns: Mapping[str, str], failure: TestFailure) -> str:
        for pattern, reason in patterns.items():
            if any(name == pattern or _fits(pattern, name) for name in names(failure.nodeid)):
                return f"{pattern}: {reason}" if reason else pattern
        return ""


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:  # a node id with brackets is no expression
        return False
