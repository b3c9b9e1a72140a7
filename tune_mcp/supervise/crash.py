"""What ended pytest before its tests did: a signal, a limit, a known crash in its log (XPY-05)."""

from __future__ import annotations

import signal

from tune_mcp.supervise.job import AttemptResult
from tune_mcp.supervise.verdict import Again, Stop, Verdict, once
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


def infrastructure(result: AttemptResult, earlier: tuple[Verdict, ...]) -> Again | Stop | None:
    """Why this attempt proves nothing about the code: ended from outside, or a known crash in its log."""
    rc = exit_code(result)
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
        where = last_place(result)
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
        return once(f"pytest {how} its session", ("session", how), earlier, _WHO_ENDS_IT)
    return None


def exit_code(result: AttemptResult) -> int | None:
    """pytest's exit code; that of its session where it never came to exit with it."""
    return result.guard.exitstatus if result.stopped_by in ("exit", "cancel") else result.pytest_rc


def _signalled(number: int) -> str:
    """Describe a signal that tune-mcp did not send: a crash of pytest itself, or somebody outside."""
    if number in _OWN_CRASHES:
        return f"pytest crashed: it was ended by signal {signal_name(number)}"
    return f"killed from outside: pytest was ended by signal {signal_name(number)}, which tune-mcp did not send"


def signal_name(number: int) -> str:
    """``9 (SIGKILL)``."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def last_place(result: AttemptResult) -> str:
    """The phase of the test that failed, or was at work when pytest was ended; empty where that is not known."""
    if result.guard.at:
        return result.guard.at
    first = next((f"the {failure.when} of {failure.nodeid}" for failure in result.guard.failures), "")
    return first or ("the end of its session" if result.guard.finished else "")
