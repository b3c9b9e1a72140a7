"""What a group of metrics asks for when its worst of N becomes a threshold (rules APL-05, APL-07 to APL-11)."""

from __future__ import annotations

from typing import Literal

from tune_mcp.config.stages import Frozen

SmartRule = Literal["auto", "ask_loosening", "ask"]
Rounding = Literal["raw", "ceil4", "display", "ceil_int"]
Family = Literal["speed", "wer", "cer", "accuracy", "score", "count", "other"]
"""Metrics whose repeats scatter alike: times and rates of work, error rates of words and of characters, shares of right
answers, mean scores (similarity, MOS), counts. It decides what a report knows about their noise before the repeats."""


class GroupPolicy(Frozen):
    """How a group's worst-of-N becomes a threshold: when a person is asked, and how the number is rounded.

    ``family`` says how its metrics scatter; without it a group has the shipped group's of that name, else ``other``.
    """

    smart: SmartRule = "ask"
    rounding: Rounding = "raw"
    label: str | None = None
    family: Family | None = None
