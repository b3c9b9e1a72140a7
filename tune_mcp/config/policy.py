"""What a group of metrics asks for when its worst of N becomes a threshold (rules APL-05, APL-07 to APL-11)."""

from __future__ import annotations

from typing import Literal

from tune_mcp.config.stages import Frozen

SmartRule = Literal["auto", "ask_loosening", "ask"]
Rounding = Literal["raw", "ceil4", "display", "ceil_int"]


class GroupPolicy(Frozen):
    """How a group's worst-of-N becomes a threshold: when a person is asked, and how the number is rounded."""

    smart: SmartRule = "ask"
    rounding: Rounding = "raw"
    label: str | None = None
