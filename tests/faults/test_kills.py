"""Kills of everything that can be killed: nothing lost, faked or counted twice, and no process left.

``TUNE_FAULT_KILLS`` is how many; CI draws 205 (``make kills``), the suite enough for each target twice.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import campaign
import pytest
from campaign import Campaign

ALL = int(os.environ.get("TUNE_FAULT_KILLS") or 24)
KILLS = {"watched": ALL * 2 // 5, "unwatched": ALL * 2 // 5, "suite": ALL - ALL * 2 // 5 * 2}
TARGETS = {
    "watched": {
        "runner": campaign.runner,
        "runner+pytest": campaign.runner_and_pytest,
        "pytest": campaign.pytest_itself,
    },
    "unwatched": {
        "supervisor": campaign.supervisor,
        "supervisor+runner": campaign.watchers,
        "supervisor+pytest": campaign.supervisor_and_pytest,
        "whole tree": campaign.whole_tree,
    },
    "suite": {
        "worker": campaign.worker,
        "model server": campaign.model_server,
        "pytest": campaign.pytest_itself,
    },
}


LANE_KILLS = int(os.environ.get("TUNE_LANE_KILLS") or 7)
"""CI draws 20, the suite each target once; ``TUNE_LANE_KILLS=200`` for a long look."""
LANE_TARGETS = {
    "one runner": campaign.one_runner,
    "the other runner": campaign.other_runner,
    "one pytest": campaign.one_pytest,
    "both runners": campaign.runner,
    "supervisor": campaign.supervisor,
    "supervisor+runners": campaign.watchers,
    "whole tree": campaign.whole_tree,
}


@pytest.mark.rule("GPU-20", "RES-04", "RES-07", "RES-10", "STR-17", "RTY-03")
@pytest.mark.parametrize("whom", TARGETS)
def test_a_run_survives_every_kill_and_its_numbers_are_those_of_an_undisturbed_run(tmp_path: Path, whom: str) -> None:
    """Bugs 17, 23, 24 of the older script; ``TUNE_FAULT_SEED=N`` repeats the draws of a failure."""
    seed = int(os.environ.get("TUNE_FAULT_SEED") or secrets.randbelow(10**6))
    print(f"TUNE_FAULT_SEED={seed}")
    campaigner = Campaign(campaign.make(tmp_path / "repo"), seed)

    campaigner.run(KILLS[whom], TARGETS[whom])

    print(f"{dict(campaigner.kills)}, {campaigner.finished} runs finished")
    assert campaigner.kills.total() >= KILLS[whom]
    assert set(campaigner.kills) >= set(TARGETS[whom])
    assert campaigner.finished >= 1


@pytest.mark.rule("GPU-16", "RES-04", "STR-17", "RTY-03")
def test_a_run_on_two_lanes_survives_kills_of_one_or_both_and_its_numbers_are_those_of_one_lane(tmp_path: Path) -> None:
    """What is killed on one lane costs the other nothing: no strict repeat changes, none is counted twice."""
    seed = int(os.environ.get("TUNE_FAULT_SEED") or secrets.randbelow(10**6))
    print(f"TUNE_FAULT_SEED={seed}")
    campaigner = Campaign(campaign.make(tmp_path / "repo", lanes=2), seed, lanes=2)

    campaigner.run(LANE_KILLS, LANE_TARGETS)

    print(f"{dict(campaigner.kills)}, {campaigner.finished} runs finished")
    assert campaigner.kills.total() >= LANE_KILLS and campaigner.finished >= 1
