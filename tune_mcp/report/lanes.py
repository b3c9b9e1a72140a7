"""What the lanes of a host measured, side by side: a lane that is slower than the others shows here."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tune_mcp.report.facts import Launch

_ENOUGH = 3
_APART = 0.05
_SPREADS = 3.0


def lines(launches: Iterable[Launch]) -> list[str]:
    """One sentence a lane, none for a run on a single one.

    The length of each repeat that counts is taken relative to the median of its test file. A lane stands apart when
    its median differs from that of the others by more than 5 % and by three times their spread, given three of each.
    """
    counted = [one for one in launches if one.attempt.lane and not one.superseded]
    by_test: dict[str, list[float]] = {}
    for one in counted:
        by_test.setdefault(one.test, []).append(one.attempt.duration_s)
    middle = {test: median(values) for test, values in by_test.items()}
    found: dict[str, list[float]] = {}
    for one in counted:
        if middle[one.test] > 0:
            found.setdefault(one.attempt.lane, []).append(one.attempt.duration_s / middle[one.test])
    if len(found) < 2:
        return []
    return [
        f"Lane {lane}: {len(values)} counted, median length {median(values):.3f} of their tests' medians"
        + ("; it stands apart from the other lanes, see what else runs on its CPUs" if _apart(lane, found) else "")
        for lane, values in sorted(found.items())
    ]


def _apart(lane: str, found: dict[str, list[float]]) -> bool:
    mine, others = found[lane], [value for name, values in found.items() if name != lane for value in values]
    if min(len(mine), len(others)) < _ENOUGH:
        return False
    away = abs(median(mine) - median(others))
    spread = median(abs(value - median(others)) for value in others)
    return away > max(_APART, _SPREADS * spread)
