"""A runner as a Slurm job: ``python -m tune_mcp.supervise.executor.on_node <attempt folder>``.

The same runner as everywhere. Before it, what only the node can tell: were the GPUs granted that were asked for, and
which of those that NVML shows are they? After it, a word that nothing is left to do, so that nobody has to ask Slurm.

Exit codes: 0 sealed, 1 stopped without a result, 75 refused: the attempt is cancelled or another runner has it, or this
node does not fit; then the reason is sealed, and the next attempt is made elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tune_mcp.config.lanes import Lane, Placement, parse_cpus
from tune_mcp.errors import Code
from tune_mcp.files import write_atomic
from tune_mcp.gpus import GpuReader, accepting, read_gpus
from tune_mcp.precheck.fingerprint import this_host
from tune_mcp.supervise.job import (
    JOB_FILE,
    LEFT_FILE,
    Blocked,
    Engine,
    Job,
    is_sealed,
    read_job,
    read_result,
    seal_unstarted,
)
from tune_mcp.supervise.processes import become_subreaper, default_signals, plain_command_line
from tune_mcp.supervise.runner import attempt
from tune_mcp.supervise.waiting import Orders
from tune_mcp.words import number_of

_GRANTED = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


def granted(env: Mapping[str, str]) -> Engine:
    """What Slurm says of this job. GPUs are numbered as on the node; CUDA_VISIBLE_DEVICES is renumbered by job."""
    named = next((env[name] for name in _GRANTED if env.get(name)), "")
    try:
        gpus = parse_cpus(named) if named else ()  # the same form: 0,2-3
    except ValueError:
        gpus = ()
    return Engine(job_id=env.get("SLURM_JOB_ID", "?"), node=this_host(), gpus=gpus)


def refusal(job: Job, engine: Engine) -> Blocked | None:
    """Why nothing may start on these GPUs; a controller that lost its state has started jobs without any.

    More than were asked for are fine: a job with a node of its own has all GPUs of it, and its launch takes its number.
    """
    if len(engine.gpus) >= job.gpus:
        return None
    given = ", ".join(map(str, engine.gpus)) or "none"
    return Blocked(
        code=Code.GPU_NOT_CLEAR,
        rule="GPU-02",
        reason=f"{number_of(job.gpus, 'GPU')} asked for, and Slurm granted {given} on {engine.node}",
        next="correct gres in the host profile and GresTypes of the site, then resume the run",
    )


def placed(job: Job, engine: Engine, read: GpuReader) -> Job:
    """The job on a lane that is Slurm's grant: these GPUs, also where the site hides no others, and these CPUs."""
    seen = read().gpus if job.gpus else ()
    mine = tuple(gpu.index for gpu in seen)
    if len(seen) > len(engine.gpus):
        mine = tuple(gpu.index for gpu in seen if (gpu.index if gpu.minor is None else gpu.minor) in engine.gpus)
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    lane = Lane(name="slurm", gpus=mine, cpus=cpus)
    variable = job.placement.cpu_set_variable
    return job.model_copy(update={"placement": Placement(lanes=(lane,), cpu_set_variable=variable)})


def main(argv: list[str]) -> int:
    """The job in the folder ``argv[0]``, from the look at the node to the end of its last process."""
    plain_command_line("tune-mcp", "tune_mcp.supervise.runner")
    default_signals()
    become_subreaper()
    job = read_job(Path(argv[0]) / JOB_FILE)
    engine = granted(os.environ)
    if blocked := None if is_sealed(job) else refusal(job, engine):
        if seal_unstarted(job, blocked, engine):
            write_atomic(job.folder / LEFT_FILE, b"")
        print(f"refused: {blocked.reason}", file=sys.stderr, flush=True)
        return os.EX_TEMPFAIL
    code = attempt(placed(job, engine, accepting(read_gpus, job.accept_unknown_gpus)), Orders(listening=False), engine)
    if code == os.EX_TEMPFAIL:
        return code
    write_atomic(job.folder / LEFT_FILE, b"")
    result = read_result(job)
    return os.EX_TEMPFAIL if result and (result.blocked or result.incomparable) and result.pytest_rc is None else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
