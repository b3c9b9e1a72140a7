"""Whole runs through a real Slurm of two nodes: every repeat counts exactly once, whatever breaks on the way."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import toy
from cluster import GPUS, Cluster

from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.strict_audit import strict_audit

USAGE = '''"""Which GPUs a launch could open, and when; and children that get away, where a test asks for them."""

import errno, json, os, subprocess, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT.parent / (ROOT.name + "-state")
DEVICES = Path((STATE / "devices").read_text())
ESCAPED = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"


def opened():
    for device in sorted(DEVICES.glob("gpu?")):
        try:
            os.close(os.open(device, os.O_RDWR))
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
        yield device.name


@pytest.fixture(scope="session", autouse=True)
def used():
    if (STATE / "escape").exists():
        for word in (ESCAPED, ESCAPED.replace("600", "601")):
            subprocess.Popen([sys.executable, "-c", word], start_new_session=True)
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
    profile = {"name": "site", "hostname": "site", "repo_root": str(folder), "executor": "slurm", "slurm": slurm}
    files = {"tests/conftest.py": USAGE, ".tune/hosts/site.yaml": json.dumps(profile)}
    project = toy.make_toy(folder, config=config, files=files)
    (toy.state_folder(project) / "devices").write_text(str(cluster.folder))
    return Project.resolve(Options(repo=folder, host="site"))


def usage(project: Project) -> list[dict[str, Any]]:
    """What every launch that came to its end could open, in the order of the ends."""
    path = toy.state_folder(project) / "usage.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_goes_through_slurm_on_the_gpus_that_it_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", partition="gpu", constraint="h100", gres="gpu:fake")
    run = toy.start(project, 2)

    now = toy.wait_until_rest(project, run.run_id, 120)

    assert now.state == "finished", toy.told(run)
    assert strict_audit(project, run.run_id).ready
    assert [(len(one["opened"]), one["visible"]) for one in usage(project)] == [(2 + GPUS, "0,1")] * 2
