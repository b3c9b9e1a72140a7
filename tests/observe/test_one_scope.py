"""Every repeat of a stage has one sample scope, also where nobody said which; counts that cannot differ are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.errors import Code, Refusal
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

UNKNOWN = toy.toy_source().replace("NUM_SAMPLES = 4", "NUM_SAMPLES = int(os.environ.get('HOW_MANY', '4'))")


def number_of(*totals: int) -> Any:
    """Repeat k measures the k-th number of samples, all of them good."""

    def attempt(job: Job) -> AttemptResult:
        return toy.measured(job, summary={"total_samples": (n := totals[job.repeat - 1]), "evaluated": n})

    return attempt


@pytest.mark.rule("SMP-01", "SMP-06")
@pytest.mark.parametrize("totals", [(4, 8, 12), (4, 4, 8), (8, 4, 4), (4, 3, 4)])
def test_repeats_of_different_sizes_halt_and_are_never_one_strict_run(tmp_path: Path, totals: tuple[int, ...]) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=UNKNOWN)
    assert all(stage.expected_samples is None for stage in project.places.stages("toy").values())

    run = toy.finished_run(project, 3, number_of(*totals))

    now = status(project, run.run_id)
    assert now.state == "halted" and "wrong sample scope" in now.reason, toy.told(run)
    assert f"{totals[0]} expected" in now.reason
    audit = strict_audit(project, run.run_id)
    assert not audit.ready and "(3/3" not in audit.text()
    with toy.supervised_here(number_of(*totals)), pytest.raises(Refusal) as refused:
        resume_run(project, run.run_id)
    assert refused.value.code is Code.HALT_UNRESOLVED


@pytest.mark.rule("SMP-01")
def test_repeats_of_one_size_count_whatever_it_is(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=UNKNOWN)

    assert strict_audit(project, toy.finished_run(project, 3, number_of(7, 7, 7)).run_id).ready


@pytest.mark.rule("SMP-01")
@pytest.mark.parametrize(
    "counts",
    [
        {"total": "summary.total_samples", "ok": "summary.total_samples"},
        {"total": "toy0/result.json::summary.evaluated", "ok": "summary.evaluated"},
    ],
    ids=["one key", "spelt in two ways"],
)
def test_counts_that_can_never_differ_are_refused_in_discover(tmp_path: Path, counts: dict[str, str]) -> None:
    source = toy.CONFIG["metric_sources"]["test_toy_ci.py"] | {"sample_counts": counts}

    with pytest.raises(Refusal) as refused:
        toy.make_toy(tmp_path / "repo", config=toy.CONFIG | {"metric_sources": {"test_toy_ci.py": source}})

    assert refused.value.code is Code.INVALID_CONFIG
    assert "sample_counts" in refused.value.message and "same place" in refused.value.message
    assert "config.yaml:" in refused.value.message
