"""Processes that a dead run left alive: proven, ended by the stop ladder, and named (rules GPU-16, GPU-20, SUP-13).

When supervisor and runner are killed in the same moment, nobody is left to end pytest and its servers; they fall to
init, and both locks are free. A process is ended only on a proof that nobody can make by editing a file: its
environment holds the mark of this very run (a secret and the run's directory, given at the supervisor's start and
inherited by everything below it), or it descends from such a process. A process that a runner wrote down in
``tree.json`` and that carries no mark is named, never ended: whoever edits that file could name a stranger.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tune_mcp import procfs
from tune_mcp.files import append_line, read_plain
from tune_mcp.procfs import Identity, Process
from tune_mcp.run_dir import RunDir
from tune_mcp.session.state import Liveness, Owner, liveness
from tune_mcp.supervise.process_tree import TreeRecord
from tune_mcp.supervise.processes import Grace, StopLadder, describe

MARK = "TUNE_RUN_MARK"
"""Environment variable of everything below a supervisor: ``<secret of that start>:<run directory>``."""
GRACE = Grace(interrupt_s=25.0, terminate_s=5.0, kill_s=5.0)
"""Shorter than a runner's, because a tool call waits for it."""


def mark(run: RunDir) -> str:
    """Make the mark of one start of the run's supervisor; its secret is on disk before any process carries it."""
    secret = secrets.token_hex(16)
    append_line(run.marks, secret)
    return f"{secret}:{run.path}"


@dataclass
class _Proof:
    """The marks of dead runs, what their runners wrote down, and the processes that were proven since.

    ``proven`` grows while this process looks: a child of a marked process stays proven when its parent ends.
    """

    marks: frozenset[bytes]
    recorded: frozenset[Identity]
    mains: frozenset[Identity]
    runners: frozenset[Identity]
    proven: set[Identity] = field(default_factory=set[Identity])


@dataclass(frozen=True)
class Ended:
    """What was found alive, and what of it outlives even SIGKILL (a process in uninterruptible sleep)."""

    found: tuple[str, ...]
    left: tuple[str, ...]


def living(runs: Iterable[RunDir]) -> list[Process]:
    """The processes of those ``runs`` whose supervisor is dead beyond doubt, their descendants included.

    A run whose lock is held or unreadable is nobody's leftover. Never this process or an ancestor of it.
    """
    return _living(_proof(runs))


def unproven(runs: Iterable[RunDir]) -> list[Process]:
    """Living processes that a runner of the dead ``runs`` wrote down, although nothing in them proves it."""
    proof = _proof(runs)
    if not proof.recorded:
        return []
    unmarked = proof.recorded - {process.identity for process in _living(proof)}
    return [one for one in _processes() if one.identity in unmarked]


def end(runs: Iterable[RunDir], log: Callable[[str], None], grace: Grace = GRACE) -> Ended:
    """SIGINT to an orphaned pytest, then the ladder, for what dead ``runs`` left alive; returns what was ended."""
    proof = _proof(runs)
    found = _living(proof)
    if not found:
        return Ended((), ())
    named = tuple(describe(process) for process in found)
    ladder = StopLadder(log, grace, alive=lambda: _living(proof))
    runner_lives = any(process.identity in proof.runners for process in found)
    for main in (process for process in found if process.identity in proof.mains):
        # A living runner has interrupted its pytest already; a second SIGINT would cut the teardown short.
        ladder.await_orphan(main, interrupt=not runner_lives)
    ladder.drain()
    return Ended(named, tuple(describe(process) for process in _living(proof)))


def _proof(runs: Iterable[RunDir]) -> _Proof:
    marks: set[bytes] = set()
    trees: list[TreeRecord] = []
    here, namespace = procfs.boot_id(), procfs.pid_namespace()
    for run in runs:
        if liveness(run) is not Liveness.FREE:
            continue
        marks |= _marks(run)
        found = (TreeRecord.from_file(path) for path in run.trees())
        trees += [tree for tree in found if tree is not None and tree.pid_namespace == namespace]

    def of_this_boot(owners: Iterable[Owner]) -> frozenset[Identity]:
        return frozenset((found.pid, found.start_ticks) for found in owners if found.boot_id == here)

    runners, mains = [tree.runner for tree in trees], [tree.pytest for tree in trees]
    members = [member for tree in trees for member in tree.members]
    return _Proof(
        frozenset(marks), of_this_boot([*runners, *mains, *members]), of_this_boot(mains), of_this_boot(runners)
    )


def _marks(run: RunDir) -> set[bytes]:
    """The words that the environment of this run's processes holds, one for each start of its supervisor."""
    try:
        lines = read_plain(run.marks).split()
    except OSError:
        return set()
    place = os.fsencode(run.path)
    return {b"%s=%s:%s" % (MARK.encode(), line, place) for line in lines if len(line) == 32}  # torn lines are none


def _living(proof: _Proof) -> list[Process]:
    if not proof.marks:
        return []
    table = {process.pid: process for process in _processes()}
    ours = {
        pid
        for pid, process in table.items()
        if process.identity in proof.proven or not proof.marks.isdisjoint(procfs.environ(pid))
    }
    grown = True
    while grown:
        below = {pid for pid, process in table.items() if process.parent in ours} - ours
        ours |= below
        grown = bool(below)
    found = [table[pid] for pid in sorted(ours - procfs.ancestors())]
    proof.proven.update(process.identity for process in found)
    return found


def _processes() -> Iterable[Process]:
    """Every living process of our own user; not one that is just ending."""
    return (one for one in procfs.processes() if not one.exiting and procfs.is_ours(one.pid))
