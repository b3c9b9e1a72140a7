"""``tune-mcp init``: asks at a terminal before it writes; everything can be said by flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tune_mcp.contract.init import InitReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.verbs.init import Asked, init
from tune_mcp.verbs.project import Project


def init_at_terminal(
    project: Project, tests: Sequence[str], model: str, places: Sequence[str], *, run: bool, replace: bool, yes: bool
) -> InitReply:
    """Propose, show, ask where a person is there to answer, write. Raises INVALID_ARGUMENT."""
    named: dict[str, str] = {}
    for word in places:
        metric, sign, place = word.partition("=")
        if not sign or "::" not in place:
            step = "write it as --path METRIC=FILE::DOTTED.PATH, the file relative to pytest's basetemp"
            raise Refusal(Code.INVALID_ARGUMENT, "MOD-06", f"{word!r} names no place", step, {"argument": "path"})
        named[metric] = place
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not yes
    return init(project, tests, model, Asked(run, replace, named, _agreed if asks else lambda _text: True))


def _agreed(text: str) -> bool:
    print(text)
    return input("Write this to config.yaml? [Y/n] ").strip().lower() in ("", "y", "yes")
