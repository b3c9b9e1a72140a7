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

    ``seconds`` is its expected length, None where nobody knows it. All repeats of a test file have the same of both.
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
    left, found = dict[str, list[Due]](), list[Start]()
    for one in due:
        left.setdefault(one.test, []).append(one)
    while len(taken) < at_once:
        heads = [ones[0] for test, ones in left.items() if test in strict or test not in at_work]
        free = {
            lanes: next((lane for lane in lanes if lane not in taken), None) for lanes in {one.lanes for one in heads}
        }
        ready = [one for one in heads if free[one.lanes] is not None]
        if not ready:
            break
        waiting = {test: len(ones) - 1 for test, ones in left.items() if test not in strict}
        chosen = ready[0] if at_once == 1 else max(ready, key=lambda one: _urgency(one, waiting.get(one.test), at_once))
        lane = free[chosen.lanes]
        assert lane is not None
        found.append(Start(chosen, lane))
        taken.add(lane)
        at_work.add(chosen.test)
        left[chosen.test].pop(0)
        if not left[chosen.test]:
            del left[chosen.test]
    return found


def _urgency(one: Due, waiting: int | None, at_once: int) -> tuple[bool, bool, float]:
    """A sort key: repeats of unknown length first, then leading repeats, then by the seconds that wait for it.

    ``waiting`` is how many repeats of its test file wait until it is strict, None where one is.
    """
    return one.seconds is None, waiting is not None, (one.seconds or 0.0) * (1 + -(-(waiting or 0) // at_once))


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
