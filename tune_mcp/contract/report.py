"""What ``report`` answers."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply

DIRTY = "calibrated on a dirty tree: see workspace.diff and plan.json"


class FailedTestEntry(Frozen):
    """A test that failed for another reason than a threshold. ``allowed`` says by what config accepts it."""

    nodeid: str
    when: str
    message: str
    cause: str
    repeats: tuple[int, ...]
    allowed: str
    text: str

    def line(self) -> str:
        """One line for people."""
        return f"FAILED TEST, not caused by a threshold: {self.text}" + (
            f" (accepted: {self.allowed})" if self.allowed else ""
        )


class ReportReply(Reply):
    """Where the report stands, and what it says in a few lines."""

    run_id: str
    calibration_git_sha: str
    report_md: str
    report_json: str
    report_html: str
    stages: int
    metrics: int
    tightens: int
    loosens: int
    equal: int
    unknown: int
    first: int
    loosening: tuple[str, ...]
    notes: tuple[str, ...]
    failed_tests: tuple[FailedTestEntry, ...] = ()

    def lines(self) -> Iterable[str]:
        """Commit and paths first, then what would loosen."""
        yield f"Calibration commit: {self.calibration_git_sha}"
        yield f"report: {self.report_md}"
        yield f"        {self.report_html}"
        yield (
            f"{self.metrics} metrics in {self.stages} stages: {self.loosens} would loosen, {self.tightens} tighten, "
            f"{self.equal} stay, {self.unknown} unknown"
            + (f", {self.first} get their first value" if self.first else "")
        )
        yield from (one.line() for one in self.failed_tests)
        yield from (f"LOOSENS {line}" for line in self.loosening)
        if self.loosens > len(self.loosening):
            yield f"LOOSENS … and {self.loosens - len(self.loosening)} more, by less"
        yield from (f"note: {note}" for note in self.notes)
