"""What is known of a run beside its numbers: what pytest reported of each repeat, and which failures config accepts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from tune_mcp.apply import reading, reality
from tune_mcp.apply.locating import Files
from tune_mcp.apply.plan import Circumstances
from tune_mcp.apply.reading import Before
from tune_mcp.apply.reality import PytestOutcome, names
from tune_mcp.config.fields import locate
from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.model import FileSource, ModelConfig
from tune_mcp.config.stages import MetricKey, Number
from tune_mcp.errors import Refusal
from tune_mcp.observe.audit import Audit
from tune_mcp.observe.extract import ResultFiles
from tune_mcp.observe.observation import Failure, Stored
from tune_mcp.report import history
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.supervise import guard_record, sealed
from tune_mcp.supervise.guard_record import GuardSummary
from tune_mcp.verbs import apply_recovery
from tune_mcp.verbs.gates import Evidence
from tune_mcp.verbs.project import Project

NOTES_SHOWN = 5
"""Lines of one kind among the notes of a reply."""


def model_config(project: Project, plan: Plan) -> ModelConfig:
    """The model's config as it is now, where the run read it. Raises INVALID_CONFIG or UNKNOWN_MODEL."""
    config = Path(plan.config_dir) if plan.config_dir else project.options.config
    return ConfigPlaces.resolve(project.repo_root, config).model(plan.model)


def circumstances(project: Project, found: Evidence) -> Circumstances:
    """Everything about the run that its apply plan is held against."""
    run, plan = found.run, found.plan
    lost = history.lost(run, found.audit)
    return Circumstances(outcomes(run, plan, plan.tests()), before(run), allowed(project, run, plan), lost)


def outcomes(run: RunDir, plan: Plan, tests: Iterable[str]) -> dict[tuple[str, int], PytestOutcome]:
    """What pytest reported of every repeat that has a guard record; an older script left none.

    The record counts as its sealed attempt holds it: a file that was changed since is no evidence.
    """
    wanted = set(tests)
    found: dict[tuple[str, int], PytestOutcome] = {}
    for part, test, repeat, log in _launches(run, plan):
        if test in wanted and (record := _record(part, test, repeat, log)).started:
            one, other = PytestOutcome(record.executed, record.failures), found.get((test, repeat))
            if other is not None:  # a test whose stages two merged runs share ran twice
                tests_run = tuple(dict.fromkeys((*other.tests, *one.tests)))
                one = PytestOutcome(tests_run, (*other.failures, *one.failures))
            found[test, repeat] = one
    return found


def _launches(run: RunDir, plan: Plan) -> Iterator[tuple[RunDir, str, int, Sequence[events.Event]]]:
    """Where each repeat was launched, and what the ledger there says of sealed attempts."""
    for part, own in plan.parts(run):
        log = sealed.seals_and_moves(part)
        yield from ((part, test, repeat, log) for test in own.tests() for repeat in range(1, plan.repeats + 1))


def changed_records(run: RunDir, plan: Plan) -> Iterator[str]:
    """A line for each of the first records of pytest that are not as their attempts were sealed with them."""
    changed = (
        f"{part.guard_record(test, repeat)} is not as it was sealed, so it is no evidence: what was sealed counts"
        for part, test, repeat, log in _launches(run, plan)
        if (record := _sealed_record(part, test, repeat, log)) is not None
        and record != guard_record.read(part.guard_record(test, repeat))
    )
    return islice(changed, NOTES_SHOWN)


def _record(run: RunDir, test: str, repeat: int, log: Sequence[events.Event]) -> GuardSummary:
    found = _sealed_record(run, test, repeat, log)
    return guard_record.read(run.guard_record(test, repeat)) if found is None else found


def _sealed_record(run: RunDir, test: str, repeat: int, log: Sequence[events.Event]) -> GuardSummary | None:
    """What the attempt that counts was sealed with, an empty one where its files are other ones now.

    None where no attempt at this repeat was ever sealed.
    """
    live = [one for one in sealed.attempts(run, test, repeat, log) if one.home == run.test_folder(test)]
    if live:
        return live[-1].result.guard
    key = run.attempt_key(test, repeat, "")
    keys = (str(event.facts.get("key")) for event in log if event.kind == "sealed")
    return GuardSummary() if any(one.startswith(key) for one in keys) else None


def before(run: RunDir) -> Before:
    """The thresholds that the run was measured with, where an apply of it wrote others since (None: there was none)."""
    found: dict[MetricKey, Number | None] = {}
    for record in apply_recovery.in_effect(run):
        for one in record.applied:
            found.setdefault(one.key, one.old)
    return found


def allowed(project: Project, run: RunDir, plan: Plan) -> Callable[[str, int, Failure], str]:
    """By what config accepts a failure of (test key, repeat); a model that is gone accepts none."""
    try:
        config = model_config(project, plan)
    except Refusal:
        return lambda _test, _repeat, _failure: ""
    launched: dict[str, list[tuple[RunDir, FileSource]]] = {}
    for part, own in plan.parts(run):
        for test, stages in own.tests().items():
            source = config.metric_sources.get(PurePosixPath(stages[0].test).name, FileSource())
            launched.setdefault(test, []).append((part, source))

    def word(test: str, repeat: int, failure: Failure) -> str:
        everywhere = config.allowed_pytest_failure
        words = [_accepted(own, everywhere, part.basetemp(test, repeat), failure) for part, own in launched[test]]
        return words[0] if all(words) else ""

    return word


def _accepted(source: FileSource, everywhere: Mapping[str, str], basetemp: Path, failure: Failure) -> str:
    """By what ``allowed_pytest_failure`` of a test file, or of all, accepts the failure; empty when it does not."""
    patterns = dict(everywhere)
    for level in (source, *source.variants.values()):
        own = level.allowed_pytest_failure
        if isinstance(own, str):
            place = locate(own, level.json_file or source.json_file)
            if place is None or place.json_file.endswith(".py"):
                patterns[own] = ""
            elif ResultFiles(basetemp).flag(place) is True:
                return f"{own} is true"
        elif own:
            patterns |= own
    for pattern, reason in patterns.items():
        if any(name == pattern or _fits(pattern, name) for name in names(failure.nodeid)):
            return f"{pattern}: {reason}" if reason else pattern
    return ""


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:  # a node id with brackets is no expression
        return False


_failing: dict[tuple[str, frozenset[str]], dict[tuple[str, int], PytestOutcome]] = {}
"""By run and digests of what was recorded: a status is asked for again and again. What tests assert and config accepts
is read each time, because it can change."""


def failed_tests(
    project: Project, run: RunDir, audited: Audit, stored: Mapping[tuple[str, int], Stored]
) -> tuple[str, ...]:
    """One line for each of them among the repeats (test key, number) of which this is ``stored``."""
    plan = audited.plan
    key = (str(run.path), frozenset(one.sha256 for one in stored.values()))
    failing = _failing.get(key)
    if failing is None:  # another thread may clear what is kept at any moment
        found = outcomes(run, plan, [test for test, _ in stored])
        failing = {at: one for at, one in found.items() if at in stored and one.failures}
        _failing.clear()
        _failing[key] = failing
    try:
        readings = reading.read(Files(project.repo_root), audited, before(run), {test for test, _ in failing})
    except Refusal:  # a test file that is gone or no Python: said by whoever needs it
        return ()
    failed = reality.failed_tests(reading.by_test(readings.values()), failing, allowed(project, run, plan))
    return tuple(one.line() for one in failed)
