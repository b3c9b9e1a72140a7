"""Every refusal that tune-mcp can give.

A refusal is an answer, not a bug: it says what is wrong, which rule of the register asks for it, and what
to do next. Anything else that escapes a tool is a bug and keeps its traceback (see ``server/tools.py``).
"""

from __future__ import annotations

import errno
import os
from enum import StrEnum
from typing import TypeAlias

from tune_mcp.actions import Step

Json: TypeAlias = "str | int | float | bool | None | list[Json] | dict[str, Json]"


class Code(StrEnum):
    """The closed list of refusal codes. Codes are added, never renamed."""

    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNKNOWN_STAGE = "UNKNOWN_STAGE"
    UNKNOWN_RUN = "UNKNOWN_RUN"
    NO_THRESHOLDS = "NO_THRESHOLDS"
    INVALID_CONFIG = "INVALID_CONFIG"
    HOST_UNRESOLVED = "HOST_UNRESOLVED"
    HOST_NOT_COMPARABLE = "HOST_NOT_COMPARABLE"
    NO_HEAD = "NO_HEAD"
    PLAN_EXISTS = "PLAN_EXISTS"
    PRECHECK_FAILED = "PRECHECK_FAILED"
    STAGES_STALE = "STAGES_STALE"
    NEEDS_CONFIG = "NEEDS_CONFIG"
    RUN_ACTIVE = "RUN_ACTIVE"
    HOST_BUSY = "HOST_BUSY"
    LANE_UNKNOWN = "LANE_UNKNOWN"
    EXECUTOR_UNAVAILABLE = "EXECUTOR_UNAVAILABLE"
    COMMIT_MOVED = "COMMIT_MOVED"
    PLAN_TAMPERED = "PLAN_TAMPERED"
    FOREIGN_ARTIFACT = "FOREIGN_ARTIFACT"
    STAGES_CHANGED = "STAGES_CHANGED"
    REPEAT_IS_STRICT = "REPEAT_IS_STRICT"
    REPEAT_ACTIVE = "REPEAT_ACTIVE"
    HALT_UNRESOLVED = "HALT_UNRESOLVED"
    NOT_STRICT = "NOT_STRICT"
    GIT_PROVENANCE = "GIT_PROVENANCE"
    NOT_REPORTED = "NOT_REPORTED"
    STALE_REPORT = "STALE_REPORT"
    STALE_PLAN = "STALE_PLAN"
    UNRESOLVED_CONTEXT = "UNRESOLVED_CONTEXT"
    DECISION_MISSING = "DECISION_MISSING"
    DECISION_INVALID = "DECISION_INVALID"
    PROTECTED_CONSTANT = "PROTECTED_CONSTANT"
    PRESET_MISMATCH = "PRESET_MISMATCH"
    THRESHOLD_UNKNOWN = "THRESHOLD_UNKNOWN"
    THRESHOLD_CHANGED = "THRESHOLD_CHANGED"
    DECLINED = "DECLINED"
    WAIT_TOO_LONG = "WAIT_TOO_LONG"
    OUTSIDE_REPO = "OUTSIDE_REPO"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    TEST_FAILED = "TEST_FAILED"
    NOT_MERGEABLE = "NOT_MERGEABLE"
    GPU_NOT_CLEAR = "GPU_NOT_CLEAR"
    NOT_QUIET = "NOT_QUIET"
    CLEANUP_FAILED = "CLEANUP_FAILED"
    START_FAILED = "START_FAILED"
    NOT_WRITABLE = "NOT_WRITABLE"
    INTERNAL = "INTERNAL"


class Refusal(Exception):
    """One refusal: ``code``, the ``rules`` behind it, ``message`` (what is wrong) and ``next`` (what to do).

    ``details`` carries the same facts typed, for programs. ``text()`` is its one-line form.
    """

    def __init__(
        self, code: Code, rules: str | tuple[str, ...], message: str, next: str, details: dict[str, Json] | None = None
    ) -> None:
        self.code = code
        self.rules = (rules,) if isinstance(rules, str) else rules
        self.message = message.rstrip(". ")
        self.next = next if isinstance(next, Step) else next.rstrip(". ")
        self.details: dict[str, Json] = details or {}
        super().__init__(self.text())

    def text(self) -> str:
        """``CODE [RULE-ID]: what is wrong. Next: what to do.``; the rule only where one explains this refusal."""
        rule = f" [{self.rules[0]}]" if self.rules else ""
        return f"{self.code}{rule}: {self.message}. Next: {self.next}."

    def data(self) -> dict[str, Json]:
        """The structured form, as clients read it."""
        return {
            "code": str(self.code),
            "rules": list(self.rules),
            "message": self.message,
            "next": self.next,
            "details": self.details,
        }


class NotPlain(OSError):
    """A pipe, socket, device, folder or link stands where a plain file belongs, or the file is far too large."""


_STORAGE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EROFS: "mount it writable",
    errno.EACCES: "give this user write permission there",
    errno.EIO: "check the disk for errors",
}


def unusable(error: Exception) -> Refusal | None:
    """The refusal for a disk or a file that cannot be used; None for any other error, a bug."""
    if isinstance(error, NotPlain | IsADirectoryError | NotADirectoryError):
        where: object = getattr(error, "filename2", None) or error.filename
        what = error.strerror if isinstance(error, NotPlain) else "not a plain file"
        return Refusal(
            Code.FOREIGN_ARTIFACT,
            "STR-14",
            f"{where} is {what}",
            "move it away, put the file that belongs there back if there was one, and call again",
            {"path": str(where)},
        )
    if not isinstance(error, OSError) or error.errno not in _STORAGE:
        return None
    where = error.filename or "the run directory"
    return Refusal(
        Code.NOT_WRITABLE,
        "SES-15",
        f"{where} cannot be written: {os.strerror(error.errno)}",
        f"{_STORAGE[error.errno]} and call again; what was complete before is kept",
        {"path": str(where), "errno": error.errno},
    )
