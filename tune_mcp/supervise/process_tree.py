"""The processes below this one, read from ``/proc`` in one pass: who they are, what they used, who is gone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tune_mcp.config.signatures import Role

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")

Identity = tuple[int, int]
"""pid and start ticks: a pid alone is reused."""


@dataclass(frozen=True)
class Member:
    """One process: its state letter and the processor time of itself and of the children it has waited for."""

    pid: int
    state: str
    cpu_ticks: int

    @property
    def alive(self) -> bool:
        """A zombie has ended, whoever has not fetched it yet."""
        return self.state not in "ZX"


Tree = Mapping[Identity, Member]


def read_tree(root: int | None = None) -> dict[Identity, Member]:
    """Every process below ``root`` (this process), zombies too; one that ends meanwhile is left out."""
    root = os.getpid() if root is None else root
    children: dict[int, list[tuple[Identity, Member]]] = {}
    with os.scandir(_PROC) as entries:
        for entry in entries:
            if entry.name.isdigit() and (found := _stat(int(entry.name))):
                parent, identity, member = found
                children.setdefault(parent, []).append((identity, member))
    tree: dict[Identity, Member] = {}
    todo = [root]
    while todo:
        for identity, member in children.get(todo.pop(), ()):
            tree[identity] = member
            todo.append(member.pid)
    return tree


def _stat(pid: int) -> tuple[int, Identity, Member] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    words = text.rpartition(b")")[2].split()
    return int(words[1]), (pid, int(words[19])), Member(pid, words[0].decode(), sum(map(int, words[11:15])))


def cpu_seconds(tree: Tree) -> float:
    """Processor time of the whole tree so far."""
    return sum(member.cpu_ticks for member in tree.values()) / _TICKS_PER_S


def command(pid: int) -> str:
    """The command line, or the kernel's name where there is none; empty when the process is gone."""
    try:
        line = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return line or (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


@dataclass
class Census:
    """Names the members of successive trees and tells who has ended in between."""

    role_of: Callable[[str], Role | None]
    _known: dict[Identity, str] = field(default_factory=dict[Identity, str])
    _ended: set[Identity] = field(default_factory=set[Identity])

    def take(self, tree: Tree) -> tuple[str, ...]:
        """Commands of those that ended since the last census; processes that come and go are not told (WDG-11)."""
        gone: list[Identity] = []
        for identity in [*self._known, *(one for one in tree if one not in self._known)]:
            member = tree.get(identity)
            if member and member.alive:
                # A process changes its name: fork, then exec, then a title of its own.
                self._known[identity] = command(identity[0]) or self._known.get(identity, "")
            elif identity not in self._ended:
                self._known.setdefault(identity, command(identity[0]))
                self._ended.add(identity)
                gone.append(identity)
        told = tuple(f"{one[0]} {self._known[one][:120]}" for one in gone if self._lasting(one))
        for identity in [one for one in self._known if one not in tree]:
            del self._known[identity]
            self._ended.discard(identity)
        return told

    def _lasting(self, identity: Identity) -> bool:
        role = self.role_of(self._known[identity])
        return role is None or not role.passing

    def roles(self) -> dict[str, int]:
        """How many living processes there are of each role, the most first; ``other`` for the rest."""
        living = (name for identity, name in self._known.items() if identity not in self._ended)
        counted = Counter(role.role if (role := self.role_of(name)) else "other" for name in living)
        return dict(counted.most_common())
