"""Modules are really loaded, by the project's interpreter, against a deadline; what was not seen is never ok."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import toy
from precheck.machine import gaps, subject

from tune_mcp.precheck.imports import Imports, ModuleFact, checks, try_imports, wanted
from tune_mcp.precheck.subject import Needs, Subject
from tune_mcp.supervise import launch_variables

TORCH = """
class version:
    cuda = "13.0"
__version__ = "2.11.0+cu130"
print("noise on standard output")
"""
HANGS = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"


def asked(root: Path, modules: Mapping[str, str], imports: tuple[str, ...] | None = None) -> Subject:
    """A repository with these modules, all of which config asks for."""
    for name, text in modules.items():
        (root / f"{name}.py").write_text(text)
    needs = Needs(imports=tuple(modules) if imports is None else imports)
    return subject(root, needs, python=Path(sys.executable))


def tried(one: Subject, deadline_s: float = 30.0) -> Imports:
    return launch_variables.as_launched(os.environ)(one, deadline_s)


@pytest.mark.rule("ENV-20")
def test_versions_files_and_the_cuda_of_torch_are_recorded(tmp_path: Path) -> None:
    one = asked(tmp_path, {"torch": TORCH, "flashinfer": "__version__ = '0.6'"})

    found = tried(one)

    assert found.loaded == {
        "torch": ModuleFact(version="2.11.0+cu130", cuda="13.0", file=str(tmp_path / "torch.py")),
        "flashinfer": ModuleFact(version="0.6", file=str(tmp_path / "flashinfer.py")),
    }
    assert found.versions() == {
        "torch.__version__": "2.11.0+cu130",
        "flashinfer.__version__": "0.6",
        "torch.version.cuda": "13.0",
    }
    (check,) = checks(one, found)
    assert (check.status, check.detail) == ("ok", "torch 2.11.0+cu130 (CUDA 13.0), flashinfer 0.6")


@pytest.mark.rule("ENV-18", "ENV-20", "ENV-03")
def test_a_module_that_does_not_load_is_a_gap_that_a_sync_mends(tmp_path: Path) -> None:
    one = asked(tmp_path, {"torch": TORCH, "broken": "import not_there"}, ("flashinfer_of_nobody", "broken", "torch"))

    found = tried(one)

    assert set(found.failed) == {"flashinfer_of_nobody", "broken"}
    assert set(found.loaded) == {"torch"}, "one that fails does not hide the next"
    activate = Path(sys.executable).parent / "activate"
    assert gaps(checks(one, found)) == {
        "venv.imports": ("missing", f"cd {tmp_path} && source {activate} && uv pip install -e .")
    }
    assert "ModuleNotFoundError: No module named 'not_there'" in next(checks(one, found)).detail


@pytest.mark.parametrize(
    ("text", "said"),
    [("import os; os.kill(os.getpid(), 11)", "signal 11"), ("import os; os._exit(3)", "exit code 3"), ("exit(2)", "2")],
)
def test_a_crash_is_a_gap_that_names_the_module(tmp_path: Path, text: str, said: str) -> None:
    one = asked(tmp_path, {"fine": "", "crashes": text, "later": ""})

    (check,) = checks(one, tried(one))

    assert check.status == "missing"
    assert "crashes" in check.detail and said in check.detail and "later" not in check.detail


@pytest.mark.rule("PRE-12")
def test_a_module_that_hangs_is_unknown_and_its_process_is_gone(tmp_path: Path) -> None:
    one = asked(tmp_path, {"fine": "", "hangs": HANGS, "after": ""})

    found = tried(one, 3.0)

    assert (found.stuck, set(found.loaded)) == ("hangs", {"fine"})
    assert gaps(checks(one, found)) == {
        "venv.imports": ("unknown", f"cd {tmp_path} && {sys.executable} -X importtime -c 'import hangs'")
    }
    pid = int((tmp_path / "pid").read_text())
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=60)
    assert not alive(pid)


def test_the_child_does_not_outlive_whoever_looks(tmp_path: Path) -> None:
    asked(tmp_path, {"hangs": HANGS})
    program = (
        "import os, sys; from pathlib import Path; sys.path.append(sys.argv[1]); from precheck.machine import subject; "
        "from tune_mcp.precheck.subject import Needs; from tune_mcp.precheck.imports import try_imports; "
        "one = subject(Path(sys.argv[2]), Needs(imports=('hangs',)), python=Path(sys.executable)); "
        "try_imports(one, os.environ, 60)"
    )
    words = [sys.executable, "-c", program, str(Path(toy.__file__).parent), str(tmp_path)]
    with subprocess.Popen(words, cwd=Path(toy.__file__).parents[1]) as looker:
        toy.wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), what="the load to hang")
        looker.kill()

    toy.wait_for(lambda: not alive(int((tmp_path / "pid").read_text())), what="the end of the child")


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.rule("PRE-12")
@pytest.mark.parametrize("script", ["exit 0", "exit 1", "echo '{}'", "echo '[1]'", "echo '{x}'", "echo {"])
def test_an_interpreter_that_says_nothing_of_a_module_never_makes_it_ok(tmp_path: Path, script: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    one = subject(tmp_path, Needs(imports=("torch",)), python=python)

    (check,) = checks(one, try_imports(one, {}, 10.0))

    assert check.status == "unknown"


def test_an_interpreter_that_does_not_start_is_unknown(tmp_path: Path) -> None:
    one = subject(tmp_path, Needs(imports=("torch",)), python=tmp_path)

    assert [check.status for check in checks(one, try_imports(one, {}, 10.0))] == ["unknown"]


def test_no_answer_in_time_is_unknown(tmp_path: Path) -> None:
    one = subject(tmp_path, Needs(imports=("torch",)), python=Path(sys.executable))

    assert [check.status for check in checks(one, Imports(untried="did not answer within 40 s"))] == ["unknown"]


@pytest.mark.rule("ENV-23")
def test_modules_load_as_a_launch_would_and_not_as_the_shell_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("HF_HOME", "CUDA_VISIBLE_DEVICES", "TORCHINDUCTOR_CACHE_DIR")
    says = f"import os\n__version__ = ' '.join(os.environ.get(n, '-') for n in {names})"
    one = subject(tmp_path, Needs(env={"HF_HOME": "/ours"}, imports=("says",)), python=Path(sys.executable))
    (tmp_path / "says.py").write_text(says)
    monkeypatch.setenv("HF_HOME", "/stale")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/.torchinductor")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")

    assert tried(one).loaded["says"].version == "/ours - -"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["says.py"], "no bytecode is left behind"


def test_without_a_word_in_config_the_repositorys_own_package_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "SGLang-Omni"\n')
    assert wanted(subject(tmp_path)) == ()

    (tmp_path / "sglang_omni").mkdir()
    (tmp_path / "sglang_omni/__init__.py").write_text("")

    assert wanted(subject(tmp_path)) == ("sglang_omni",)
    assert wanted(subject(tmp_path, Needs(imports=()))) == (), "config has the last word"
