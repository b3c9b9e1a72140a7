"""Complete repeats that a person replaced: their old values stay in the report, with who did it and why (GAP-10).

Whoever holds a repeat to be disturbed says that the machine was, and that makes a test slow. Where the answers of the
model moved too, a defect is the likelier reason, so such quality metrics are listed as suspects.
"""

from __future__ import annotations

from collections.abc import Iterator

from tune_mcp.errors import Json
from tune_mcp.files import inside, parse_json, read_plain, sha256_bytes
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.report.facts import Number, ReplacedFacts, ReplacedValue
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events

_MOVED_BY_LOAD = frozenset({"speed", "reliability"})
"""Groups that a busy machine changes; every other one is about what the model answered."""


def replaced(run: RunDir, audited: Audit) -> tuple[ReplacedFacts, ...]:
    """Every replaced repeat of the run, in the order of time. A file that was changed since has no old values."""
    found: list[ReplacedFacts] = []
    recorded: dict[tuple[str, Json], Json] = {}
    for event in events.read(run.events):
        facts = event.facts
        if event.kind == "recorded":
            recorded[str(facts.get("stage")), facts.get("repeat")] = facts.get("sha256")
        elif event.kind == "purged" and facts.get("replaced") is True:
            repeat, test = facts.get("repeat"), str(facts.get("test"))
            stages = [stage for stage in audited.stages if stage.stage.test_key == test]
            folder = str(facts.get("folder"))
            values = [
                value
                for stage in stages
                for value in _values(run, folder, stage, recorded.get((stage.stage.key, repeat)))
            ]
            found.append(
                ReplacedFacts(
                    test=test,
                    repeat=repeat if isinstance(repeat, int) else 0,
                    t=event.t,
                    who=str(facts.get("who")),
                    reason=str(facts.get("reason")),
                    values=tuple(values),
                )
            )
    return tuple(found)


def _values(run: RunDir, folder: str, stage: AuditedStage, sha: Json) -> Iterator[ReplacedValue]:
    old = _old_metrics(run, f"{folder}/{stage.stage.key}.json", sha)
    for metric in stage.stage.metrics:
        measured = (cell.stored.content.metrics.get(metric) for cell in stage.cells if cell.stored)
        counted = tuple(value for value in measured if value is not None)
        value = old.get(metric)
        moved = value is not None and bool(counted) and not min(counted) <= value <= max(counted)
        yield ReplacedValue(
            stage=stage.stage.key,
            metric=metric,
            old=value,
            counted=counted,
            suspect=moved and stage.stage.group not in _MOVED_BY_LOAD,
        )


def _old_metrics(run: RunDir, name: str, sha: Json) -> dict[str, Number]:
    try:
        data = read_plain(inside(run.path, name))
        content = parse_json(data)
    except (OSError, ValueError):
        return {}
    metrics = content.get("metrics") if isinstance(content, dict) and sha256_bytes(data) == sha else None
    found = metrics.items() if isinstance(metrics, dict) else ()
    return {key: value for key, value in found if isinstance(value, int | float) and not isinstance(value, bool)}
