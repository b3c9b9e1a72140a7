"""What ``status`` answers: where a run stands, typed and in words; without a run, the list of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply
from tune_mcp.contract.strict_audit import Cell

MAX_WAIT_S = 50
_STAGES_SHOWN = 40


class CurrentWork(Frozen):
    """What the supervisor does now; ``since`` is UTC."""

    test: str
    repeat: int
    attempt: int
    phase: str
    since: str


class Gap(Frozen):
    """A cell that is not strict, and why."""

    stage_key: str
    repeat: int
    cell: str
    reason: str


class GpuEntry(Frozen):
    """One GPU as the run last saw it: memory in MiB, utilisation in percent, whether it was free for a launch.

    None where NVML did not tell.
    """

    index: int
    name: str
    memory_used_mib: int | None
    memory_total_mib: int | None
    utilization: int | None
    free: bool

    def line(self) -> str:
        """``GPU 0 17000/97871 MiB busy``."""
        return f"GPU {self.index} {self.memory} {'free' if self.free else 'busy'}"

    @property
    def memory(self) -> str:
        """What it uses of what it has."""
        from tune_mcp.gpus import memory_text

        return memory_text(self.memory_used_mib, self.memory_total_mib)


class StatusReply(Reply):
    """One run. ``ok``/``total`` and ``complete`` count cells with extracted metrics: scheduling, never readiness."""

    run_id: str
    state: str
    terminal: bool
    timed_out: bool
    strict_ready: str
    strict_complete: bool
    git_provenance: str
    complete: bool
    ok: int
    total: int
    missing: tuple[Gap, ...]
    missing_total: int
    stages: tuple[str, ...]
    current: CurrentWork | None
    reason: str
    eta_s: tuple[int, int] | None
    gpus: tuple[GpuEntry, ...]
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

    def lines(self) -> Iterable[str]:
        """Strict counts first (STR-15), then the work, then what deserves attention; one line when nothing changed."""
        strict = self.total - self.missing_total
        counts = f"STRICT {self.strict_ready} stages · {strict}/{self.total} cells ✓"
        if self.timed_out:
            alerts = f" · {len(self.alerts)} alert(s) as before" if self.alerts else ""
            yield f"{counts} · unchanged · {self._work()}{alerts}"
            return
        yield f"{counts} · {self.run_id}"
        yield f"state: {self._work()}"
        if self.git_provenance != "ok":
            yield f"GIT PROVENANCE: {self.git_provenance}"
        shown = self.stages[:_STAGES_SHOWN]
        yield from (f"  {stage}" for stage in shown)
        if len(self.stages) > len(shown):
            yield f"  … and {len(self.stages) - len(shown)} more stages"
        for gap in [gap for gap in self.missing if gap.cell != Cell.NOT_RUN.value][:8]:
            yield f"  {gap.stage_key} run {gap.repeat} {gap.cell} {gap.reason}"
        yield from (f"  FAILED TEST, no threshold's: {text}" for text in self.failed_tests)
        for gpu in self.gpus:
            yield f"  {gpu.line()} (seen {self.gpus_seen_at})"
        if self.processes:
            yield f"  processes: {', '.join(f'{count} {role}' for role, count in self.processes.items())}"
        yield from (f"ALERT: {alert}" for alert in self.alerts)
        yield from (f"· {milestone}" for milestone in self.milestones)
        yield from (f"| {line}" for line in self.pytest_tail)

    def _work(self) -> str:
        parts = [self.state + (f" — {self.reason}" if self.reason else "")]
        if self.current:
            now = self.current
            parts.append(f"{now.test} run {now.repeat} attempt {now.attempt}: {now.phase} since {now.since}")
        if self.eta_s:
            parts.append(f"about {span(self.eta_s)} left")
        return " · ".join(parts)


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
