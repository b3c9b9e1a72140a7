"""The processes below this one, read in one pass: who they are, what they used, who is gone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tune_mcp import procfs
from tune_mcp.config.signatures import Role
from tune_mcp.procfs import Identity, Process

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Tree = Mapping[Identity, Process]


def read_tree(root: int | None = None) -> dict[Identity, Process]:
    """Every process below ``root`` (this process), zombies too; one that ends meanwhile is left out."""
    root = os.getpid() if root is None else root
    children: dict[int, list[Process]] = {}
    for one in procfs.processes():
        children.setdefault(one.parent, []).append(one)
    tree: dict[Identity, Process] = {}
    todo = [root]
    while todo:
        for one in children.get(todo.pop(), ()):
            tree[one.identity] = one
            todo.append(one.pid)
    return tree


def cpu_seconds(tree: Tree) -> float:
    """Processor time of the whole tree so far."""
    return sum(member.cpu_ticks for member in tree.values()) / _TICKS_PER_S


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
                self._known[identity] = procfs.command(identity[0]) or self._known.get(identity, "")
            elif identity not in self._ended:
                self._known.setdefault(identity, procfs.command(identity[0]))
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
