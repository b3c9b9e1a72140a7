"""Read ``guard_run{k}.jsonl``: what the guard plugin saw, summed up for the verdict."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tune_mcp.config.stages import Frozen
from tune_mcp.errors import Json
from tune_mcp.files import parse_json, read_plain
from tune_mcp.observe.observation import Failure
from tune_mcp.words import named

SessionPhase = Literal["start", "work", "teardown"]
"""Before any fixture is up; between a test's set-up and the end of its call; after it."""


class GuardSummary(Frozen):
    """One pytest session.

    ``executed`` are node ids whose teardown ran and was reported, ``repeated`` those of which a phase ran more than
    once, whoever drove it, ``uncalled`` those whose test function was never called although their set-up passed,
    ``unplanned`` those that ran without having been collected, ``xfailed`` those whose failure was expected and so
    says nothing of its cause. ``failures`` has every failed phase with its cause, ``called`` the node ids whose call
    phase came to its end. ``at`` is the phase at work when the record ends; empty for a session that was finished.
    """

    started: bool = False
    finished: bool = False
    exitstatus: int | None = None
    stop_reason: str = ""
    interrupted: str = ""
    worker: bool = False
    collect_only: bool = False
    setup_only: bool = False
    collected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    collect_errors: tuple[str, ...] = ()
    executed: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    uncalled: tuple[str, ...] = ()
    unplanned: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    xfailed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    called: tuple[str, ...] = ()
    at: str = ""

    def failures_in(self, when: str) -> tuple[Failure, ...]:
        """The failures of one phase."""
        return tuple(one for one in self.failures if one.when == when)

    def shortfall(self) -> str:
        """Why this was not one whole, single pass over the file; empty when it was."""
        executed = set(self.executed)
        missing = tuple(name for name in self.collected if name not in executed)
        if not self.started:
            return "pytest never loaded tune-mcp's recording plugin"
        if self.worker:
            return "tests ran in pytest-xdist workers, not in one process"
        if self.collect_only:
            return "pytest only collected (--collect-only)"
        if self.setup_only:
            return "pytest only set the fixtures up (--setup-only or --setup-plan)"
        for names, what in (
            (self.collect_errors, "collection failed"),
            (self.dropped, "tests were deselected"),
            (self.skipped, "tests were skipped"),
            (self.xfailed, "tests failed as expected (xfail), which hides what failed"),
            (self.repeated, "tests ran more than once (a rerun plugin)"),
            (self.unplanned, "tests ran that were not collected"),
            (missing, f"tests did not run{self._because()}"),
            (self.uncalled, "test functions were never called"),
        ):
            if names:
                return f"{what}: {named(names, most=1)}"
        if not self.collected:
            return "no test was collected"
        return "" if self.finished else "pytest did not end by itself"

    def elsewhere(self, test: str) -> str:
        """The first collected file that is not ``test``, a path below the repository; empty when there is none.

        pytest's rootdir is the repository, so a node id begins with the whole path.
        """
        return next((file for name in self.collected if (file := name.partition("::")[0]) != test), "")

    def _because(self) -> str:
        if self.interrupted == "KeyboardInterrupt":
            return " (interrupted from outside or by the test itself, not by tune-mcp)"
        return f" ({self.stop_reason})" if self.stop_reason else ""


def read(path: Path) -> GuardSummary:
    """Sum up a record; a missing or torn file gives what it has."""
    lines = _lines(path)
    by_event: defaultdict[str, list[dict[str, Json]]] = defaultdict(list)
    for line in lines:
        by_event[str(line.get("event"))].append(line)
    starts, collections, reports = by_event["start"], by_event["collected"], by_event["report"]
    outcomes: defaultdict[str, set[str]] = defaultdict(set)
    for line in reports:
        name, outcome = str(line.get("id")), str(line.get("outcome"))
        outcomes[name].add("xfailed" if outcome == "skipped" and line.get("xfail") else outcome)
        if line.get("when") == "teardown":
            outcomes[name].add("ended")
    ran: Counter[tuple[str, str]] = Counter()
    functions: set[str] = set()
    for line in lines:
        if line.get("event") in ("ran", "called"):
            name = str(line.get("id"))
            ran[name, str(line.get("when", "function"))] += 1
            if line.get("function"):
                functions.add(name)
    setups = Counter(str(line.get("id")) for line in reports if line.get("when") == "setup")
    twice = [name for (name, _), count in ran.items() if count > 1] + [
        one for one, count in setups.items() if count > 1
    ]
    red = [line for line in reports if line.get("outcome") == "failed"]
    not_set_up = {str(line.get("id")) for line in red if line.get("when") == "setup"}
    causes = {(line.get("id"), line.get("when")): line for line in by_event["failure"]}
    planned = dict.fromkeys(_names(collections, "ids"))

    def has_run(name: str) -> bool:
        called = name not in functions or ran[name, "function"] > 0
        return called and ran[name, "setup"] > 0 and ran[name, "call"] > 0

    def with_outcome(outcome: str) -> tuple[str, ...]:
        return tuple(name for name, seen in outcomes.items() if outcome in seen)

    last = by_event["finish"][-1] if by_event["finish"] else {}
    status = last.get("exitstatus")
    return GuardSummary(
        started=bool(starts),
        finished=bool(by_event["finish"]),
        exitstatus=status if isinstance(status, int) else None,
        stop_reason=str(last.get("shouldstop") or last.get("shouldfail") or ""),
        interrupted=next((str(line.get("by")) for line in by_event["interrupted"]), ""),
        worker=any(bool(line.get("worker")) for line in starts),
        collect_only=any(bool(line.get("collect_only")) for line in starts),
        setup_only=any(bool(line.get("setup_only")) for line in starts),
        collected=_names(collections, "ids"),
        dropped=_names(collections, "dropped"),
        collect_errors=tuple(
            f"{line.get('id')}: {str(line.get('text')).strip().splitlines()[-1:]}"
            for line in lines
            if line.get("event") in ("collect_failed", "collect_skipped")
        ),
        executed=tuple(name for name in with_outcome("ended") if ran[name, "teardown"]),
        repeated=tuple(dict.fromkeys(twice)),
        uncalled=tuple(name for name in planned if not has_run(name) and name not in not_set_up),
        unplanned=tuple(dict.fromkeys(name for name, _ in ran if name not in planned)),
        skipped=with_outcome("skipped"),
        xfailed=with_outcome("xfailed"),
        failed=with_outcome("failed"),
        failures=tuple(_failure(line, causes.get((line.get("id"), line.get("when")), {})) for line in red),
        called=tuple(dict.fromkeys(str(line.get("id")) for line in reports if line.get("when") == "call")),
        at="" if by_event["finish"] else _at(by_event["ran"]),
    )


def _at(ran: list[dict[str, Json]]) -> str:
    return f"the {ran[-1].get('when')} of {ran[-1].get('id')}" if ran else "its start, before any test"


def _failure(report: dict[str, Json], cause: dict[str, Json]) -> Failure:
    line = cause.get("test_line")
    return Failure(
        nodeid=str(report.get("id")),
        when=str(report.get("when")),
        outcome=str(report.get("outcome")),
        exception=str(cause.get("exception") or ""),
        assertion=cause.get("assertion") is True,
        message=str(cause.get("message") or ""),
        test_line=line if isinstance(line, int) else 0,
    )


def phase(path: Path) -> SessionPhase:
    """Where pytest is now; a server that ends in ``teardown`` was stopped by the test itself.

    Some plugins (rerunfailures) report a test's phases only after its teardown; what ran is written as it begins.
    """
    lines = [line for line in _lines(path) if line.get("event") in ("collected", "ran", "report", "finish")]
    last = lines[-1] if lines else {}
    ended = sum(line.get("event") == "report" and line.get("when") == "teardown" for line in lines)
    match (last.get("event"), last.get("when"), last.get("outcome")):
        case ("ran", "teardown", _):
            return "teardown"
        case ("ran", "setup", _):
            return "work" if ended else "start"
        case ("ran", _, _):
            return "work"
        case ("report", "call", _):
            return "teardown"
        case ("report", "setup", outcome) if outcome != "passed":
            return "teardown"
        case ("finish", _, _):
            return "teardown"
        case ("report", "teardown", _):
            return "work" if ended < len(_names(lines, "ids")) else "teardown"
        case ("report", _, _):
            return "work"
        case _:
            return "start"


def all_called(path: Path) -> bool:
    """Whether the teardown of every planned test has begun at least: what is left is to tear down and to exit."""
    lines = _lines(path)
    planned = {*_names([line for line in lines if line.get("event") == "collected"], "ids")}
    begun = {str(line.get("id")) for line in lines if line.get("event") == "ran" and line.get("when") == "teardown"}
    return bool(planned) and planned <= begun


def _lines(path: Path) -> list[dict[str, Json]]:
    found: list[dict[str, Json]] = []
    with suppress(OSError):
        for raw in read_plain(path).splitlines():
            try:
                value = parse_json(raw)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
    return found


def _names(lines: list[dict[str, Json]], key: str) -> tuple[str, ...]:
    found: list[str] = []
    for line in lines:
        names = line.get(key)
        if isinstance(names, list):
            found += [str(name) for name in names]
    return tuple(found)
