"""The official tools, installed by ``make test-clients`` below ``.npm``, and a toy repository with a finished run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".npm" / "node_modules" / ".bin"
LIMIT_S = 120


def npm(tool: str) -> str:
    """An official tool; fails with what to do, because a skipped check proves nothing."""
    path = BIN / tool
    assert path.exists(), f"{tool} is not installed: run make test-clients"
    return str(path)


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    node = f"{BIN}:{os.environ['PATH']}"
    return {**os.environ, "PATH": node, "TUNE_LOCK_DIR": str(tmp_path_factory.mktemp("host"))}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> tuple[Path, str]:
    """Repository and run id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_LOCK_DIR", env["TUNE_LOCK_DIR"])
        project = toy.make_toy(tmp_path_factory.mktemp("clients") / "repo")
        return project.repo_root, toy.finished_run(project).run_id


Inspect = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["legacy", "modern"])
def inspect(request: pytest.FixtureRequest, env: dict[str, str], finished: tuple[Path, str]) -> Inspect:
    """``inspect("tools/list", "--strict")``: the Inspector's command line over stdio, in both protocol eras."""

    def call(method: str, *words: str) -> subprocess.CompletedProcess[str]:
        server = [sys.executable, "-m", "tune_mcp", "serve", "--repo", str(finished[0])]
        command = [npm("mcp-inspector"), "--cli", *server, "--protocol-era", request.param, "--method", method, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    return call


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that the Inspector printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def address(env: dict[str, str], finished: tuple[Path, str]) -> Iterator[str]:
    """A server over HTTP that is open to this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = str(Path(__file__).with_name("open_server.py"))
    process = subprocess.Popen(
        [sys.executable, place, str(port), str(finished[0])],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        toy.wait_for(lambda: _listens(port), LIMIT_S, "the server listens")
        yield f"http://localhost:{port}/mcp"
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
