"""``tune-mcp doctor``: what a run would need here, for one model or for all."""

from __future__ import annotations

from collections.abc import Callable

from tune_mcp.config.model import globbed_files
from tune_mcp.contract.reply import Reply
from tune_mcp.errors import Refusal
from tune_mcp.gpus import read_gpus
from tune_mcp.precheck import lane_proposal
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project, gpus_per_test


def doctor(project: Project, model: str | None, show: Callable[[Reply], object], say: Callable[[str], None]) -> int:
    """Precheck every model that has tests in this repository; one that cannot be checked says why.

    Returns 0 when there is one and all are ready, else 1.
    """
    names = [model] if model else project.places.model_names()
    elsewhere = [] if model else [name for name in names if _elsewhere(project, name)]
    if elsewhere:
        say(f"no test of these models is in this repository: {', '.join(elsewhere)}")
    if len(elsewhere) == len(names):
        say("Next: write a model from the tests here: tune-mcp init --model NAME --run")
        return 1
    ready = True
    for name in names:
        if name in elsewhere:
            continue
        try:
            reply = precheck(project, name)
        except Refusal as refusal:
            if model:
                raise
            say(f"{name}: {refusal.text()}")
            ready = False
            continue
        show(reply)
        ready = ready and reply.ok
    _lanes(project, [name for name in names if name not in elsewhere], say)
    return 0 if ready else 1


def _lanes(project: Project, models: list[str], say: Callable[[str], None]) -> None:
    """Where no profile has lanes, those that this machine could have: several launches at once, each undisturbed."""
    if project.placement.lanes or project.cluster:
        return
    needs = [count for name in models for count in _gpus(project, name)]
    if lanes := lane_proposal.propose(read_gpus().gpus, max(needs, default=1)):
        profile = f"hosts/{project.host.name if project.host else 'NAME'}.yaml"
        say(f"lanes: this machine can measure {len(lanes)} repeats at once; for {profile}, after a person's look:")
        say(lane_proposal.text(lanes))


def _gpus(project: Project, name: str) -> list[int]:
    try:
        return [*gpus_per_test(project.places.model(name), tuple(project.places.stages(name).values())).values()]
    except Refusal:
        return []


def _elsewhere(project: Project, name: str) -> bool:
    try:
        return not any(globbed_files(project.repo_root, project.places.model(name)))
    except Refusal:
        return False
