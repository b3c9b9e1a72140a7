"""Flags on the shape of N values: cold first repeat, two modes; and the step of one sample.

A flag is a sentence for a person and decides nothing; no value is rejected for what it is.
It needs two things at once, far against the scatter of the other values and far against the value itself, because
either alone fires on clean data. False alarms on clean normal values, simulated at N = 5: cold 0.3 % at CV 5 % and
0.8 % at 10 %; bistable 0.0 % and 0.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import median

from tune_mcp.config.stages import Frozen, Number, WorstOp


class FlagKind(StrEnum):
    """What the shape of the repeats looks like."""

    COLD = "cold"
    BISTABLE = "bistable"


ROBUST_Z = 3.5
CLUSTER_Z = 5.0
RELATIVE_GAP = 0.20
COLD_GAP = 0.10
_MAD_TO_SIGMA = 1.4826
_LEAST_FOR_COLD = 4
_LEAST_FOR_CLUSTERS = 5


class Flag(Frozen):
    """One remark on the shape of the values; it decides nothing."""

    kind: FlagKind
    text: str


def flag(values: Sequence[Number], worst: WorstOp) -> Flag | None:
    """The remark on ``values`` (raw, in repeat order), None for none."""
    if is_cold(values, worst):
        text = "repeat 1 is an outlier on the bad side: a cold start sets the worst value"
        return Flag(kind=FlagKind.COLD, text=text)
    if modes := clusters(values):
        low, high = modes
        text = f"bistable: {len(low)} repeats near {median(low):.4g}, {len(high)} near {median(high):.4g}"
        return Flag(kind=FlagKind.BISTABLE, text=f"{text}; calibrating to either mode is a decision")
    return None


def is_cold(values: Sequence[Number], worst: WorstOp) -> bool:
    """Whether the first repeat lies apart on the bad side: JIT, graph capture, page cache."""
    if len(values) < _LEAST_FOR_COLD:
        return False
    sign = 1.0 if worst == "max" else -1.0
    first, *others = (sign * value for value in values)
    middle, distance = median(others), first - max(others)
    scatter = _MAD_TO_SIGMA * median([abs(other - middle) for other in others])
    return (
        distance > 0
        and distance >= COLD_GAP * abs(middle)
        and first - middle > ROBUST_Z * scatter
        and distance >= 2 * (max(others) - min(others))
    )


def clusters(values: Sequence[Number]) -> tuple[list[Number], list[Number]] | None:
    """Two groups of at least two values each, far apart by both measures, or None."""
    if len(values) < _LEAST_FOR_CLUSTERS:
        return None
    ordered = sorted(values)
    cut = max(range(2, len(ordered) - 1), key=lambda place: ordered[place] - ordered[place - 1])
    low, high = ordered[:cut], ordered[cut:]
    distance = high[0] - low[-1]
    within = math.sqrt(math.fsum(_deviations(low) + _deviations(high)) / (len(ordered) - 2))
    if distance > 0 and distance >= RELATIVE_GAP * abs(median(ordered)) and distance >= CLUSTER_Z * within:
        return low, high
    return None


def _deviations(values: Sequence[Number]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [(value - mean) ** 2 for value in values]


def quantum(values: Sequence[Number], samples: int | None, *, is_share: bool) -> float | None:
    """1/n where one sample moves the metric by exactly that: a share of n samples. Else None.

    ``is_share`` says that the metric is such a share by definition; otherwise it must have moved, in whole steps.
    """
    if not samples or any(not 0 <= value <= 1 for value in values):
        return None
    steps = [value * samples for value in values]
    if any(abs(step - round(step)) > 1e-6 * samples for step in steps):
        return None
    return 1 / samples if is_share or len(set(values)) > 1 else None
