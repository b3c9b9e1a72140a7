"""The processes below this one, read in one pass: who they are, what they used, who is gone.

``tree.json`` in an attempt's folder names them, so that they can be found when all that watched over them is dead
(rule GPU-20). An identity is boot id, pid and start ticks; a pid means something only in its own pid namespace, so that
is kept too.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tune_mcp import procfs
from tune_mcp.config.signatures import Role
from tune_mcp.config.stages import Frozen
from tune_mcp.procfs import Identity, Process, boot_id
from tune_mcp.session.state import Owner, owner

_IDLE_SHARE = 0.02
_IDLE_S = 0.02
"""A poll now and then is idleness: up to 2 % of one core, and two ticks of the kernel's clock."""
ProcessTree = Mapping[Identity, Process]


def read_tree(root: int | None = None, spared: Collection[int] = ()) -> dict[Identity, Process]:
    """Every process below ``root`` (this process), zombies too; one that ends meanwhile is left out.

    So are ``spared`` ones with all that is below them: their orphans come back to them, never to ``root``.
    """
    table = (one for one in procfs.processes() if one.pid not in spared)
    return descendants(os.getpid() if root is None else root, table)


def descendants(root: int, table: Iterable[Process]) -> dict[Identity, Process]:
    """Every process below ``root`` in this process table."""
    children: dict[int, list[Process]] = {}
    for one in table:
        children.setdefault(one.parent, []).append(one)
    tree: dict[Identity, Process] = {}
    todo = [root]
    while todo:
        for one in children.get(todo.pop(), ()):
            tree[one.identity] = one
            todo.append(one.pid)
    return tree


def cpu_seconds(tree: ProcessTree) -> float:
    """Processor time of the whole tree so far."""
    return sum(member.cpu_ticks for member in tree.values()) / procfs.TICKS_PER_S


@dataclass
class Census:
    """Names the members of successive trees and reports who has ended in between."""

    role_of: Callable[[str], Role | None]
    _known: dict[Identity, str] = field(default_factory=dict[Identity, str])
    _ended: set[Identity] = field(default_factory=set[Identity])

    def update(self, tree: ProcessTree) -> tuple[str, ...]:
        """Commands of those that ended since the last update; short-lived processes are left out (WDG-11)."""
        gone: list[Identity] = []
        for identity in [*self._known, *(one for one in tree if one not in self._known)]:
            member = tree.get(identity)
            if member and member.alive:
                # A process changes its name: fork, then exec, then a title of its own.
                self._known[identity] = procfs.command(identity[0]) or self._known.get(identity, "")
            elif identity not in self._ended:
                self._known.setdefault(identity, procfs.command(identity[0]))
                self._ended.add(identity)
                gone.append(identity)
        ended = tuple(f"{one[0]} {self._known[one][:120]}" for one in gone if self._lasting(one))
        for identity in [one for one in self._known if one not in tree]:
            del self._known[identity]
            self._ended.discard(identity)
        return ended

    def _lasting(self, identity: Identity) -> bool:
        role = self.role_of(self._known[identity])
        return role is None or not role.passing

    def roles(self) -> dict[str, int]:
        """How many living processes there are of each role, the most first; ``other`` for the rest."""
        living = (name for identity, name in self._known.items() if identity not in self._ended)
        counted = Counter(role.role if (role := self.role_of(name)) else "other" for name in living)
        return dict(counted.most_common())


@dataclass(frozen=True)
class _Mark:
    at: float
    cpu_s: float
    members: frozenset[tuple[int, int]]


@dataclass
class Stillness:
    """For how long nothing has moved: no log line, and no processor time in the whole process tree.

    Fed at every look; a look without a process table can only show growth.
    """

    _mark: _Mark | None = None
    _last: _Mark | None = None

    def look(self, at: float, tree: ProcessTree | None, *, grew: bool) -> None:
        """``at`` is monotonic seconds; ``tree`` is None where it was not read."""
        if grew:
            self._mark = None
        if tree is None:
            return
        now = _Mark(at, cpu_seconds(tree), frozenset(tree))
        waits_for_disk = any(member.state == "D" for member in tree.values())
        # A short burst hides in the average of a long wait, a trickle hides between two looks: both are compared.
        if waits_for_disk or self._mark is None or self._moved(self._mark, now) or self._moved(self._last, now):
            self._mark = now
        self._last = now

    @staticmethod
    def _moved(mark: _Mark | None, now: _Mark) -> bool:
        if mark is None:
            return False
        used = now.cpu_s - mark.cpu_s
        return now.members != mark.members or used > _IDLE_S + _IDLE_SHARE * (now.at - mark.at)

    @property
    def seconds(self) -> float:
        """How long, up to the last look at the process table."""
        return self._last.at - self._mark.at if self._mark and self._last else 0.0


TREE_FILE = "tree.json"
_SLOWEST_S = 2.0
_SHARE = 0.002
"""Of a core, at most: the cores are being measured."""


class TreeRecord(Frozen):
    """The runner, its pytest, and every process below the runner when it was last looked at."""

    schema_version: int = 1
    pid_namespace: str
    runner: Owner
    pytest: Owner
    members: tuple[Owner, ...]


class TreeRecorder:
    """Writes the tree when it has changed. It looks often in the beginning, later every two seconds, and less often
    on a machine with so many processes that looking at them costs something.

    ``read`` gives the processes below the runner, ``used`` the processor seconds of this thread, since a look lasts
    long on a busy machine and costs no more. Not durable on purpose: after a power cut none of them lives.
    """

    def __init__(
        self,
        folder: Path,
        pytest_pid: int,
        read: Callable[[], ProcessTree] = read_tree,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        self._path = folder / TREE_FILE
        self._read = read
        self._used = used
        self._boot_id = boot_id()
        self._clock = clock
        try:
            self._pytest = owner(pytest_pid)
        except ProcessLookupError:  # it ended before anybody looked; no process ever has this identity
            self._pytest = Owner(boot_id=self._boot_id, pid=pytest_pid, start_ticks=0)
        self._members: tuple[Owner, ...] | None = None
        self._pause = 0.1
        self._due = clock()

    def look(self) -> None:
        """Look again if it is time, and write down what is new."""
        if self._clock() < self._due:
            return
        before = self._used()
        living = (identity for identity, member in self._read().items() if member.alive)
        members = tuple(Owner(boot_id=self._boot_id, pid=pid, start_ticks=ticks) for pid, ticks in sorted(living))
        if members != self._members:
            runner = owner(os.getpid())
            tree = TreeRecord(pid_namespace=procfs.pid_namespace(), runner=runner, pytest=self._pytest, members=members)
            tree.to_file(self._path, durable=False)
            self._members = members
        self._due = self._clock() + max(self._pause, (self._used() - before) / _SHARE)
        self._pause = min(_SLOWEST_S, self._pause * 2)
