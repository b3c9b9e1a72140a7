"""What the watchdog reports: the runner writes ``watch.json`` in the attempt's folder, the supervisor reads it.

Files alone lie between the two, so a runner on another machine is watched in the same way. A write that fails (a full
disk) is made up for by the next one: nothing is lost meanwhile, because the whole book is written each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import Field

from tune_mcp.config.stages import Frozen
from tune_mcp.run_dir import iso, utc_now
from tune_mcp.session.state import Alert

WATCH_FILE = "watch.json"


class WatchRecord(Frozen):
    """``watch.json``: every alert of the attempt in the order of time, and its living processes by role."""

    schema_version: int = 1
    alerts: tuple[Alert, ...] = ()
    processes: dict[str, int] = Field(default_factory=dict)


@dataclass
class AlertBook:
    """The runner's side: raise, amend and end alerts; ``write`` keeps the file up to date."""

    path: Path
    now: Callable[[], datetime] = utc_now
    alerts: dict[str, Alert] = field(default_factory=dict[str, Alert])
    processes: dict[str, int] = field(default_factory=dict[str, int])
    _written: WatchRecord = field(default_factory=WatchRecord)

    def open(self, name: str) -> bool:
        """Whether this alert is open now."""
        return name in self.alerts and not self.alerts[name].over

    def raise_alert(self, name: str, cause: str, remedy: str, evidence: tuple[str, ...] = ()) -> None:
        """Open the alert, or leave it as it is when it is open already."""
        if not self.open(name):
            self.alerts[name] = Alert(name=name, cause=cause, remedy=remedy, evidence=evidence, since=iso(self.now()))

    def amend(self, name: str, cause: str, remedy: str, evidence: tuple[str, ...]) -> None:
        """Replace the texts of an open alert, of which more is known."""
        if self.open(name):
            more = {"cause": cause, "remedy": remedy, "evidence": evidence}
            self.alerts[name] = self.alerts[name].model_copy(update=more)

    def end(self, name: str, how: str) -> None:
        """Close the alert; ``how`` it ended, for people."""
        if self.open(name):
            self.alerts[name] = self.alerts[name].model_copy(update={"over": how})

    def write(self) -> None:
        """Write the file when it would differ; a full disk delays it, it does not end the attempt."""
        record = WatchRecord(alerts=tuple(self.alerts.values()), processes=self.processes)
        if record == self._written:
            return
        try:
            record.to_file(self.path, durable=False)
        except OSError:
            return  # tried again at the next look, because the file still differs
        self._written = record


@dataclass
class AlertReader:
    """The supervisor's side, for one attempt: what is new in its ``watch.json``."""

    path: Path
    record: WatchRecord = field(default_factory=WatchRecord)
    _changed_ns: int = 0
    _reported: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def read(self) -> tuple[Alert, ...]:
        """Alerts that were raised or ended since the last call; the file is only opened when it changed."""
        try:
            changed = self.path.stat().st_mtime_ns
            if changed == self._changed_ns:
                return ()
        except OSError:
            return ()
        if (found := WatchRecord.from_file(self.path)) is None:
            return ()  # in the middle of its way from another machine: the next look finds it
        self.record, self._changed_ns = found, changed
        news = tuple(one for one in self.record.alerts if self._reported.get((one.name, one.since)) != one.over)
        self._reported |= {(one.name, one.since): one.over for one in news}
        return news

    @property
    def open(self) -> tuple[Alert, ...]:
        """The alerts that are open now."""
        return tuple(one for one in self.record.alerts if not one.over)
