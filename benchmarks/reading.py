"""What a reader pays: audit and status of large runs, a page of a huge log."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from figure import Figure, cpu_of, cpu_of_command, in_turn, show

from tune_mcp import run_dir
from tune_mcp.config.lanes import Lane, Placement
from tune_mcp.config.stages import Display, GroupPolicy, Location, SampleCounts, Stage, StageMetric
from tune_mcp.files import dump_json, sha256_bytes
from tune_mcp.run_dir import RunDir
from tune_mcp.session import plan as plans
from tune_mcp.session.state import RunState, SupervisorRecord
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.status import stamps, status
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.verbs.tail_pytest import tail_pytest

SHA = "0" * 40
COLD = """
import json, pathlib, sys
from pydantic import BaseModel
for path in pathlib.Path(sys.argv[1]).glob("*/run*.json"):
    json.loads(path.read_bytes())
"""
"""The least that a new process does that reads a run with pydantic at hand: `import pydantic` alone loads little."""


def figures() -> Iterator[Figure]:
    for stages, repeats in ((70, 15), (200, 50)):
        with tempfile.TemporaryDirectory() as folder:
            run = large_run(Path(folder), stages, repeats)
            yield from large(run, f"{stages} × {repeats}")
    with tempfile.TemporaryDirectory() as folder:
        yield from huge_log(large_run(Path(folder), 1, 2))
    with tempfile.TemporaryDirectory() as folder:
        yield from discovered(Path(folder))


def discovered(repo: Path) -> Iterator[Figure]:
    """discover over a repository of the size of sglang-omni's: 14 test files with 40 numbers each."""
    files = [repo / "tests" / f"test_stage{number:02}_ci.py" for number in range(14)]
    levels = ", ".join(
        f'{level}: {{"throughput_qps": {level}.5, "latency_mean_s": 0.25}}' for level in (1, 2, 4, 8, 16)
    )
    filler = "\n".join(f"def helper_{number}(x):\n    return [x + {number}, {{'a': x}}]" for number in range(60))
    (repo / "tests").mkdir()
    for file in files:
        file.write_text(f"CONCURRENCY = 2\nMMLU_ACC_MIN = 0.5\n_SPEED_P95 = {{{levels}}}\n{filler}\n")
    paths = {"accuracy": "a", "throughput_qps": "b", "latency_mean_s": "c"}
    source = {"json_file": "x.json", "sample_counts": {"total": "t", "ok": "o"}, "paths": paths}
    config = {
        "name": "many",
        "test_globs": ["tests/test_*_ci.py"],
        "stage_base_strip_prefix": "test_",
        "stage_base_strip_suffix": "_ci",
        "metric_sources": {file.name: source for file in files},
    }
    place = repo / ".tune" / "models" / "many"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(json.dumps(config))
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    project = Project.resolve(Options(repo=repo))
    stages = discover(project, "many", write=False).stages
    if len(stages) != 28:
        raise RuntimeError(f"discover found {len(stages)} stages instead of 28")
    yield discovering("discover of 14 test files, 28 stages, CPU", project, "many", files)


def discovered_in(repo: Path, model: str) -> Iterator[Figure]:
    """discover over a real checkout, nothing written."""
    project = Project.resolve(Options(repo=repo))
    stages = discover(project, model, write=False).stages
    files = [repo / name for name in sorted({stage.test for stage in project.places.stages(model).values()})]
    yield discovering(f"discover {model}, {len(stages)} stages, CPU", project, model, files)


def discovering(name: str, project: Project, model: str, files: list[Path]) -> Figure:
    """discover beside the parsing of the test files alone."""
    ours, parsed = in_turn(
        cpu_of(lambda: discover(project, model, write=False)),
        cpu_of(lambda: [ast.parse(file.read_bytes()) for file in files]),
    )
    return Figure(name, ours, parsed, "s", "ast.parse of each", 23.0, 3)


def large(run: RunDir, size: str) -> Iterator[Figure]:
    project = Project.resolve(Options(repo=run.repo_root))
    files = sorted(run.path.glob("*/run*.json"))
    audited, told, parsed = in_turn(
        cpu_of(lambda: strict_audit(project, run.run_id)),
        cpu_of(lambda: status(project, run.run_id)),
        cpu_of(lambda: [json.loads(file.read_bytes()) for file in files]),
    )
    yield Figure(f"strict_audit of {size} cells, CPU", audited, parsed, "s", "json.loads of each", 5.0)
    yield Figure(f"status of {size} cells, CPU", told, parsed, "s", "json.loads of each", 5.0)
    verb = [sys.executable, "-m", "tune_mcp", "audit", run.run_id, "--repo", str(run.repo_root)]
    cold, beside = in_turn(cpu_of_command(verb), cpu_of_command([sys.executable, "-c", COLD, str(run.path)]))
    yield Figure(f"strict_audit of {size} cells in a new process, CPU", cold, beside, "s", "pydantic, json.loads", 4.3)
    run.supervisor_lock.touch()
    looked, least = in_turn(cpu_of(lambda: stamps(run), 200), cpu_of(lambda: plain_look(run), 200))
    name = f"a look of a waiting status at {size} cells, CPU"
    yield Figure(name, looked * 1e3, least * 1e3, "ms", "its system calls", 1.4, 3)


def plain_look(run: RunDir) -> None:
    """The test of a lock and a look at two folder entries, without anything around them."""
    handle = os.open(run.supervisor_lock, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(handle)
    os.stat(run.supervisor)
    os.stat(run.events)


def huge_log(run: RunDir) -> Iterator[Figure]:
    """The same last lines behind nothing, and behind 2 GB (a sparse file: its bytes are read like any others)."""
    project = Project.resolve(Options(repo=run.repo_root))
    last = b"".join(b"tests/test_0_ci.py::test_%05d PASSED\n" % number for number in range(10_000))
    for repeat, size in ((1, 0), (2, 2 * 2**30)):
        path = run.log("test_0_ci", repeat)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as log:
            log.truncate(size)
            log.seek(size)
            log.write(last)
    pages = (cpu_of(lambda repeat=repeat: tail_pytest(project, run.run_id, 100, repeat=repeat)) for repeat in (1, 2))
    small, huge = in_turn(*pages, rounds=30)
    yield Figure("tail_pytest of a 2 GB log, CPU", huge * 1000, small * 1000, "ms", "of a 400 kB log", 1.25)


def large_run(root: Path, stages: int, repeats: int, lanes: int = 0) -> RunDir:
    """A finished run of many cells, written as a supervisor would have; its repeats took turns on ``lanes``."""
    subprocess.run(["git", "init", "-q", str(root)], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull})
    place = Location(json_file="a/results.json", json_path="summary.n")
    metric = StageMetric(
        source="X_ACC_MIN", json_file="a/r.json", json_path="x", worst="min", display=Display(label="x")
    )
    table = {
        f"stage{number}_accuracy": Stage(
            key=f"stage{number}_accuracy",
            test=f"tests/test_{number // 3}_ci.py",
            group="accuracy",
            test_file_sha256="0" * 64,
            expected_samples=4,
            sample_counts=SampleCounts(total=place, ok=place),
            metrics={f"m{index}": metric for index in range(4)},
        )
        for number in range(stages)
    }
    now = datetime.now(UTC)
    run = run_dir.create(root, "bench", now)
    plan = plans.Plan(
        tune_version="bench", run_id=run.run_id, model="bench", stages=tuple(table), repeats=repeats,
        calibration_git_sha=SHA, git_branch="main", calibration_started_at=run_dir.iso(now), repo_root=str(root),
        venv_python=sys.executable, venv_source="bench", stages_sha256="0" * 64, file_sha256={}, catalogue=table,
        groups={"accuracy": GroupPolicy()},
        settings=plans.LaunchSettings(
            placement=Placement(lanes=tuple(Lane(name=f"gpu{n}", gpus=(n,)) for n in range(lanes)))
        ),
    )  # fmt: skip
    lines: list[dict[str, str | int]] = []
    plans.write(run, plan, now, "planned")
    for number, key in enumerate(table):
        run.observation(key, 1).parent.mkdir()
        for repeat in range(1, repeats + 1):
            at, turn = run_dir.iso(now), number // 3 + repeat
            launched = {
                "attempt": 1, "verdict": "kept", "started_at": at, "ended_at": at, "log": "",
                "duration_s": 400.0 + turn * 7 % 31, "lane": f"gpu{turn % lanes}" if lanes else "",
            }  # fmt: skip
            data = dump_json(
                {
                    "status": "ok", "reason": "", "metrics": {f"m{index}": 0.5 for index in range(4)},
                    "sample_counts": {"total": 4, "ok": 4}, "duration_s": 1.0, "attempts": 1, "git_sha": SHA,
                    "recorded_at": run_dir.iso(now), "pytest_rc": 0, "pytest_log": "", "basetemp": "",
                    "run_id": run.run_id, "history": [launched],
                }
            )  # fmt: skip
            run.observation(key, repeat).write_bytes(data)
            sha = sha256_bytes(data)
            lines.append({"t": run_dir.iso(now), "kind": "recorded", "stage": key, "repeat": repeat, "sha256": sha})
    with run.events.open("a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)
    over = SupervisorRecord(state=RunState.FINISHED, heartbeat_at=now.timestamp())
    run.supervisor.write_bytes(dump_json(over.model_dump(mode="json")))
    return run


if __name__ == "__main__":
    sys.exit(show(figures()))
