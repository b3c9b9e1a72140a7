"""What ``plan --against`` answers: whether a calibration is still one of another commit."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import computed_field

from tune_mcp.config.stages import Frozen, Number
from tune_mcp.contract.reply import Reply
from tune_mcp.words import number_of

_SHOWN = 12


class ChangedThreshold(Frozen):
    """A threshold whose value is another one there: at the calibrated commit, there, and as the plan would write it.

    ``there`` is None where it has no value there that can be found.
    """

    stage_key: str
    metric_key: str
    file: str
    source: str
    then: Number | None
    there: Number | None
    planned: Number

    @property
    def done(self) -> bool:
        """Whether the planned value stands there already."""
        return self.there == self.planned

    def line(self) -> str:
        """One line for people."""
        there = "not found" if self.there is None else repr(self.there)
        then = "none" if self.then is None else repr(self.then)
        text = f"{self.stage_key}/{self.metric_key}: {then} then, {there} there, {self.planned!r} planned"
        return f"{text}{' (written there already)' if self.done else ''} [{self.file}:{self.source}]"


class AgainstReply(Reply):
    """Whether the calibrated tree measures the same as another commit, and which thresholds changed there meanwhile.

    ``measured`` are the changes that the run's pytest read, each with what it is; ``perhaps`` are changed files that a
    program which the tests start may read; ``others`` counts changes that no measurement reads.
    """

    run_id: str
    ref: str
    commit: str
    calibration_git_sha: str
    same: bool
    measured: tuple[str, ...]
    perhaps: tuple[str, ...]
    others: int
    thresholds: tuple[ChangedThreshold, ...]

    @computed_field
    @property
    def current(self) -> bool:
        """Whether the plan can be merged there: the same measurement, and no threshold that somebody else changed."""
        return self.same and all(one.done for one in self.thresholds)

    def lines(self) -> Iterable[str]:
        """The verdict first, then its grounds."""
        verdict = "CURRENT" if self.current else "STALE"
        yield f"{verdict}: {self.run_id} against {self.ref} ({self.commit[:12]})"
        yield f"calibrated: {self.calibration_git_sha}"
        yield "SAME MEASUREMENT" if self.same else "ANOTHER MEASUREMENT"
        yield from _listed("changed, and read by the run", self.measured)
        yield from _listed("changed, and perhaps read by what the tests start", self.perhaps)
        if self.others:
            yield f"changed, and measured by nothing: {number_of(self.others, 'file')}"
        yield f"thresholds changed there meanwhile: {len(self.thresholds)}"
        yield from (f"  {one.line()}" for one in self.thresholds)


def _listed(what: str, names: tuple[str, ...]) -> Iterable[str]:
    if names:
        yield f"{what}: {len(names)}"
        yield from (f"  {name}" for name in names[:_SHOWN])
    if len(names) > _SHOWN:
        yield f"  … and {len(names) - _SHOWN} more"
