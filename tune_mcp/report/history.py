"""What happened on the way: every launch, from the artifacts, and incidents, from events.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tune_mcp.observe.audit import Audit
from tune_mcp.report.facts import Incident, Launch
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events

INCIDENTS = frozenset(
    {
        "retry", "halted", "exhausted", "waiting_for_gpu", "waiting_for_quiet",
        "disturbed", "resumed", "stop_requested", "stopped", "failed", "alert",
        "alert_over", "unwatched", "recovered", "equivalent", "appeared", "left_behind", "gpus_not_clear",
        "overlap", "read_again", "ignored",
    }
)  # fmt: skip
"""Event kinds that a reader of the numbers should know of; purges are among what does not count."""


def finished_at(run: RunDir, audited: Audit) -> str:
    """When the last observation was recorded; ``?`` when no artifact says so."""
    times = [
        cell.stored.content.recorded_at
        for stage in audited.stages
        for cell in stage.cells
        if cell.stored and cell.stored.content.recorded_at
    ]
    times += [event.t for event in _events([part for part, _ in audited.parts(run)]) if event.kind == "finished"]
    return max(times, default="?")


def launches(run: RunDir, audited: Audit) -> tuple[Launch, ...]:
    """Every launch of pytest, once per test and repeat although it feeds several stages."""
    return tuple(launch for _, own in audited.parts(run) for launch in _launches(own))


def _launches(audited: Audit) -> Iterator[Launch]:
    found: dict[tuple[str, int, int], Launch] = {}
    for stage in audited.stages:
        for repeat, cell in enumerate(stage.cells, 1):
            if cell.stored is None:
                continue
            history = cell.stored.content.history
            kept = [one.attempt for one in history if one.verdict == "kept"]
            last = max(kept or [one.attempt for one in history], default=0)
            for one in history:
                key = (stage.stage.test_key, repeat, one.attempt)
                found[key] = Launch(test=key[0], repeat=repeat, superseded=one.attempt != last, attempt=one)
    yield from (found[key] for key in sorted(found))


def incidents(*runs: RunDir) -> tuple[Incident, ...]:
    """The events that a reader of the numbers should know of, in order."""
    found = (event for event in _events(runs) if event.kind in INCIDENTS)
    return tuple(Incident(t=event.t, kind=event.kind, text=event.text) for event in found)


def _events(runs: Sequence[RunDir]) -> list[events.Event]:
    """Every event in the order of its file, of several runs in the order of time."""
    found = [event for run in runs for event in events.read(run.events)]
    return sorted(found, key=lambda event: event.t) if len(runs) > 1 else found
