"""``tail_pytest``: the log of the pytest that runs now, page by page, never a whole file (rules POL-07, SUP-07..10)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.actions import Step, call
from tune_mcp.contract.tail_pytest import MAX_LINES, TailReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import open_plain
from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.session.plan import Plan
from tune_mcp.supervise.watch.log_lines import redacted
from tune_mcp.verbs.project import Project

_PAGE_BYTES = 256 * 1024
_TEXT_LIMIT = 7000
_LINE_LIMIT = 1000
_CURSOR = re.compile(r"(?P<test>[^:]+):(?P<repeat>\d+):(?P<inode>\d+):(?P<offset>\d+)")
STATUS_TAIL_LINES = 30
_STATUS_TAIL_LIMIT = 1200


@dataclass(frozen=True)
class LogName:
    """One pytest log of a run."""

    test: str
    repeat: int

    def path(self, run: RunDir) -> Path:
        """The path of the log."""
        return run.log(self.test, self.repeat)


def active_log(run: RunDir) -> LogName | None:
    """The log of the pytest that the supervisor works on, the first of several lanes; None when there is none."""
    now = state.conclude(run)
    work = now.record.work if now.active and now.record else ()
    logs = (LogName(one.test, one.repeat) for one in sorted(work, key=lambda one: not one.in_pytest))
    return next((name for name in logs if name.path(run).exists()), None)


def active_tail(run: RunDir) -> tuple[str, ...]:
    """The end of the active log for a poll: at most 30 lines and 1,200 characters (POL-04); empty without one."""
    name = active_log(run)
    if name is None:
        return ()
    try:
        lines = _page(run, name, None, STATUS_TAIL_LINES, None).log_lines
    except FileNotFoundError:  # a repeat that begins anew takes its log away
        return ()
    shown: list[str] = []
    left = _STATUS_TAIL_LIMIT
    for line in reversed(lines):
        left -= min(len(line), 200) + 1
        if left < 0:
            break
        shown.append(line[:200])
    return tuple(reversed(shown))


def newest_log(run: RunDir) -> LogName | None:
    """The log that was written last, for a run that has ended."""
    logs = sorted((path.stat().st_mtime, test, repeat) for test, repeat, path in run.logs())
    return LogName(*logs[-1][1:]) if logs else None


def tail_pytest(
    project: Project,
    run_id: str,
    lines: int = 30,
    test: str | None = None,
    repeat: int | None = None,
    grep: str | None = None,
    cursor: str | None = None,
) -> TailReply:
    """The last ``lines`` of the active log, of the one named, or what follows ``cursor``.

    Raises INVALID_ARGUMENT, UNKNOWN_RUN, UNKNOWN_STAGE (no such test in the run).
    """
    run = project.run(run_id)
    plan = project.plan(run)
    if not 1 <= lines <= MAX_LINES:
        raise _invalid("lines", f"must be from 1 to {MAX_LINES}, not {lines!r}")
    start: int | None = None
    if cursor is not None:
        name, start = _from_cursor(run, plan, cursor)
        following = active_log(run)
        if following and following != name and start >= _size(name.path(run)):
            name, start = following, 0
    else:
        found = _named(run, plan, test, repeat)
        if found is None:
            return _no_log(run)
        name = found
    try:
        return _page(run, name, start, lines, grep)
    except FileNotFoundError:  # a repeat that begins anew or was purged takes its log away
        return _no_log(run, cursor)


def _no_log(run: RunDir, cursor: str | None = None) -> TailReply:
    return TailReply(
        run_id=run.run_id, test=None, repeat=None, path=None, active=False, log_lines=(), left_bytes=0, cursor=cursor,
        next=Step(call("status", run_id=run.run_id, wait_s=45), ": pytest has not started"),
    )  # fmt: skip


def _invalid(argument: str, what: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, "POL-07", f"{argument} {what}", f"give {argument} another value")


def _wanted(rows: list[bytes], grep: str | None) -> list[bool]:
    if grep is None:
        return [True] * len(rows)
    try:
        return matching(grep, [_shown(row) for row in rows])
    except TimeoutError as error:
        raise _invalid("grep", str(error)) from error


def _named(run: RunDir, plan: Plan, test: str | None, repeat: int | None) -> LogName | None:
    if test is None and repeat is None:
        return active_log(run) or newest_log(run)
    known = list(plan.tests())
    current = active_log(run) or newest_log(run)
    wanted = test if test is not None else (current.test if current else known[0])
    if wanted not in known:
        raise Refusal(
            Code.UNKNOWN_STAGE,
            "SUP-08",
            f"{run.run_id} has no test {wanted!r}",
            f"name one of: {', '.join(known)}",
            {"tests": [*known]},
        )
    if repeat is None:
        made = [k for k in range(plan.repeats, 0, -1) if run.log(wanted, k).exists()]
        return LogName(wanted, made[0]) if made else None
    if not 1 <= repeat <= plan.repeats:
        raise _invalid("repeat", f"must be from 1 to {plan.repeats}, not {repeat!r}")
    name = LogName(wanted, repeat)
    return name if name.path(run).exists() else None


def _from_cursor(run: RunDir, plan: Plan, cursor: str) -> tuple[LogName, int]:
    match = _CURSOR.fullmatch(cursor)
    if match is None or match["test"] not in plan.tests() or not 1 <= int(match["repeat"]) <= plan.repeats:
        raise _invalid("cursor", f"{cursor!r} is not one that was given for this run")
    name = LogName(match["test"], int(match["repeat"]))
    path = name.path(run)
    same = path.exists() and path.stat().st_ino == int(match["inode"])
    return name, int(match["offset"]) if same else 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _page(run: RunDir, name: LogName, start: int | None, lines: int, grep: str | None) -> TailReply:
    path = name.path(run)
    size = _size(path)
    first = max(0, size - _PAGE_BYTES) if start is None else min(start, size)
    with open_plain(path) as stream:
        facts = path.stat()
        stream.seek(first)
        data = stream.read(_PAGE_BYTES)
    whole = data.rfind(b"\n") + 1
    running = active_log(run) == name
    if whole < len(data) and (not running or whole == 0):
        whole = len(data)
    rows = data[:whole].splitlines(keepends=True)
    if first and start is None and len(rows) > 1:
        rows = rows[1:]
    picked, end = _pick(rows, _wanted(rows, grep), first, whole, lines, forward=start is not None)
    return TailReply(
        run_id=run.run_id,
        test=name.test,
        repeat=name.repeat,
        path=str(path),
        active=running,
        log_lines=picked,
        left_bytes=max(0, size - end),
        cursor=f"{name.test}:{name.repeat}:{facts.st_ino}:{end}",
        next=Step(call("tail_pytest", run_id=run.run_id), " and the cursor for what follows") if running or end < size
        else Step(call("status", run_id=run.run_id)),
    )  # fmt: skip


def _pick(
    rows: list[bytes], wanted: list[bool], first: int, whole: int, lines: int, *, forward: bool
) -> tuple[tuple[str, ...], int]:
    """The rows that are shown and the offset behind the last one that was looked at."""
    chosen: list[str] = []
    left = _TEXT_LIMIT
    end = first if forward else first + whole
    pairs = list(zip(rows, wanted, strict=True))
    for row, is_wanted in pairs if forward else reversed(pairs):
        text = _shown(row) if is_wanted else ""
        if is_wanted and (len(chosen) == lines or left < len(text) + 1):
            break
        if forward:
            end += len(row)
        if is_wanted:
            chosen.append(text)
            left -= len(text) + 1
    return tuple(chosen if forward else reversed(chosen)), end


def _shown(row: bytes) -> str:
    text = row.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
    text = "".join(character if character.isprintable() or character == "\t" else "·" for character in text)
    text = redacted(text)
    return text if len(text) <= _LINE_LIMIT else f"{text[:_LINE_LIMIT]} [TRUNCATED {len(text) - _LINE_LIMIT}]"


DEADLINE_S = 5.0
_PROGRAM = """
import json, re, sys
pattern, lines = json.load(sys.stdin)
search = re.compile(pattern).search
json.dump([search(line) is not None for line in lines], sys.stdout)
"""


def matching(pattern: str, lines: Sequence[str]) -> list[bool]:
    """Whether each line has a match. Raises ``TimeoutError`` when that is not known after ``DEADLINE_S``."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([pattern, [*lines]]),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"takes longer than {DEADLINE_S:g} s on this log") from error
    return json.loads(done.stdout)
