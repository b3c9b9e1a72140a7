"""The one object from which report.md, report.json and report.html are made, and which report.json is read back into.

Frozen and complete: a renderer computes nothing but layout, so three renderings cannot disagree (rules RPT-04, RPT-08).
"""

from __future__ import annotations

import math
from enum import StrEnum

from pydantic import Field

from tune_mcp.config.stages import Family, Frozen, Number, WorstOp
from tune_mcp.contract.apply import Applied
from tune_mcp.contract.apply_plan import Direction, Smart
from tune_mcp.contract.precheck import Check
from tune_mcp.contract.report import FailedTest
from tune_mcp.contract.strict_audit import Cell, HostRow
from tune_mcp.observe.observation import Attempt
from tune_mcp.observe.worst import direction_text
from tune_mcp.report.shape import Flag
from tune_mcp.report.statistics import Chance, FailChance, Spread
from tune_mcp.session.plan import Sha, Source
from tune_mcp.session.provenance import CommitRange

SCHEMA_VERSION = 5
DRIFT = 0.10
"""Of a reference over all its calibrations; more is named among the notes."""
_LAST_GROUPS = ("speed", "reliability")


class AssertedFacts(Frozen):
    """How the tests compare a measured value with the threshold.

    ``strict``: the limit itself fails. ``how`` quotes the code, ``tests`` are the tests that assert it.
    """

    strict: bool
    how: str
    tests: tuple[str, ...] = ()


class MetricFacts(Frozen):
    """One metric of one stage: all repeats, what stands in the file, what is proposed, and what that would do.

    Raw values throughout; ``scale`` and ``digits`` are for display only. ``limit_present`` and ``limit_proposed`` are
    what the test compares a measured value with, slack and rounding included, by ``asserted``; None when unknown or
    infinite, and ``unread`` says why; ``unasserted``: because no measured test asserts it. ``present_misses`` counts
    repeats that fail the present limit. ``quantum`` is the step of one sample. ``worst_repeats`` are the repeats (from
    1) that hold the worst value. ``within_noise``: the proposed change is no larger than the spread of the repeats.
    ``family`` is what the metric scatters like. ``chance`` is that of the proposed value, ``chance_present`` that of
    the present one, None when its limit is unknown.
    """

    key: str
    label: str
    scale: float
    digits: int
    worst_op: WorstOp
    place: str
    file: str
    line: int | None
    values: tuple[Number, ...]
    worst_raw: Number
    worst_repeats: tuple[int, ...]
    current_raw: Number | None
    write_value: Number
    direction: Direction
    change_percent: float | None
    decision: Smart
    reason: str
    asserted: AssertedFacts | None
    limit_present: float | None
    limit_proposed: float | None
    present_misses: int | None
    spread: Spread
    chance: FailChance
    family: Family
    quantum: float | None
    one_sample: bool
    within_noise: bool
    flag: Flag | None
    unread: str = ""
    unasserted: bool = False
    doubts: tuple[str, ...] = ()
    chance_present: FailChance | None = None

    @property
    def direction_text(self) -> str:
        """``tightens (+2.1%)``, ``first baseline``."""
        first = self.direction is Direction.FIRST
        return direction_text(self.worst_op, self.current_raw, self.write_value, first=first)


class TrendFacts(Frozen):
    """The worst of N of one metric over the model's calibrations on the same GPUs, oldest first, this one last.

    ``drift`` is the relative change from the first to this one, None where the first is 0.
    """

    stage: str
    metric: str
    runs: tuple[str, ...]
    worst: tuple[Number, ...]
    drift: float | None

    @property
    def drifted(self) -> bool:
        """Whether the reference moved by more than a tenth in all."""
        return self.drift is not None and abs(self.drift) > DRIFT

    @property
    def heights(self) -> tuple[float, ...]:
        """Each value between the lowest (0) and the highest (1), for a picture."""
        low, high = min(self.worst), max(self.worst)
        return tuple((value - low) / (high - low) if high > low else 0.5 for value in self.worst)


class StageFacts(Frozen):
    """One stage: its context line, its matrix row, sample counts and pytest seconds per repeat, and its metrics.

    ``artifacts`` are the sha256 digests of run{k}.json: the very bytes that each row was read from.
    """

    key: str
    title: str
    group: str
    group_label: str
    test: str
    test_key: str
    preset: str | None
    variant: str | None
    context: str
    expected_samples: int | None
    cells: tuple[Cell, ...]
    samples: tuple[str, ...]
    durations_s: tuple[float | None, ...]
    docs: bool
    metrics: tuple[MetricFacts, ...]
    artifacts: tuple[str, ...] = ()


class Launch(Frozen):
    """One launch of pytest: for which repeat of which test, how it ended, and whether a later one superseded it."""

    test: str
    repeat: int
    superseded: bool
    attempt: Attempt


class Uncounted(StrEnum):
    """Why something that was launched does not count."""

    RETRIED = "tried again"
    DISTURBED = "disturbed by others"
    PURGED = "purged"
    REPLACED = "replaced by a person, although complete"
    WITHDRAWN = "withdrawn"
    TAKEN_AWAY = "changed or deleted by somebody"


class UncountedValue(Frozen):
    """One value that does not count, beside those of the same metric that do.

    ``worse`` than all of them. ``suspect``: a quality metric of a replaced or disturbed repeat that lay outside of
    them; a disturbed machine makes a test slow, it does not change what a model answers.
    """

    stage: str
    metric: str
    value: Number
    counted: tuple[Number, ...]
    worse: bool
    suspect: bool


class UncountedFacts(Frozen):
    """One attempt that does not count: when, who took it out, why, and what of it can still be read.

    ``attempt`` is None where none is numbered, ``where`` a folder below the run directory, empty where nothing is left.
    """

    how: Uncounted
    test: str
    repeat: int
    attempt: int | None = None
    t: str
    who: str = ""
    reason: str
    where: str = ""
    values: tuple[UncountedValue, ...] = ()


class Incident(Frozen):
    """One line of events.jsonl that a reader of the numbers should know of."""

    t: str
    kind: str
    text: str


class GateFacts(Frozen):
    """One test, which fails as one: the metric that decides its chance (``stage`` and ``metric`` keys), and advice.

    ``slack`` and ``repeats`` each bring the noise of ``noisy``, the noisiest metric, down to the suite's wished chance
    per test: the relative slack between worst value and limit, and the number of repeats at the present slack. None
    where nothing is needed; ``repeats`` also where no number up to 60 is enough.
    """

    test: str
    stage: str
    metric: str
    chance: Chance
    noisy: str
    slack: float | None
    repeats: int | None


class SuiteFacts(Frozen):
    """Chance that a clean CI run of the whole suite misses at least one of the proposed thresholds; one gate per test.

    ``every_attempt`` is the chance that some test misses in each of ``attempts`` attempts that CI gives it, if one
    attempt knew nothing of the other: a lower bound. ``present`` is ``chance`` for the thresholds as they stand, over
    the metrics whose limit is known; None when none is. ``slow_repeats`` of ``counted_repeats`` were slow, in this run
    and ``earlier_reports``. ``shift`` is the largest relative standard deviation between calibrations of unchanged
    code, None where none can be seen. ``wished`` is the chance per test and attempt that gives ``false_alarms`` over
    the suite. ``unknown_slack`` metrics entered as if their limit were the worst value; ``unchanged`` ones showed no
    spread.
    """

    gates: tuple[GateFacts, ...]
    chance: Chance
    attempts: int
    every_attempt: Chance
    present: Chance | None
    slow_repeats: int
    counted_repeats: int
    earlier_reports: int
    shift: float | None
    false_alarms: float
    wished: float
    unknown_slack: int
    unchanged: int


class PreviousFacts(Frozen):
    """The newest earlier report of the same model, and the worst-of-N it had: ``stage/metric`` -> raw value.

    ``changes`` are the first commits and files since, ``commits`` and ``files`` how many there are; None where git does
    not have both ends. ``sensitive`` maps a file to the optimisations whose globs it falls under (PRF-02).
    """

    run_id: str
    calibration_git_sha: str
    generated_at: str
    repeats: int
    comparable: bool
    differences: tuple[str, ...]
    worst: dict[str, Number]
    changes: CommitRange | None = None
    commits: int = 0
    files: int = 0
    sensitive: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class SeenFacts(Frozen):
    """Where one test's logs show an optimisation: repeats, the first ``log:line``, and repeats not read to the end."""

    test: str
    repeats: tuple[int, ...]
    place: str
    unread: tuple[int, ...] = ()


class OptimisationFacts(Frozen):
    """One optimisation that config names: its globs, its evidence (a regular expression), and what the logs show."""

    name: str
    files: tuple[str, ...]
    evidence: str | None
    tests: tuple[SeenFacts, ...]


class ReportFacts(Frozen):
    """All that a report shows. Times are UTC, ``YYYY-mm-ddTHH:MM:SSZ``. ``sources`` are those of a merged run."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    run_dir: str
    model: str
    label: str
    repeats: int
    calibration_git_sha: Sha
    git_branch: str
    dirty: bool
    dirty_note: str
    started_at: str
    finished_at: str
    generated_at: str
    venv_python: str
    venv_source: str
    host: str | None
    gpu_summary: str
    versions: dict[str, str]
    environment: dict[str, str]
    environments: int
    environment_note: str
    tests_end_processes: str = ""
    changed_files: tuple[str, ...]
    tune_version: str
    report_version: str
    strict_text: str
    plan_id: str
    artifacts_digest: str
    stages: tuple[StageFacts, ...]
    suite: SuiteFacts
    launches: tuple[Launch, ...]
    incidents: tuple[Incident, ...]
    applied: tuple[Applied, ...] = ()
    previous: PreviousFacts | None = None
    optimisations: tuple[OptimisationFacts, ...] = ()
    checks: tuple[Check, ...] = ()
    uncounted: tuple[UncountedFacts, ...] = ()
    failed_tests: tuple[FailedTest, ...] = ()
    unchecked: bool = False
    hosts: tuple[HostRow, ...] = ()
    sources: tuple[Source, ...] = ()
    trends: tuple[TrendFacts, ...] = ()

    def metrics(self) -> list[tuple[StageFacts, MetricFacts]]:
        """All metrics, in stage order."""
        return [(stage, metric) for stage in self.stages for metric in stage.metrics]

    def worst_before(self, stage: StageFacts, metric: MetricFacts) -> Number | None:
        """The worst of N that the last calibration had; None where there is none."""
        return self.previous.worst.get(f"{stage.key}/{metric.key}") if self.previous else None

    def by_group(self) -> list[tuple[str, list[tuple[StageFacts, MetricFacts]]]]:
        """(group's label, its metrics): quality groups in plan order, speed and reliability last (RPT-07, PRF-05)."""
        found: dict[str, tuple[str, list[tuple[StageFacts, MetricFacts]]]] = {}
        for stage, metric in self.metrics():
            found.setdefault(stage.group, (stage.group_label, []))[1].append((stage, metric))
        return [found[name] for name in sorted(found, key=lambda name: name in _LAST_GROUPS)]

    def loudest_first(self) -> list[tuple[StageFacts, MetricFacts]]:
        """All metrics, by direction, the largest change of each first; one from zero has no percentage and leads."""
        order = [*Direction]

        def rank(pair: tuple[StageFacts, MetricFacts]) -> tuple[int, float]:
            change = pair[1].change_percent
            return order.index(pair[1].direction), -math.inf if change is None else -abs(change)

        return sorted(self.metrics(), key=rank)

    def count(self, wanted: Direction) -> int:
        """How many metrics would move that way."""
        return sum(metric.direction == wanted for _, metric in self.metrics())

    def unproven(self, stage: StageFacts) -> list[str]:
        """Optimisations that no log of the stage's test shows, although config says how they would look (PRF-03)."""
        return [
            one.name
            for one in self.optimisations
            if one.evidence and any(seen.test == stage.test_key and not seen.repeats for seen in one.tests)
        ]

    def expected(self, stage: StageFacts) -> list[OptimisationFacts]:
        """Optimisations of the stage's test whose files changed since the last calibration (PRF-02)."""
        sensitive = self.previous.sensitive if self.previous else {}
        named = {name for names in sensitive.values() for name in names}
        return [
            one
            for one in self.optimisations
            if one.name in named and any(seen.test == stage.test_key for seen in one.tests)
        ]
