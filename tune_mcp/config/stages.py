"""``stages.yaml`` as data: what ``discover`` writes and every later step reads; and the policy of a metric group."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tune_mcp.files import parse_json, read_plain, write_json

WorstOp = Literal["min", "max"]
Number = int | float
MetricKey = tuple[str, str]
"""Stage key and metric key: one threshold of a run."""
DOCS_GROUP = "docs"
"""The group of a test file without thresholds (STG-09)."""

StageKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def finite_number(node: object) -> int | float | None:
    """A finite int or float; None for anything else: a bool or a string is no measurement, nor is NaN or infinity."""
    if isinstance(node, bool) or not isinstance(node, int | float):
        return None
    try:
        return node if math.isfinite(node) else None
    except OverflowError:  # a whole number that no float can hold
        return None


class Frozen(BaseModel):
    """Data parsed at the edge: closed, immutable, and without a NaN or infinity in any number."""

    # Built at first use: a verb at a terminal uses a few of these, and should not wait for all.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def from_file(cls, path: Path) -> Self | None:
        """What a JSON file holds; None when there is none or it cannot be read as this."""
        try:
            return cls.model_validate(parse_json(read_plain(path)))
        except (OSError, ValueError):  # a ValidationError is one
            return None

    def to_file(self, path: Path, *, durable: bool = True) -> None:
        """Write it as JSON, whole or not at all; ``durable`` as for ``write_atomic``."""
        write_json(path, self.model_dump(mode="json"), durable=durable)


class Location(Frozen):
    """A number in a result file: ``json_file`` relative to pytest's basetemp, ``json_path`` a dotted key."""

    json_file: str
    json_path: str


class SampleCounts(Frozen):
    """Where a stage's sample counts stand: how many it should have had, and how many were good."""

    total: Location
    ok: Location


ONE: Literal["one"] = "one"
"""In place of sample counts: the test counts no samples, so each repeat is one measurement."""


class Display(Frozen):
    """How a metric is shown to people: shown = raw * scale, rounded to ``digits``. Never how it is written."""

    label: str
    scale: float = 1
    digits: int = 4


class StageMetric(Frozen):
    """One tracked metric of a stage.

    ``source`` is the threshold symbol: ``NAME`` (bare) or ``_NAME['key']`` (nested under a concurrency).
    ``worst`` says which extreme is the bad one: ``min`` for a lower bound, ``max`` for an upper bound (MET-04).
    ``status`` is NEEDS_CONFIG while nobody has said where the value stands (HLT-07).
    """

    source: str
    json_file: str | None = None
    json_path: str | None = None
    worst: WorstOp
    display: Display
    status: Literal["OK", "NEEDS_CONFIG"] = "OK"


class Stage(Frozen):
    """One stage: the metrics of one group that one test file yields, perhaps for one variant and one preset."""

    key: StageKey
    test: str
    title: str = ""
    group: str
    extra_env: dict[str, str] = Field(default_factory=dict)
    context_vars: tuple[str, ...] = ()
    variant: str | None = None
    calibration_preset: str | None = None
    gpus: int | None = None
    hf_model_ids: tuple[str, ...] = ()
    test_file_sha256: str
    threshold_file: str | None = None
    threshold_file_sha256: str | None = None
    expected_samples: int | None = None
    last_discovered_at: str | None = None
    sample_counts: SampleCounts | Literal["one"] | None = None
    observation_validity: Location | None = None
    metrics: dict[str, StageMetric]

    @property
    def test_key(self) -> str:
        """The pytest invocation that feeds this stage: the test file's stem, ``__<preset>`` appended."""
        stem = PurePosixPath(self.test).stem
        return f"{stem}__{self.calibration_preset}" if self.calibration_preset else stem

    @property
    def threshold_path(self) -> str:
        """The file that holds the stage's threshold literals, relative to the repository root (DSC-13)."""
        return self.threshold_file or self.test

    @property
    def file_sha256(self) -> dict[str, str]:
        """The test file, and the threshold file where it is another one -> the digest that ``discover`` saw."""
        own = {self.threshold_file: self.threshold_file_sha256} if self.threshold_file else {}
        return {self.test: self.test_file_sha256} | {name: sha for name, sha in own.items() if sha}

    @property
    def is_docs(self) -> bool:
        """A stage without thresholds: run and counted, never applied (STG-09)."""
        return not self.metrics


StageTable = dict[str, Stage]
"""Stage key -> stage, in the order of ``stages.yaml``."""


SmartRule = Literal["auto", "ask_loosening", "ask"]
Rounding = Literal["raw", "ceil4", "display", "ceil_int"]
Family = Literal["speed", "wer", "cer", "accuracy", "score", "count", "other"]
"""Metrics whose repeats scatter alike: times and rates of work, error rates of words and of characters, shares of right
answers, mean scores (similarity, MOS), counts. It decides what a report knows about their noise before the repeats."""


class GroupPolicy(Frozen):
    """How a group's worst-of-N becomes a threshold: when a person is asked, and how the number is rounded.

    ``family`` says how its metrics scatter; without it a group has the shipped group's of that name, else ``other``.
    """

    smart: SmartRule = "ask"
    rounding: Rounding = "raw"
    label: str | None = None
    family: Family | None = None
