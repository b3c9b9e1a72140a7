"""The detached process of one run: ``python -m tune_mcp.supervise <run_dir> <run lock fd> <host lock fd>``.

It inherits both locks, works, writes its end state, and exits; the locks go with it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.stages import Stage
from tune_mcp.errors import Refusal
from tune_mcp.files import FileLock
from tune_mcp.gpus import GpuReading, Presence, accepting, read_gpus
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.gates import PATIENT_DEADLINE_S, Deadline, Precheck, Probes, precheck
from tune_mcp.precheck.subject import Needs, Subject
from tune_mcp.precheck.venv import VenvFacts, read_venv
from tune_mcp.run_dir import RunDir, iso, utc_now
from tune_mcp.session import gpus_seen
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import owner
from tune_mcp.supervise import comparing, environment, neighbours
from tune_mcp.supervise.executor.local import LocalExecutor
from tune_mcp.supervise.host_lock import lock_path
from tune_mcp.supervise.loop import Supervisor, stop_request
from tune_mcp.supervise.processes import StopLadder, become_subreaper, default_signals, plain_command_line
from tune_mcp.supervise.waiting import Wakeup


class SystemClock:
    """Real time; a signal, a child's end and a word of the runner end a sleep early."""

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup

    def now(self) -> datetime:
        """UTC."""
        return utc_now()

    def monotonic(self) -> float:
        """Seconds, for waits."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for news, at most that long."""
        self._wakeup.wait(seconds)


def prechecked(run: RunDir, plan: Plan) -> Precheck:
    """The run's first phase: the same gates as the tool, on the plan's own facts; leaves environment.json too.

    Raises HOST_NOT_COMPARABLE when the run has strict repeats from another machine.
    """
    readings: list[GpuReading] = []
    venvs: list[VenvFacts] = []

    def gpus() -> GpuReading:
        look = accepting(read_gpus, plan.settings.accept_unknown_gpus)
        readings.append(gpus_seen.Recording(run, look, utc_now)())
        return readings[-1]

    def venv(subject: Subject) -> VenvFacts:
        venvs.append(read_venv(subject))
        return venvs[-1]

    stages = tuple(plan.table().values())
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
        needs=_needs(plan, stages),
    )
    probes = Probes(gpus, venv, environment.as_launched(os.environ))
    answer = precheck(subject, probes, iso(utc_now()), deadline=Deadline(PATIENT_DEADLINE_S))
    reading = readings[0] if readings else GpuReading(Presence.UNKNOWN, reason="no answer in time")
    found = fingerprint.take(
        reading,
        venvs[0] if venvs else VenvFacts(problem="no answer in time"),
        plan.settings.env,
        Path(plan.venv_python),
    )
    found = found.model_copy(update={"versions": answer.versions})
    comparing.settle(run, plan, found, utc_now())
    return answer


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


def _no_older_runs(model: str) -> plans.OlderCatalogue:
    raise ValueError(f"a run of the older script ({model}) is never supervised")


def main(argv: list[str]) -> int:
    """Adopt the locks, read the plan, supervise."""
    run = RunDir(Path(argv[0]))
    locks = (FileLock.inherit(run.supervisor_lock, int(argv[1])), FileLock.inherit(lock_path(), int(argv[2])))
    plain_command_line(*neighbours.SHOWN)
    default_signals()
    become_subreaper()
    wakeup = Wakeup(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop_asked() -> str | None:
        return stop_request(run) or ("the supervisor was ended by a signal" if wakeup.received else None)

    try:
        plan = plans.load(run, _no_older_runs)
    except Refusal as refusal:
        print(refusal.text(), file=sys.stderr)
        return 1
    ladder = StopLadder(lambda text: print(f"{iso(utc_now())} {text}", file=sys.stderr, flush=True))
    supervisor = Supervisor(
        run_dir=run,
        plan=plan,
        executor=LocalExecutor(wakeup, ladder.drain, held=(locks[1].handle,)),
        clock=SystemClock(wakeup),
        owner=owner(os.getpid()),
        precheck=lambda: prechecked(run, plan),
        stop_asked=stop_asked,
        neighbours=neighbours.measuring,
    )
    return supervisor.run()  # the locks go with the process, so that a free lock means that it is gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
