"""On which hosts a run was measured, which repeats of each count, and what GPUs the hosts have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from tune_mcp.contract.strict_audit import Cell, HostRow
from tune_mcp.errors import Json
from tune_mcp.files import read_object
from tune_mcp.observe.audit import Audit, AuditedCell, Fault
from tune_mcp.observe.observation import Attempt
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.fingerprint import Environment
from tune_mcp.run_dir import RunDir

UNKNOWN = "?"


@dataclass
class _Host:
    machine: Mapping[str, Json]
    repeats: Counter[str] = field(default_factory=Counter[str])
    quarantined: list[str] = field(default_factory=list[str])


def hosts(run: RunDir, audited: Audit) -> tuple[HostRow, ...]:
    """One row a host, in the order of its first repeat; ``?`` where a run of an older version names none."""
    found: dict[str, _Host] = {}
    of_cell: dict[tuple[str, int], str] = {}
    for part, own in audited.parts(run):
        machine = read_object(part.environment)
        name = str(machine.get("hostname") or UNKNOWN)
        for stage in own.stages:
            for repeat, cell in enumerate(stage.cells, 1):
                for host, reason in _quarantined(cell):
                    row = found.setdefault(host or name, _Host(machine))
                    line = f"{stage.stage.test_key} repeat {repeat}: {reason}"
                    row.quarantined += [] if line in row.quarantined else [line]
                if cell.cell is Cell.STRICT:
                    host = of_cell[stage.stage.key, repeat] = _counting(cell) or name
                    found.setdefault(host, _Host(machine)).repeats[stage.stage.key] += 1
    apart: dict[str, tuple[str, ...]] = {}
    if len(found) > 1:
        from tune_mcp.report.apart import hosts_apart  # statistics: nothing that a run of one host waits for

        apart = hosts_apart(audited, of_cell)
    return tuple(
        HostRow(
            host=name,
            gpus=gpu_phrase(one.machine.get("gpus")) or "no GPU",
            driver=str(one.machine.get("gpu_driver") or ""),
            fingerprint=_fingerprint(one.machine),
            repeats=dict(sorted(one.repeats.items())),
            quarantined=tuple(one.quarantined),
            apart=apart.get(name, ()),
        )
        for name, one in found.items()
    )


def _kept(cell: AuditedCell) -> Attempt | None:
    """The attempt that the repeat's observation was made of."""
    return cell.stored.content.kept if cell.stored else None


def _counting(cell: AuditedCell) -> str:
    kept = _kept(cell)
    return kept.host if kept else ""


def _quarantined(cell: AuditedCell) -> Iterator[tuple[str, str]]:
    """Host and reason of every attempt at the repeat that was made on another kind of machine, the recorded one too."""
    for one in cell.stored.content.history if cell.stored else ():
        if one.incomparable:
            yield one.host, one.incomparable
    if cell.fault is Fault.ENVIRONMENT:
        yield _counting(cell), cell.reason


def _fingerprint(machine: Mapping[str, Json]) -> str:
    try:
        return fingerprint.fingerprint(Environment.model_validate(machine))
    except ValidationError:  # of an older version
        return ""


def gpu_phrase(gpus: Json) -> str:
    """``2× NVIDIA H20`` of a recorded list of GPUs; empty for none. Older runs listed names, newer ones objects."""
    found = [gpu.get("name") if isinstance(gpu, dict) else gpu for gpu in gpus] if isinstance(gpus, list) else []
    names = Counter(name if isinstance(name, str) and name else UNKNOWN for name in found)
    return " + ".join(f"{count}× {name}" for name, count in names.items())
