"""What a supervisor leaves for readers, and it alone writes: its record with a heartbeat, and the run's events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tune_mcp.contract.status import CurrentWork
from tune_mcp.errors import Json
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.state import Alert, Halt, Owner, RunState, SupervisorRecord

HEARTBEAT_S = 2.0


class Clock(Protocol):
    """Time, handed in: wall clock for records, monotonic for waits, and a sleep that news ends early."""

    def now(self) -> datetime:
        """UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds, for waits."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait until something may have happened, at most that long."""
        ...


class RunJournal:
    """The record is written when it changes, and now and then so that readers see its heartbeat."""

    def __init__(self, run: RunDir, clock: Clock, owner: Owner) -> None:
        self.run = run
        self.clock = clock
        self.record = SupervisorRecord(state=RunState.PRECHECKING, owner=owner, heartbeat_at=clock.now().timestamp())
        self._due = 0.0

    def event(self, kind: str, text: str, **facts: Json) -> None:
        """One line of the run's events."""
        events.append(self.run, kind, self.clock.now(), text, **facts)

    def set(
        self, state: RunState, reason: str = "", work: Sequence[CurrentWork] = (), halt: Halt | None = None
    ) -> None:
        """Write another state, with what runs in it."""
        before = self.record.state
        self._update(state=state, reason=reason, current=next(iter(work), None), others=tuple(work[1:]), halt=halt)
        self._write(durable=state is not before)

    def show(self, state: RunState, work: Sequence[CurrentWork]) -> None:
        """Write state and work where they changed, else the heartbeat when it is due."""
        if (state, tuple(work)) != (self.record.state, self.record.work):
            self.set(state, work=work)
        else:
            self.beat()

    def seen(self, alerts: Sequence[Alert], processes: Sequence[dict[str, int]]) -> None:
        """Open alerts and living processes of all attempts that run."""
        every = Counter[str]()
        for one in processes:
            every.update(one)
        new = {"alerts": tuple(alerts), "processes": dict(every.most_common())}
        if new != {"alerts": self.record.alerts, "processes": self.record.processes}:
            self._update(**new)
            self._write(durable=False)

    def beat(self) -> None:
        """Show that the supervisor lives, if it is time."""
        if self.clock.monotonic() >= self._due:
            self._write(durable=False)

    def _update(self, **facts: object) -> None:
        self.record = self.record.model_copy(update=facts)

    def _write(self, *, durable: bool) -> None:
        self._update(heartbeat_at=self.clock.now().timestamp())
        self.record.to_file(self.run.supervisor, durable=durable)
        self._due = self.clock.monotonic() + HEARTBEAT_S


_BYTES = 256 * 1024


@contextmanager
def space_kept(path: Path) -> Generator[None]:
    """Keep a file of zeros during the body, so that its blocks are free for the last records. Raises ``OSError``."""
    try:
        path.write_bytes(bytes(_BYTES))
        yield
    finally:
        path.unlink(missing_ok=True)
