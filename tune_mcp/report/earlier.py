"""Earlier reports of the same model in this repository, as far as a later one needs them (PRF-01).

Only these fields of report.json are read and all others passed over, so that a report of another version still counts.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tune_mcp.config.stages import Number, WorstOp
from tune_mcp.files import parse_json, read_plain
from tune_mcp.run_dir import list_runs

_MOST_REPORTS = 20


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, defer_build=True)


class EarlierMetric(_Read):
    """One metric's raw repeats, in order, and their worst."""

    key: str
    worst_op: WorstOp
    values: tuple[Number, ...]
    worst_raw: Number


class EarlierStage(_Read):
    """One stage: its group, the test that fed it, and its metrics."""

    key: str
    group: str
    test_key: str
    metrics: tuple[EarlierMetric, ...]


class EarlierReport(_Read):
    """One calibration that was reported before."""

    run_id: str
    model: str
    calibration_git_sha: str
    generated_at: str
    repeats: int
    gpu_summary: str
    environment: dict[str, str]
    stages: tuple[EarlierStage, ...]


def read(repo_root: Path, model: str, before: str) -> tuple[EarlierReport, ...]:
    """The reports of the model's runs before run id ``before``, newest first, at most twenty."""
    found: list[EarlierReport] = []
    for run in list_runs(repo_root):
        if run.run_id >= before or not run.report_json.is_file():
            continue
        try:
            one = EarlierReport.model_validate(parse_json(read_plain(run.report_json)))
        except (OSError, ValueError, ValidationError):
            continue
        if one.model == model:
            found.append(one)
        if len(found) == _MOST_REPORTS:
            break
    return tuple(found)
