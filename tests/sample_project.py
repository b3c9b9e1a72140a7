"""A tiny repository with one CI test that loosens and tightens, calibrated by real processes in a second or two."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy import MODEL, git, open_project

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import status

__all__ = [
    "MODEL",
    "TEST",
    "Calibrated",
    "Project",
    "RunDir",
    "finished",
    "git",
    "make",
    "open_project",
    "rest",
    "rewrite",
    "until",
]

TEST = '''"""A CI test in the shape of the real ones: results first, assertions after."""

import json
import os
from pathlib import Path

import pytest

CONCURRENCY = 2
NUM_SAMPLES = 4  # sample scope: never calibrated

TOY_ACC_MIN = 0.5  # a bare threshold
TOY_WER_MAX_CORPUS = 0.0100
_TOY_P95 = {
    2: {
        "throughput_qps": 1.0,
        # too tight on purpose
        "latency_mean_s": 0.001,
    },
}
SLACK = 1.5


def repeat() -> int:
    return int(Path(os.environ["TUNE_GUARD_RECORD"]).stem.removeprefix("guard_run"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    k = repeat()
    wer = round(0.0122 + k / 10000, 4)
    found = {
        "summary": {"accuracy": 0.75 + k / 100, "wer_corpus": wer, "total_samples": 4, "evaluated": 4},
        "speed": {"throughput_qps": 10.0 + k, "latency_mean_s": 0.25 + k / 1000},
    }
    (tmp_path_factory.mktemp("toy") / "results.json").write_text(json.dumps(found))
    return found


def test_accuracy(results):
    assert results["summary"]["accuracy"] >= TOY_ACC_MIN / SLACK
    assert results["summary"]["wer_corpus"] <= TOY_WER_MAX_CORPUS * SLACK


def test_speed(results):
    assert results["speed"]["throughput_qps"] >= _TOY_P95[2]["throughput_qps"] / SLACK
    assert results["speed"]["latency_mean_s"] <= _TOY_P95[2]["latency_mean_s"] * SLACK
'''
CONFIG = """name: toy
test_globs: ["tests/test_*_ci.py"]
default_venv_python: ["{python}"]
stage_base_strip_prefix: "test_"
stage_base_strip_suffix: "_ci"
gpus_per_test: {{test_toy_ci.py: 0}}
metric_sources:
  test_toy_ci.py:
    json_file: "toy0/results.json"
    sample_counts: {{total: "summary.total_samples", ok: "summary.evaluated"}}
    paths:
      accuracy: "summary.accuracy"
      corpus_wer: "summary.wer_corpus"
      throughput_qps: "speed.throughput_qps"
      latency_mean_s: "speed.latency_mean_s"
"""


def make(folder: Path, test: str = TEST, files: dict[str, str] | None = None) -> Project:
    """A git repository with one commit, its stages discovered and part of that commit."""
    written = {
        "tests/test_toy_ci.py": test,
        ".tune/models/toy/config.yaml": CONFIG.format(python=sys.executable),
        ".gitignore": "__pycache__/\n.pytest_cache/\n",
        **(files or {}),
    }
    for name, text in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "init", "-q", "-b", "main")
    project = open_project(folder)
    discover(project, MODEL)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "toy")
    return project


def rest(project: Project, run_id: str, polls: int = 60) -> status.StatusReply:
    """Poll until the run rests; each poll waits for a change, their number is bounded."""
    for _ in range(polls):
        now = status(project, run_id, wait_s=5)
        if now.terminal or now.state in ("halted", "exhausted"):
            return now
    raise AssertionError(f"{run_id} does not come to rest: {now.text()}")


def until(project: Project, run_id: str, reached: Callable[[status.StatusReply], bool], polls: int = 60) -> None:
    """Poll until ``reached``; bounded."""
    for _ in range(polls):
        now = status(project, run_id)
        if reached(now):
            return
        status(project, run_id, wait_s=2)
    raise AssertionError(f"not reached: {now.text()}")


def finished(project: Project, repeats: int = 2) -> RunDir:
    """A run that is strict on its commit."""
    reply = start_run(project, MODEL, repeats=repeats)
    now = rest(project, reply.run_id)
    assert now.state == "finished", now.text()
    return project.run(reply.run_id)


@dataclass(frozen=True)
class Calibrated:
    """A repository with a finished run, measured once and copied for each test that spoils it."""

    folder: Path
    run_id: str

    @classmethod
    def once(cls, factory: pytest.TempPathFactory) -> Calibrated:
        """Measure, on a host lock of its own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUNE_LOCK_DIR", str(factory.mktemp("lock")))
            project = make(factory.mktemp("calibrated") / "repo")
            return cls(project.repo_root, finished(project).run_id)

    def copy(self, folder: Path) -> tuple[Project, RunDir]:
        """The repository and its run, elsewhere."""
        shutil.copytree(self.folder, folder)
        project = open_project(folder)
        return project, project.run(self.run_id)


def rewrite(run: RunDir, stage: str, repeat: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a run{k}.json by hand, as nobody should."""
    path = run.observation(stage, repeat)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
