"""Whoever deletes, edits or copies files of a run, between kills and resumes, makes no observation disappear."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
import tampering

ENGINES = {"processes": tampering.Tampering, "in process": tampering.InProcess}
ROUNDS = {
    "processes": int(os.environ.get("TUNE_FAULT_ROUNDS") or 3),
    "in process": int(os.environ.get("TUNE_FAULT_ROUNDS") or 10) * 4,
}


@pytest.mark.rule("STR-22", "RES-10", "GAP-10", "STR-17", "GPU-20")
@pytest.mark.parametrize("engine", ENGINES)
def test_no_observation_disappears_whatever_somebody_does_to_the_files_of_a_run(tmp_path: Path, engine: str) -> None:
    """``TUNE_FAULT_SEED=N`` chooses the draws; ``make faults`` plays the long campaign with draws of its own."""
    drawn = secrets.randbelow(10**6) if os.environ.get("TUNE_FAULT_ROUNDS") else 4
    seed = int(os.environ.get("TUNE_FAULT_SEED") or drawn)
    print(f"TUNE_FAULT_SEED={seed}")
    tamperer = ENGINES[engine](tampering.make(tmp_path / "repo"), seed, patience=400)

    tamperer.play(ROUNDS[engine])

    print(f"{tamperer.rounds} rounds, {tamperer.finished} times finished, {tamperer.abandoned} runs given up")
    print(f"kills {dict(tamperer.kills)}\nchanges {dict(tamperer.kinds)}\nrefusals {dict(tamperer.answers)}")
    assert tamperer.finished or tamperer.abandoned
