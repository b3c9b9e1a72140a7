"""What ``precheck`` answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply
from tune_mcp.words import number_of

Status = Literal["ok", "missing", "mismatch", "busy", "warn", "unknown"]


class Check(Frozen):
    """One gate's answer. ``fix`` is the exact command that fixes this one check, empty when there is nothing to do."""

    id: str
    status: Status
    detail: str
    fix: str = ""


def check(id: str, status: Status, detail: str, fix: str = "") -> Check:
    """One gate's answer; one that is ok has no fix, whatever is given."""
    return Check(id=id, status=status, detail=detail, fix="" if status == "ok" else fix)


class PrecheckReply(Reply):
    """Every check, what blocks first. ``ok`` is true when nothing blocks."""

    model: str
    stages: tuple[str, ...]
    ok: bool
    checks: tuple[Check, ...]
    versions: dict[str, str]
    gpu_summary: str

    def lines(self) -> Iterable[str]:
        """One line a check, with the command that fixes it below."""
        blocking = sum(check.status not in ("ok", "warn") for check in self.checks)
        found = "ok" if self.ok else number_of(blocking, "failed check")
        yield f"precheck {self.model}: {found} — {number_of(len(self.checks), 'check')}"
        for check in self.checks:
            yield f"  {check.status:<8} {check.id}: {check.detail}"
            if check.fix and check.status != "ok":
                yield f"           fix: {check.fix}"
