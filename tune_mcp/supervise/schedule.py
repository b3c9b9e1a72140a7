"""Which due repeat starts on which free lane (rule STR-19): a pure function of what is known, without a clock.

On one lane the order is that of the plan: test file after test file, repeat after repeat. On several the first repeat
of a test file must be strict before its others start, so that a wrong configuration costs one launch; what decides the
end of the run starts first. ``makespan`` plays the same function forward: the time left, and a benchmark's figure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

Repeat = tuple[str, int]
"""Test key, repeat."""


@dataclass(frozen=True)
class Due:
    """A repeat that is to be measured. ``lanes`` are the names of those that may do it, the best first.

    ``seconds`` is its expected length, None where nobody knows it.
    """

    test: str
    repeat: int
    lanes: tuple[str, ...]
    seconds: float | None = None

    @property
    def key(self) -> Repeat:
        """Test key and repeat."""
        return self.test, self.repeat


@dataclass(frozen=True)
class Start:
    """One repeat starts on the lane with this name."""

    due: Due
    lane: str


def starts(due: Sequence[Due], busy: Mapping[str, Repeat], strict: Collection[str], at_once: int) -> list[Start]:
    """What starts now. ``due`` is in the order of the plan, without what runs; ``busy`` is what runs, by lane.

    ``strict`` are the test files with a strict repeat; ``at_once`` is how many repeats may run at the same time.
    """
    taken, at_work = {*busy}, {test for test, _ in busy.values()}
    left, found = [*due], list[Start]()
    while len(taken) < at_once:
        ready = [one for one in left if one.test in strict or one.test not in at_work]
        free = {one.key: [name for name in one.lanes if name not in taken] for one in ready}
        ready = [one for one in ready if free[one.key]]
        if not ready:
            break
        chosen = ready[0] if at_once == 1 else max(ready, key=lambda one: _urgency(one, left, strict, at_once))
        lane = free[chosen.key][0]
        found.append(Start(chosen, lane))
        taken.add(lane)
        at_work.add(chosen.test)
        left.remove(chosen)
    return found


def _urgency(one: Due, left: Sequence[Due], strict: Collection[str], at_once: int) -> tuple[bool, bool, float]:
    """What waits for it at least, in seconds; an unknown length may be the longest of all, and is known afterwards."""
    leads = one.test not in strict
    waiting = sum(other.test == one.test for other in left) - 1 if leads else 0
    return one.seconds is None, leads, (one.seconds or 0.0) * (1 + -(-waiting // at_once))


def makespan(
    due: Sequence[Due], running: Mapping[str, tuple[Repeat, float]], strict: Collection[str], at_once: int
) -> float:
    """Seconds until all is done, every repeat strict at once. ``running`` is what runs by lane, with its time left.

    A repeat of unknown length counts as the mean of the known ones, and as nothing where there is none.
    """
    known = [one.seconds for one in due if one.seconds is not None]
    mean = sum(known) / len(known) if known else 0.0
    left = [one if one.seconds is not None else replace(one, seconds=mean) for one in due]
    ends = {lane: (seconds, repeat) for lane, (repeat, seconds) in running.items()}
    done, now = {*strict}, 0.0
    while left or ends:
        for start in starts(left, {lane: repeat for lane, (_, repeat) in ends.items()}, done, at_once):
            ends[start.lane] = (now + (start.due.seconds or 0.0), start.due.key)
            left.remove(start.due)
        if not ends:
            break  # no lane may do what is left
        lane = min(ends, key=lambda name: ends[name][0])
        now, (test, _) = ends.pop(lane)
        done.add(test)
    return now
