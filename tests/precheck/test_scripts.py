"""Console scripts that the suite starts, found in what its tests reach, are in the interpreter's ``bin``."""

from __future__ import annotations

from pathlib import Path

import pytest
from precheck.machine import gaps, stage, subject

from tune_mcp.contract.precheck import Check
from tune_mcp.precheck import scripts
from tune_mcp.precheck.subject import Needs
from tune_mcp.precheck.venv import VenvFacts

TEST = "tests/test_toy_ci.py"
PYPROJECT = '[project]\nname = "omni"\n[project.scripts]\nsgl-omni = "omni:app"\nsgl-omni-router = "router:main"\n'
DIRECT = 'import subprocess\ndef server():\n    return subprocess.Popen(["sgl-omni", "serve"])\n'


def repository(root: Path, files: dict[str, str], present: tuple[str, ...] = ()) -> Path:
    for name, text in {"pyproject.toml": PYPROJECT, TEST: "def test_a(): ...\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = root / "venv" / "bin"
    folder.mkdir(parents=True)
    for name in present:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder / "python"


def check(root: Path, python: Path, needs: Needs | None = None, facts: VenvFacts | None = None) -> list[Check]:
    asked = subject(root, needs, [stage(TEST)], python)
    return list(scripts.checks(asked, scripts.read_started(asked), facts or VenvFacts()))


@pytest.mark.parametrize(
    "files",
    [
        {TEST: DIRECT},
        {TEST: "import shutil\nBIN = shutil.which('sgl-omni')\n"},
        {TEST: "import sys\nfrom pathlib import Path\nBIN = Path(sys.executable).parent / 'sgl-omni'\n"},
        {TEST: "CMD = 'sgl-omni serve --model x'\n"},
        {TEST: "from tests.utils import server\n", "tests/utils.py": DIRECT},
        {TEST: "from .utils import server\n", "tests/utils.py": DIRECT},
        {TEST: "import kit.launch\n", "kit/__init__.py": "", "kit/launch.py": DIRECT},
        {"tests/conftest.py": DIRECT},
        {TEST: "CMD = ['python', '-m', 'router.serve']\n", "router/serve.py": "def run(command='sgl-omni'): ...\n"},
        {TEST: "CMD = ['python', 'examples/run.py']\n", "examples/run.py": DIRECT},
    ],
)
def test_a_script_that_the_tests_reach_must_be_in_the_bin_of_the_interpreter(
    tmp_path: Path, files: dict[str, str]
) -> None:
    python = repository(tmp_path, files)

    (found,) = check(tmp_path, python)

    sync = f"cd {tmp_path} && source {python.parent}/activate && uv pip install -e ."
    assert (found.id, found.status, found.fix) == ("venv.scripts:sgl-omni", "missing", sync)
    assert "started by " in found.detail

    (python.parent / "sgl-omni").write_text("#!/bin/sh\n")
    (python.parent / "sgl-omni").chmod(0o755)
    assert [(one.id, one.status) for one in check(tmp_path, python)] == [("venv.scripts", "ok")]


@pytest.mark.parametrize(
    "text",
    [
        '"""sgl-omni serve is what CI starts."""\n',
        "import argparse\nP = argparse.ArgumentParser(prog='sgl-omni')\n",
        "import logging\nL = logging.getLogger('sgl-omni')\n",
        "X = 'sgl-omni-bench'\n",
        "X = 'sgl-omni: a server'\n",
    ],
)
def test_a_script_that_is_only_spoken_of_is_not_asked_for(tmp_path: Path, text: str) -> None:
    assert check(tmp_path, repository(tmp_path, {TEST: text})) == []


def test_a_server_by_a_bare_command_counts_even_where_the_project_declares_no_script(tmp_path: Path) -> None:
    python = repository(tmp_path, {TEST: DIRECT, "pyproject.toml": "[project]\n"})

    assert list(gaps(check(tmp_path, python))) == ["venv.scripts:sgl-omni"]


def test_scripts_that_config_names_and_those_of_an_installed_distribution_count(tmp_path: Path) -> None:
    python = repository(tmp_path, {TEST: "import subprocess\nsubprocess.run(['torchrun', 'x.py'])\n"})
    facts = VenvFacts(scripts={"torchrun": "torch"})

    found = gaps(check(tmp_path, python, Needs(scripts=("evaluate-tts",)), facts))

    assert list(found) == ["venv.scripts:evaluate-tts", "venv.scripts:torchrun"]


def test_a_command_of_the_system_is_a_warning_and_one_that_is_looked_for_is_none(tmp_path: Path) -> None:
    text = (
        "import shutil, subprocess\nsubprocess.run(['no-such-tool-1', 'x'])\nsubprocess.run(['sh', '-c', 'true'])\n"
        "if shutil.which('no-such-tool-2'):\n    pass\n"
    )
    (found,) = check(tmp_path, repository(tmp_path, {TEST: text}))

    assert (found.id, found.status) == ("venv.tools", "warn")
    assert f"no-such-tool-1 ({TEST}:2)" in found.detail and "no-such-tool-2" not in found.detail


def test_a_script_of_another_environment_is_named_and_one_that_cannot_run_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = repository(tmp_path, {TEST: DIRECT})
    other = tmp_path / "other" / "sgl-omni"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))

    (found,) = check(tmp_path, python)
    assert (found.status, f"that of another environment, {other}" in found.detail) == ("missing", True)

    script = python.parent / "sgl-omni"
    script.write_text("#!/moved/venv/bin/python3.11\n")
    (found,) = check(tmp_path, python)
    assert (found.status, found.fix) == ("mismatch", f"chmod +x {script}")
    script.chmod(0o755)
    (found,) = check(tmp_path, python)
    assert (found.status, "is for /moved/venv/bin/python3.11, which is not there" in found.detail) == ("mismatch", True)
    script.unlink()
    script.symlink_to(tmp_path / "gone")
    (found,) = check(tmp_path, python)
    assert (found.status, "leads nowhere" in found.detail) == ("missing", True)


def test_a_file_that_does_not_parse_or_imports_itself_hides_no_other(tmp_path: Path) -> None:
    files = {
        TEST: "import tests.a\nimport tests.b\n",
        "tests/a.py": "def (\n",
        "tests/b.py": "import tests.b\n" + DIRECT,
    }

    assert list(gaps(check(tmp_path, repository(tmp_path, files)))) == ["venv.scripts:sgl-omni"]


def test_files_that_were_not_read_in_time_lead_to_the_load_and_another_look(tmp_path: Path) -> None:
    asked = subject(tmp_path, None, [stage(TEST)], tmp_path / "python")
    why = "did not answer within 40 s"

    def found(started: scripts.Started) -> dict[str, tuple[str, str]]:
        return gaps(scripts.checks(asked, started, VenvFacts()))

    slow, gone = found(scripts.Started(problem=why, late=True)), found(scripts.Started(problem="cannot be read: stale"))

    again = f"uptime; tune-mcp precheck {asked.model} --repo {asked.repo_root}"
    assert slow == {"venv.scripts": ("unknown", again)}
    assert gone == {"venv.scripts": ("unknown", "timeout 10 df -h")}
