"""What an ended attempt means: keep it, try again, or halt for a person (areas RTY, HLT, XPY of the register).

pytest's exit code proves nothing by itself: the guard's record (collected = executed, once each, no early stop) and
the extracted numbers together do. A failed threshold assertion is a valid observation and is never retried (RTY-04).
A test whose fixture failed never ran, whatever files lie there: trouble of the machine, tried again like a crash.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tune_mcp.config.stages import Stage
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code
from tune_mcp.observe.audit import sampled
from tune_mcp.observe.observation import AttemptVerdict, Counts
from tune_mcp.observe.result_files import named_by
from tune_mcp.session.state import Halt
from tune_mcp.supervise.guard_record import Failure
from tune_mcp.supervise.job import AttemptResult, Blocked
from tune_mcp.supervise.watch.log_lines import redacted
from tune_mcp.words import number_of

_OWN_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP})
_WHO_ENDS_IT = (
    "find what ends the process (os._exit; the thread method of pytest-timeout: raise its timeout or set "
    "timeout_method = signal)"
)
_WHO_KILLS_IT = (
    "find who sends the signal: the test itself, a cleanup script or a limit of the machine, and remove the cause"
)
_LACK_OF_MEMORY = (
    "see whether the kernel ended it for lack of memory (dmesg; oom_kill in memory.events of its cgroup): then give it "
    "more memory or let the test use less; else find who sends the signal"
)
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
MAX_TRIES = 4
"""Attempts per repeat and pass, the first included (RTY-03, read strictly: see docs/explanation/decisions.md)."""
MAX_DISTURBED = 5
"""Launches of one repeat that others may disturb, before a person has to look at the machine."""
MAX_PASSES = 10
"""Passes over a test's open repeats, the first included (RTY-01)."""


@dataclass(frozen=True)
class Keep:
    """Every stage is strict. ``reason`` notes a failed threshold or a red teardown."""

    reason: str = ""


Likeness = tuple[str, ...]
"""By what an attempt is recognised that ended as another one did: how, then what failed or is missing."""


@dataclass(frozen=True)
class Again:
    """An infrastructure failure. Nothing is concluded from an attempt that did not start or was disturbed
    (``became``): it is not charged.

    A second attempt of the same ``likeness`` is no accident; empty for what is tried again whatever it was.
    ``cause`` names what failed: a signature, a signal, an exception; also where, for a signal of somebody else and for
    what had measured something. It is empty for what is tried again whatever it was. ``remedy`` is what to do about it.
    """

    reason: str
    became: AttemptVerdict = AttemptVerdict.RETRIED
    likeness: Likeness = field(default=(), compare=False)
    cause: str = field(default="", compare=False)
    remedy: str = field(default="", compare=False)

    @property
    def charged(self) -> bool:
        """Whether it uses up one of the repeat's tries."""
        return self.became is AttemptVerdict.RETRIED


@dataclass(frozen=True)
class Stop:
    """The run halts: nothing else starts until a person has fixed the cause and calls resume_run.

    ``quarantined``: what was measured is not as planned, so nothing of it stays in the live set.
    """

    halt: Halt
    quarantined: bool = False


Verdict = Keep | Again | Stop


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
    if result is None or not isinstance(verdict, Again) or not verdict.cause:
        return verdict
    measured = [
        f"{key}/{name}"
        for key, found in result.stages.items()
        for name, value in found.metrics.items()
        if value is not None
    ]
    how = ", and none measured anything"
    if measured:
        where = _where(result)
        verdict = replace(verdict, cause=f"{verdict.cause} in {where} after {measured}" if where else "")
        how = f", each in {where}"
    return _fails_alike(verdict, earlier, how) or verdict


def _fails_alike(verdict: Again, earlier: tuple[Verdict, ...], how: str) -> Stop | None:
    """A halt when all tries of a pass failed by one cause and got no further each time: so would those of all passes.

    ``how`` they were alike, for the message.
    """
    before = earlier[1 - MAX_TRIES :]
    alike = verdict.cause and all(isinstance(one, Again) and one.cause == verdict.cause for one in before)
    if len(before) < MAX_TRIES - 1 or not alike:
        return None
    return _stop(
        "RTY-01",
        f"{MAX_TRIES} launches in a row failed alike{how}: {verdict.reason}",
        verdict.remedy
        or "find the cause in the pytest log of the last attempt and fix it on this machine, in the test or in config",
        Code.START_FAILED,
    )


def _where(result: AttemptResult) -> str:
    """The phase of the test that failed, or was at work when pytest was ended; empty where that is not known."""
    if result.guard.at:
        return result.guard.at
    first = next((f"the {failure.when} of {failure.nodeid}" for failure in result.guard.failures), "")
    return first or ("the end of its session" if result.guard.finished else "")


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
        return _stop("SCP-02", message, step, Code.HOST_NOT_COMPARABLE, quarantined=True)
    if result.clock_moved:
        return Again(result.clock_moved)
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
            return _stop(
                "MET-01",
                f"{strangers[0]} is no result of this launch: {result.strangers[strangers[0]]}",
                "let every launch of the test write its own result files before it ends",
            )
        return _complete(result, stages, earlier)
    unreadable = () if whole or unmeasured else ("unreadable", *dict.fromkeys(trouble))
    if (found := _infrastructure(result, earlier)) and not _finished_well(result, unreadable, earlier):
        return replace(found, likeness=unreadable) if isinstance(found, Again) and unreadable else found
    if whole:
        return _stop(
            "XPY-06",
            f"the test file did not run whole: {whole}",
            "fix the test file or pytest's configuration",
        )
    if unmeasured:
        reason = f"a fixture failed before its test ran: {_first(unmeasured)}"
        if all(failure.exception.rpartition(".")[2] in _DEFECTS for failure in unmeasured):
            return _broke_off(reason, ("fixture", *_shape(unmeasured)), earlier)
        return Again(reason, cause=unmeasured[0].exception)
    raised = tuple(failure for failure in result.guard.failures_in("call") if not failure.assertion)
    absent = sorted({name for stage in result.stages.values() for name in stage.absent})
    if raised and absent:
        reason = f"a test ended before {absent[0]} was written: {_first(raised)}"
        return _broke_off(reason, ("absent", absent[0], *_shape(raised)), earlier)
    return _stop(
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
    return only_asserted and _seen(unreadable, earlier)


def _first(failures: Sequence[Failure]) -> str:
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return redacted(failures[0].sentence()) + more


def _shape(failures: Sequence[Failure]) -> Likeness:
    return (failures[0].nodeid, failures[0].exception, failures[0].message, str(len(failures)))


def _broke_off(reason: str, likeness: Likeness, earlier: tuple[Verdict, ...]) -> Again | Stop:
    """Judge an error of the test's own without a known crash: a defect, where it is raised in the same words again."""
    return _once(reason, likeness, earlier, "fix what the test's own error names")


def _moved(result: AttemptResult) -> Stop:
    """The tree is another one. What was written while pytest ran is most likely a test's work, and can be declared."""
    step = (
        "stop this run and start a new one on the tree as it is, or put the tree back (a commit that changes only "
        "tune-mcp's configuration or this plan's thresholds may stay)"
    )
    message = result.moved
    if result.way_out:
        message = f"while {_attempt(result.key)} ran: {message}"
        step = f"{result.way_out}; if somebody else wrote it, {step}"
    return _stop("SES-11", message, step, Code.COMMIT_MOVED, quarantined=True)


def _attempt(key: str) -> str:
    """``test_x_ci run 2 attempt 1`` of an attempt's key."""
    test, repeat, attempt = key.rsplit(".", 3)[1:]
    return f"{test} run {repeat[1:]} attempt {attempt[1:]}"


def _no_result(runner_end: int | None, earlier: tuple[Verdict, ...]) -> Verdict:
    """The runner is gone: killed by somebody else, or by a bug in it, which a second attempt would only repeat."""
    if runner_end is None:
        return Again("the runner ended without a result")
    if runner_end < 0:
        return Again(f"the runner, not pytest, was killed from outside: signal {_signal_name(-runner_end)}")
    reason = f"the runner ended without a result (exit code {runner_end}); its runner.log says why"
    return _once(reason, ("runner", str(runner_end)), earlier, "see runner.log in the attempt's folder")


def _seen(likeness: Likeness, earlier: tuple[Verdict, ...]) -> bool:
    return any(isinstance(one, Again) and one.likeness == likeness for one in earlier)


def _once(reason: str, likeness: Likeness, earlier: tuple[Verdict, ...], next_step: str) -> Again | Stop:
    """Tried again once: where an earlier attempt ended alike, a further one would, too."""
    if _seen(likeness, earlier):
        return _stop("XPY-06", f"{reason}; twice, so this is no accident", next_step)
    return Again(reason, likeness=likeness)


def _blocked(blocked: Blocked, earlier: tuple[Verdict, ...]) -> Verdict:
    """pytest was not started: no try is used up, but a machine that is not ready four times over needs a person."""
    if not blocked.retryable or _became(AttemptVerdict.NOT_STARTED, earlier) + 1 >= MAX_TRIES:
        return _stop(blocked.rule, blocked.reason, blocked.next, blocked.code)
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
    return _stop("GPU-14", what, MAKE_QUIET, Code.NOT_QUIET)


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


def _infrastructure(result: AttemptResult, earlier: tuple[Verdict, ...]) -> Again | Stop | None:
    """Why this attempt proves nothing about the code: ended from outside, or a known crash in its log."""
    rc = _exit_code(result)
    if result.stopped_by == "timeout":
        return Again("stopped at its wall-clock limit", cause="its wall-clock limit")
    if result.stopped_by == "watchdog":
        return Again(result.stop_reason, cause=result.stopped_for)
    if rc is not None and (rc < 0 or rc > 128):
        number = -rc if rc < 0 else rc - 128
        code = "" if rc < 0 else f" (exit code {rc})"
        because = f" ({result.signature})" if result.signature else ""
        reason = _signalled(number) + code + because
        if number in _OWN_CRASHES:
            return Again(reason, cause=result.known_crash or f"signal {number}")
        where = _where(result)
        cause = result.known_crash or (where and f"signal {number} in {where}")
        killed = number == signal.SIGKILL
        memory = (
            f"; for lack of memory the kernel ended {number_of(result.oom_kills, 'process', 'processes')} meanwhile"
        )
        reason += (f", in {where}" if where else "") + (memory if killed and result.oom_kills else "")
        return Again(reason, cause=cause, remedy=_LACK_OF_MEMORY if killed else _WHO_KILLS_IT)
    if result.signature:
        return Again(f"known crash in the log: {result.signature}", cause=result.known_crash)
    if result.guard.collected and not result.guard.finished and rc not in (2, 3, 4, 5):
        # With nothing collected the guard was silenced or the module ended Python: the next attempt would be the same.
        how = "ended with exit code 0 in the middle of" if rc == 0 else "broke off without ending"
        return _once(f"pytest {how} its session", ("session", how), earlier, _WHO_ENDS_IT)
    return None


def _exit_code(result: AttemptResult) -> int | None:
    """pytest's exit code; that of its session where it never came to exit with it."""
    return result.guard.exitstatus if result.stopped_by in ("exit", "cancel") else result.pytest_rc


def _signalled(number: int) -> str:
    """Describe a signal that tune-mcp did not send: a crash of pytest itself, or somebody outside."""
    if number in _OWN_CRASHES:
        return f"pytest crashed: it was ended by signal {_signal_name(number)}"
    return f"killed from outside: pytest was ended by signal {_signal_name(number)}, which tune-mcp did not send"


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _complete(result: AttemptResult, stages: Mapping[str, Stage], earlier: tuple[Verdict, ...]) -> Verdict:
    """All metrics are there and every test ran once: only the test's own word and the sample counts can spoil it."""
    invalid = dict.fromkeys(found.invalid for found in result.stages.values() if found.invalid)
    if invalid:
        return Again(f"the test itself calls this repeat invalid: {', '.join(invalid)}")
    partial: list[str] = []
    for key, found in result.stages.items():
        stage = stages[key]
        if stage.is_docs:
            if _exit_code(result) != 0:
                if trouble := _infrastructure(result, earlier):
                    return trouble
                what = f"{key} failed" + (f": {_first(result.guard.failures)}" if result.guard.failures else "")
                return _stop("STG-09", what, "fix the docs test")
            continue
        total, ok, expected = found.total or 0, found.ok or 0, stage.expected_samples
        cell, _ = sampled(Counts(total=total, ok=ok), expected)
        if cell is Cell.FAILED:
            wanted = f", {expected} expected" if expected is not None else ""
            return _stop(
                "SMP-06",
                f"{key}: wrong sample scope, {ok}/{total} samples{wanted}",
                "fix sample_counts or expected_samples and discover again",
            )
        if cell is Cell.PARTIAL:
            partial.append(f"{key} {ok}/{total}")
    if not partial:
        failed = len(result.guard.failed)
        tests = number_of(failed, "test")
        rc = _exit_code(result)
        if result.stopped_by == "exit":
            return Keep(f"{f'threshold_assertion ({tests} failed); ' if failed else ''}{result.stop_reason}")
        if failed and failed == len({failure.nodeid for failure in result.guard.failures_in("teardown")}):
            return Keep(f"teardown_error ({tests} failed after they had measured)")
        others = tuple(one for one in result.guard.failures if one.exception and not one.assertion)
        if failed and others:
            return Keep(f"test_error ({tests} failed, not all by an assertion: {_first(others)})")
        if failed:
            return Keep(f"threshold_assertion ({tests} failed)")
        return Keep("" if rc == 0 else f"pytest ended with {rc} after every test had passed")
    shortfall, likeness = ", ".join(partial), ("partial", *partial)
    if _seen(likeness, earlier):
        return _stop(
            "SMP-11",
            f"the same samples were missing twice ({shortfall}), so this is no accident",
            "find out why these samples fail, or fix sample_counts",
        )
    return Again(f"partial: {shortfall}", likeness=likeness)


def _stop(
    rule: str, message: str, next_step: str, code: str = Code.HALT_UNRESOLVED, *, quarantined: bool = False
) -> Stop:
    return Stop(Halt(code=str(code), rule=rule, message=message, next=next_step), quarantined)
