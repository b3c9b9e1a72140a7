"""``events.jsonl``: the append-only record of a run, and the ledger that makes an edited artifact visible.

Some lines carry a digest: ``planned`` that of plan.json, ``environment`` that of environment.json, ``recorded`` that of
one run{k}.json, ``sealed`` that of one attempt's result.json, ``answered`` that of what a person said about an apply
plan. Whoever reads such a file compares, so a value changed by hand after the fact looks neither like a measurement nor
like a person's answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tune_mcp.errors import Json
from tune_mcp.files import append_line, open_plain, parse_json
from tune_mcp.run_dir import RunDir, iso, list_runs

MILESTONES = frozenset(
    {
        "planned", "prechecked", "started", "launched", "retry", "observed", "halted", "exhausted", "waiting_for_gpu",
        "waiting_for_quiet", "disturbed",
        "gpus_not_clear", "purged", "recovered", "resumed", "equivalent", "appeared", "left_behind", "unwatched",
        "stop_requested", "stopped", "failed", "finished", "overlap", "reported", "applied", "undone", "alert",
        "alert_over", "settled", "declined", "ignored", "read_again", "engine", "left_out", "merged",
    }
)  # fmt: skip
"""Event kinds that people see in ``status`` and ``watch``; others are the ledger only."""


@dataclass(frozen=True)
class Event:
    """One line: when, what kind, one sentence for people, and typed facts."""

    t: str
    kind: str
    text: str
    facts: dict[str, Json]


def append(run: RunDir, kind: str, now: datetime, text: str, **facts: Json) -> None:
    """Write one event; milestones go to ``run.log`` too, the same words for people (rules SUP-04, SUP-19)."""
    from json import dumps

    stamp = iso(now)
    line = dumps({"t": stamp, "kind": kind, "text": text, **facts}, ensure_ascii=False, allow_nan=False, sort_keys=True)
    append_line(run.events, line)
    if kind in MILESTONES:
        append_line(run.run_log, f"{stamp} {kind:<12} {_one_line(text)}")


def _one_line(text: str) -> str:
    """The text without line breaks and terminal escapes, which a file's name may hold."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else " " if one == "\n" else one.encode("unicode_escape").decode() for one in text
    )


def read(path: Path, *kinds: str) -> Iterator[Event]:
    """The events of these kinds, or all, in order. A torn line (a crash in mid-write) is passed over."""
    if not path.is_file():
        return
    words = [f'"{kind}"'.encode() for kind in kinds] or [b""]
    with open_plain(path) as stream:
        for line in stream:
            if not any(word in line for word in words):
                continue  # most lines are of other kinds, and need not be parsed
            try:
                value = parse_json(line)
            except ValueError:
                continue
            found = value if isinstance(value, dict) else {}
            t, kind, text = (found.pop(name, None) for name in ("t", "kind", "text"))
            if isinstance(t, str) and isinstance(kind, str) and (not kinds or kind in kinds):
                yield Event(t, kind, _one_line(text) if isinstance(text, str) else "", found)


@dataclass(frozen=True)
class Ledger:
    """The digests on record: plan.json, environment.json, and (stage key, repeat) -> run{k}.json."""

    plan_sha256: str | None
    observations: dict[tuple[str, int], str]
    environment_sha256: str | None = None
    fingerprint: str | None = None


def ledger(run: RunDir) -> Ledger:
    """The digests that events.jsonl records."""
    return recorded(read(run.events))


def recorded(log: Iterable[Event]) -> Ledger:
    """The digests in these events; a purge takes its entries back, a later line wins."""
    plan: str | None = None
    environment: str | None = None
    fingerprint: str | None = None
    found: dict[tuple[str, int], str] = {}
    for event in log:
        stage, repeat, sha = event.facts.get("stage"), event.facts.get("repeat"), event.facts.get("sha256")
        if event.kind == "planned" and isinstance(sha, str):
            plan = sha
        elif event.kind == "environment" and isinstance(sha, str):
            environment = sha
            kind = event.facts.get("fingerprint")
            fingerprint = kind if isinstance(kind, str) else None
        elif event.kind == "recorded" and isinstance(stage, str) and isinstance(repeat, int) and isinstance(sha, str):
            found[(stage, repeat)] = sha
        elif event.kind == "withdrawn" and isinstance(stage, str) and isinstance(repeat, int):
            found.pop((stage, repeat), None)
    return Ledger(plan, found, environment, fingerprint)


_EARLIER_RUNS = 20


def observed_lengths(log: Iterable[Event]) -> dict[str, list[float]]:
    """Test key -> the length of each of its repeats in seconds, oldest first."""
    found: dict[str, list[float]] = {}
    for event in log:
        test, seconds = event.facts.get("test"), event.facts.get("duration_s")
        if event.kind == "observed" and isinstance(test, str) and isinstance(seconds, int | float):
            found.setdefault(test, []).append(float(seconds))
    return found


def expected_lengths(run: RunDir) -> dict[str, float]:
    """Test key -> its median length in this run, else in the newest run of the repository that has one."""
    from statistics import median  # only those who plan ahead wait for it

    found: dict[str, float] = {}
    for one in (run, *list_runs(run.repo_root)[:_EARLIER_RUNS]):
        for test, seconds in observed_lengths(read(one.events, "observed")).items():
            found.setdefault(test, median(seconds))
    return found
