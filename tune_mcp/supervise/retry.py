"""What an ended attempt means: keep it, try again, or halt for a person (areas RTY, HLT, XPY of the register).

pytest's exit code proves nothing by itself: the guard's record (collected = executed, once each, no early stop) and
the extracted numbers together do. A failed threshold assertion is a valid observation and is never retried (RTY-04).
A test whose fixture failed never ran, whatever files lie there: trouble of the machine, tried again like a crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tune_mcp.config.stages import Stage
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code
from tune_mcp.observe.audit import sampled
from tune_mcp.observe.observation import AttemptVerdict, Counts
from tune_mcp.observe.result_files import named_by
from tune_mcp.supervise.crash import exit_code, infrastructure, last_place, signal_name
from tune_mcp.supervise.guard_record import Failure
from tune_mcp.supervise.job import AttemptResult, Blocked
from tune_mcp.supervise.verdict import Again, Keep, Likeness, Stop, Verdict, once, seen, stop
from tune_mcp.supervise.watch.log_lines import redacted
from tune_mcp.words import number_of

_DEFECTS = frozenset(
    {"NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError"}
    | {"FixtureLookupError"}
)
"""Errors of a program's own text: in the same words a second time, no further launch ends otherwise."""
MAKE_QUIET = (
    "stop what disturbs, move it to other CPUs (taskset), or raise quiet.foreign_cores in the host profile; then resume"
)
_UNREADABLE = (
    "if config.yaml names a wrong place, fix metric_sources and discover again; if the test wrote a bad value, purge "
    "this repeat on resuming; a test may be changed while no repeat of it counts"
)
_WHY_INVALID = (
    "find in the pytest log of the last attempt why the test calls its repeat invalid and remove that on this machine "
    "or in the test, or correct observation_validity in config.yaml"
)
_WHO_ENDS_THE_RUNNER = (
    "find who ends it: runner.log in the attempt's folder, dmesg (lack of memory), a cleanup script; under Slurm the "
    "last lines of run.log say how the job ended (TIMEOUT: raise time in slurm of the host profile)"
)
_WHO_SETS_THE_CLOCK = "find what sets the clock (a time service that steps it, a machine that sleeps) and stop that"
MAX_TRIES = 4
"""Attempts per repeat and pass, the first included (RTY-03, read strictly: see docs/explanation/decisions.md)."""
MAX_DISTURBED = 5
"""Launches of one repeat that others may disturb, before a person has to look at the machine."""
MAX_PASSES = 10
"""Passes over a test's open repeats, the first included (RTY-01)."""


def judge(
    result: AttemptResult | None,
    stages: Mapping[str, Stage],
    earlier: tuple[Verdict, ...] = (),
    runner_end: int | None = None,
    counted: tuple[str, ...] | None = None,
) -> Verdict:
    """The verdict on one attempt; ``earlier`` are those of the same repeat before it, oldest first.

    ``runner_end`` is the exit code of a runner that gave no result, None when nobody knows it. ``counted`` are the node
    ids that another repeat ran which counts already, None while there is none.
    """
    verdict = _judged(result, stages, earlier, runner_end, counted)
    return _in_every_try(verdict, earlier) if isinstance(verdict, Again) and verdict.cause else verdict


def _in_every_try(verdict: Again, earlier: tuple[Verdict, ...]) -> Again | Stop:
    """A halt when all tries of a pass failed by one cause: so would those of all passes."""
    before = [one.cause for one in earlier if isinstance(one, Again) and one.charged][1 - MAX_TRIES :]
    if before != [verdict.cause] * (MAX_TRIES - 1):
        return verdict
    return stop(
        "RTY-01",
        f"{MAX_TRIES} launches in a row failed alike{verdict.how}: {verdict.reason}",
        verdict.remedy
        or "find the cause in the pytest log of the last attempt and fix it on this machine, in the test or in config",
        Code.START_FAILED,
    )


def _infrastructure(result: AttemptResult, earlier: tuple[Verdict, ...]) -> Again | Stop | None:
    found = infrastructure(result, earlier)
    return _as_far(found, result) if isinstance(found, Again) else found


def _as_far(verdict: Again, result: AttemptResult) -> Again:
    """The same, its cause told from those of attempts that came further or less far.

    Where something was measured, the same values must have been, up to the same phase of the same test; what happened
    nobody knows where has no cause then.
    """
    measured = [
        f"{key}/{name}"
        for key, found in result.stages.items()
        for name, value in found.metrics.items()
        if value is not None
    ]
    if not measured:
        return replace(verdict, how=", and none measured anything")
    where = last_place(result)
    cause = f"{verdict.cause} in {where} after {measured}" if verdict.cause and where else ""
    return replace(verdict, cause=cause, how=f", each in {where}")


def _judged(
    result: AttemptResult | None,
    stages: Mapping[str, Stage],
    earlier: tuple[Verdict, ...],
    runner_end: int | None,
    counted: tuple[str, ...] | None,
) -> Verdict:
    if result is None:
        return _no_result(runner_end, earlier)
    if result.moved:
        return _moved(result)
    if result.incomparable and result.engine:
        return _elsewhere(result.engine.node, result.incomparable, earlier)
    if result.incomparable:
        step = "go on where the run was measured, or put the machine back as it was"
        message = f"this attempt is not comparable with the run's other ones: {result.incomparable}"
        return stop("SCP-02", message, step, Code.HOST_NOT_COMPARABLE, quarantined=True)
    if result.clock_moved:
        return Again(result.clock_moved, cause="the clock", remedy=_WHO_SETS_THE_CLOCK)
    if result.blocked:
        elsewhere = result.engine is not None  # what this node lacks, another one may have
        return _blocked(result.blocked.model_copy(update={"retryable": True}) if elsewhere else result.blocked, earlier)
    if result.disturbed:
        return _disturbed(result.disturbed, earlier)
    trouble = [f"{key}: the runner gave no result for this stage" for key in stages if key not in result.stages]
    trouble += [problem for stage in result.stages.values() for problem in stage.problems]
    whole = _beside(result, stages) or _shortfall(result) or _other_tests(result, counted)
    unmeasured = result.guard.failures_in("setup")
    if not trouble and not whole and not unmeasured:
        strangers = [name for name in named_by(stages.values()) if name in result.strangers]
        if strangers:
            return stop(
                "MET-01",
                f"{strangers[0]} is no result of this launch: {result.strangers[strangers[0]]}",
                "let every launch of the test write its own result files before it ends",
            )
        return _complete(result, stages, earlier)
    unreadable = () if whole or unmeasured else ("unreadable", *dict.fromkeys(trouble))
    if (found := _infrastructure(result, earlier)) and not _finished_well(result, unreadable, earlier):
        return replace(found, likeness=unreadable) if isinstance(found, Again) and unreadable else found
    if whole:
        return stop(
            "XPY-06",
            f"the test file did not run whole: {whole}",
            "fix the test file or pytest's configuration",
        )
    if unmeasured:
        reason = f"a fixture failed before its test ran: {_first(unmeasured)}"
        if all(failure.exception.rpartition(".")[2] in _DEFECTS for failure in unmeasured):
            return _broke_off(reason, ("fixture", *_shape(unmeasured)), earlier)
        return _as_far(Again(reason, cause=unmeasured[0].exception), result)
    raised = tuple(failure for failure in result.guard.failures_in("call") if not failure.assertion)
    absent = sorted({name for stage in result.stages.values() for name in stage.absent})
    if raised and absent:
        reason = f"a test ended before {absent[0]} was written: {_first(raised)}"
        return _broke_off(reason, ("absent", absent[0], *_shape(raised)), earlier)
    return stop(
        "HLT-01",
        f"pytest ended by itself (exit code {result.pytest_rc}), "
        f"but {number_of(len(trouble), 'value')} could not be read: "
        + "; ".join([*dict.fromkeys(trouble)][:3])
        + (f"; beside it failed {_first(result.guard.failures)}" if result.guard.failures else "")
        + (f"; its log also has a line of a known crash, {result.signature}" if result.signature else ""),
        _UNREADABLE,
    )


def _finished_well(result: AttemptResult, unreadable: Likeness, earlier: tuple[Verdict, ...]) -> bool:
    """Whether a crash's line in the log explains nothing: every test passed, or the same values lack a second time.

    An orderly stop of a server prints such lines too. Only a test that ended by itself can have finished well.
    """
    if not unreadable or result.stopped_by or result.pytest_rc not in (0, 1):
        return False
    if result.pytest_rc == 0 and not result.guard.failures:
        return True
    only_asserted = all(failure.when == "call" and failure.assertion for failure in result.guard.failures)
    return only_asserted and seen(unreadable, earlier)


def _first(failures: Sequence[Failure]) -> str:
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return redacted(failures[0].sentence()) + more


def _shape(failures: Sequence[Failure]) -> Likeness:
    return (failures[0].nodeid, failures[0].exception, failures[0].message, str(len(failures)))


def _broke_off(reason: str, likeness: Likeness, earlier: tuple[Verdict, ...]) -> Again | Stop:
    """Judge an error of the test's own without a known crash: a defect, where it is raised in the same words again."""
    return once(reason, likeness, earlier, "fix what the test's own error names")


def _moved(result: AttemptResult) -> Stop:
    """The tree is another one. What was written while pytest ran is most likely a test's work, and can be declared."""
    step = (
        "put the tree back (a commit that changes only tune-mcp's configuration or this plan's thresholds may stay; "
        "for the tree as it is, stop this run and start a new one)"
    )
    message = result.moved
    if result.way_out:
        message = f"while {_attempt(result.key)} ran: {message}"
        step = f"{result.way_out}; if somebody else wrote it, {step}"
    return stop("SES-11", message, step, Code.COMMIT_MOVED, quarantined=True)


def _attempt(key: str) -> str:
    """``test_x_ci run 2 attempt 1`` of an attempt's key."""
    test, repeat, attempt = key.rsplit(".", 3)[1:]
    return f"{test} run {repeat[1:]} attempt {attempt[1:]}"


def _no_result(runner_end: int | None, earlier: tuple[Verdict, ...]) -> Verdict:
    """The runner is gone: killed by somebody else, or by a bug in it, which a second attempt would only repeat."""
    if runner_end is None or runner_end < 0:
        reason = "the runner ended without a result"
        if runner_end is not None:
            reason = f"the runner, not pytest, was killed from outside: signal {signal_name(-runner_end)}"
        return Again(reason, cause="the runner", remedy=_WHO_ENDS_THE_RUNNER)
    reason = f"the runner ended without a result (exit code {runner_end}); its runner.log says why"
    return once(reason, ("runner", str(runner_end)), earlier, "see runner.log in the attempt's folder")


def _blocked(blocked: Blocked, earlier: tuple[Verdict, ...]) -> Verdict:
    """pytest was not started: no try is used up, but a machine that is not ready four times over needs a person."""
    if not blocked.retryable or _became(AttemptVerdict.NOT_STARTED, earlier) + 1 >= MAX_TRIES:
        return stop(blocked.rule, blocked.reason, blocked.next, blocked.code)
    return Again(blocked.reason, AttemptVerdict.NOT_STARTED)


def _became(what: AttemptVerdict, earlier: tuple[Verdict, ...]) -> int:
    return sum(isinstance(one, Again) and one.became is what for one in earlier)


def _elsewhere(node: str, why: str, earlier: tuple[Verdict, ...]) -> Verdict:
    """Numbers of another kind of machine never count; an engine has other nodes."""
    blocked = Blocked(
        code=Code.HOST_NOT_COMPARABLE,
        rule="SCP-02",
        reason=f"{node} is not of the run's kind: {why}",
        next="name the feature of one host class as constraint in the host profile's slurm, then resume the run",
    )
    return _blocked(blocked, earlier)


def _disturbed(reason: str, earlier: tuple[Verdict, ...]) -> Verdict:
    """Judge an attempt that others disturbed: tried again uncharged, until a person has to look at the machine."""
    if _became(AttemptVerdict.DISTURBED, earlier) + 1 < MAX_DISTURBED:
        return Again(reason, AttemptVerdict.DISTURBED)
    what = f"{MAX_DISTURBED} launches of one repeat were disturbed, the last one by {reason}"
    return stop("GPU-14", what, MAKE_QUIET, Code.NOT_QUIET)


def _shortfall(result: AttemptResult) -> str:
    why = result.guard.shortfall()
    return f"{why}: {result.start_error}" if why and result.start_error else why


def _beside(result: AttemptResult, stages: Mapping[str, Stage]) -> str:
    """Why the numbers hold the work of a second test file too, which nobody planned (SCP-04); else empty."""
    others = (result.guard.elsewhere(stage.test) for stage in stages.values())
    return next((f"tests of another file ran, {other}" for other in others if other), "")


def _other_tests(result: AttemptResult, counted: tuple[str, ...] | None) -> str:
    """Whether another repeat of this run, which counts, ran other tests: then the two measured different things."""
    if counted is None or {*counted} == {*result.guard.collected}:
        return ""
    new = [f"{name} ran only now" for name in result.guard.collected if name not in counted]
    lost = [f"{name} ran only then" for name in counted if name not in result.guard.collected]
    named = [*new[:2], *lost[:2]]
    more = len(new) + len(lost) - len(named)
    return f"it ran other tests than another repeat: {'; '.join(named)}" + (f"; and {more} more" if more else "")


def _complete(result: AttemptResult, stages: Mapping[str, Stage], earlier: tuple[Verdict, ...]) -> Verdict:
    """All metrics are there and every test ran once: only the test's own word and the sample counts can spoil it."""
    invalid = dict.fromkeys(found.invalid for found in result.stages.values() if found.invalid)
    if invalid:
        reason = f"the test itself calls this repeat invalid: {', '.join(invalid)}"
        return Again(reason, cause="observation_validity", remedy=_WHY_INVALID)
    partial: list[str] = []
    for key, found in result.stages.items():
        stage = stages[key]
        if stage.is_docs:
            if exit_code(result) != 0:
                if trouble := _infrastructure(result, earlier):
                    return trouble
                what = f"{key} failed" + (f": {_first(result.guard.failures)}" if result.guard.failures else "")
                return stop("STG-09", what, "fix the docs test")
            continue
        total, ok, expected = found.total or 0, found.ok or 0, stage.expected_samples
        cell, _ = sampled(Counts(total=total, ok=ok), expected)
        if cell is Cell.FAILED:
            wanted = f", {expected} expected" if expected is not None else ""
            return stop(
                "SMP-06",
                f"{key}: wrong sample scope, {ok}/{total} samples{wanted}",
                "fix sample_counts or expected_samples and discover again",
            )
        if cell is Cell.PARTIAL:
            partial.append(f"{key} {ok}/{total}")
    if not partial:
        failed = len(result.guard.failed)
        tests = number_of(failed, "test")
        first = f": {_first(result.guard.failures)}" if result.guard.failures else ""
        rc = exit_code(result)
        if result.stopped_by == "exit":
            return Keep(f"{f'failed_assertion ({tests} failed{first}); ' if failed else ''}{result.stop_reason}")
        if failed and failed == len({failure.nodeid for failure in result.guard.failures_in("teardown")}):
            return Keep(f"teardown_error ({tests} failed after they had measured)")
        others = tuple(one for one in result.guard.failures if one.exception and not one.assertion)
        if failed and others:
            return Keep(f"test_error ({tests} failed, not all by an assertion: {_first(others)})")
        if failed:
            return Keep(f"failed_assertion ({tests} failed{first})")
        return Keep("" if rc == 0 else f"pytest ended with {rc} after every test had passed")
    shortfall, likeness = ", ".join(partial), ("partial", *partial)
    if seen(likeness, earlier):
        return stop(
            "SMP-11",
            f"the same samples were missing twice ({shortfall}), so this is no accident",
            "find out why these samples fail, or fix sample_counts",
        )
    return Again(f"partial: {shortfall}", likeness=likeness)
