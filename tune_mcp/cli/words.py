"""The terminal's own commands for the actions that a reply or a refusal names."""

from __future__ import annotations

import argparse
import shlex
from typing import TypeVar, cast

from tune_mcp.actions import Action, Tool, spoken
from tune_mcp.contract.reply import Reply
from tune_mcp.errors import Json, Refusal

R = TypeVar("R", bound=Reply)

_COMMANDS: dict[Tool, str] = {
    "start_run": "run", "resume_run": "resume", "stop_run": "stop", "strict_audit": "audit", "tail_pytest": "tail",
    "apply_plan": "plan",
}  # fmt: skip
_OPTIONS = {"stages": "--stages", "repeats": "--repeats", "label": "--label", "mode": "--mode"}
_PLACEHOLDERS = {"model": "MODEL", "run_id": "RUN"}
_BY_MODEL: tuple[Tool, ...] = ("discover", "precheck", "start_run")


class Words:
    """How actions are said at this terminal: with the options of this call, and its run or model by default."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._known = {name: getattr(arguments, name, None) for name in _PLACEHOLDERS}
        named = (("--repo", arguments.repo), ("--host", arguments.host), ("--config", arguments.config))
        self._options = [f"{option} {shlex.quote(str(value))}" for option, value in named if value is not None]

    def command(self, action: Action) -> str:
        """``run `tune-mcp resume RUN```. A wait for a run is ``watch``."""
        given = dict(action.arguments)
        name = "watch" if action.tool == "status" and "wait_s" in given else _COMMANDS.get(action.tool, action.tool)
        words = ["tune-mcp", name]
        place = "model" if action.tool in (*_BY_MODEL, "catalog") else "run_id"
        subject = given.get(place) or self._known[place]
        if subject or action.tool not in ("catalog", "status"):
            words.append(shlex.quote(str(subject)) if subject else _PLACEHOLDERS[place])
        if action.tool == "stop_run":
            words.append("--reason WHY")
        words += [f"{option} {shlex.quote(str(given[key]))}" for key, option in _OPTIONS.items() if key in given]
        repeats = cast("list[dict[str, object]]", given.get("purge", []))
        words += [f"--purge {shlex.quote(':'.join(map(str, one.values())))}" for one in repeats]
        return f"run `{' '.join([*words, *self._options])}`"

    def reply(self, reply: R) -> R:
        """The reply with its next step in the terminal's words."""
        return reply.model_copy(update={"next": spoken(reply.next, self.command)})

    def refusal(self, refusal: Refusal) -> Refusal:
        """The refusal likewise; what it wants decided is named with the options that decide it."""
        decided = refusal.details.get("decisions")
        step = self._deciding(decided) if isinstance(decided, list) else spoken(refusal.next, self.command)
        return Refusal(refusal.code, refusal.rules, refusal.message, step, refusal.details)

    def _deciding(self, decisions: list[Json]) -> str:
        """``--decide x/acc=keep`` for each, to be edited."""
        named = [f"{one['stage_key']}/{one['metric_key']}=keep" for one in decisions if isinstance(one, dict)]
        words = " ".join(f"--decide {shlex.quote(name)}" for name in named)
        return (
            f"decide each at a terminal, or edit and add to the command: {words} (keep, apply or a number); "
            "--otherwise keep or --otherwise apply is your word on all that is not named"
        )
