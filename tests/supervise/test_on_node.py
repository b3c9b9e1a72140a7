"""What a runner on a node makes of Slurm's grant before it launches anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.executor.on_node import granted, refusal
from tune_mcp.supervise.job import JOB_FILE, read_job


@pytest.mark.rule("GPU-02")
@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ({"SLURM_JOB_GPUS": "0,1"}, False),
        ({"SLURM_JOB_GPUS": "0-3"}, False),  # a node of its own comes with all of its GPUs
        ({"SLURM_STEP_GPUS": "2,3"}, False),
        ({"SLURM_JOB_GPUS": "1"}, True),
        ({"SLURM_JOB_GPUS": "?"}, True),
        ({}, True),
    ],
)
def test_nothing_starts_on_fewer_gpus_than_were_asked_for(tmp_path: Path, said: dict[str, str], refused: bool) -> None:
    run: RunDir = toy.finished_run(toy.make_toy(tmp_path / "repo"), 1)
    job = read_job(run.attempt(toy.TEST_KEY, 1, 1) / JOB_FILE).model_copy(update={"gpus": 2})

    found = refusal(job, granted({"SLURM_JOB_ID": "7", **said}))

    assert (found is not None) == refused
    assert found is None or ("2 GPUs asked for" in found.reason and found.retryable)
