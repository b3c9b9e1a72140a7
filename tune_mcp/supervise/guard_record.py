"""Read ``guard_run{k}.jsonl``: what the guard plugin saw, summed up for the verdict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tune_mcp.config.stages import Frozen
from tune_mcp.errors import Json
from tune_mcp.files import parse_json


class GuardSummary(Frozen):
    """One pytest session. ``executed`` are node ids with a result; ``repeated`` ran more than once (a rerun)."""

    started: bool = False
    finished: bool = False
    exitstatus: int | None = None
    stop_reason: str = ""
    worker: bool = False
    collect_only: bool = False
    collected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    collect_errors: tuple[str, ...] = ()
    executed: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def shortfall(self) -> str:
        """Why this was not one whole, single pass over the file; empty when it was."""
        missing = [name for name in self.collected if name not in set(self.executed)]
        faults = (
            (not self.started, "pytest never reached our guard plugin"),
            (self.worker, "tests ran in pytest-xdist workers, not in one process"),
            (self.collect_only, "pytest only collected (--collect-only)"),
            (bool(self.collect_errors), f"collection failed: {_first(self.collect_errors)}"),
            (bool(self.dropped), f"tests were deselected: {_first(self.dropped)}"),
            (bool(self.skipped), f"tests were skipped: {_first(self.skipped)}"),
            (bool(self.repeated), f"tests ran more than once (rerun plugin): {_first(self.repeated)}"),
            (self.started and not self.collected, "no test was collected"),
            (bool(missing), f"tests did not run: {_first(tuple(missing))}{self._because()}"),
            (not self.finished, "pytest did not end by itself"),
        )
        return next((text for wrong, text in faults if wrong), "")

    def _because(self) -> str:
        return f" ({self.stop_reason})" if self.stop_reason else ""


def _first(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def read(path: Path) -> GuardSummary:
    """Sum up a record; a missing or torn file gives what it has."""
    lines: list[dict[str, Json]] = []
    if path.exists():
        for raw in path.read_bytes().splitlines():
            try:
                value = parse_json(raw)
            except ValueError:
                continue
            if isinstance(value, dict):
                lines.append(value)
    starts = [line for line in lines if line.get("event") == "start"]
    finishes = [line for line in lines if line.get("event") == "finish"]
    collections = [line for line in lines if line.get("event") == "collected"]
    reports = [line for line in lines if line.get("event") == "report"]
    calls: Counter[str] = Counter()
    outcome: dict[str, set[str]] = {}
    for line in reports:
        name, when, result = str(line.get("id")), str(line.get("when")), str(line.get("outcome"))
        if when == "setup":
            calls[name] += 1
        skipped = result == "skipped" and not line.get("xfail")
        outcome.setdefault(name, set()).add("skipped" if skipped else "failed" if result == "failed" else result)
        if when == "teardown":
            outcome[name].add("ended")
    last = finishes[-1] if finishes else {}
    status = last.get("exitstatus")
    return GuardSummary(
        started=bool(starts),
        finished=bool(finishes),
        exitstatus=status if isinstance(status, int) else None,
        stop_reason=str(last.get("shouldstop") or last.get("shouldfail") or ""),
        worker=any(bool(line.get("worker")) for line in starts),
        collect_only=any(bool(line.get("collect_only")) for line in starts),
        collected=_names(collections, "ids"),
        dropped=_names(collections, "dropped"),
        collect_errors=tuple(
            f"{line.get('id')}: {str(line.get('text')).strip().splitlines()[-1:]}"
            for line in lines
            if line.get("event") in ("collect_failed", "collect_skipped")
        ),
        executed=tuple(name for name, seen in outcome.items() if "ended" in seen),
        repeated=tuple(name for name, count in calls.items() if count > 1),
        skipped=tuple(name for name, seen in outcome.items() if "skipped" in seen),
        failed=tuple(name for name, seen in outcome.items() if "failed" in seen),
    )


def _names(lines: list[dict[str, Json]], key: str) -> tuple[str, ...]:
    found: list[str] = []
    for line in lines:
        names = line.get(key)
        if isinstance(names, list):
            found += [str(name) for name in names]
    return tuple(found)
