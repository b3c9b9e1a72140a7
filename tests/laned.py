"""A toy of several test files on a host with lanes; each pytest writes down where it ran and what it was given."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

CPUS = sorted(os.sched_getaffinity(0))
TWO: list[dict[str, Any]] = [{"name": "left", "cpus": str(CPUS[0])}, {"name": "right", "cpus": str(CPUS[-1])}]
"""Lanes without GPUs on two real CPUs."""
CACHES = ("OMNI_CI_HOME", "FLASHINFER_WORKSPACE_BASE", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH")
WORST = {
    (f"{name}_{'accuracy' if metric == 'accuracy' else 'speed'}", metric): value
    for name in ("a", "b")
    for metric, value in toy.WORST.items()
}
"""What ``worst`` says of a and b, on however many lanes."""

WRITES_DOWN = """
def held(k):
    stem = Path(__file__).stem
    fact = {
        "test": stem, "repeat": k, "pid": os.getpid(), "cpus": sorted(os.sched_getaffinity(0)),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "tmp": os.environ["TMPDIR"], "port": os.environ.get("TOY_PORT"),
        "caches": {name: os.environ[name] for name in @CACHES@ if name in os.environ}, "began": time.time(),
    }
    with (STATE / "where").open("a") as out:
        out.write(json.dumps(fact) + "\\\\n")
    end = time.monotonic() + 120
    while (STATE / f"hold-{stem}-{k}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    with (STATE / "where").open("a") as out:
        out.write(json.dumps({"over": [stem, k], "at": time.time()}) + "\\\\n")
""".replace("@CACHES@", repr(CACHES)).replace("\\\\n", "\\n")


def make(
    folder: Path,
    files: Sequence[str] = ("a", "b"),
    lanes: Sequence[Mapping[str, Any]] = TWO,
    gpus: int = 0,
    model: Mapping[str, Any] | None = None,
    host: Mapping[str, Any] | None = None,
    body: str = "",
) -> Project:
    """The repository; ``body`` goes before each fixture's numbers, ``model`` and ``host`` change the configuration."""
    source = toy.toy_source()
    source = source.replace(
        source[source.index("def held(k):") : source.index("@pytest.fixture")], WRITES_DOWN + "\n\n"
    )
    source = source.replace("    held(k)\n", f"    held(k)\n{body}")
    names = [f"test_{name}_ci.py" for name in files]
    about = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    config = toy.CONFIG | {"metric_sources": dict.fromkeys(names, about), "gpus_per_test": dict.fromkeys(names, gpus)}
    profile = {
        "name": "lab",
        "hostname": os.uname().nodename,
        "repo_root": str(folder),
        "lanes": [*lanes],
        **(host or {}),
    }
    tests = {f"tests/{name}": source for name in names}
    return toy.make_toy(
        folder,
        config=config | (model or {}),
        files={**tests, ".tune/hosts/lab.yaml": json.dumps(profile)},
        test_source="# nothing\n",
    )


def hold(project: Project, name: str, repeat: int) -> None:
    """Let that pytest wait until ``let_go``."""
    (toy.state_folder(project) / f"hold-test_{name}_ci-{repeat}").touch()


def let_go(project: Project, name: str, repeat: int) -> None:
    """End its wait."""
    (toy.state_folder(project) / f"hold-test_{name}_ci-{repeat}").unlink(missing_ok=True)


def seen(project: Project) -> list[dict[str, Any]]:
    """What each pytest wrote down when it began, in that order."""
    return [fact for fact in _lines(project) if "test" in fact]


def began(project: Project) -> list[tuple[str, int]]:
    """File and repeat of each, ``("a", 1)``."""
    return [(fact["test"][5:-3], fact["repeat"]) for fact in seen(project)]


def pairs_at_once(project: Project) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every two that ran at the same time for a while."""
    over = {tuple(fact["over"]): fact["at"] for fact in _lines(project) if "over" in fact}
    facts = [fact | {"over": over.get((fact["test"], fact["repeat"]), time.time())} for fact in seen(project)]
    return [
        (one, other)
        for number, one in enumerate(facts)
        for other in facts[:number]
        if one["began"] < other["over"] and other["began"] < one["over"]
    ]


def wait_for(project: Project, run: RunDir, *launches: tuple[str, int]) -> None:
    """Until these have begun; the run's own words when they do not."""
    try:
        toy.wait_for(lambda: {*launches} <= {*began(project)}, 60, f"{launches}")
    except AssertionError as error:
        raise AssertionError(f"{error}; {began(project)}\n{toy.told(run)}") from error


def worst(project: Project, run: RunDir) -> dict[tuple[str, str], float | None]:
    """The worst of each stage's metrics, from the run's own plan."""
    report(project, run.run_id)
    return {row.key: row.worst_raw for row in apply_plan(project, run.run_id).rows}


def _lines(project: Project) -> list[dict[str, Any]]:
    path = toy.state_folder(project) / "where"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
