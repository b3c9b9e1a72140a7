"""A toy repository, and a finished run in it, made in this process within milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def run(project: Project) -> RunDir:
    return toy.finished_run(project)


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Project, RunDir, str]:
    """Accuracy and latency tighten, throughput loosens (99.0 -> 10.25)."""
    source = toy.toy_source().replace('"throughput_qps": 1.0, "latency_mean_s": 9.0', toy.TIGHT)
    project = toy.make_toy(tmp_path / "repo", test_source=source)
    run = toy.finished_run(project)
    report(project, run.run_id)
    return project, run, apply_plan(project, run.run_id).plan_id
