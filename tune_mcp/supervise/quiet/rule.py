"""When foreign CPU time has disturbed a measurement. Decided by the machine alone, never by what was measured.

An intrusion counts when it lasts: its mean over a whole window is above the limit, and no part of the window is free of
it. Or it recurs, so that the mean of the whole measurement is half above the limit again; a short burst, as every
machine has one now and then, is left out of that mean. Only what is certainly foreign counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from tune_mcp.config.lanes import Quiet
from tune_mcp.supervise.quiet.foreign import ForeignUse

_WHOLE = 1.5
_BURST_EVERY_S = 300.0


@dataclass(frozen=True, slots=True)
class Intrusion:
    """Others used ``cores`` on average for ``seconds``, from ``since_s`` of the measurement on; with pauses where
    ``recurring``."""

    since_s: float
    seconds: float
    cores: float
    recurring: bool = False


def intrusion(readings: Sequence[ForeignUse], quiet: Quiet) -> Intrusion | None:
    """The heaviest sustained intrusion, else the recurring one; None when there was neither."""
    return sustained(readings, quiet) or _recurring(readings, quiet)


def sustained(readings: Sequence[ForeignUse], quiet: Quiet) -> Intrusion | None:
    """The heaviest one that lasted for a window. A measurement that is shorter than a window is one window."""
    return max(_sustained(readings, quiet), key=lambda one: one.cores, default=None)


def _sustained(readings: Sequence[ForeignUse], quiet: Quiet) -> Iterator[Intrusion]:
    window, at = min(quiet.window_s, _seconds(readings)), 0.0
    run: deque[ForeignUse] = deque()
    for one in readings:
        at += one.seconds
        if one.low is None or one.low <= quiet.foreign_cores / 2:
            run.clear()
            continue
        run.append(one)
        while _seconds(run) - run[0].seconds >= window:
            run.popleft()
        seconds = _seconds(run)
        if seconds >= window and (cores := _used(run) / seconds) > quiet.foreign_cores:
            yield Intrusion(at - seconds, seconds, cores)


def _recurring(readings: Sequence[ForeignUse], quiet: Quiet) -> Intrusion | None:
    measured = [one for one in readings if one.low is not None]
    whole = _seconds(measured)
    runs = [[*run] for above, run in groupby(measured, lambda one: (one.low or 0.0) > quiet.foreign_cores) if above]
    bursts = [run for run in runs if _seconds(run) <= min(quiet.window_s / 3, whole / 2)]
    left_out = sorted(bursts, key=_used, reverse=True)[: 1 + int(whole / _BURST_EVERY_S)]
    seconds = whole - sum(map(_seconds, left_out))
    cores = (_used(measured) - sum(map(_used, left_out))) / seconds if seconds else 0.0
    return Intrusion(0.0, whole, cores, recurring=True) if cores > _WHOLE * quiet.foreign_cores else None


def busiest(readings: Sequence[ForeignUse], window_s: float) -> float | None:
    """Foreign cores in the busiest stretch of a whole window, None where there was none or nothing was measured."""
    found: list[float] = []
    stretch: deque[ForeignUse] = deque()
    for one in readings:
        stretch.append(one)
        while _seconds(stretch) - stretch[0].seconds >= window_s:
            stretch.popleft()
        if _seconds(stretch) >= window_s and (cores := mean(stretch)) is not None:
            found.append(cores)
    return max(found, default=None)


def last(readings: Sequence[ForeignUse], seconds: float) -> Sequence[ForeignUse]:
    """The last of them, for at least so long."""
    first, covered = len(readings), 0.0
    while first and covered < seconds:
        first -= 1
        covered += readings[first].seconds
    return readings[first:]


def mean(readings: Iterable[ForeignUse]) -> float | None:
    """Foreign cores on average over what was measured, None where nothing was."""
    measured = [one for one in readings if one.low is not None]
    return _used(measured) / _seconds(measured) if measured else None


def _seconds(readings: Iterable[ForeignUse]) -> float:
    return sum(one.seconds for one in readings)


def _used(readings: Iterable[ForeignUse]) -> float:
    return sum((one.low or 0.0) * one.seconds for one in readings)
