"""What to do next, as data: a verb names the action, and each interface says it in its own words.

A ``Step`` is a text with actions in it. Read as a plain string it speaks to a client of the tools ("call report with
run_id=…"); ``spoken`` gives the same text with the commands of another interface.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Tool = Literal[
    "catalog", "discover", "precheck", "start_run", "resume_run", "stop_run", "status", "strict_audit", "tail_pytest",
    "report", "apply_plan", "apply",
]  # fmt: skip


@dataclass(frozen=True)
class Action:
    """A call of one tool. Arguments that the reader has to fill in are left out."""

    tool: Tool
    arguments: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        """The words for a client: ``call status with run_id=x and wait_s=45``."""
        named = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in self.arguments]
        return f"call {self.tool}" + (f" with {' and '.join(named)}" if named else "")


class ToClient(str):
    """Words that only a client needs, such as what to tell its user; nothing to a person who reads them directly."""

    __slots__ = ()


class Step(str):
    """A text with actions in it."""

    __slots__ = ("parts",)
    parts: tuple[str | Action, ...]

    def __new__(cls, *parts: str | Action) -> Step:
        """Join the parts; a step among them keeps its own actions."""
        flat: list[str | Action] = []
        for part in parts:
            flat += part.parts if isinstance(part, Step) else (part,)
        made = super().__new__(cls, "".join(map(str, flat)))
        made.parts = tuple(flat)
        return made


def call(tool: Tool, **arguments: object) -> Action:
    """Name a call of ``tool``."""
    return Action(tool, tuple(arguments.items()))


def spoken(text: str, command: Callable[[Action], str]) -> str:
    """``text`` with each of its actions as ``command`` says it, without what only a client needs."""
    if not isinstance(text, Step):
        return text
    shown = (part for part in text.parts if not isinstance(part, ToClient))
    return "".join(command(part) if isinstance(part, Action) else part for part in shown)
