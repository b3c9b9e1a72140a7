"""``tune-mcp resume`` at a terminal: ask before a strict repeat is replaced."""

from __future__ import annotations

from collections.abc import Sequence

from tune_mcp.cli.apply import ask, at_terminal
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.start_run import RunReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import replacing, resume_run


def resume_at_terminal(project: Project, run_id: str, purge: Sequence[PurgeItem]) -> RunReply:
    """Resume; a person at a terminal is asked about each strict repeat that ``purge`` names.

    Raises DECLINED when one of them is not to be replaced, and what resume_run raises.
    """
    strict = replacing(project, run_id, purge) if purge and at_terminal() else {}
    for (test, repeat), text in strict.items():
        print(text)
        try:
            word = ask("replace it, or keep it", ("replace", "keep"), "keep")
        except EOFError:
            word = "keep"
        if word == "keep":
            raise Refusal(
                Code.DECLINED, "RES-06", f"{test} run {repeat} stays; nothing was changed", "resume without that purge"
            )
    return resume_run(project, run_id, purge, "a person, at a terminal" if strict else None)
