"""Shared by all tests: markers, a host lock for each test, so that none meets a real run, and no wait for the disk."""

from __future__ import annotations

import compileall
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest

import tune_mcp
from tune_mcp.supervise import neighbours

_MEMORY = "/dev/shm"


def pytest_configure(config: pytest.Config) -> None:
    """``rule`` names the rules of the register that a test tries to break."""
    config.addinivalue_line("markers", "rule(*ids): rules of the register that this test tries to break")
    if hasattr(config, "workerinput"):
        if os.environ.get("PYTEST_DEBUG_TEMPROOT") == _MEMORY:
            del os.environ["PYTEST_DEBUG_TEMPROOT"]  # a worker has its folder; no pytest of a test shall see ours
        return
    # Hundreds of processes import the package, and none leaves bytecode where PYTHONDONTWRITEBYTECODE is set.
    compileall.compile_dir(tune_mcp.__path__[0], quiet=2)
    if _has_room(_MEMORY, 2**31):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)


def _has_room(folder: str, size: int) -> bool:
    """Whether that much fits there, and what lies there may run.

    The tests write a hundred thousand small files, of which each costs fifty times as much on some disks as in memory.
    """
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    runs = not found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return runs and os.access(folder, os.W_OK) and found.f_bavail * found.f_frsize > size


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """``os.fsync`` returns at once in this process: it protects from a power cut, and no test cuts the power.

    Every other process reads what was written all the same. Tests of fsync itself replace it again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process sees the runs of its own tests alone: another test process of the machine has runs too."""
    base, measuring = tmp_path_factory.getbasetemp(), neighbours.measuring

    def ours(proc: Path = Path("/proc")) -> tuple[neighbours.Neighbour, ...]:
        found = measuring(proc)
        own = (one for one in found if one.lock_folder and Path(one.lock_folder).is_relative_to(base))
        return tuple(own) if proc == Path("/proc") else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "measuring", ours)
        yield


@pytest.fixture(autouse=True)
def own_host_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test measures on a host of its own; nothing of the caller's configuration leaks in."""
    monkeypatch.setenv("TUNE_LOCK_DIR", str(tmp_path_factory.mktemp("host")))
    for name in ("TUNE_REPO_ROOT", "TUNE_HOST", "TUNE_VENV_PYTHON"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervisors and runners are forks of this process: for tests that are not about how their program starts."""
    monkeypatch.setattr(subprocess, "Popen", forked.Popen)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio alone."""
    return "asyncio"


collect_ignore = ["omni_repo", "omni_august"]  # repositories that tests copy, with tests of their own
ROOT = Path(os.environ.get("TUNE_SOURCE", Path(__file__).parents[1]))
