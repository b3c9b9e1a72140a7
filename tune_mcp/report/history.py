"""What happened on the way: launches, incidents, and everything that was launched and does not count (GAP-10).

Worst-of-N is honest only if nothing worse was put aside in silence: the values of purged repeats and of attempts that
another one superseded are read where they can be, and one that is worse than what counts is marked. Whoever replaces a
complete repeat holds the machine to be disturbed, and where others used its lane a run knows it. That makes a test
slow: where the answers of the model moved too, a defect is the likelier reason, so such quality metrics are suspects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tune_mcp.config.stages import MetricKey, Number, finite_number
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Json
from tune_mcp.files import read_object, real, sha256_file
from tune_mcp.observe import result_files
from tune_mcp.observe.audit import Audit, AuditedStage
from tune_mcp.observe.extract import ResultFiles, extract
from tune_mcp.observe.observation import AttemptVerdict
from tune_mcp.report.facts import Incident, Launch, Uncounted, UncountedFacts, UncountedValue
from tune_mcp.run_dir import ATTEMPT_KEY, RunDir, attempt_folders
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
            last = cell.stored.content.last_attempt
            for one in cell.stored.content.history:
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


_MOVED_BY_LOAD = frozenset({"speed", "reliability"})
"""Groups that a busy machine changes; every other one is about what the model answered."""
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class _Left:
    """One attempt that does not count, its values not yet read; ``folder`` and ``basetemp`` are its own.

    ``artifacts`` is where the run{k}.json that were made of it are kept, ``recorded`` their digests by stage key.
    """

    about: UncountedFacts
    folder: Path
    basetemp: Path
    artifacts: Path | None = None
    recorded: Mapping[str, Json] = field(default_factory=dict[str, "Json"])


def uncounted(run: RunDir, audited: Audit) -> tuple[UncountedFacts, ...]:
    """Every attempt that does not count, in the order of time."""
    found = [one for part, own in audited.parts(run) for one in _of_part(run, part, own)]
    return tuple(sorted(found, key=lambda one: (one.t, one.test, one.repeat, one.attempt or 0)))


def lost(run: RunDir, audited: Audit) -> dict[MetricKey, str]:
    """Metric -> a sentence on the worse values that do not count although nobody gave a reason to take them out."""
    found: dict[MetricKey, str] = {}
    for one in uncounted(run, audited):
        for value in one.values if one.how in (Uncounted.WITHDRAWN, Uncounted.TAKEN_AWAY) else ():
            if value.worse:
                text = f"repeat {one.repeat} measured {value.value!r} once, worse than all that count: {one.reason}"
                found.setdefault((value.stage, value.metric), text)
    return found


def _of_part(top: RunDir, run: RunDir, audited: Audit) -> list[UncountedFacts]:
    stages: dict[str, list[AuditedStage]] = {}
    for stage in audited.stages:
        stages.setdefault(stage.stage.test_key, []).append(stage)
    found: list[UncountedFacts] = []
    for left in (*_taken_out(run, audited), *_superseded(run, stages)):
        result, about = read_object(left.folder / RESULT_FILE), left.about
        started = result.get("started_at")
        facts = {
            "t": about.t or (started if isinstance(started, str) else "?"),
            "where": left.folder.relative_to(top.path).as_posix() if left.folder.is_dir() else "",
            "values": tuple(value for stage in stages.get(about.test, []) for value in _values(left, stage, result)),
        }
        found.append(about.model_copy(update=facts))
    return [*found, *_taken_away(run, stages, found)]


def _taken_away(
    run: RunDir, stages: Mapping[str, list[AuditedStage]], found: Sequence[UncountedFacts]
) -> Iterator[UncountedFacts]:
    """Sealed attempts whose values neither count nor can be read any more, as the ledger has them."""
    known = {
        (one.test, one.repeat, value.stage, value.metric, value.value) for one in found for value in one.values
    } | {
        (test, repeat, stage.stage.key, key, value)
        for test, fed in stages.items()
        for stage in fed
        for repeat, cell in enumerate(stage.cells, 1)
        if cell.cell is Cell.STRICT and cell.stored
        for key, value in cell.stored.content.metrics.items()
    }
    present = set(_seals(run))
    for event in events.read(run.events, "sealed"):
        name, sealed = ATTEMPT_KEY.fullmatch(str(event.facts.get("key"))), event.facts.get("values")
        if name is None or name["run"] != run.run_id or event.facts.get("sha256") in present:
            continue
        test, repeat = name["test"], int(name["repeat"])
        every = [one for stage in stages.get(test, []) for one in _compared(stage, False, _metrics(sealed, stage))]
        if any((test, repeat, one.stage, one.metric, one.value) not in known for one in every):
            yield UncountedFacts(
                how=Uncounted.TAKEN_AWAY,
                test=test,
                repeat=repeat,
                attempt=int(name["attempt"]),
                t=event.t,
                reason="its files were changed or deleted; these are its values in events.jsonl",
                where=run.events.name,
                values=tuple(every),
            )


def _seals(run: RunDir) -> Iterator[str]:
    """The digest of every sealed result that is still there."""
    for place in ("_pytest/*/attempts/*", "purged/*/*"):
        for path in run.path.glob(f"{place}/{RESULT_FILE}"):
            with suppress(OSError):
                yield sha256_file(path)


def _taken_out(run: RunDir, audited: Audit) -> Iterator[_Left]:
    """Purged and replaced repeats, and observations that were withdrawn without a purge."""
    test_of = {stage.stage.key: stage.stage.test_key for stage in audited.stages}
    purged: dict[str, tuple[events.Event, dict[str, Json]]] = {}
    withdrawn: dict[tuple[str, Json], dict[str, str]] = {}
    recorded: dict[tuple[Json, Json], Json] = {}
    for event in events.read(run.events):
        facts, repeat = event.facts, event.facts.get("repeat")
        stage, name = str(facts.get("stage")), str(facts.get("folder"))
        if event.kind == "recorded":
            recorded[stage, repeat] = facts.get("sha256")
        elif event.kind == "withdrawn":
            withdrawn.setdefault((test_of.get(stage, stage), repeat), {})[stage] = event.t
        elif event.kind == "read_again":
            withdrawn.pop((str(facts.get("test")), repeat), None)  # the same attempt counts, nothing was replaced
        elif event.kind == "purged":
            withdrawn.pop((str(facts.get("test")), repeat), None)
            digests = {str(key): sha for (key, of), sha in recorded.items() if of == repeat}
            purged[name if "folder" in facts else f"{event.t} {len(purged)}"] = event, digests
        elif event.kind == "restored":
            purged.pop(name, None)
    for name, (event, digests) in purged.items():
        facts, repeat = event.facts, event.facts.get("repeat")
        about = UncountedFacts(
            how=Uncounted.REPLACED if facts.get("replaced") is True else Uncounted.PURGED,
            test=str(facts.get("test") or "?"),
            repeat=repeat if isinstance(repeat, int) else 0,
            t=event.t,
            who=str(facts.get("who") or ""),
            reason=str(facts.get("reason") or event.text),
        )
        folder = run.purged / Path(name).name
        attempts = _attempts(folder, folder, about.repeat) if folder.is_dir() else iter([(None, folder, folder)])
        for attempt, home, basetemp in attempts:
            kept = folder if basetemp == folder / f"basetemp_run{about.repeat}" else None
            yield _Left(about.model_copy(update={"attempt": attempt}), home, basetemp, kept, digests)
    for (test, repeat), times in withdrawn.items():
        about = UncountedFacts(
            how=Uncounted.WITHDRAWN,
            test=test,
            repeat=repeat if isinstance(repeat, int) else 0,
            t=min(times.values()),
            reason=f"withdrawn: {', '.join(times)}",
        )
        yield _Left(about, run.purged / "nothing", run.purged / "nothing")


def _superseded(run: RunDir, stages: Mapping[str, list[AuditedStage]]) -> Iterator[_Left]:
    """Attempts that the supervisor launched again: those of the artifacts' history, and whatever else is on disk."""
    launched = {
        (event.facts.get("test"), event.facts.get("repeat"), event.facts.get("attempt")): event.t
        for event in events.read(run.events, "launched")
    }
    for test, fed in stages.items():
        place = run.test_folder(test)
        for repeat, cell in enumerate(fed[0].cells, 1):
            if cell.stored is None:
                continue
            counted = real(run.path / cell.stored.content.basetemp)
            history = {one.attempt: one for one in cell.stored.content.history}
            counts = cell.stored.content.last_attempt
            on_disk = {number: places for number, *places in _attempts(place / "attempts", place, repeat)}
            for number in sorted({*history, *(one for one in on_disk if one)}):
                folder = place / "attempts" / f"run{repeat}_a{number}"
                home, basetemp = on_disk.get(number, (folder, folder / "basetemp"))
                if number == counts or real(basetemp) == counted:
                    continue
                recorded = history.get(number)
                if recorded is None and not basetemp.is_dir() and not (home / RESULT_FILE).is_file():
                    continue
                how, why = Uncounted.RETRIED, "broke off or was stopped before it was sealed"
                if recorded and recorded.verdict is AttemptVerdict.DISTURBED:
                    how, why = Uncounted.DISTURBED, recorded.reason
                elif recorded:
                    why = f"{recorded.verdict}{f': {recorded.reason}' if recorded.reason else ''}"
                began = recorded.started_at if recorded else launched.get((test, repeat, number), "")
                about = UncountedFacts(
                    how=how, test=test, repeat=repeat, attempt=number, t=began, who="supervisor", reason=why
                )
                yield _Left(about, home, basetemp)


def _attempts(folder: Path, root: Path, repeat: int) -> Iterator[tuple[int | None, Path, Path]]:
    """Number, own folder and basetemp of every attempt; the last one's basetemp lies where it was written."""
    numbers = list(attempt_folders(folder, repeat))
    for number in numbers:
        home = folder / f"run{repeat}_a{number}"
        own = home / f"basetemp_run{repeat}"
        last = number == numbers[-1] and not own.is_dir()
        yield number, home, root / f"basetemp_run{repeat}" if last else own
    if not numbers and folder == root:
        yield None, root, root / f"basetemp_run{repeat}"


def _values(left: _Left, stage: AuditedStage, result: Mapping[str, Json]) -> Iterator[UncountedValue]:
    """What can be read of the attempt for one stage; nothing of a file that is not as it was recorded or sealed."""
    kept: Json = None
    if left.artifacts and (sha := left.recorded.get(stage.stage.key)):
        path = left.artifacts / f"{stage.stage.key}.json"
        with suppress(OSError):
            kept = read_object(path).get("metrics") if sha256_file(path) == sha else None
    evidence = result.get("evidence_sha256")
    sealed = {name: str(sha) for name, sha in evidence.items()} if isinstance(evidence, dict) else {}
    changed = sealed and result_files.changed(left.basetemp, sealed, result_files.named_by([stage.stage]))
    read = {} if changed else extract(stage.stage, ResultFiles(left.basetemp)).metrics
    stages = result.get("stages")
    one = stages.get(stage.stage.key) if isinstance(stages, dict) else None
    held_disturbed = left.about.how in (Uncounted.REPLACED, Uncounted.DISTURBED)
    other_cause = held_disturbed and stage.stage.group not in _MOVED_BY_LOAD
    yield from _compared(stage, other_cause, kept, read, one.get("metrics") if isinstance(one, dict) else None)


def _compared(
    stage: AuditedStage, other_cause: bool, *places: Json | Mapping[str, Number | None]
) -> Iterator[UncountedValue]:
    """The values that one of these places has, each beside those that count."""
    for key, metric in stage.stage.metrics.items():
        value = next((one for place in places if (one := _number(place, key)) is not None), None)
        if value is None:
            continue
        measured = (cell.stored.content.metrics.get(key) for cell in stage.cells if cell.stored)
        counted = tuple(one for one in measured if one is not None)
        sign = -1 if metric.worst == "min" else 1
        outside = bool(counted) and not min(counted) <= value <= max(counted)
        yield UncountedValue(
            stage=stage.stage.key,
            metric=key,
            value=value,
            counted=counted,
            worse=outside and sign * value > max(sign * one for one in counted),
            suspect=outside and other_cause,
        )


def _metrics(sealed: Json, stage: AuditedStage) -> Json:
    return sealed.get(stage.stage.key) if isinstance(sealed, dict) else None


def _number(metrics: Json | Mapping[str, Number | None], key: str) -> Number | None:
    return finite_number(metrics.get(key)) if isinstance(metrics, Mapping) else None
