"""Shared by all tests: markers, and a host lock of the session's own, so that tests never meet a real run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """``rule`` names the rules of the register that a test tries to break."""
    config.addinivalue_line("markers", "rule(*ids): rules of the register that this test tries to break")


@pytest.fixture(autouse=True)
def own_host_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test measures on a host of its own; nothing of the caller's configuration leaks in."""
    monkeypatch.setenv("TUNE_LOCK_DIR", str(tmp_path_factory.mktemp("host")))
    for name in ("TUNE_REPO_ROOT", "TUNE_HOST", "TUNE_VENV_PYTHON"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio alone."""
    return "asyncio"


collect_ignore = ["omni_repo"]  # a repository that tests copy, with tests of its own
ROOT = Path(os.environ.get("TUNE_SOURCE", Path(__file__).parents[1]))
