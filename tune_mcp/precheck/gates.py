"""Is this machine ready to measure? All gates at once, nothing changed and nothing ended.

Each question has a deadline: a file system or a driver that hangs costs its answer, never the caller.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.precheck import Check, check
from tune_mcp.errors import Refusal
from tune_mcp.gpus import GpuReading, Presence
from tune_mcp.precheck import (
    assets,
    catalogue,
    dependencies,
    hardware,
    imports,
    scripts,
    slurm_site,
    variables,
    venv,
)
from tune_mcp.precheck.dependencies import Declared, read_declared
from tune_mcp.precheck.fingerprint import GpuIdentity
from tune_mcp.precheck.imports import Imports, ModuleFact
from tune_mcp.precheck.subject import Subject
from tune_mcp.precheck.venv import VenvFacts
from tune_mcp.session import provenance

Answer = TypeVar("Answer")


def _asked(question: Callable[[], Answer]) -> Future[Answer]:
    """The answer to come, from a thread that the process does not wait for when it ends."""
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:  # raised to whoever wants the answer
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer


class Deadline:
    """What is left of a number of seconds, shared by several waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())


BLOCKING: frozenset[Literal["ok", "missing", "mismatch", "busy", "warn", "unknown"]] = frozenset(
    {"missing", "mismatch", "busy", "unknown"}
)
DEADLINE_S = 40.0
"""For all gates together, so that a tool's answer stays within its 50 s."""
PATIENT_DEADLINE_S = 300.0
"""The same for a run's first phase, which nobody waits for: a first load of torch from a cold disk takes minutes."""

PrecheckGate = Callable[[Subject], Iterable[Check]]
GATES: tuple[tuple[str, PrecheckGate], ...] = (
    ("host.paths", hardware.host_paths_checks),
    ("repo.head", catalogue.repository_checks),
    ("stages.fresh", catalogue.checks),
    ("disk.space", hardware.disk_checks),
    ("env.layout", variables.layout_checks),
    ("env.ci", variables.ci_env_checks),
    ("hf.assets", assets.hub_checks),
    ("speaker_sim.assets", assets.speaker_sim_checks),
    ("files", assets.required_files_checks),
    ("host.ptrace", hardware.ptrace_checks),
    ("host.lanes", hardware.lane_checks),
    ("slurm.controller", slurm_site.of),
)
"""Gates that only read files, with the id of the check for one that gives no answer."""
_OF_THE_MACHINE = frozenset({"host.ptrace", "host.lanes", "disk.space"})
"""What is asked where a launch runs."""


class Precheck(Frozen):
    """``precheck.json``: every check, the versions that were found, the GPUs, and where that was (GPU-21, ENV-20).

    ``modules`` are those that were really loaded; ``env`` is what a launch sets. ``gpu_count`` is None when nobody
    knows.
    """

    schema_version: int = 1
    checked_at: str
    hostname: str = ""
    commit: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    modules: dict[str, ModuleFact] = Field(default_factory=dict)
    checks: tuple[Check, ...]
    versions: dict[str, str]
    pins: dict[str, str] = Field(default_factory=dict)
    pytest_plugins: tuple[str, ...]
    gpus: tuple[GpuIdentity, ...]
    gpu_count: int | None
    gpu_driver: str | None
    gpu_summary: str

    @property
    def ok(self) -> bool:
        """Whether nothing blocks: every check is ok or a warning. What could not be known blocks."""
        return not self.blocking()

    def blocking(self) -> list[Check]:
        """The checks that stand in the way."""
        return [check for check in self.checks if check.status in BLOCKING]


@dataclass(frozen=True)
class Probes:
    """The slow looks at the machine, handed in so that a test can answer for it."""

    read_gpus: Callable[[], GpuReading]
    read_venv: Callable[[Subject], VenvFacts]
    try_imports: Callable[[Subject, float], Imports]
    """Given the seconds that it may take."""


def precheck(
    subject: Subject,
    probes: Probes,
    checked_at: str,
    *,
    deadline: Deadline | None = None,
    gates: Sequence[tuple[str, PrecheckGate]] = GATES,
) -> Precheck:
    """Run every gate at once, the slow probes among them; what gives no answer in time is unknown, never ok."""
    deadline = deadline or Deadline(DEADLINE_S)
    gpu_probe = _asked(probes.read_gpus)
    venv_probe = _asked(lambda: probes.read_venv(subject))
    import_probe = _asked(lambda: probes.try_imports(subject, 0.9 * deadline.seconds))
    commit = _asked(lambda: _commit(subject))
    declared = _asked(lambda: read_declared(subject))
    commands = _asked(lambda: scripts.read_started(subject))
    here = subject.slurm is None
    asked = [
        (name, _asked(lambda gate=gate: list(gate(subject))))
        for name, gate in gates
        if here or name not in _OF_THE_MACHINE
    ]
    checks = [check for name, answer in asked for check in _or(answer, deadline, _unanswered(name))]
    facts = _or(venv_probe, deadline, lambda why, late: VenvFacts(problem=why, late=late))
    wanted = _or(declared, deadline, lambda why, _late: Declared(problem=f"pyproject.toml {why}"))
    checks += [*venv.checks(subject, facts), *dependencies.checks(subject, wanted, facts)]
    started = _or(commands, deadline, lambda why, late: scripts.Started(problem=why, late=late))
    checks += scripts.checks(subject, started, facts)
    reading = _or(gpu_probe, deadline, lambda why, _late: GpuReading(Presence.UNKNOWN, reason=why))
    checks += hardware.gpu_checks(subject, reading) if here else ()
    loaded = _or(import_probe, deadline, lambda why, late: Imports(untried=why if late else f"pyproject.toml {why}"))
    checks += imports.checks(subject, loaded)
    checks += hardware.comparable_checks(subject, reading, loaded) if here else ()
    return Precheck(
        checked_at=checked_at,
        hostname=platform.node(),
        commit=_or(commit, deadline, lambda _why, _late: None),
        env=dict(subject.needs.env),
        modules=dict(loaded.loaded),
        checks=ordered(checks),
        versions={**facts.versions, **loaded.versions()},
        pins=wanted.exact(),
        pytest_plugins=facts.pytest_plugins,
        gpus=tuple(map(GpuIdentity.of, reading.gpus)),
        gpu_count=None if reading.presence is Presence.UNKNOWN else len(reading.gpus),
        gpu_driver=reading.driver,
        gpu_summary=reading.summary(),
    )


def _or(asked: Future[Answer], deadline: Deadline, instead: Callable[[str, bool], Answer]) -> Answer:
    """The answer in time, else what ``instead`` makes of the reason, and of whether it was time that ran out."""
    try:
        return asked.result(deadline.left())
    except TimeoutError:
        return instead(f"did not answer within {deadline.seconds:g} s", True)
    except OSError as error:
        return instead(f"cannot be read: {error}", False)


def _unanswered(name: str) -> Callable[[str, bool], list[Check]]:
    return lambda why, _late: [check(name, "unknown", why, "timeout 10 df -h")]


def _commit(subject: Subject) -> str | None:
    try:
        return provenance.head(subject.repo_root)
    except Refusal:  # repo.head says so
        return None


def ordered(checks: Iterable[Check]) -> tuple[Check, ...]:
    """What blocks first, then warnings, then what is well; within each the order of the gates."""
    rank = {"ok": 2, "warn": 1}
    return tuple(sorted(checks, key=lambda check: rank.get(check.status, 0)))
