"""What ``strict_audit`` answers."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply, each_reason_once


class Cell(StrEnum):
    """One stage in one repeat (✓ strict, △ partial, ✗ failed, — not run)."""

    STRICT = "✓"
    PARTIAL = "△"
    FAILED = "✗"
    NOT_RUN = "—"


class StageAudit(Frozen):
    """One stage: its cells in repeat order and the reasons of those that are not strict."""

    stage_key: str
    cells: str
    strict: int
    expected_samples: int | None
    reasons: dict[str, str]


class HostRow(Frozen):
    """One host that measured repeats: stage key -> how many of them count.

    ``quarantined`` are attempts that do not count since the machine is not of the run's kind, with the reason;
    ``apart`` says in what its repeats stand apart from those of the other hosts. ``fingerprint`` is empty where a run
    of an older version does not tell it.
    """

    host: str
    gpus: str
    driver: str
    fingerprint: str
    repeats: dict[str, int]
    quarantined: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()

    def line(self) -> str:
        """The row in one line."""
        facts = [self.gpus, *([f"driver {self.driver}"] if self.driver else [])]
        facts += [f"fingerprint {self.fingerprint[:12]}"] if self.fingerprint else []
        counts = ", ".join(f"{key} {count}" for key, count in self.repeats.items()) or "nothing that counts"
        parts = [f"{self.host}: {', '.join(facts)}; {counts}"]
        parts += [f"STANDS APART: {one}" for one in self.apart]
        return "; ".join([*parts, *(f"QUARANTINED: {one}" for one in self.quarantined)])


class AuditReply(Reply):
    """The strict audit, typed; its text is a fixed form that clients read."""

    run_id: str
    calibration_git_sha: str
    equivalent_commits: tuple[str, ...]
    dirty: bool
    git_provenance: str
    ready: bool
    strict_ready: str
    repeats: int
    stages: tuple[StageAudit, ...]
    hosts: tuple[HostRow, ...] = ()
    audit_text: str

    def lines(self) -> Iterable[str]:
        """The lines of the audit and nothing else."""
        return self.audit_text.splitlines()

    def typed(self) -> dict[str, object]:
        """All facts but the text, which is made of them; a reason that several cells share stands once."""
        facts = {name: value for name, value in super().typed().items() if name != "audit_text"}
        said = each_reason_once(
            {f"{one.stage_key} {run}": reason for one in self.stages for run, reason in one.reasons.items()}
        )
        facts["stages"] = [
            {
                **one.model_dump(exclude={"reasons"}),
                **({"reasons": {run: said[f"{one.stage_key} {run}"] for run in one.reasons}} if one.reasons else {}),
            }
            for one in self.stages
        ]
        return facts

    def whole(self) -> str | None:
        """The text."""
        return f"tune://runs/{self.run_id}/audit"

    def text(self) -> str:
        """A fixed form that clients read: no next step in it, that one is in the structured answer."""
        return self.audit_text
