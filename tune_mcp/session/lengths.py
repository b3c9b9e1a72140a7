"""How long the repeats of a test file take, as runs have seen it (seconds)."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tune_mcp import run_dir
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.events import Event

_EARLIER_RUNS = 20


def observed(log: Iterable[Event]) -> dict[str, list[float]]:
    """Test key -> the length of each of its repeats, oldest first."""
    found: dict[str, list[float]] = {}
    for event in log:
        test, seconds = event.facts.get("test"), event.facts.get("duration_s")
        if event.kind == "observed" and isinstance(test, str) and isinstance(seconds, int | float):
            found.setdefault(test, []).append(float(seconds))
    return found


def expected(run: RunDir) -> dict[str, float]:
    """Test key -> its median length in this run, else in the newest run of the repository that has one."""
    found: dict[str, float] = {}
    for one in (run, *run_dir.list_runs(run.repo_root)[:_EARLIER_RUNS]):
        for test, seconds in observed(events.read(one.events, '"observed"')).items():
            found.setdefault(test, median(seconds))
    return found
