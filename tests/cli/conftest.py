"""The command line in this process: arguments in; exit code, standard output and standard error out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy

from tune_mcp.cli.main import main
from tune_mcp.verbs.project import Project


@dataclass(frozen=True)
class Done:
    """How a verb ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def tune(project: Project, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``tune("status", run_id)``: the verb on the toy repository."""

    def call(verb: str, *words: str) -> Done:
        capsys.readouterr()
        try:
            code = main([verb, *words, "--repo", str(project.repo_root)])
        except SystemExit as end:
            code = int(str(end.code))
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call
