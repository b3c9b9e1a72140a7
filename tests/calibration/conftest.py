"""A toy repository, and a finished run in it, made in this process within milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.calibration.project import Project
from tune_mcp.run_dir import RunDir


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def run(project: Project) -> RunDir:
    return toy.finished_run(project)
