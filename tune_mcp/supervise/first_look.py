"""The run's first phase: is the machine on which it measures ready, and which one is it?

On this machine, or on a node: ``python -m tune_mcp.supervise.first_look <run_dir> <answer file>`` writes what it found.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.stages import Frozen, Stage
from tune_mcp.errors import Refusal
from tune_mcp.gpus import GpuReading, Presence, accepting, read_gpus
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.fingerprint import Environment
from tune_mcp.precheck.gates import PATIENT_DEADLINE_S, Deadline, Precheck, Probes, precheck
from tune_mcp.precheck.subject import Needs, Subject
from tune_mcp.precheck.venv import VenvFacts, read_venv
from tune_mcp.run_dir import RunDir, iso, utc_now
from tune_mcp.session import plan as plans
from tune_mcp.session import state
from tune_mcp.session.plan import Plan
from tune_mcp.supervise import comparing, launch_variables


class Machine(Frozen):
    """What the first look found: every check, and what makes numbers of this machine comparable."""

    schema_version: int = 1
    precheck: Precheck
    environment: Environment


def prechecked(run: RunDir, plan: Plan) -> Precheck:
    """The run's first phase on this machine; leaves environment.json too.

    Raises HOST_NOT_COMPARABLE when the run has strict repeats from another machine.
    """
    found = examine(run, plan)
    comparing.record_or_compare(run, plan, found.environment, utc_now())
    return found.precheck


def examine(run: RunDir, plan: Plan) -> Machine:
    """Run the gates of the ``precheck`` tool on the plan's own facts, and take the machine's fingerprint."""
    readings: list[GpuReading] = []
    venvs: list[VenvFacts] = []
    read = state.recording(run, accepting(read_gpus, plan.settings.accept_unknown_gpus))

    def gpus() -> GpuReading:
        readings.append(read())
        return readings[-1]

    def venv(subject: Subject) -> VenvFacts:
        venvs.append(read_venv(subject))
        return venvs[-1]

    stages = tuple(plan.table().values())
    needs = _needs(plan, stages)
    subject = Subject(
        repo_root=Path(plan.repo_root),
        model=plan.model,
        stages=stages,
        venv_python=Path(plan.venv_python),
        venv_source=plan.venv_source,
        venv_candidates=(plan.venv_python,),
        host=plan.host,
        gpus_per_test=plan.settings.gpus_per_test,
        allow_mig=plan.settings.allow_mig,
        placement=plan.settings.placement,
        needs=replace(needs, lane=needs.lane and plan.settings.slurm is None),  # a grant of Slurm's is one
    )
    probes = Probes(gpus, venv, launch_variables.as_launched(os.environ))
    answer = precheck(subject, probes, iso(utc_now()), deadline=Deadline(PATIENT_DEADLINE_S))
    reading = readings[0] if readings else GpuReading(Presence.UNKNOWN, reason="no answer in time")
    found = fingerprint.read_machine(
        reading,
        venvs[0] if venvs else VenvFacts(problem="no answer in time"),
        plan.settings.env,
        Path(plan.venv_python),
    )
    return Machine(precheck=answer, environment=found.model_copy(update={"versions": answer.versions}))


def _needs(plan: Plan, stages: tuple[Stage, ...]) -> Needs:
    """What the stages need, from the configuration that the plan was made with; the plan alone where that is gone."""
    try:
        places = ConfigPlaces.resolve(Path(plan.repo_root), Path(plan.config_dir) if plan.config_dir else None)
        host = places.host(plan.host) if plan.host else None
        needs = Needs.of(places.model(plan.model), host, stages)
    except Refusal as refusal:
        return Needs.of_plan(plan.settings, stages, refusal.message)
    if needs.env != plan.settings.env:
        # The config was changed since: another model or host of the same name would ask for the wrong things.
        return Needs.of_plan(plan.settings, stages, f"the plan has another config of {plan.model}")
    return needs


def no_older_runs(model: str) -> plans.OlderCatalogue:
    """For ``plan.load``: such a run is never measured."""
    raise ValueError(f"a run of the older script ({model}) is never supervised")


if __name__ == "__main__":
    _run = RunDir(Path(sys.argv[1]))
    _found = examine(_run, plans.load(_run, no_older_runs))
    _found.to_file(Path(sys.argv[2]))
