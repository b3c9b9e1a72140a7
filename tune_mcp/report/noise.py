"""What one run, and the earlier reports of its model, know of noise: enough for the chance of every metric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune_mcp.apply.plan import Row
from tune_mcp.config.metrics import family as family_of_group
from tune_mcp.config.stages import Family, MetricKey, Stage
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.report import shape, statistics
from tune_mcp.report.earlier import EarlierReport
from tune_mcp.report.statistics import FailChance, Prior, Series

SameCode = Callable[[str], bool]
"""Whether a commit measures the same as the calibrated one."""


@dataclass(frozen=True)
class SlowRuns:
    """Slow repeats among all repeats of tests that measure speed, over this run and ``earlier`` reports."""

    slow: int
    repeats: int
    earlier: int

    @property
    def share(self) -> float:
        """How often a run is slow."""
        return statistics.slow_share(self.slow, self.repeats)


@dataclass(frozen=True)
class Noise:
    """Series and families of every metric, by (stage key, metric key), and what is known of each family.

    ``shifts`` are relative standard deviations between calibrations of unchanged code, None where none can be seen.
    """

    series: Mapping[MetricKey, Series]
    families: Mapping[MetricKey, Family]
    priors: Mapping[Family, Prior]
    shifts: Mapping[Family, float | None]
    slow_runs: SlowRuns

    def chance(self, key: MetricKey, limit: float | None, *, strict: bool = False) -> FailChance:
        """Chance that the next clean run misses ``limit`` (None: unknown); ``strict``: equality misses it."""
        family = self.families[key]
        return statistics.fail_chance(
            self.series[key],
            limit,
            self.priors[family],
            strict=strict,
            slow=self.slow_runs.share if family == "speed" else None,
            shift=self.shifts[family] or 0.0,
        )


def samples_of(audited: AuditedStage) -> int | None:
    """The stage's sample count where all repeats agree on it."""
    counts = [cell.stored.content.sample_counts if cell.stored else None for cell in audited.cells]
    totals = {count.total for count in counts if count}
    return totals.pop() if len(totals) == 1 else None


def read(
    audited: Audit,
    rows: Iterable[Row],
    earlier: Sequence[EarlierReport],
    gpu_summary: str,
    same_code: SameCode,
) -> Noise:
    """Fit all of it. Only earlier reports from the same GPUs count, for the shift only those of the same code."""
    plan, samples = audited.plan, {one.stage.key: samples_of(one) for one in audited.stages}
    series: dict[MetricKey, Series] = {}
    families: dict[MetricKey, Family] = {}
    for row in rows:
        family = family_of_group(row.stage.group, plan.groups.get(row.stage.group))
        families[row.key], series[row.key] = _series(row, family, samples.get(row.stage.key))
    comparable = [one for one in earlier if one.gpu_summary == gpu_summary]
    return Noise(
        series=series,
        families=families,
        priors={
            family: statistics.prior(
                # a zero has no relative spread
                family,
                [one for key, one in series.items() if families[key] == family and min(one.values) > 0],
            )
            for family in set(families.values())
        },
        shifts=_shifts(series, families, [one for one in comparable if same_code(one.calibration_git_sha)]),
        slow_runs=_slow_runs(plan.catalogue, series, families, comparable),
    )


def _series(row: Row, family: Family, samples: int | None) -> tuple[Family, Series]:
    """The row's family, ``count`` for whole numbers that are shown as such, and its series with its step."""
    values, display = row.per_run_raw, row.stage.metrics[row.metric_key].display
    step = shape.quantum(values, samples, is_share=family == "accuracy")
    if display.digits == 0 and display.scale == 1 and all(float(value).is_integer() for value in values):
        family, step = "count", 1.0
    elif samples and not any(values) and family in ("wer", "cer"):
        step = 1 / samples  # error rates of nothing but zeros: one word of a sample is the least, a sample the most
    return family, Series(values, row.worst_op, step, 10.0**-display.digits / display.scale)


def _slow_runs(
    stages: Mapping[str, Stage],
    series: Mapping[MetricKey, Series],
    families: Mapping[MetricKey, Family],
    earlier: Sequence[EarlierReport],
) -> SlowRuns:
    tests: list[tuple[str, list[Series]]] = [
        (stages[key[0]].test_key, [one]) for key, one in series.items() if families[key] == "speed"
    ]
    counted = 0
    for report in earlier:
        found = [
            (f"{report.run_id} {stage.test_key}", [Series(metric.values, metric.worst_op)])
            for stage in report.stages
            for metric in stage.metrics
            if families.get((stage.key, metric.key)) == "speed" and metric.values
        ]
        counted += bool(found)
        tests += found
    slow, repeats = statistics.slow_repeats(tests)
    return SlowRuns(slow, repeats, counted)


def _shifts(
    series: Mapping[MetricKey, Series], families: Mapping[MetricKey, Family], earlier: Sequence[EarlierReport]
) -> dict[Family, float | None]:
    pairs: dict[Family, list[tuple[Series, Series]]] = defaultdict(list)
    for report in earlier:
        for stage in report.stages:
            for metric in stage.metrics:
                now = series.get((stage.key, metric.key))
                if now is not None and metric.values:
                    then = Series(metric.values, now.worst, now.step, now.resolution)
                    pairs[families[(stage.key, metric.key)]].append((then, now))
    return {family: statistics.shift_between(pairs[family]) for family in set(families.values())}
