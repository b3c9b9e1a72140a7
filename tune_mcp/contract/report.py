"""What ``report`` answers."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply
from tune_mcp.words import number_of

DIRTY = (
    "calibrated on a dirty tree: plan.json names what differs from the commit; workspace.diff has the tracked changes, "
    "if there are any"
)


class Cause(StrEnum):
    """Why a failure is no threshold's, or may be more than that."""

    FIXTURE = "not in the test's own call"
    EXCEPTION = "not an assertion"
    NO_THRESHOLD = "the test reads no calibrated threshold"
    PASSES = "every threshold that the test reads passes"
    UNCLEAR = "what the test asserts could not be read, so pytest.fail may stand for a threshold or for something else"
    MISSED_TOO = "a threshold that the test reads is missed, and pytest.fail may stand for something else too"


class FailedTest(Frozen):
    """A test that failed for another reason than a threshold, or may have, in which repeats (from 1).

    ``allowed`` says by what config accepts it, empty when it does not.
    """

    test_key: str
    nodeid: str
    when: str
    message: str
    cause: Cause
    repeats: tuple[int, ...]
    allowed: str = ""

    @property
    def text(self) -> str:
        """``tests/a.py::test_b (call) in repeats 1, 2: ConnectionResetError: peer; not an assertion``."""
        which = "repeat " if len(self.repeats) == 1 else "repeats "
        phase = "" if self.when == "call" else f" ({self.when})"
        return f"{self.nodeid}{phase} in {which}{', '.join(map(str, self.repeats))}: {self.message}; {self.cause}"

    @property
    def open(self) -> bool:
        """Whether a person must agree to it before thresholds are written."""
        return not self.allowed and self.cause is not Cause.MISSED_TOO

    @property
    def headline(self) -> str:
        """What is known of its cause, in a few words."""
        known = {Cause.UNCLEAR: "perhaps not caused by a threshold", Cause.MISSED_TOO: "a threshold at least"}
        return f"Failed test, {known.get(self.cause, 'not caused by a threshold')}"

    def line(self) -> str:
        """One line for people, with the config entry that accepts the failure."""
        accepted = f" (accepted: {self.allowed})" if self.allowed else ""
        return f"{self.headline.replace('Failed test', 'FAILED TEST')}: {self.text}{accepted}"


class ReportReply(Reply):
    """Where the report stands, and its main facts in a few lines."""

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
    failed_tests: tuple[FailedTest, ...] = ()

    def lines(self) -> Iterable[str]:
        """Commit and paths first, then what would loosen."""
        yield f"Calibration commit: {self.calibration_git_sha}"
        yield f"report: {self.report_md}"
        yield f"        {self.report_html}"
        yield (
            f"{number_of(self.metrics, 'metric')} in {number_of(self.stages, 'stage')}: {self.loosens} would loosen, "
            f"{self.tightens} tighten, {self.equal} stay, {self.unknown} unknown"
            + (f", {self.first} get their first value" if self.first else "")
        )
        yield from (one.line() for one in self.failed_tests)
        yield from (f"LOOSENS {line}" for line in self.loosening)
        if self.loosens > len(self.loosening):
            yield f"LOOSENS … and {self.loosens - len(self.loosening)} more, by less"
        yield from (f"note: {note}" for note in self.notes)
