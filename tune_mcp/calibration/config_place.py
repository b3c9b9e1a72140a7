"""A run belongs to the place that its configuration came from: it goes on with that one, and with no other.

Another folder may hold another model of the same name. Taken for a fix of the first, it would have things measured
again, or read from other paths, than those which the run was planned with.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from tune_mcp.calibration.project import Project
from tune_mcp.config.loader import REPO_PLACE
from tune_mcp.errors import Code, Refusal
from tune_mcp.session.plan import Plan


def recorded_in(project: Project) -> str | None:
    """What a plan keeps: the folder of ``--config``; None for the repository's own and what ships."""
    asked = project.options.config
    if asked is None or asked.resolve() == (project.repo_root / REPO_PLACE).resolve():
        return None
    return str(asked.resolve())


def of_run(project: Project, plan: Plan) -> Project:
    """The project with the configuration of the run. Raises INVALID_ARGUMENT where another place was named.

    Who names none gets the recorded one. Raises INVALID_CONFIG when that is gone.
    """
    recorded = plan.config_dir
    if recorded == recorded_in(project):
        return project
    if project.options.config is not None:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            "RES-01",
            f"{plan.run_id} was planned with the configuration of {_told(recorded)}, not of "
            f"{project.options.config.resolve()}",
            f"{_command(project, plan)}; a server is started with the same --config, or without one",
            {"argument": "--config", "recorded": recorded, "asked": str(project.options.config.resolve())},
        )
    if recorded is None or not Path(recorded).is_dir():
        raise Refusal(
            Code.INVALID_CONFIG,
            "RES-01",
            f"{plan.run_id} was planned with the configuration of {recorded}, and that folder is gone",
            "put the folder back, or start a new run with start_run",
            {"file": recorded, "line": None, "key": "--config"},
        )
    options = replace(project.options, repo=project.repo_root, config=Path(recorded))
    return Project.resolve(options, project.env, project.repo_root)


def _told(recorded: str | None) -> str:
    return recorded or f"the repository ({REPO_PLACE}/ and the shipped models)"


def _command(project: Project, plan: Plan) -> str:
    flag = f" --config {shlex.quote(plan.config_dir)}" if plan.config_dir else " (without --config)"
    return f"tune-mcp resume {plan.run_id} --repo {shlex.quote(str(project.repo_root))}{flag}"
