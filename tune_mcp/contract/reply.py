"""The form of every answer: typed facts, a text that is enough by itself, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, SkipValidation

TEXT_LIMIT = 8000
"""About this many characters of text at most (contract, section 2)."""


class Reply(BaseModel):
    """An answer of one verb. ``next`` says what to do now; ``text()`` says everything that matters."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, defer_build=True)

    next: Annotated[str, SkipValidation]  # a Step keeps its actions

    def lines(self) -> Iterable[str]:
        """The facts, one line each, the most important first."""
        raise NotImplementedError

    def facts(self) -> dict[str, object]:
        """The same facts typed, without what is not known; the form that several clients show to the model."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}

    def text(self) -> str:
        """All lines and the next step, cut in the middle when there is too much."""
        return bounded("\n".join(self.lines()), f"\nNext: {self.next}")


def bounded(body: str, tail: str = "", limit: int = TEXT_LIMIT) -> str:
    """``body`` + ``tail``; a body that is too long loses whole lines from its middle, and says how many."""
    room = limit - len(tail)
    if len(body) <= room:
        return body + tail
    longest = room // 2
    lines = [line if len(line) <= longest else f"{line[: longest - 80]} [… cut …]" for line in body.splitlines()]
    head: list[str] = []
    foot: list[str] = []
    used = 60
    front = True
    while lines:
        line = lines.pop(0) if front else lines.pop()
        if used + len(line) + 1 > room:
            lines.append(line)
            break
        used += len(line) + 1
        (head if front else foot).append(line)
        front = not front
    return "\n".join([*head, f"[… {len(lines)} lines left out …]", *reversed(foot)])[:room] + tail
