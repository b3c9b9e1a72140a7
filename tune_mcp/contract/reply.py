"""The form of every answer: typed facts, a text that is enough by itself, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, cast

from pydantic import BaseModel, ConfigDict, SkipValidation

TEXT_LIMIT = 8000
"""About this many characters of text at most, and of the same facts typed."""


class Reply(BaseModel):
    """An answer of one verb. ``next`` says what to do now; ``text()`` holds everything that matters."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, defer_build=True)

    also_typed: ClassVar[dict[str, str]] = {}
    """What ``typed`` adds to the fields: name -> JSON type."""
    next: Annotated[str, SkipValidation]  # a Step keeps its actions

    def lines(self) -> Iterable[str]:
        """The facts, one line each, the most important first."""
        raise NotImplementedError

    def facts(self) -> dict[str, object]:
        """Facts of the answer, typed and as slim as its text; several clients show the model this form alone.

        What is not known is left out. Lists that are too long are cut at their end: ``left_out`` counts what is
        missing of each, ``whole`` is the resource that has it all.
        """
        return cut(self.typed(), self.whole())

    def typed(self) -> dict[str, object]:
        """All facts, before they are cut."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}

    def whole(self) -> str | None:
        """The resource that holds what is cut."""
        return None

    def text(self) -> str:
        """All lines and the next step, cut in the middle when there is too much."""
        return bounded("\n".join(self.lines()), f"\nNext: {self.next}")


def bounded(body: str, tail: str = "", limit: int = TEXT_LIMIT) -> str:
    """``body`` + ``tail``; a body that is too long loses whole lines from its middle, and says how many."""
    left = limit - len(tail)
    if len(body) <= left:
        return body + tail
    longest = left // 2
    lines = [line if len(line) <= longest else f"{line[: longest - 80]} [… cut …]" for line in body.splitlines()]
    head: list[str] = []
    foot: list[str] = []
    used = 60
    front = True
    while lines:
        line = lines.pop(0) if front else lines.pop()
        if used + len(line) + 1 > left:
            lines.append(line)
            break
        used += len(line) + 1
        (head if front else foot).append(line)
        front = not front
    return "\n".join([*head, f"[… {len(lines)} lines left out …]", *reversed(foot)])[:left] + tail


def size(value: object) -> int:
    """Characters on the wire."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def cut(facts: dict[str, object], whole: str | None = None, limit: int = TEXT_LIMIT) -> dict[str, object]:
    """``facts`` with the largest lists, tables and texts shortened until they fit."""
    left_out: dict[str, int] = {}
    facts = dict(facts)
    while size(facts) > limit - 200:
        name = max(facts, key=lambda name: size(facts[name]))
        shorter, less = _shortened(facts[name])
        if not less:
            break
        facts[name] = shorter
        left_out[name] = left_out.get(name, 0) + less
    if left_out:
        facts |= {"left_out": left_out, **({"whole": whole} if whole else {})}
    return facts


def _shortened(value: object) -> tuple[object, int]:
    """The first three quarters of what has parts, and how many parts went."""
    if not isinstance(value, list | dict | str) or len(value := cast("list[object]", value)) < 2:
        return value, 0
    keep = len(value) * 3 // 4
    if isinstance(value, dict):
        return dict(list(cast("dict[str, object]", value).items())[:keep]), len(value) - keep
    return value[:keep], len(value) - keep


def each_reason_once(reasons: Mapping[str, str]) -> dict[str, str]:
    """Place -> reason, where all but the first place of one reason refer to that place."""
    first: dict[str, str] = {}
    return {
        place: reason if first.setdefault(reason, place) == place else f"as {first[reason]}"
        for place, reason in reasons.items()
    }
