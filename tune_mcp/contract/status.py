"""What ``status`` answers: where a run stands, typed and in words; without a run, the list of all.

Polls are most of what an agent reads, so both forms are short: stages are grouped by their cells, lists show their end,
and a poll without news since this client's last answer has no list at all. The whole matrix comes with a run's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from tune_mcp.actions import Step, call
from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply, each_reason_once
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Code, Refusal
from tune_mcp.gpus import Gpu
from tune_mcp.words import number_of

MAX_WAIT_S = 50
_NAMED = 2
_PATTERNS_SHOWN = 8
_TROUBLE_SHOWN = 4
_REASON_LIMIT = 200
_TAIL_LIMIT = 100
_MILESTONES_SHOWN = 2
_LISTS = frozenset({
    "missing", "stages", "gpus", "gpus_seen_at", "processes", "pytest_tail", "milestones", "alerts", "failed_tests",
    "lane_medians",
})  # fmt: skip
"""Left out of a typed answer without news."""
_OPTIONAL = frozenset({
    "processes", "pytest_tail", "failed_tests", "reason", "alerts_as_before", "unchanged", "lanes", "lane_medians",
})  # fmt: skip
"""Left out where they are empty."""


class PhaseKind(StrEnum):
    """What an attempt does now, in the order of a launch."""

    STARTING = "starting"
    WAITING_FOR_SLURM = "waiting_for_slurm"
    NO_NODE = "no_node"
    PREFLIGHT = "preflight"
    CLEANUP = "cleanup"
    WAITING_FOR_GPU = "waiting_for_gpu"
    WAITING_FOR_QUIET = "waiting_for_quiet"
    PYTEST = "pytest"
    STOPPING = "stopping"
    DRAINING = "draining"
    EXTRACTING = "extracting"
    CLEARING_GPUS = "clearing GPUs"


def unfit_wait(wait_s: float) -> Refusal:
    """WAIT_TOO_LONG, or INVALID_ARGUMENT for what is no time at all."""
    return Refusal(
        Code.WAIT_TOO_LONG if wait_s > MAX_WAIT_S else Code.INVALID_ARGUMENT,
        ("POL-02", "POL-11"),
        f"wait_s is {wait_s:g}; a call waits from 0 to {MAX_WAIT_S} s",
        Step(call("status", wait_s=MAX_WAIT_S - 5), " again and again"),
        {"argument": "wait_s", "maximum": MAX_WAIT_S},
    )


class CurrentWork(Frozen):
    """What the supervisor does now: which test, which repeat, which attempt, which phase, since when (UTC).

    ``phase`` is a ``PhaseKind``, with ``: <reason>`` behind it while something is waited for. ``lane`` is where; empty
    on a host without lanes.
    """

    test: str
    repeat: int
    attempt: int
    phase: str
    since: str
    lane: str = ""

    @property
    def in_pytest(self) -> bool:
        """Whether pytest runs."""
        return self.phase == PhaseKind.PYTEST

    def line(self) -> str:
        """``test_x run 2 attempt 1: pytest since 2026-04-23T05:00:00Z``, where it runs first."""
        where = f"{self.lane}: " if self.lane else ""
        return f"{where}{self.test} run {self.repeat} attempt {self.attempt}: {self.phase} since {self.since}"

    def brief(self) -> str:
        """``line`` for the typed form, without the day and the number of a first attempt."""
        again = f" attempt {self.attempt}" if self.attempt > 1 else ""
        since = self.since.partition("T")[2] or self.since
        return f"{self.lane}: {self.test} run {self.repeat}{again}: {self.phase} since {since}"


class OpenCell(Frozen):
    """A cell that is not strict, and why."""

    stage_key: str
    repeat: int
    cell: str
    reason: str


class StatusReply(Reply):
    """One run. ``ok``/``total`` and ``complete`` count cells with extracted metrics: scheduling, never readiness.

    ``lanes`` is what runs where, on a host with lanes; the first of it is ``current``. ``lane_medians`` holds for each
    lane the median length of its repeats that count, relative to the median of their test files (``left 1.00 of 12``).
    ``whole_repeats`` counts pytest repeats all of whose stages are strict, ``d/n``. ``unchanged``: nothing happened
    since the last answer to the same client, which is ``mark``; ``audit_text`` is the strict audit of an ended run.
    """

    also_typed: ClassVar = {"alerts_as_before": "integer"}
    run_id: str
    state: str
    terminal: bool
    timed_out: bool
    strict_ready: str
    whole_repeats: str = ""
    strict_complete: bool
    git_provenance: str
    complete: bool
    ok: int
    total: int
    missing: tuple[OpenCell, ...]
    missing_total: int
    stages: tuple[str, ...]
    current: CurrentWork | None
    lanes: tuple[CurrentWork, ...] = ()
    lane_medians: tuple[str, ...] = ()
    reason: str
    eta_s: tuple[int, int] | None
    gpus: tuple[Gpu, ...]
    gpus_known: bool
    gpus_seen_at: str | None
    gpu_mem_limit_mib: int
    pytest_active: bool
    processes: dict[str, int]
    pytest_tail: tuple[str, ...]
    heartbeat_age_s: float | None
    alerts: tuple[str, ...]
    poll_within_s: int
    milestones: tuple[str, ...]
    failed_tests: tuple[str, ...] = ()
    audit_text: str = ""
    unchanged: bool = False
    mark: str = Field(default="", exclude=True)

    def lines(self) -> Iterable[str]:
        """Strict counts first (STR-15), then the work, then what deserves attention; one line when nothing changed."""
        strict = self.total - self.missing_total
        repeats = f" · {self.whole_repeats} repeats whole" if self.whole_repeats else ""
        counts = f"STRICT {self.strict_ready} stages · {strict}/{self.total} cells ✓{repeats}"
        if self.unchanged:
            alerts = f" · {number_of(len(self.alerts), 'alert')} as before" if self.alerts else ""
            yield f"{counts} · unchanged · {self._work()}{alerts}"
            return
        yield f"{counts} · {self.run_id}"
        yield f"state: {self._work()}"
        if self.git_provenance != "ok" and not self.audit_text:
            yield f"GIT PROVENANCE: {self.git_provenance}"
        yield from (self.audit_text.splitlines() if self.audit_text else grouped(self.stages))
        for one in self.trouble():
            yield f"  {one.stage_key} run {one.repeat} {one.cell} {one.reason}"
        yield from (f"  {line}" for line in self.failed_tests)
        if self.lane_medians:
            yield f"  {self.medians_line()}"
        if self.gpus:
            yield f"  {'; '.join(gpu.line() for gpu in self.gpus)} (seen {self.gpus_seen_at})"
        if self.processes:
            yield f"  processes: {', '.join(f'{count} {role}' for role, count in self.processes.items())}"
        yield from (f"ALERT: {alert}" for alert in self.alerts)
        yield from (f"· {_short(milestone)}" for milestone in self.milestones[-_MILESTONES_SHOWN:])
        yield from (f"| {line}" for line in self._tail())

    def typed(self) -> dict[str, object]:
        """All facts; when nothing changed without the lists, but with every number that scripts follow."""
        facts = super().typed()
        facts |= {
            "missing": [cell.model_dump() for cell in self.trouble()]
            or [cell.model_dump(exclude={"reason"}) for cell in self.missing[:1]],
            "stages": list(self.stages if self.audit_text else grouped(self.stages)),
            "gpus": [gpu.line() for gpu in self.gpus],
            "milestones": [_short(milestone) for milestone in self.milestones[-_MILESTONES_SHOWN:]],
            "pytest_tail": self._tail(),
            "lanes": [one.brief() for one in self.lanes],
        }
        # The matrix stands under stages; what its text holds besides has fields of its own.
        dropped = {"audit_text", "gpus_known"}
        if not self.gpus:
            dropped.add("gpus_seen_at")
        if self.unchanged:
            dropped |= _LISTS
            facts["alerts_as_before"] = len(self.alerts)
        if self.current and not self.lanes:
            facts["current"] = self.current.model_dump(exclude={"lane"})
        dropped |= {name for name in _OPTIONAL if not facts.get(name)}
        return {name: value for name, value in facts.items() if name not in dropped}

    def whole(self) -> str | None:
        """Where all cells are with their reasons."""
        return f"tune://runs/{self.run_id}/audit"

    def trouble(self) -> tuple[OpenCell, ...]:
        """The first cells that were measured and are not strict; a reason that several share is said once."""
        found = [one for one in self.missing if one.cell != Cell.NOT_RUN.value]
        reasons = {f"{one.stage_key} run {one.repeat}": one.reason for one in found}
        if self.reason:
            reasons = {place: why.replace(self.reason, "the reason above") for place, why in reasons.items()}
        once = each_reason_once({place: _short(why, _REASON_LIMIT) for place, why in reasons.items()})
        shown = zip(found, once.values(), strict=True)
        return tuple(one.model_copy(update={"reason": reason}) for one, reason in shown)[:_TROUBLE_SHOWN]

    def medians_line(self) -> str:
        """The lanes side by side; empty on one lane, and before two of them have a repeat that counts."""
        lanes = "; ".join(self.lane_medians)
        return f"median length of each lane's repeats, relative to their tests': {lanes}" if lanes else ""

    def _tail(self) -> list[str]:
        """The very end of the active log: what does not fit is for tail_pytest."""
        shown: list[str] = []
        left = _TAIL_LIMIT
        for line in reversed([line for line in self.pytest_tail if line.strip()]):
            left -= len(line) + 1
            if left < 0 and shown:
                break
            shown.append(_short(line, _TAIL_LIMIT))
        return shown[::-1]

    def _work(self) -> str:
        parts = [self.state + (f" — {self.reason}" if self.reason else "")]
        parts += [one.line() for one in self.lanes] or ([self.current.line()] if self.current else [])
        if self.eta_s:
            parts.append(f"about {span(self.eta_s)} left")
        return " · ".join(parts)


def grouped(stages: Sequence[str]) -> list[str]:
    """Audit lines put together where their cells are the same: ``✓✓———: 12 stages``; a few are named."""
    if len(stages) <= _PATTERNS_SHOWN:
        return list(stages)
    alike: dict[str, list[str]] = {}
    for line in stages:
        key, _, rest = line.partition(": ")
        alike.setdefault(rest.partition(" ")[0], []).append(key)
    lines = [
        f"{cells}: " + (", ".join(keys) if len(keys) <= _NAMED else f"{len(keys)} stages")
        for cells, keys in sorted(alike.items(), key=lambda one: len(one[1]))
    ]
    more = len(lines) - _PATTERNS_SHOWN
    return lines if more <= 0 else [*lines[:_PATTERNS_SHOWN], f"… and {more} more patterns: strict_audit has all"]


def _short(text: str, limit: int = 110) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def span(eta: Sequence[int]) -> str:
    """``17 s``, ``40 s to 2 min``: a range of seconds for people."""
    low, high = (f"{value / 60:.0f} min" if value >= 100 else f"{value} s" for value in eta)
    return low if low == high else f"{low} to {high}"


class RunEntry(Frozen):
    """One line of the list of runs."""

    run_id: str
    model: str
    state: str
    strict_ready: str
    commit: str
    started_at: str
    problem: str = ""


class RunsReply(Reply):
    """All runs of the repository, newest first."""

    runs: tuple[RunEntry, ...]

    def lines(self) -> Iterable[str]:
        """One line a run."""
        if not self.runs:
            yield "no run in this repository yet"
        for run in self.runs:
            yield f"{run.run_id}: {run.problem or f'{run.state}, STRICT {run.strict_ready}, {run.commit[:12]}'}"
