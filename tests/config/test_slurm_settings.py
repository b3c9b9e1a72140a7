"""``executor: slurm`` of a host profile: what is handed to sbatch, and what is refused at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tune_mcp.config.host import HostProfile, SlurmSettings


def profile(**keys: Any) -> HostProfile:
    return HostProfile.model_validate({"name": "site", "hostname": "login", "repo_root": "/shared/repo", **keys})


def test_every_key_becomes_an_option_and_the_number_of_gpus_is_the_tests_own() -> None:
    slurm = {
        "partition": "gpu", "constraint": "h100&nvlink", "gres": "gpu:h100", "time": "1-00:00:00", "exclusive": True,
        "options": ["--account=asr", "--cpus-per-task=16"],
    }  # fmt: skip
    cluster = profile(executor="slurm", slurm=slurm).cluster()

    assert cluster is not None
    assert cluster.options_for(2) == (
        "--partition=gpu", "--constraint=h100&nvlink", "--time=1-00:00:00", "--gres=gpu:h100:2", "--exclusive",
        "--account=asr", "--cpus-per-task=16",
    )  # fmt: skip
    assert not any("gres" in option for option in cluster.options_for(0))


def test_a_profile_without_an_executor_runs_on_its_own_machine() -> None:
    assert profile().cluster() is None
    assert profile(executor="slurm").cluster() is not None


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"executor": "slurm", "slurm": {"gres": "gpu:h100:8"}}, "names a number"),
        ({"executor": "slurm", "slurm": {"gres": "gpu:8"}}, "names a number"),
        ({"executor": "slurm", "slurm": {"options": ["--job-name=mine"]}}, "cannot be set here"),
        ({"executor": "slurm", "slurm": {"options": ["--requeue"]}}, "cannot be set here"),
        ({"executor": "slurm", "slurm": {"options": ["-A", "asr"]}}, "cannot be set here"),
        ({"executor": "slurm", "slurm": {"container": ["docker", "run", "omni"]}}, "outside the job"),
        ({"executor": "slurm", "slurm": {"container": ["/usr/bin/podman", "run"]}}, "outside the job"),
        ({"executor": "slurm", "lanes": [{"name": "a", "gpus": [0]}]}, "Slurm grants"),
        ({"slurm": {"partition": "gpu"}}, "executor: slurm"),
        ({"executor": "ray"}, "local"),
        ({"executor": "slurm", "slurm": {"nodes": 2}}, "nodes"),
    ],
)
def test_what_cannot_hold_is_refused_with_its_reason(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        profile(**keys)


def test_the_reference_names_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/config.md").read_text()
    assert {*re.findall(r"^\| `slurm\.(\w+)` \|", page, re.MULTILINE)} == {*SlurmSettings.model_fields}
