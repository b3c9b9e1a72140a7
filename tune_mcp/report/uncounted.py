"""Everything that was measured and does not count: where it lies, who took it out, when, why, and its values (GAP-10).

Worst-of-N is honest only if nothing worse was put aside in silence. So the values of purged repeats and of attempts
that another one superseded are read where they can be, and one that is worse than what counts is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.config.stages import Number
from tune_mcp.errors import Json
from tune_mcp.files import parse_json, read_plain
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.observe.extract import ResultFiles, extract
from tune_mcp.report.facts import UncountedFacts, UncountedValue
from tune_mcp.run_dir import ATTEMPT, RunDir
from tune_mcp.session import events


@dataclass(frozen=True)
class _Left:
    """One attempt that does not count: its own folder, its basetemp, and the artifacts that were made of it."""

    test: str
    repeat: int
    attempt: int | None
    t: str
    who: str
    reason: str
    folder: Path
    basetemp: Path
    artifacts: Path | None = None


def uncounted(run: RunDir, audited: Audit) -> tuple[UncountedFacts, ...]:
    """Every attempt that left values or files and does not count, in the order of time."""
    stages: dict[str, list[AuditedStage]] = {}
    for stage in audited.stages:
        stages.setdefault(stage.stage.test_key, []).append(stage)
    found: list[UncountedFacts] = []
    for left in (*_purged(run), *_superseded(run, stages)):
        result = _read(left.folder / "result.json")
        values = tuple(value for stage in stages.get(left.test, []) for value in _values(left, stage, result))
        if values or left.basetemp.is_dir() or result:
            started = result.get("started_at")
            found.append(
                UncountedFacts(
                    test=left.test,
                    repeat=left.repeat,
                    attempt=left.attempt,
                    t=left.t or (started if isinstance(started, str) else "?"),
                    who=left.who,
                    reason=left.reason,
                    where=str(left.folder.relative_to(run.path)),
                    values=values,
                )
            )
    return tuple(sorted(found, key=lambda one: (one.t, one.test, one.repeat, one.attempt or 0)))


def _purged(run: RunDir) -> Iterator[_Left]:
    taken: dict[str, events.Event] = {}
    for event in events.read(run.events):
        name = event.facts.get("folder")
        if isinstance(name, str) and event.kind == "purged":
            taken[name] = event
        elif isinstance(name, str) and event.kind == "restored":
            taken.pop(name, None)
    for name, event in taken.items():
        folder, repeat = run.purged / Path(name).name, event.facts.get("repeat")
        if not folder.is_dir() or not isinstance(repeat, int):
            continue
        test, who, why = (str(event.facts.get(key) or "") for key in ("test", "who", "reason"))
        for number, home, basetemp in _attempts(folder, folder, repeat):
            last = basetemp == folder / f"basetemp_run{repeat}"
            yield _Left(test, repeat, number, event.t, who, why, home, basetemp, folder if last else None)


def _superseded(run: RunDir, stages: Mapping[str, list[AuditedStage]]) -> Iterator[_Left]:
    launched = {
        (event.facts.get("test"), event.facts.get("repeat"), event.facts.get("attempt")): event.t
        for event in events.read(run.events, '"launched"')
        if event.kind == "launched"
    }
    for test, fed in stages.items():
        for repeat, cell in enumerate(fed[0].cells, 1):
            if cell.stored is None:
                continue
            counted = (run.path / cell.stored.content.basetemp).resolve()
            history = {one.attempt: one for one in cell.stored.content.history}
            place = run.test_folder(test)
            for number, home, basetemp in _attempts(place / "attempts", place, repeat):
                told = history.get(number or 0)
                if basetemp.resolve() == counted or (told and told.verdict == "kept"):
                    continue
                why = f"{told.verdict}: {told.reason}" if told else "broke off or was stopped before it was sealed"
                began = told.started_at if told else launched.get((test, repeat, number), "")
                yield _Left(test, repeat, number, began, "supervisor", why, home, basetemp)


def _attempts(folder: Path, root: Path, repeat: int) -> Iterator[tuple[int | None, Path, Path]]:
    """Number, own folder and basetemp of every attempt; the last one's basetemp lies where it was written."""
    names = (ATTEMPT.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    numbers = sorted(int(name[2]) for name in names if name and int(name[1]) == repeat)
    for number in numbers:
        home = folder / f"run{repeat}_a{number}"
        own = home / f"basetemp_run{repeat}"
        last = number == numbers[-1] and not own.is_dir()
        yield number, home, root / f"basetemp_run{repeat}" if last else own
    if not numbers and folder == root:
        yield None, root, root / f"basetemp_run{repeat}"


def _values(left: _Left, stage: AuditedStage, result: Mapping[str, Json]) -> Iterator[UncountedValue]:
    read = extract(stage.stage, ResultFiles(left.basetemp)).metrics
    sealed = _metrics(result.get("stages"), stage.stage.key)
    kept = _read(left.artifacts / f"{stage.stage.key}.json").get("metrics") if left.artifacts else None
    for key, metric in stage.stage.metrics.items():
        value = next(
            (one for one in (read.get(key), _number(sealed, key), _number(kept, key)) if one is not None), None
        )
        if value is None:
            continue
        measured = (cell.stored.content.metrics.get(key) for cell in stage.cells if cell.stored)
        counted = [one for one in measured if one is not None]
        worst = (min(counted) if metric.worst == "min" else max(counted)) if counted else None
        worse = worst is not None and (value < worst if metric.worst == "min" else value > worst)
        yield UncountedValue(stage=stage.stage.key, metric=key, value=value, worst=worst, worse=worse)


def _metrics(stages: Json, key: str) -> Json:
    one = stages.get(key) if isinstance(stages, dict) else None
    return one.get("metrics") if isinstance(one, dict) else None


def _number(metrics: Json, key: str) -> Number | None:
    value = metrics.get(key) if isinstance(metrics, dict) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read(path: Path) -> dict[str, Json]:
    try:
        value = parse_json(read_plain(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
