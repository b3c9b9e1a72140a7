"""What a person must see before a proposed value is written, whatever the mode says about its group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tune_mcp.observe.worst import Worst


class DoubtKind(StrEnum):
    """Why a value is not written without a person's word on it."""

    SMOKE_RUN = "smoke run"


@dataclass(frozen=True)
class Doubt:
    """One reason, with a sentence for the person who decides."""

    kind: DoubtKind
    text: str


def find(worst: Worst, repeats: int) -> Iterator[Doubt]:
    """Every doubt about writing the worst of ``repeats`` repeats."""
    if repeats == 1:
        yield Doubt(DoubtKind.SMOKE_RUN, "measured once: a smoke run shows no spread, so it is no worst of N")
