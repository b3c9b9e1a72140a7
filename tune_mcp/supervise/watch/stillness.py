"""For how long nothing has moved: no log line, and no processor time in the whole process tree."""

from __future__ import annotations

from dataclasses import dataclass

from tune_mcp.supervise.process_tree import Tree, cpu_seconds

_IDLE_SHARE = 0.02
_IDLE_S = 0.02
"""A poll now and then is idleness: up to 2 % of one core, and two ticks of the kernel's clock."""


@dataclass(frozen=True)
class _Mark:
    at: float
    cpu_s: float
    members: frozenset[tuple[int, int]]


@dataclass
class Stillness:
    """Fed at every look; a look without a process table can only tell growth."""

    _mark: _Mark | None = None
    _last: _Mark | None = None

    def look(self, at: float, tree: Tree | None, *, grew: bool) -> None:
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
