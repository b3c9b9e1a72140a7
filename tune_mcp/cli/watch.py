"""``tune-mcp watch``: milestones, strict matrix, progress, time left (Tab B); plain lines when not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_mcp.contract.status import StatusReply, span
from tune_mcp.files import is_locked, write_atomic
from tune_mcp.run_dir import RunDir
from tune_mcp.server.dashboard import page_of
from tune_mcp.session import events
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status
from tune_mcp.verbs.tail_pytest import tail_pytest

Speak = Callable[[StatusReply], StatusReply]
"""Puts a reply into the terminal's words."""
_REFRESH_S = 1.0
_LAST_S = 3.0
_PAGE_LINES = 20
_STYLES = {"✓": "green", "△": "yellow", "✗": "bold red", "—": "dim"}


def watch(project: Project, run_id: str, speak: Speak, *, page: bool = False) -> int:
    """Show the run until it has ended; returns 0 when it is strict-complete, else 1.

    ``speak`` puts each reply into the terminal's words. ``page`` also keeps ``dashboard.html`` in the run directory up
    to date, for a browser.
    """
    if page:
        print(f"page: {project.run(run_id).dashboard.as_uri()}", flush=True)
    look = partial(_look, project, run_id, speak, page=page)
    return _live(look) if sys.stdout.isatty() else _plain(project.run(run_id), look)


def _look(project: Project, run_id: str, speak: Speak, *, page: bool) -> StatusReply:
    now = speak(status(project, run_id))
    if page:
        log = tail_pytest(project, run_id, _PAGE_LINES).log_lines
        write_atomic(project.run(run_id).dashboard, page_of(now, log).encode(), durable=False)
    return now


def _live(look: Callable[[], StatusReply]) -> int:
    console = Console()
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            now = look()
            live.update(picture(now))
            if _over(now):
                break
            time.sleep(_REFRESH_S)
    console.print(f"Next: {now.next}")
    return 0 if now.strict_complete else 1


def _plain(run: RunDir, look: Callable[[], StatusReply]) -> int:
    seen = 0
    while True:
        now = look()
        if _over(now):
            _let_it_end(run)
        log = [event for event in events.read(run.events) if event.kind in events.MILESTONES]
        for event in log[seen:]:
            print(f"{event.t} {event.kind:<12} {event.text}", flush=True)
        if len(log) > seen:
            done = now.total - now.missing_total
            print(f"{'':20} STRICT {now.strict_ready} stages, {done}/{now.total} cells{_left(now)}", flush=True)
            if now.lane_medians:
                print(f"{'':20} {now.medians_line()}", flush=True)
        seen = len(log)
        if _over(now):
            print(f"Next: {now.next}")
            return 0 if now.strict_complete else 1
        time.sleep(_REFRESH_S)


def _let_it_end(run: RunDir) -> None:
    """The last milestone follows the last state: give the supervisor a moment to write it."""
    end = time.monotonic() + _LAST_S
    while is_locked(run.supervisor_lock) and time.monotonic() < end:
        time.sleep(0.05)


def _over(now: StatusReply) -> bool:
    return now.terminal or now.state in ("halted", "exhausted")


def _left(now: StatusReply) -> str:
    return f", about {span(now.eta_s)} left" if now.eta_s else ""


def picture(now: StatusReply) -> Panel:
    """One screen of a run."""
    done = now.total - now.missing_total
    matrix = Table.grid(padding=(0, 2))
    for line in now.stages:
        name, _, rest = line.partition(": ")
        cells, _, note = rest.partition(" ")
        marks = Text()
        for mark in cells:
            marks.append(mark, _STYLES.get(mark, ""))
        matrix.add_row(Text(name), marks, Text(note, "dim"))
    bar = Table.grid(padding=(0, 2))
    bar.add_row(ProgressBar(total=max(now.total, 1), completed=done, width=40), f"{done}/{now.total} cells{_left(now)}")
    parts: list[Text | Table] = [Text(f"STRICT {now.strict_ready} stages · {now.state}", "bold"), bar, matrix]
    parts += [Text(f"now: {work.line()}") for work in now.lanes or filter(None, [now.current])]
    parts += [Text(now.medians_line(), "dim")] if now.lane_medians else []
    for gpu in now.gpus:
        busy = "? %" if gpu.utilization is None else f"{gpu.utilization} %"
        parts.append(Text(f"GPU {gpu.index} {gpu.memory} {busy} (seen {now.gpus_seen_at})"))
    if now.reason:
        parts.append(Text(now.reason, "bold red" if now.state in ("halted", "failed") else ""))
    parts += [Text(f"ALERT {alert}", "bold yellow") for alert in now.alerts]
    parts += [Text(f"· {milestone}", "dim") for milestone in now.milestones]
    return Panel(Group(*parts), title=now.run_id, title_align="left")
