"""What a supervisor notes beside the measurements: who polls, who measures here too, what tests leave behind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tune_mcp.config.stages import Frozen
from tune_mcp.run_dir import ATTEMPT, RunDir, iso
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.supervise.journal import RunJournal
from tune_mcp.supervise.neighbours import Neighbour
from tune_mcp.words import named, number_of

NEIGHBOURS_S = 10.0
"""How often the process table is searched for other measuring supervisors while pytest runs."""
_LEFT = "left_behind"


class Notes:
    """Each thing is noted once. ``neighbours`` finds other supervisors that measure on this machine now."""

    def __init__(self, journal: RunJournal, neighbours: Callable[[], Sequence[Neighbour]]) -> None:
        self._journal = journal
        self._find = neighbours
        self._neighbours: tuple[Neighbour, ...] = ()
        self._due = 0.0
        self._noted: set[tuple[str, str]] = set()
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
        if new := self._not_noted("appeared", result.appeared):
            text = f"{number_of(len(new), 'new file')} in the tree, taken for the tests' output: {named(new)}"
            self._journal.event("appeared", text)
        if outputs := self._not_noted("outputs", result.outputs):
            text = f"the tests rewrite {number_of(len(outputs), 'file')} of the tree, left out when it is compared: "
            text += f"{named(outputs)}; each repeat starts from what the one before left"
            self._journal.event("appeared", text, rewritten=[*outputs])
        if inherited := self._not_noted("inherited", result.inherited):
            text = (
                f"{job.test_key} run {job.repeat} read {number_of(len(inherited), 'file')} that an earlier repeat of "
            )
            text += f"this run wrote: {named(inherited)}; where that holds what was measured then, this repeat "
            self._journal.event("appeared", text + "measured nothing anew")
        known = events.read(self._journal.run.events, _LEFT)
        if result.left_in_tmp and all(one.facts.get("test") != job.test_key for one in known):
            text = f"{job.test_key}: {result.left_in_tmp.sentence()} in its TMPDIR, emptied"
            self._journal.event(_LEFT, text, test=job.test_key)

    def _not_noted(self, what: str, names: Sequence[str]) -> list[str]:
        """The names that were not noted as this before, sorted; they are from now on."""
        new = sorted({name for name in names if (what, name) not in self._noted})
        self._noted |= {(what, name) for name in new}
        return new

    def strays(self, plan: Plan) -> None:
        """Files in the run directory that are not ours."""
        if found := strays(self._journal.run, plan.table(), plan.repeats):
            text = f"in the run directory, written by somebody else and ignored: {named(found)}"
            self._journal.event("ignored", text)


_COPIES = re.compile(r".*(~|\.(bak|orig|old|rej|swp|save|copy))|run\d+\.json", re.IGNORECASE)
"""What editors and people leave beside a file that they looked at."""
_OBSERVATION = re.compile(r"run([1-9]\d{0,2})\.json")


def strays(run: RunDir, stage_keys: Iterable[str], repeats: int) -> tuple[str, ...]:
    """Paths below the run directory that are taken for nothing, sorted: copies of editors, unknown attempts, …"""
    found = [name for name in _names(run.path) if _COPIES.fullmatch(name)]
    for key in stage_keys:
        for name in _names(run.path / key):
            planned = _OBSERVATION.fullmatch(name)
            temporary = name.startswith(".") and name.endswith(".tmp")
            if not temporary and not (planned and int(planned[1]) <= repeats):
                found.append(f"{key}/{name}")
    for test in _names(run.path / "_pytest"):
        attempts = run.test_folder(test) / "attempts"
        found += [f"_pytest/{test}/attempts/{name}" for name in _names(attempts) if not ATTEMPT.fullmatch(name)]
    found += [f"purged/{name}" for name in _names(run.purged) if not (run.purged / name / "purge.json").is_file()]
    return tuple(sorted(found))


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (os.fsencode(entry.name).decode(errors="backslashreplace") for entry in entries)
    except OSError:
        return


LIMIT_S = 120.0
"""No poll of an active run is further than this from the next."""


class PollingGap(Frozen):
    """Nobody polled since a moment (Unix seconds), and for how many ``seconds`` once that is over."""

    since: float
    seconds: float | None = None


class Watchers:
    """Notices when nobody polls (POL-01, POL-12); each gap is reported once when it opens and once when it is over.

    Every ``status`` touches the file ``path``, whose time is read here.
    """

    def __init__(self, path: Path, started: float) -> None:
        self._path = path
        self._last = started
        self._open = False

    def look(self, now: float) -> PollingGap | None:
        """A polling gap that opened or ended since the last look, else None; ``now`` is Unix time."""
        last = max(self._last, self._polled())
        if last > self._last:
            over = PollingGap(since=self._last, seconds=last - self._last) if self._open else None
            self._last, self._open = last, False
            return over
        if self._open or now - last <= LIMIT_S:
            return None
        self._open = True
        return PollingGap(since=last)

    def _polled(self) -> float:
        try:
            return self._path.stat().st_mtime
        except OSError:
            return 0.0
