"""Calibrations of the toy on the cluster: started, held, broken, and what each launch could use."""

from __future__ import annotations

import json
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import toy
from cluster import NODES, Cluster

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.slurm import Slurm
from tune_mcp.supervise.job import AttemptResult, parse_result
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.strict_audit import strict_audit

USAGE = '''"""Which GPUs a launch could open, and when; and children that get away, where a test asks for them."""

import errno, json, os, re, subprocess, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT.parent / (ROOT.name + "-state")
DEVICES = json.loads((STATE / "devices.json").read_text())
NODE = re.search(r"devices:/\\S*?(%s)" % "|".join(DEVICES), Path("/proc/self/cgroup").read_text())
ESCAPED = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"


def opened():
    for device in DEVICES[NODE[1]] if NODE else ():
        try:
            os.close(os.open(device, os.O_RDWR))
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
        yield Path(device).name


@pytest.fixture(scope="session", autouse=True)
def used():
    if (STATE / "escape").exists():
        for word in (ESCAPED, ESCAPED.replace("600", "601")):
            subprocess.Popen([sys.executable, "-c", word], start_new_session=True)
    if NODE and (STATE / "slow").exists() and (STATE / "slow").read_text() == NODE[1]:
        repeat = Path(os.environ["TUNE_GUARD_RECORD"]).stem.removeprefix("guard_run")
        (STATE / f"run{repeat}.json").write_text(json.dumps({"speed": {"throughput_qps": 4.0, "latency_mean_s": 0.7}}))
    begin = time.time()
    yield
    facts = {"record": os.environ["TUNE_GUARD_RECORD"], "begin": begin, "end": time.time(),
             "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
    with (STATE / "usage.jsonl").open("a") as log:
        log.write(json.dumps({**facts, "opened": [*opened()]}) + "\\n")
'''


def make(cluster: Cluster, folder: Path, gpus: int = 2, **slurm: object) -> Project:
    config = deepcopy(toy.CONFIG)
    config["gpus_per_test"] = {"test_toy_ci.py": gpus}
    here = {"name": "here", "hostname": "here", "repo_root": str(folder)}
    site = here | {"name": "site", "hostname": "site", "executor": "slurm", "slurm": slurm}
    profiles = {f".tune/hosts/{one['name']}.yaml": json.dumps(one) for one in (here, site)}
    files = {"tests/conftest.py": USAGE, **profiles}
    project = toy.make_toy(folder, config=config, files=files)
    devices = {node: [str(cluster.folder / f"gpu{n}") for n in cluster.numbers(node)] for node in NODES}
    (toy.state_folder(project) / "devices.json").write_text(json.dumps(devices))
    return Project.resolve(Options(repo=folder, host="site"))


def usage(project: Project) -> list[dict[str, Any]]:
    """What every launch that came to its end could open, in the order of the ends."""
    path = toy.state_folder(project) / "usage.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def results(run: RunDir) -> list[AttemptResult]:
    """Every sealed result."""
    return [parse_result(path.read_bytes()) for path in sorted(run.path.glob("_pytest/*/attempts/*/result.json"))]


def overlapping(project: Project) -> list[tuple[str, str]]:
    """Pairs of launches that could open one GPU at the same time."""
    made = [(one["record"], one["begin"], one["end"], {*one["opened"]}) for one in usage(project)]
    return [
        (first[0], second[0])
        for at, first in enumerate(made)
        for second in made[:at]
        if first[1] < second[2] and second[1] < first[2] and first[3] & second[3]
    ]


def finished(project: Project, run: RunDir, limit_s: float = 150) -> None:
    """The run ends with every repeat strict and counted once, on what one attempt measured and no other."""
    now = toy.wait_until_rest(project, run.run_id, limit_s)
    assert now.state == "finished", toy.told(run)
    assert strict_audit(project, run.run_id).ready
    recorded = [(e.facts["stage"], e.facts["repeat"]) for e in events.read(run.events) if e.kind == "recorded"]
    assert len(recorded) == len(set(recorded)) == len(toy.STAGES) * now.total // len(toy.STAGES)


def held(project: Project, repeats: int = 1) -> tuple[RunDir, str]:
    """A run whose first pytest waits on a node: the run and the node."""
    toy.hold(project, 1)
    run = toy.start(project, repeats)
    toy.wait_for(lambda: toy.launches(project, 1), 90, "the first launch")
    job = run.attempt(toy.TEST_KEY, 1, 1)
    return run, Slurm().jobs([run.attempt_key(toy.TEST_KEY, 1, 1)])[0].node if job.is_dir() else ""


def jobs_of(cluster: Cluster, run: RunDir) -> dict[str, str]:
    """The state of every job that Slurm had of this run's test, by Slurm's id and our name."""
    return {name: now for name, now in cluster.jobs().items() if f"tune.{run.run_id}.{toy.TEST_KEY}." in name}


def end_supervisor(run: RunDir) -> None:
    """As a crash of the login node: no signal handler runs."""
    record = state.read_record(run)
    assert record and record.owner
    _kill(record.owner.pid)
    toy.wait_for(lambda: state.conclude(run).state is state.RunState.LOST, what="the end of the supervisor")


def _kill(pid: int) -> None:
    for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid)):
        process.kill()


def end_all(folder: Path) -> None:
    """End every supervisor that a test left in its folder: it would submit again what is cancelled."""
    for path in folder.glob("*/.tune-runs/*/supervisor.json"):
        record = state.read_record(RunDir(path.parent))
        if record and record.owner and state.lives(record.owner):
            with suppress(psutil.NoSuchProcess):
                _kill(record.owner.pid)
