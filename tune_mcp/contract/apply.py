"""What ``apply`` and its undo take and answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, StrictFloat, StrictInt

from tune_mcp.config.stages import Frozen, MetricKey, Number, WorstOp
from tune_mcp.contract.reply import Reply
from tune_mcp.words import number_of

Mode = Literal["report", "smart", "full"]
MODES: tuple[Mode, ...] = ("report", "smart", "full")
Otherwise = Literal["keep", "apply"]
STANDING: tuple[Otherwise, ...] = ("keep", "apply")
CHOICES = ("keep", "apply", "custom")


class Decision(BaseModel):
    """A person's decision on one metric; ``value`` only with ``custom``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage_key: str
    metric_key: str
    choice: Literal["keep", "apply", "custom"]
    value: str | StrictInt | StrictFloat | None = None

    @property
    def key(self) -> MetricKey:
        """(stage key, metric key): the row of the plan that it is about."""
        return self.stage_key, self.metric_key


class Applied(Frozen):
    """One literal that was written; ``symbol`` has its concurrency resolved. ``old`` None: it was the first value."""

    file: str
    symbol: str
    stage_key: str
    metric_key: str
    worst_op: WorstOp
    old: Number | None
    new: Number
    direction: str

    @property
    def key(self) -> MetricKey:
        """(stage key, metric key)."""
        return self.stage_key, self.metric_key


class ApplyReply(Reply):
    """What was written, each as ``file:symbol = value`` (APL-23), what was kept, and how to take it back.

    ``pull_request`` is a file with the text of a pull request, ``commit_files`` what would belong into its commit;
    nothing is committed here (VCS-01). ``files_changed`` is every file that was written, stages.yaml with its digests
    included.
    """

    run_id: str
    plan_id: str
    mode: Mode
    applied: tuple[Applied, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...]
    undo_command: str | None
    pull_request: str | None = None
    commit_files: tuple[str, ...] = ()
    files_changed: tuple[str, ...] = ()

    def lines(self) -> Iterable[str]:
        """The list of changes."""
        yield f"applied {number_of(len(self.applied), 'value')} in mode {self.mode}; kept {len(self.kept)}"
        for one in self.applied:
            was = "" if one.old is None else f"was {one.old!r}, "
            yield f"  {one.file}:{one.symbol} = {one.new!r} ({was}{one.direction})"
        if self.files_changed:
            yield f"files changed: {', '.join(self.files_changed)}"
        yield from (f"WARNING: {warning}" for warning in self.warnings)
        if self.undo_command:
            yield f"undo: {self.undo_command}"
        if self.pull_request:
            yield f"text for a pull request, if one is wanted: {self.pull_request}"
        if self.commit_files:
            yield f"files for its commit, the last to be copied from report.md: {', '.join(self.commit_files)}"


class UndoReply(Reply):
    """An apply that was taken back; ``files`` is every file that it touches, stages.yaml with its digests included."""

    run_id: str
    plan_id: str
    files: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def lines(self) -> Iterable[str]:
        """The files that are as before."""
        yield f"plan {self.plan_id} of {self.run_id} is undone: {', '.join(self.files) or 'nothing had been written'}"
        yield from (f"WARNING: {warning}" for warning in self.warnings)
