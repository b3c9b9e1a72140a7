"""Is this machine ready to measure? One gate a file, all gaps at once, nothing changed and nothing killed (GPU-12)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from tune_mcp.config.stages import Frozen
from tune_mcp.gpus import GpuReading
from tune_mcp.precheck import catalogue, disk, gpu, repository, venv
from tune_mcp.precheck.subject import Check, Subject
from tune_mcp.precheck.venv import VenvFacts

__all__ = ["Check", "Precheck", "Subject", "precheck"]

BLOCKING: frozenset[Literal["ok", "missing", "mismatch", "busy", "warn", "unknown"]] = frozenset(
    {"missing", "mismatch", "busy", "unknown"}
)


class GpuFact(Frozen):
    """A GPU as the report names it."""

    index: int
    uuid: str
    name: str
    memory_total_mib: int


class Precheck(Frozen):
    """``precheck.json``: every check, the versions that were found, and the GPUs (GPU-21)."""

    schema_version: int = 1
    checked_at: str
    checks: tuple[Check, ...]
    versions: dict[str, str]
    pytest_plugins: tuple[str, ...]
    gpus: tuple[GpuFact, ...]
    gpu_driver: str | None
    gpu_summary: str

    @property
    def ok(self) -> bool:
        """Nothing blocks: every check is ok or a warning. What could not be known blocks."""
        return not self.blocking()

    def blocking(self) -> list[Check]:
        """The checks that stand in the way."""
        return [check for check in self.checks if check.status in BLOCKING]


@dataclass(frozen=True)
class Probes:
    """The slow looks at the machine, handed in so that a test can answer for it."""

    read_gpus: Callable[[], GpuReading]
    read_venv: Callable[[Subject], VenvFacts]


def precheck(subject: Subject, probes: Probes, checked_at: str) -> Precheck:
    """Run every gate; the two slow probes run side by side, each with its own deadline."""
    with ThreadPoolExecutor(2) as pool:
        gpu_answer = pool.submit(probes.read_gpus)
        venv_answer = pool.submit(probes.read_venv, subject)
        checks: list[Check] = [*repository.checks(subject), *catalogue.checks(subject), *disk.checks(subject)]
        facts = venv_answer.result()
        reading = gpu_answer.result()
    checks += [*venv.checks(subject, facts), *gpu.checks(subject, reading)]
    return Precheck(
        checked_at=checked_at,
        checks=_ordered(checks),
        versions=facts.versions,
        pytest_plugins=facts.pytest_plugins,
        gpus=tuple(
            GpuFact(index=one.index, uuid=one.uuid, name=one.name, memory_total_mib=one.memory_total_mib)
            for one in reading.gpus
        ),
        gpu_driver=reading.driver,
        gpu_summary=reading.summary(),
    )


def _ordered(checks: Sequence[Check]) -> tuple[Check, ...]:
    """What blocks first, then warnings, then what is well; within each the order of the gates."""
    rank = {"ok": 2, "warn": 1}
    return tuple(sorted(checks, key=lambda check: rank.get(check.status, 0)))
