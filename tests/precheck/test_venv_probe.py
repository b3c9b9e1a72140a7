"""The interpreter is asked once, whatever its site customisation prints, closes or replaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import toy
from precheck.machine import subject

from tune_mcp.precheck.imports import try_imports
from tune_mcp.precheck.subject import Needs
from tune_mcp.precheck.venv import VenvFacts, checks, packages_of

CUSTOM = {
    "prints a line": "print('welcome')",
    "prints to stderr": "import sys; print('careful', file=sys.stderr)",
    "prints JSON": 'print(\'{"python": "9.9"}\')',
    "prints a megabyte": "print('x' * 2**20)",
    "closes stdout": "import sys; sys.stdout.close()",
    "closes the descriptors of both": "import os; os.close(1); os.close(2)",
    "replaces stdout": "import io, sys; sys.stdout = io.StringIO()",
    "redirects descriptor 1": "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
    "prints at the end": "import atexit; atexit.register(print, 'bye')",
    "breaks print": "import builtins; builtins.print = None",
    "leaves a child that holds stdout": "import subprocess; subprocess.Popen(['sleep', '300'])",
}


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("venv") / "v"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def site(python: Path) -> Path:
    (found,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    return found


@pytest.mark.parametrize(
    ("what", "how"),
    [
        (what, how)
        for what in CUSTOM
        for how in ("sitecustomize.py", "noise.pth")
        if (what, how) != ("closes the descriptors of both", "noise.pth")  # Python itself ends with 1 then
    ],
)
def test_a_venv_that_prints_or_loses_its_output_answers_all_the_same(venv: Path, what: str, how: str) -> None:
    file = site(venv) / how
    file.write_text(CUSTOM[what] if how.endswith(".py") else f"import sys; exec({CUSTOM[what]!r})\n")
    try:
        facts = packages_of(venv)
    finally:
        file.unlink()

    assert (facts.problem, facts.versions["python"]) == ("", ".".join(map(str, sys.version_info[:3])))


@pytest.mark.parametrize("what", [what for what in CUSTOM if "child" not in what])
def test_modules_are_loaded_whatever_the_site_customisation_does_to_the_output(venv: Path, what: str) -> None:
    file = site(venv) / "sitecustomize.py"
    file.write_text(CUSTOM[what])
    asked = subject(venv.parent, Needs(imports=("json", "no_such_module")), python=venv)
    try:
        found = try_imports(asked, {"PATH": "/usr/bin:/bin"}, 60.0)
    finally:
        file.unlink()

    assert (list(found.loaded), list(found.failed), found.untried) == (["json"], ["no_such_module"], "")


def test_packages_plugins_scripts_extras_and_markers_are_read_without_an_import(venv: Path) -> None:
    info = site(venv) / "omni_kit-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Omni_Kit\nVersion: 1.2\nRequires-Dist: soxr; extra == 'audio'\n"
    )
    (info / "entry_points.txt").write_text("[console_scripts]\nomni = omni:main\n[pytest11]\nkit = omni.plugin\n")
    broken = site(venv) / "half-0.dist-info"
    broken.mkdir()

    facts = packages_of(venv)

    assert facts.packages["omni-kit"] == "1.2"
    assert (facts.requires["omni-kit"], facts.scripts, facts.pytest_plugins) == (
        ("soxr; extra == 'audio'",),
        {"omni": "Omni_Kit"},
        ("kit",),
    )
    assert facts.markers["python_version"] == ".".join(map(str, sys.version_info[:2]))


def test_the_package_that_is_imported_counts_where_two_versions_lie_on_the_path(venv: Path, tmp_path: Path) -> None:
    for folder, version in ((site(venv), "1.0"), (tmp_path, "9.0")):
        info = folder / f"twice-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: twice\nVersion: {version}\n")
    (site(venv) / "more.pth").write_text(f"{tmp_path}\n")

    assert packages_of(venv).packages["twice"] == "1.0"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo broken >&2; exit 3", "exit code 3 without an answer: broken"),
        ("exit 0", "exit code 0 without an answer"),
        ("yes | head -c 3000000; exit 1", "exit code 1 without an answer: y"),
        ("kill -9 $$", "exit code -9 without an answer"),
    ],
)
def test_an_interpreter_without_an_answer_is_told_with_what_it_printed_last(
    tmp_path: Path, script: str, said: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)

    assert packages_of(python).problem == f"does not run: {said}"


def test_one_that_does_not_answer_is_ended_at_the_deadline_with_what_it_started(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nsleep 300 & echo $! > {tmp_path}/pid\nwait\n")
    python.chmod(0o755)

    assert packages_of(python, deadline_s=1.5).late

    pid = int((tmp_path / "pid").read_text())
    toy.wait_for(lambda: not alive(pid), what="the child to end")


@pytest.mark.parametrize(
    ("pytest_version", "declared", "status", "fix"),
    [
        ("6.2.5", False, "mismatch", "/venv/bin/python -m pip install 'pytest>=7.0'"),
        ("6.2.5", True, "mismatch", "declare 'pytest>=7.0' in "),
        ("7.0.0", False, "ok", ""),
        ("7.1.3", False, "ok", ""),
        ("9.1.0.dev12", False, "ok", ""),
        ("weird", False, "ok", ""),
    ],
)
def test_the_oldest_pytest_that_can_be_recorded_is_stated(
    tmp_path: Path, pytest_version: str, declared: bool, status: str, fix: str
) -> None:
    if declared:
        (tmp_path / "pyproject.toml").write_text("[project]\n")
    facts = VenvFacts("", {"python": "3.11.9"}, packages={"pytest": pytest_version, "pluggy": "1.0.0"})

    *_, found = checks(subject(tmp_path, python=Path("/venv/bin/python")), facts)

    assert (found.id, found.status, "7.0 or newer" in found.detail) == ("venv.pytest", status, True)
    assert found.fix.startswith(fix) and bool(found.fix) is bool(fix)


def test_a_python_that_is_too_old_for_the_recording_plugin_is_a_mismatch(tmp_path: Path) -> None:
    facts = VenvFacts("", {"python": "3.7.16"}, packages={"pytest": "7.4.4"})

    python, _ = checks(subject(tmp_path, python=Path("/venv/bin/python")), facts)

    assert (python.status, "needs 3.8 or newer" in python.detail) == ("mismatch", True)
