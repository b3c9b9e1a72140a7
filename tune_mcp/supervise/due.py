"""The next job of a repeat, made from the plan alone."""

from __future__ import annotations

from tune_mcp.config.lanes import Lane
from tune_mcp.config.metrics import family
from tune_mcp.config.stages import Stage
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import Plan
from tune_mcp.supervise import caches
from tune_mcp.supervise.job import Job
from tune_mcp.supervise.schedule import Repeat

DEFAULT_TIMEOUT_S = 4 * 3600.0
_FORGED = 1_000_000
"""No run has that many attempts."""


def next_job(
    plan: Plan,
    run: RunDir,
    plugins: tuple[str, ...],
    stages: tuple[Stage, ...],
    which: Repeat,
    lane_name: str = "",
    lane: Lane | None = None,
) -> Job:
    """One more attempt at the repeat: its number is higher than that of every attempt there has been.

    ``lane`` is where it runs; None leaves that to the runner.
    """
    settings, path = plan.settings, stages[0].test
    test, repeat = which
    file = path.rpartition("/")[2]
    made = [number for number, _ in run.attempts(test, repeat)] + _launched(run, test, repeat)
    return Job(
        run_dir=str(run.path),
        repo_root=plan.repo_root,
        test=path,
        test_key=test,
        repeat=repeat,
        lane=lane_name,
        own_pids=lane is not None and bool(settings.tests_end_processes),
        attempt=max(made, default=0) + 1,
        stages=stages,
        timed=tuple(stage.key for stage in stages if family(stage.group, plan.groups.get(stage.group)) == "speed"),
        tree=plans.launch_tree(run, plan),
        venv_python=plan.venv_python,
        env=caches.of_lane({**settings.env, **stages[0].extra_env}, settings.placement, lane, run.path.parent),
        pytest_extra_args=settings.pytest_extra_args.get(file, ()),
        plugins=plugins,
        assets=settings.assets,
        cache_wipes=settings.cache_wipes,
        allow_mig=settings.allow_mig,
        placement=settings.placement.on(lane),
        accept_unknown_gpus=settings.accept_unknown_gpus,
        cleanup_command=settings.cleanup_command,
        signatures=settings.signatures,
        gpus=settings.gpus_per_test.get(test, 0),
        timeout_s=settings.timeout_s.get(file, DEFAULT_TIMEOUT_S),
        any_host=settings.slurm is not None,
    )


def _launched(run: RunDir, test: str, repeat: int) -> list[int]:
    """Attempts on the ledger since the repeat was last moved aside: a folder that somebody took away was one, too."""
    found: list[int] = []
    for event in events.read(run.events):
        if (event.facts.get("test"), event.facts.get("repeat")) != (test, repeat):
            continue
        number = event.facts.get("attempt")
        if event.kind == "purged":
            found.clear()
        elif event.kind == "launched" and isinstance(number, int) and number < _FORGED:
            found.append(number)
    return found
