"""``tree.json`` in an attempt's folder: which processes the attempt has, so that they can be found when all that
watched over them is dead (rule GPU-20).

An identity is boot id, pid and start ticks; a pid means something only in its own pid namespace, so that is kept too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tune_mcp import procfs
from tune_mcp.config.stages import Frozen
from tune_mcp.files import parse_json, read_plain, write_json
from tune_mcp.procfs import boot_id
from tune_mcp.session.state import Owner, owner
from tune_mcp.supervise import process_tree

TREE_FILE = "tree.json"
_SLOWEST_S = 2.0
_SHARE = 0.002
"""Of a core, at most: the cores are being measured."""


class Tree(Frozen):
    """The runner, its pytest, and every process below the runner when it was last looked at."""

    schema_version: int = 1
    pid_namespace: str
    runner: Owner
    pytest: Owner
    members: tuple[Owner, ...]


class TreeRecorder:
    """Writes the tree when it has changed. It looks often in the beginning, later every two seconds, and less often
    on a machine with so many processes that looking at them costs something.

    ``read`` gives the processes below the runner. Not durable on purpose: after a power cut none of them lives.
    """

    def __init__(
        self,
        folder: Path,
        pytest_pid: int,
        read: Callable[[], process_tree.Tree] = process_tree.read_tree,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = folder / TREE_FILE
        self._read = read
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
        begin = self._clock()
        if begin < self._due:
            return
        living = (identity for identity, member in self._read().items() if member.alive)
        members = tuple(Owner(boot_id=self._boot_id, pid=pid, start_ticks=ticks) for pid, ticks in sorted(living))
        if members != self._members:
            runner = owner(os.getpid())
            tree = Tree(pid_namespace=procfs.pid_namespace(), runner=runner, pytest=self._pytest, members=members)
            write_json(self._path, tree.model_dump(mode="json"), durable=False)
            self._members = members
        end = self._clock()
        self._due = end + max(self._pause, (end - begin) / _SHARE)
        self._pause = min(_SLOWEST_S, self._pause * 2)


def read(path: Path) -> Tree | None:
    """The record, None when there is none or it cannot be read."""
    try:
        return Tree.model_validate(parse_json(read_plain(path)))
    except (OSError, ValueError, ValidationError):
        return None
