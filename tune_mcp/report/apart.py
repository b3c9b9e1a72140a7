"""Whether the repeats of one host or lane stand apart from those of the others.

A host is compared with all others together, by the stages that both measured, one family of metrics (speed, WER, …) at
a time. For each metric: the difference of the two medians on the scale of the estimate, over the noise that the repeats
have within their hosts, moderated as for the chances (``statistics``). Medians, because a single slow repeat is
ordinary and says nothing of its host. The metrics of one test move together, so a test is one voice: the median of its
metrics; and the host's is the median of its tests, the one nearer to zero of two in the middle. So one odd test flags
no host, and one test alone needs two repeats on either side. A flag is for a person: no repeat is dropped for one.
Lanes are of one host and differ in what else runs on their CPUs, so theirs is a look at lengths.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from tune_mcp.config.metrics import family as family_of_group
from tune_mcp.config.stages import Family
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.observe.observation import Attempt, AttemptVerdict
from tune_mcp.report.facts import Launch
from tune_mcp.report.figures import percent
from tune_mcp.report.statistics import PRIORS, Series, student_tail
from tune_mcp.session.plan import Plan
from tune_mcp.words import number_of

APART = 3.0
"""Standard scores beyond which a host is flagged, where its shift is also larger than the family's usual noise."""
_LEAST_P = 1e-12
_LANE_REPEATS = 3
_LANE_SHIFT = 0.05
_LANE_SPREADS = 3.0


@dataclass(frozen=True)
class LaneMedian:
    """The repeats of one lane that count: ``median`` of their lengths, each relative to the median of its test file."""

    lane: str
    counted: int
    median: float
    apart: bool

    def brief(self) -> str:
        """``left 1.00 of 12``, and whether it stands apart."""
        return f"{self.lane} {self.median:.2f} of {self.counted}{', stands apart' if self.apart else ''}"


def lane_medians(launches: Iterable[Launch]) -> tuple[LaneMedian, ...]:
    """One for each lane, by name; none for a run on a single one.

    A lane stands apart when its median differs from that of the others by more than 5 % and by three times their
    spread, given three repeats of each.
    """
    by_test: dict[str, list[Attempt]] = defaultdict(list)
    for one in launches:
        if one.attempt.lane and one.attempt.verdict is AttemptVerdict.KEPT and not one.superseded:
            by_test[one.test].append(one.attempt)
    found: dict[str, list[float]] = defaultdict(list)
    for made in by_test.values():
        if middle := median(one.duration_s for one in made):
            for one in made:
                found[one.lane].append(one.duration_s / middle)
    if len(found) < 2:
        return ()
    return tuple(
        LaneMedian(lane, len(lengths), median(lengths), _far(lane, found)) for lane, lengths in sorted(found.items())
    )


def lanes(launches: Iterable[Launch]) -> list[str]:
    """One sentence a lane for the report, none for a run on a single one."""
    return [
        f"Lane {one.lane}: {one.counted} counted, median length {one.median:.3f} of their tests' medians"
        + ("; it stands apart from the other lanes, see what else runs on its CPUs" if one.apart else "")
        for one in lane_medians(launches)
    ]


def _far(lane: str, lengths: Mapping[str, Sequence[float]]) -> bool:
    own, others = _split(lane, lengths)
    if min(len(own), len(others)) < _LANE_REPEATS:
        return False
    middle = median(others)
    spread = median(abs(length - middle) for length in others)
    return abs(median(own) - middle) > max(_LANE_SHIFT, _LANE_SPREADS * spread)


def _split(name: str, values: Mapping[str, Sequence[float]]) -> tuple[Sequence[float], list[float]]:
    """The values of one host or lane, and those of all others together."""
    return values[name], [value for other, found in values.items() if other != name for value in found]


def hosts_apart(audited: Audit, of_cell: Mapping[tuple[str, int], str]) -> dict[str, tuple[str, ...]]:
    """Host -> one sentence for each family of metrics in which its repeats stand apart."""
    tests: dict[tuple[str, Family], dict[str, list[tuple[float, float]]]] = {}
    for stage in audited.stages:
        for values, series, family in _metrics(audited.plan, stage, of_cell):
            of_test = tests.setdefault((stage.stage.test_key, family), {})
            for host in values:
                if (found := _compared(host, values, series, family)) is not None:
                    of_test.setdefault(host, []).append(found)
    by_host: dict[tuple[str, Family], list[tuple[float, float]]] = defaultdict(list)
    for (_, family), of_test in tests.items():
        for host, found in of_test.items():
            by_host[host, family].append((_middle([score for score, _ in found]), _middle([way for _, way in found])))
    apart: dict[str, tuple[str, ...]] = {}
    for (host, family), found in by_host.items():
        score = _middle([score for score, _ in found]) * math.sqrt(max(1.0, 2 * len(found) / math.pi))
        shift = _middle([way for _, way in found])
        if abs(score) > APART and abs(shift) > PRIORS[family].sd:
            way = "worse" if shift > 0 else "better"
            what = f"{family} {percent(abs(math.expm1(abs(shift))))} {way} than on the other hosts"
            apart[host] = (
                *apart.get(host, ()),
                f"{what} (median of {number_of(len(found), 'test')}, z = {abs(score):.1f})",
            )
    return apart


def _metrics(
    plan: Plan, stage: AuditedStage, of_cell: Mapping[tuple[str, int], str]
) -> Iterator[tuple[dict[str, list[float]], Series, Family]]:
    """Each metric's repeats by host, on the scale of the estimate: larger is worse."""
    family = family_of_group(stage.stage.group, plan.groups.get(stage.stage.group))
    for key, metric in stage.stage.metrics.items():
        measured = [
            (of_cell[stage.stage.key, repeat], value)
            for repeat, cell in enumerate(stage.cells, 1)
            if (stage.stage.key, repeat) in of_cell
            and cell.stored
            and (value := cell.stored.content.metrics.get(key)) is not None
        ]
        if len({host for host, _ in measured}) > 1:
            series = Series(tuple(value for _, value in measured), metric.worst, None, 10.0**-metric.display.digits)
            values: dict[str, list[float]] = defaultdict(list)
            for host, value in measured:
                values[host].append(series.loss(value))
            yield values, series, family


def _compared(
    host: str, values: Mapping[str, Sequence[float]], series: Series, family: Family
) -> tuple[float, float] | None:
    """Standard score and shift of one host's repeats of one metric; None where no host has two repeats of it."""
    own, others = _split(host, values)
    degrees = sum(len(found) - 1 for found in values.values())
    if not degrees:
        return None
    within = math.fsum((value - math.fsum(found) / len(found)) ** 2 for found in values.values() for value in found)
    least = series.resolution / (series.size or 1.0)
    prior = PRIORS[family]
    variance = (prior.degrees * prior.sd**2 + within) / (prior.degrees + degrees) + least**2 / 12
    shift = median(own) - median(others)
    t = shift / math.sqrt(variance * math.pi / 2 * (1 / len(own) + 1 / len(others)))
    tail = max(_LEAST_P, student_tail(abs(t), max(1, round(degrees + prior.degrees))))
    return math.copysign(NormalDist().inv_cdf(1 - tail), t), shift


def _middle(values: Sequence[float]) -> float:
    """The median; of two in the middle the one nearer to zero, and zero where they disagree about the way."""
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return 0.0 if low < 0 < high else min(low, high, key=abs)
