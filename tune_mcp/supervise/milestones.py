"""What the events of a run report of its attempts: kind, text and facts of each, beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from tune_mcp.errors import Json
from tune_mcp.observe.observation import AttemptVerdict
from tune_mcp.session.state import Alert
from tune_mcp.supervise.at_work import AtWork
from tune_mcp.supervise.busy_lanes import LEFT_ALONE_S
from tune_mcp.supervise.executor.batch import LEFT_OUT
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.supervise.journal import RunJournal
from tune_mcp.supervise.verdict import Again


@dataclass(frozen=True)
class Milestones:
    """Writes them into the journal; ``repeats`` is how many each stage gets, ``tries`` how many a repeat in a pass."""

    journal: RunJournal
    repeats: int
    tries: int

    def launched(self, job: Job, lane: str) -> None:
        """An attempt starts; written before its executor gets the job."""
        log = job.run.log(job.test_key, job.repeat).relative_to(job.run.path)
        text = f"START {self._run(job)}/{self.repeats} attempt {job.attempt}{_on(lane)} — log {log}"
        self._event("launched", job, text, attempt=job.attempt, **_lane(lane))

    def waits(self, work: AtWork) -> None:
        """The attempt began to wait for GPUs or quiet."""
        self.journal.event(str(work.waits), work.phase.reason)

    def alert(self, job: Job, alert: Alert) -> None:
        """What the attempt's watchdog saw, or that it is over."""
        kind, text = ("alert_over", f"{alert.name}: {alert.over}") if alert.over else ("alert", alert.line())
        text = f"{self._run(job)} attempt {job.attempt}: {text}"
        self._event(kind, job, text, attempt=job.attempt, alert=alert.name)

    def gpus_not_clear(self, job: Job, trouble: str) -> None:
        """How the attempt left its GPUs."""
        self.journal.event("gpus_not_clear", f"after {self._run(job)}: {trouble}")

    def left_lane(self, work: AtWork) -> None:
        """The repeat goes to another lane."""
        text = (
            f"{self._run(work.job)}: leaves lane {work.lane} ({work.phase.reason or 'others use it'}), where nothing "
        )
        text += f"starts for {LEFT_ALONE_S / 60:.0f} min; no try is used up"
        self._event("retry", work.job, text, lane=work.lane)

    def left_out(self, node: str, reason: str) -> None:
        """An engine gets no further job for that node."""
        self.journal.event(LEFT_OUT, f"{node} is left out from now on: {reason}", node=node)

    def again(self, work: AtWork, verdict: Again) -> None:
        """The repeat is tried again."""
        text = f"{self._run(work.job)}: {verdict.reason}; try {work.tries + 1} of {self.tries}"
        self._event("disturbed" if verdict.became is AttemptVerdict.DISTURBED else "retry", work.job, text)

    def observed(self, work: AtWork, result: AttemptResult, text: str) -> None:
        """The repeat has its observation."""
        job, seconds = work.job, result.duration_s
        slowed = f"; clocks held down: {', '.join(result.slowed_by)}" if result.slowed_by else ""
        text = f"{self._run(job)}/{self.repeats} {text} ({seconds:.1f} s){_on(work.lane)}{slowed}"
        self._event("observed", job, text, duration_s=seconds, **_lane(work.lane))

    def _event(self, kind: str, job: Job, text: str, **facts: Json) -> None:
        self.journal.event(kind, text, test=job.test_key, repeat=job.repeat, **facts)

    @staticmethod
    def _run(job: Job) -> str:
        return f"{job.test_key} run {job.repeat}"


def _on(lane: str) -> str:
    return f" on lane {lane}" if lane else ""


def _lane(lane: str) -> dict[str, Json]:
    return {"lane": lane} if lane else {}
