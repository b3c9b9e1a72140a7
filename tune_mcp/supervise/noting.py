"""What a supervisor notes beside the measurements: who polls, who measures here too, what tests leave behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from tune_mcp.run_dir import iso
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.supervise.journal import Journal
from tune_mcp.supervise.neighbours import Neighbour
from tune_mcp.supervise.strays import strays
from tune_mcp.supervise.unwatched import LIMIT_S, Watchers
from tune_mcp.words import number_of

NEIGHBOURS_S = 10.0
"""How often the process table is searched for other measuring supervisors while pytest runs."""
_LEFT = "left_behind"


class Notes:
    """Each thing is noted once. ``neighbours`` finds other supervisors that measure on this machine now."""

    def __init__(self, journal: Journal, neighbours: Callable[[], Sequence[Neighbour]]) -> None:
        self._journal = journal
        self._find = neighbours
        self._neighbours: tuple[Neighbour, ...] = ()
        self._due = 0.0
        self._appeared: set[str] = set()
        self._outputs: set[str] = set()
        self._watchers = Watchers(journal.run.watched, journal.clock.now().timestamp())

    def look(self, job: Job) -> None:
        """While ``job`` runs: polling gaps, and other runs on this machine."""
        self._unwatched()
        self._company(job)

    def _unwatched(self) -> None:
        """That nobody polled for longer than allowed belongs into the run's record (POL-01)."""
        gap = self._watchers.look(self._journal.clock.now().timestamp())
        if gap is None:
            return
        since = iso(datetime.fromtimestamp(gap.since, UTC))
        if gap.seconds is None:
            self._journal.event("unwatched", f"nobody polled since {since}, more than {LIMIT_S:g} s", since=since)
        else:
            text = f"polled again after {gap.seconds:.0f} s"
            self._journal.event("watched", text, since=since, seconds=round(gap.seconds))

    def _company(self, job: Job) -> None:
        """Record a second run that measures beside this one, whatever became of the lock between them (GPU-14)."""
        if self._journal.clock.monotonic() < self._due:
            return
        self._due = self._journal.clock.monotonic() + NEIGHBOURS_S
        found = tuple(self._find())
        for other in found:
            if other not in self._neighbours:
                self._journal.event(
                    "overlap",
                    f"{job.test_key} run {job.repeat}: another run measures on this machine at the same time: {other}",
                    test=job.test_key, repeat=job.repeat, run_dir=other.run_dir or "?",
                )  # fmt: skip
        self._neighbours = found

    def ended(self, job: Job, result: AttemptResult | None) -> None:
        """Files that the tests of an ended attempt left, in the tree and in their TMPDIR."""
        if result is None:
            return
        new = {*result.appeared} - self._appeared
        if new:
            self._appeared |= new
            names = ", ".join(sorted(new)[:6])
            text = f"{number_of(len(new), 'new file')} in the tree, taken for the tests' output: {names}"
            self._journal.event("appeared", text)
        outputs = {*result.outputs} - self._outputs
        if outputs:
            self._outputs |= outputs
            names = ", ".join(sorted(outputs)[:6])
            self._journal.event(
                "appeared",
                f"the tests rewrite {number_of(len(outputs), 'file')} of the tree, left out when it is compared: "
                f"{names}; each repeat starts from what the one before left",
                rewritten=[*sorted(outputs)],
            )
        known = events.read(self._journal.run.events, _LEFT)
        if result.left_in_tmp and all(one.facts.get("test") != job.test_key for one in known):
            text = f"{job.test_key}: {result.left_in_tmp.sentence()} in its TMPDIR, emptied"
            self._journal.event(_LEFT, text, test=job.test_key)

    def strays(self, plan: Plan) -> None:
        """Files in the run directory that are not ours."""
        if found := strays(self._journal.run, plan.table(), plan.repeats):
            names = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
            text = f"in the run directory, written by somebody else and ignored: {names}"
            self._journal.event("ignored", text)
