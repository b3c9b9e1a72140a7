"""What ``start_run`` and ``resume_run`` answer."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from tune_mcp.contract.reply import Reply
from tune_mcp.words import listed

DEFAULT_REPEATS = 5
MAX_REPEATS = 100


class RunReply(Reply):
    """A run that was started or goes on; two commands for a person to watch it with.

    For a run that goes on, test key -> repeats: ``kept`` are strict and stay, ``read_again`` count from their sealed
    files without a launch, ``measured_again`` are launched.
    """

    run_id: str
    run_dir: str
    commit: str
    dirty: bool
    model: str
    stages: tuple[str, ...]
    repeats: int
    plan_line: str
    state: str
    watch_command: str
    tail_command: str
    notes: tuple[str, ...] = ()
    equivalence: str | None = None
    kept: dict[str, list[int]] = Field(default_factory=dict)
    read_again: dict[str, list[int]] = Field(default_factory=dict)
    measured_again: dict[str, list[int]] = Field(default_factory=dict)

    def lines(self) -> Iterable[str]:
        """The plan line first: a client shows it as it is (ASK-10)."""
        yield self.plan_line
        if self.equivalence:
            yield f"verdict: {self.equivalence}"
        if self.dirty:
            yield "the tree is dirty: workspace.diff and the untracked files' digests are recorded with the run"
        if self.kept or self.read_again or self.measured_again:
            yield f"kept: {_repeats(self.kept)}"
            yield f"read again from sealed files, not launched: {_repeats(self.read_again)}"
            yield f"to be measured: {_repeats(self.measured_again)}"
        yield f"state: {self.state}"
        yield from self.notes
        yield f"Tab A, the pytest log, switching by itself: {self.tail_command}"
        yield f"Tab B, milestones and progress: {self.watch_command}"


def _repeats(found: dict[str, list[int]]) -> str:
    """``test_a 1-3, 5; test_b 2``, the first tests where there are many."""
    return listed([f"{test} {_ranges(numbers)}" for test, numbers in found.items()], 12) or "nothing"


def _ranges(numbers: list[int]) -> str:
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
