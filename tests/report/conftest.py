"""Runs of the speech model, for everything that reads a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from speech_run import SHAPES, START, VALUES, Case, Workshop, attempt

from tune_mcp.observe.observation import Attempt
from tune_mcp.session import events


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def case(workshop: Workshop) -> Case:
    return workshop.make()


@pytest.fixture
def launch() -> Callable[..., Attempt]:
    return attempt


@pytest.fixture
def start() -> datetime:
    return START


@pytest.fixture
def values() -> dict[tuple[str, str], Sequence[int | float]]:
    return dict(VALUES)


@pytest.fixture
def remeasure(workshop: Workshop) -> Callable[..., None]:
    """Take a repeat out as a purge does, and measure it again (``shift`` is added to every value)."""

    def again(case: Case, test: str, repeat: int, reason: str, who: str, shift: float = 0.0) -> None:
        moment = START + timedelta(minutes=31)
        keys = [stage.key for stage in case.plan.tests()[test]]
        for key in keys:
            events.append(case.run, "withdrawn", moment, f"{key} run {repeat}", stage=key, repeat=repeat)
        events.append(case.run, "purged", moment, reason, test=test, repeat=repeat, reason=reason, who=who)
        for key in keys:
            measured = {metric: VALUES[(key, metric)][repeat - 1] + shift for metric in SHAPES[key]}
            workshop.observe(case.run, case.plan, key, repeat, measured)

    return again
