"""What a dead run left alive: found by proof, ended by the usual ladder, and told (rules GPU-16, GPU-20, SUP-13).

When supervisor and runner are killed in the same moment, nobody is left to end pytest and its servers; they fall to
init, and both locks are free. Two things prove that a process is of such a run: the secret that its supervisor was
started with, inherited by everything below it, and the identities that the runner wrote down. A name proves nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tune_mcp.files import append_line
from tune_mcp.run_dir import RunDir
from tune_mcp.session.state import Liveness, Owner, boot_id, liveness
from tune_mcp.supervise import tree_record
from tune_mcp.supervise.processes import Grace, StopLadder, describe
from tune_mcp.supervise.tree_record import Tree

MARK = "TUNE_RUN_MARK"
"""Environment variable of everything below a supervisor: the secret of that supervisor's start."""
GRACE = Grace(interrupt_s=25.0, terminate_s=5.0, kill_s=5.0)
"""Shorter than a runner's, because a tool call waits for it (contract, section 2)."""
_PF_EXITING = 0x4


def mark(run: RunDir) -> str:
    """A new secret for one start of the run's supervisor, on disk before anything carries it."""
    secret = secrets.token_hex(16)
    append_line(run.marks, secret)
    return secret


@dataclass(frozen=True)
class _Seen:
    """One process as /proc shows it."""

    pid: int
    parent: int
    start_ticks: int
    environ: bytes


@dataclass(frozen=True)
class _Proof:
    """What makes a process one of these runs: a secret, or an identity that a runner wrote down."""

    marks: frozenset[bytes]
    identities: frozenset[tuple[int, int]]
    mains: frozenset[tuple[int, int]]
    runners: frozenset[tuple[int, int]]

    def holds_for(self, process: _Seen) -> bool:
        """Whether this very process is one."""
        if (process.pid, process.start_ticks) in self.identities:
            return True
        prefix = f"{MARK}=".encode()
        return any(
            word.startswith(prefix) and word[len(prefix) :] in self.marks for word in process.environ.split(b"\0")
        )


@dataclass(frozen=True)
class Ended:
    """What was found alive, and what of it outlives even SIGKILL (a process in uninterruptible sleep)."""

    found: tuple[str, ...]
    left: tuple[str, ...]


def living(runs: Iterable[RunDir]) -> list[psutil.Process]:
    """The processes of those ``runs`` whose supervisor is dead beyond doubt, their descendants included.

    A run whose lock is held or unreadable is nobody's leftover. Never this process or an ancestor of it.
    """
    return _living(_proof(runs))


def end(runs: Iterable[RunDir], log: Callable[[str], None], grace: Grace = GRACE) -> Ended:
    """SIGINT to an orphaned pytest, then the ladder, for what dead ``runs`` left alive; says what was ended."""
    proof = _proof(runs)
    found = _living(proof)
    if not found:
        return Ended((), ())
    named = tuple(describe(process) for process in found)
    ladder = StopLadder(log, grace, alive=lambda: _living(proof))
    runner_lives = any(_key(process) in proof.runners for process in found)
    for main in (process for process in found if _key(process) in proof.mains):
        # A living runner has interrupted its pytest already; a second SIGINT would cut the teardown short.
        ladder.await_orphan(main, interrupt=not runner_lives)
    ladder.drain()
    return Ended(named, tuple(describe(process) for process in _living(proof)))


def _proof(runs: Iterable[RunDir]) -> _Proof:
    marks: set[bytes] = set()
    trees: list[Tree] = []
    here, namespace = boot_id(), tree_record.pid_namespace()
    for run in runs:
        if liveness(run) is not Liveness.FREE:
            continue
        marks |= _marks(run)
        found = (tree_record.read(path) for path in run.trees())
        trees += [tree for tree in found if tree is not None and tree.pid_namespace == namespace]

    def of_this_boot(owners: Iterable[Owner]) -> frozenset[tuple[int, int]]:
        return frozenset((found.pid, found.start_ticks) for found in owners if found.boot_id == here)

    runners, mains = [tree.runner for tree in trees], [tree.pytest for tree in trees]
    members = [member for tree in trees for member in tree.members]
    return _Proof(
        frozenset(marks), of_this_boot([*runners, *mains, *members]), of_this_boot(mains), of_this_boot(runners)
    )


def _marks(run: RunDir) -> set[bytes]:
    try:
        lines = run.marks.read_bytes().split()
    except FileNotFoundError:
        return set()
    return {line for line in lines if len(line) == 32}  # a torn line is no secret


def _living(proof: _Proof) -> list[psutil.Process]:
    if not proof.marks and not proof.identities:
        return []
    table = {process.pid: process for process in _processes()}
    ours = {pid for pid, process in table.items() if proof.holds_for(process)}
    grown = True
    while grown:
        below = {pid for pid, process in table.items() if process.parent in ours} - ours
        ours |= below
        grown = bool(below)
    found: list[psutil.Process] = []
    for pid in sorted(ours - _self_and_ancestors(table)):
        try:
            process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue
        if _key(process) == (pid, table[pid].start_ticks):
            found.append(process)
    return found


def _key(process: psutil.Process) -> tuple[int, int]:
    seen = _look(process.pid)
    return process.pid, seen.start_ticks if seen else -1


def _self_and_ancestors(table: dict[int, _Seen]) -> set[int]:
    found = {os.getpid()}
    parent = os.getppid()
    while parent in table and parent not in found:
        found.add(parent)
        parent = table[parent].parent
    return found


def _processes() -> Iterable[_Seen]:
    """Every living process of our own user."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (seen := _look(int(entry.name))):
            yield seen


def _look(pid: int) -> _Seen | None:
    """One process; None for a stranger's, a dead one, and one that is just dying."""
    folder = Path(f"/proc/{pid}")
    try:
        words = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        uid = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("Uid:")).split()[1]
    except (OSError, StopIteration):
        return None
    if words[0] in "ZX" or int(words[6]) & _PF_EXITING or int(uid) != os.getuid():
        return None
    try:
        environ = (folder / "environ").read_bytes()
    except OSError:
        environ = b""
    return _Seen(pid, int(words[1]), int(words[19]), environ)
