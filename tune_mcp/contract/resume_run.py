"""What ``resume_run`` takes; it answers what ``start_run`` does."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tune_mcp.errors import Code, Refusal


class PurgeItem(BaseModel):
    """One pytest repeat to take out: any of its stages names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    repeat: int = Field(strict=True)
    reason: str

    @classmethod
    def parse(cls, word: str) -> PurgeItem:
        """``STAGE:REPEAT:REASON``, as the command line takes it. Raises INVALID_ARGUMENT."""
        stage, _, rest = word.partition(":")
        repeat, _, reason = rest.partition(":")
        if not repeat.isdigit() or not reason:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                "GAP-11",
                f"--purge {word!r} is not understood",
                "write --purge STAGE:REPEAT:REASON",
            )
        return cls(stage=stage, repeat=int(repeat), reason=reason)
