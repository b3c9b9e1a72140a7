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
        "retry", "halted", "exhausted", "waiting_for_gpu", "purged", "resumed", "stop_requested", "stopped", "failed",
        "lost", "applied", "undone", "proved_equivalent",
    }
)  # fmt: skip
"""Event kinds that a reader of the numbers should know of."""


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
            last = max((one.attempt for one in history), default=0)
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
                        superseded=one.attempt < last,
                    ),
                )
    return tuple(found[key] for key in sorted(found))


def superseded(run: RunDir, audited: Audit) -> tuple[SupersededFacts, ...]:
    """Repeats that were replaced by a later one: purged by a person, withdrawn, or retried."""
    found: dict[tuple[str, int | None, str], SupersededFacts] = {}
    purges: dict[int | None, str] = {}
    for event in events.read(run.events):
        if event.kind == "purged":
            repeat = _whole(event.facts.get("repeat"))
            reason = _text(event.facts.get("reason")) or event.text
            purges[repeat] = reason
            for where in _stages(event.facts):
                found[(where, repeat, event.t)] = SupersededFacts(where=where, repeat=repeat, t=event.t, reason=reason)
        elif event.kind == "withdrawn":
            where, repeat = _text(event.facts.get("stage")) or "?", _whole(event.facts.get("repeat"))
            reason = _text(event.facts.get("reason")) or event.text or purges.get(repeat, "withdrawn")
            if not any(place == where and number == repeat for place, number, _ in found):
                found[(where, repeat, event.t)] = SupersededFacts(where=where, repeat=repeat, t=event.t, reason=reason)
    for one in attempts(audited):
        if one.superseded:
            reason = f"attempt {one.attempt}: {one.verdict}{f', {one.reason}' if one.reason else ''}"
            found[(one.test, one.repeat, f"{one.started_at}#{one.attempt}")] = SupersededFacts(
                where=one.test, repeat=one.repeat, t=one.started_at, reason=reason
            )
    return tuple(found[key] for key in sorted(found, key=lambda key: (found[key].t, key[0], key[1] or 0)))


def incidents(run: RunDir) -> tuple[EventFacts, ...]:
    """The events that a reader of the numbers should know of, in order."""
    return tuple(
        EventFacts(t=event.t, kind=event.kind, text=event.text)
        for event in events.read(run.events)
        if event.kind in INCIDENTS
    )


def _stages(facts: dict[str, Json]) -> list[str]:
    many = facts.get("stages")
    if isinstance(many, list):
        return [str(item) for item in many]
    return [_text(facts.get("stage")) or _text(facts.get("test")) or "?"]


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
