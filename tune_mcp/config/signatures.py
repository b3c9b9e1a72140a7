"""What the watchdog knows, as data: lines of a pytest log and what they mean, limits, and names of processes.

``signatures.yaml`` beside this module is shipped; ``models/<name>/signatures.yaml`` comes on top: an entry of the same
name replaces the shipped one, a new name stands before them, a limit that is given replaces the shipped limit
(rules WDG-01 to WDG-12, FAIL-01 to FAIL-07).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field

from tune_mcp.config.fields import ConfigModel, Regex

if TYPE_CHECKING:
    from tune_mcp.config.yaml_source import YamlSource

SHIPPED_SIGNATURES = Path(__file__).with_name("signatures.yaml")

Seconds = Annotated[float, Field(gt=0)]
Words = Annotated[tuple[Annotated[str, Field(min_length=4)], ...], Field(min_length=1)]


class LinePattern(ConfigModel):
    """A line fits when it holds one of ``words`` as written and, where there is one, ``pattern`` is found in it."""

    words: Words
    pattern: Regex | None = None

    def fits(self, line: str) -> bool:
        """Whether ``line`` is such a line."""
        return any(word in line for word in self.words) and (
            self.pattern is None or re.search(self.pattern, line) is not None
        )


class Signature(LinePattern):
    """A line that reports trouble. ``cause`` and ``remedy`` are one clause each, for people.

    ``still_s`` is how long the log and the process tree must have been still before pytest is stopped for it;
    ``infrastructure`` says that numbers missing after such a line prove nothing about the configuration;
    ``consequence`` that somebody who waited says it: where another signature's line stands in the log, that is named.
    """

    name: str
    cause: str
    remedy: str
    still_s: Seconds | None = None
    infrastructure: bool | None = None
    consequence: bool = False


class Role(ConfigModel):
    """A process that people recognise (WDG-11); ``passing`` ones come and go, so their end means nothing."""

    role: str
    pattern: Regex
    passing: bool = False


class Startup(ConfigModel):
    """When a start counts as slow, what says that it is over, which lines speak for a broken JIT, what to do."""

    after_s: Seconds | None = None
    up: tuple[LinePattern, ...] = ()
    evidence: tuple[LinePattern, ...] = ()
    remedy: tuple[str, ...] = ()
    home: str | None = None


class NoProgress(ConfigModel):
    """No log line and no processor time: after this long an alert, after that long pytest is stopped.

    ``exit_after_s`` is how long pytest may take to exit once its session is over.
    """

    alert_after_s: Seconds | None = None
    stop_after_s: Seconds | None = None
    exit_after_s: Seconds | None = None


class SpaceLimits(ConfigModel):
    """Limits of the disk and of the log, in MiB and MiB per second."""

    free_mib: Seconds | None = None
    log_mib: Seconds | None = None
    log_mib_per_s: Seconds | None = None


class OwnSignatures(ConfigModel):
    """One file: every key may be left out."""

    fatal: tuple[Signature, ...] = ()
    suspicious: tuple[Signature, ...] = ()
    startup: Startup = Field(default_factory=Startup)
    no_progress: NoProgress = Field(default_factory=NoProgress)
    room: SpaceLimits = Field(default_factory=SpaceLimits)
    roles: tuple[Role, ...] = ()


class WatchRules(ConfigModel):
    """The shipped file with a model's on top: everything is set."""

    fatal: tuple[Signature, ...]
    suspicious: tuple[Signature, ...]
    startup: Startup
    startup_after_s: float
    alert_after_s: float
    stop_after_s: float
    exit_after_s: float
    free_mib: float
    log_mib: float
    log_mib_per_s: float
    roles: tuple[Role, ...]

    def role(self, command: str) -> Role | None:
        """The first role whose pattern is found in a command line."""
        return next((role for role in self.roles if re.search(role.pattern, command)), None)


FATAL_STILL_S = 0.4
SUSPICIOUS_STILL_S = 120.0


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> OwnSignatures:
    from tune_mcp.config.yaml_source import read_yaml  # a plan holds signatures: whoever reads one needs no YAML

    source = read_yaml(path)
    found = source.check(OwnSignatures, source.data)
    if found is not None:
        _check(source, found)
    if found is None or source.problems:
        raise source.refusal()
    return found


def _check(source: YamlSource, found: OwnSignatures) -> None:
    """What no schema sees: a duplicate name, and a stop that comes before its alert."""
    seen: set[str] = set()
    for group, entries in (("fatal", found.fatal), ("suspicious", found.suspicious)):
        for index, entry in enumerate(entries):
            if entry.name in seen:
                source.note((group, index, "name"), f"there is another signature named {entry.name!r}", "WDG-01")
            seen.add(entry.name)
    limits = found.no_progress
    if source.path != SHIPPED_SIGNATURES:
        limits = _over(limits, _read(SHIPPED_SIGNATURES, 0).no_progress)
    if (limits.stop_after_s or 0) <= (limits.alert_after_s or 0):
        what = f"must be longer than alert_after_s, {limits.alert_after_s:g} s"
        source.note(("no_progress", "stop_after_s"), what, "WDG-01")


def read_own(path: Path | None) -> OwnSignatures:
    """A model's own file; nothing when there is none. Raises INVALID_CONFIG naming file, line and key."""
    return OwnSignatures() if path is None else _read(path, path.stat().st_mtime_ns)


def rules(own: OwnSignatures | None = None) -> WatchRules:
    """The shipped rules, with ``own`` on top."""
    own, shipped = own or OwnSignatures(), _read(SHIPPED_SIGNATURES, 0)
    names = {entry.name for entry in own.fatal + own.suspicious}
    limits = _over(own.no_progress, shipped.no_progress)
    room = _over(own.room, shipped.room)
    startup = _over(own.startup, shipped.startup).model_copy(
        update={
            "up": own.startup.up + shipped.startup.up,
            "evidence": own.startup.evidence + shipped.startup.evidence,
            "remedy": own.startup.remedy or shipped.startup.remedy,
        }
    )
    return WatchRules.model_validate(
        {
            "fatal": _defaulted(own.fatal, shipped.fatal, names, FATAL_STILL_S, infrastructure=True),
            "suspicious": _defaulted(
                own.suspicious, shipped.suspicious, names, SUSPICIOUS_STILL_S, infrastructure=False
            ),
            "startup": startup,
            "startup_after_s": startup.after_s,
            **limits.model_dump(),
            **room.model_dump(),
            "roles": own.roles + shipped.roles,
        }
    )


Limits = TypeVar("Limits", bound=ConfigModel)


def _over(own: Limits, shipped: Limits) -> Limits:
    return shipped.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


def _defaulted(
    own: Iterable[Signature], shipped: Iterable[Signature], replaced: set[str], still_s: float, *, infrastructure: bool
) -> tuple[Signature, ...]:
    entries = (*own, *(entry for entry in shipped if entry.name not in replaced))
    return tuple(
        entry.model_copy(
            update={
                "still_s": entry.still_s or still_s,
                "infrastructure": infrastructure if entry.infrastructure is None else entry.infrastructure,
            }
        )
        for entry in entries
    )
