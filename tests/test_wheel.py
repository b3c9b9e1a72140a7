"""The wheel as a user installs it: every shipped file is in it, and its pytest plugin gives the fixture."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEST = """
import tune_mcp

def test_place(tune_record):
    tune_record("startup_s", 1.5)
    print("FROM", tune_mcp.__file__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed."""
    made, found = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = made.glob("tune_mcp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(found)
    return found


def installed(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run there with the wheel and what it needs; ``-S`` leaves the checkout's own installation out."""
    path = os.pathsep.join((str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    env = {**os.environ, "PYTHONPATH": path, "TUNE_REPO_ROOT": str(folder)}
    words = (sys.executable, "-S", "-P", *words)
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_the_plugin_of_the_installed_wheel_gives_the_fixture(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)

    done = installed(site, tmp_path, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_it.py")

    assert f"FROM {site}{os.sep}" in done.stdout and "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_installed_wheel_ships_models_hosts_prompts_and_the_examples(site: Path, tmp_path: Path) -> None:
    shipped = site / "tune_mcp/shipped"
    for part in ("models", "hosts", "prompts", "examples/speech-ci", "examples/serving-bench"):
        wanted = subprocess.run(["git", "ls-files", part], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert [name for name in wanted.splitlines() if not (shipped / name).is_file()] == []
    done = installed(site, tmp_path, "-m", "tune_mcp", "catalog")
    assert done.returncode == 0 and "model tts: " in done.stdout, done.stderr
