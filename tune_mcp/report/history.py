"""What happened on the way: attempts, superseded repeats, and incidents, from artifacts and events.jsonl (GAP-10).

Nothing that did not count is left out of the report: MLPerf's rule that purged repeats are shown (note D82).
"""

from __future__ import annotations

from tune_mcp.errors import Json
from tune_mcp.observe.audit import Audit
from tune_mcp.report.facts import AttemptFacts, EventFacts, SupersededFacts
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events

INCIDENTS = frozenset(
    {
        "retry", "halted", "exhausted", "waiting_for_gpu", "resumed", "stop_requested", "stopped", "failed", "alert",
        "alert_over", "unwatched", "recovered", "equivalent", "appeared", "left_behind", "gpus_not_clear",
        "overlap", "read_again",
    }
)  # fmt: skip
"""Event kinds that a reader of the numbers should know of; purges stand among the superseded repeats."""


def finished_at(run: RunDir, audited: Audit) -> str:
    """When the last observation was recorded; ``?`` when no artifact says so."""
    times = [
        cell.stored.content.recorded_at
        for stage in audited.stages
        for cell in stage.cells
        if cell.stored and cell.stored.content.recorded_at
    ]
    times += [event.t for event in events.read(run.events) if event.kind == "finished"]
    return max(times, default="?")


def attempts(audited: Audit) -> tuple[AttemptFacts, ...]:
    """Every launch of pytest, once per test and repeat although it feeds several stages."""
    found: dict[tuple[str, int, int], AttemptFacts] = {}
    for stage in audited.stages:
        for repeat, cell in enumerate(stage.cells, 1):
            if cell.stored is None:
                continue
            history = cell.stored.content.history
            kept = [one.attempt for one in history if one.verdict == "kept"]
            last = max(kept or [one.attempt for one in history], default=0)
            for one in history:
                found.setdefault(
                    (stage.stage.test_key, repeat, one.attempt),
                    AttemptFacts(
                        test=stage.stage.test_key,
                        repeat=repeat,
                        attempt=one.attempt,
                        verdict=one.verdict,
                        reason=one.reason,
                        pytest_rc=one.pytest_rc,
                        started_at=one.started_at,
                        duration_s=one.duration_s,
                        log=one.log,
                        superseded=one.attempt != last,
                    ),
                )
    return tuple(found[key] for key in sorted(found))


def superseded(run: RunDir, audited: Audit) -> tuple[SupersededFacts, ...]:
    """Repeats that were replaced by a later one: purged, withdrawn, or tried again, in the order of time."""
    found: list[SupersededFacts] = []
    withdrawn: dict[int | None, list[tuple[str, str]]] = {}
    for event in events.read(run.events):
        repeat = _whole(event.facts.get("repeat"))
        if event.kind == "withdrawn":
            withdrawn.setdefault(repeat, []).append((event.t, _text(event.facts.get("stage")) or "?"))
        elif event.kind == "read_again":
            withdrawn.pop(repeat, None)  # the same attempt counts: nothing was replaced by another measurement
        elif event.kind == "purged":
            found.append(
                SupersededFacts(
                    where=_text(event.facts.get("test")) or "?",
                    stages=tuple(stage for _, stage in withdrawn.pop(repeat, [])),
                    repeat=repeat,
                    t=event.t,
                    reason=_text(event.facts.get("reason")) or event.text,
                    who=_text(event.facts.get("who")),
                )
            )
    for repeat, stages in withdrawn.items():
        found += [
            SupersededFacts(where=stage, stages=(stage,), repeat=repeat, t=t, reason="withdrawn", who="")
            for t, stage in stages
        ]
    fed: dict[str, list[str]] = {}
    for stage in audited.stages:
        fed.setdefault(stage.stage.test_key, []).append(stage.stage.key)
    found += [
        SupersededFacts(
            where=one.test,
            stages=tuple(fed[one.test]),
            repeat=one.repeat,
            t=one.started_at,
            reason=f"attempt {one.attempt} {one.verdict}{f': {one.reason}' if one.reason else ''}",
            who="",
        )
        for one in attempts(audited)
        if one.superseded
    ]
    return tuple(sorted(found, key=lambda one: (one.t, one.where, one.repeat or 0)))


def incidents(run: RunDir) -> tuple[EventFacts, ...]:
    """The events that a reader of the numbers should know of, in order."""
    return tuple(
        EventFacts(t=event.t, kind=event.kind, text=event.text)
        for event in events.read(run.events)
        if event.kind in INCIDENTS
    )


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
