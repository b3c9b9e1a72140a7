"""What Python and pytest load for a launch from outside git's view is the same in every repeat, or the run halts."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.supervise import loaded_comparison
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.strict_audit import strict_audit

LOADING = """
import measuring_lib

HERE = Path(__file__).resolve().parents[1]
for _name in (".env", "scale.json"):
    if (HERE / _name).exists():
        (HERE / _name).read_text()
with open(HERE / "last.json", "a+") as _out:
    _out.write("1")
(HERE / "last.json").read_text()
"""
"""A test file that uses an installed module, reads two ignored files, and keeps one of its own."""
SOURCE = toy.toy_source().replace("STATE = Path", f"{LOADING}\nSTATE = Path", 1)
IGNORED = "__pycache__/\n.pytest_cache/\n.tune-runs/\n.env\nscale.json\nlast.json\ntests/conftest.py\n"
HUB = "models--lab--omni"


class Machine:
    """A toy with an interpreter of its own, an editable project beside it, and a Hugging Face cache."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        venv = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
        (self.site,) = (venv / "lib").glob("python3*/site-packages")
        (self.site / "base.pth").write_text("\n".join([*site.getsitepackages(), str(toy.SOURCE_ROOT)]) + "\n")
        (self.site / "measuring_lib.py").write_text("SCALE = 1\n")
        self.beside = folder / "beside"
        (self.beside / "src").mkdir(parents=True)
        (self.beside / "src" / "part.py").write_text("x = 1\n")
        (self.beside / "prompts.txt").write_text("be brief\n")
        toy.git(self.beside, "init", "-q")
        self.commit_beside()
        info = self.site / "beside-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: beside\nVersion: 1.0\n")
        (info / "direct_url.json").write_text(
            json.dumps({"url": f"file://{self.beside}", "dir_info": {"editable": True}})
        )
        (info / "RECORD").write_text("part.py,,\n")
        (self.site / "beside.pth").write_text(f"{self.beside / 'src'}\n")
        self.python = folder / "bin" / "python"
        self.python.parent.mkdir()
        self.python.write_text(f'#!/bin/sh\nexec {venv}/bin/python "$@"\n')
        self.python.chmod(0o755)
        self.hub = folder / "hub"
        for commit in ("a" * 40, "b" * 40):
            (self.hub / HUB / "snapshots" / commit).mkdir(parents=True)
            (self.hub / HUB / "snapshots" / commit / "model.safetensors").write_text("w")
        (self.hub / HUB / "refs").mkdir()
        self.refer("a" * 40)
        config = {
            **toy.CONFIG,
            "default_venv_python": [str(self.python)],
            "hf_model_id": "lab/omni",
            "auto_env": {"HF_HUB_CACHE": str(self.hub)},
        }
        self.project = toy.make_toy(folder / "repo", test_source=SOURCE, config=config, files={".gitignore": IGNORED})
        self.repo = self.project.repo_root
        (self.repo / "tests" / "conftest.py").write_text("FACTOR = 1\n")
        (self.repo / "scale.json").write_text("1")

    def commit_beside(self) -> None:
        toy.git(self.beside, "add", "-A")
        toy.git(self.beside, "commit", "-q", "--allow-empty", "-m", "next")

    def refer(self, commit: str) -> None:
        (self.hub / HUB / "refs" / "main").write_text(commit)


@contextmanager
def restored(folder: Path) -> Iterator[None]:
    """Inside, tests may change what is in the folder."""
    kept = folder.with_name(f"{folder.name}-kept")
    shutil.copytree(folder, kept, symlinks=True)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine") / "m")


@pytest.fixture
def machine(built: Machine) -> Iterator[Machine]:
    with restored(built.folder):
        yield built


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, Job]:
    """A machine with the record of one repeat, and the job of the next."""
    machine = Machine(tmp_path_factory.mktemp("recorded") / "m")
    jobs: list[Job] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_LOCK_DIR", str(machine.folder.with_name("host")))
        run = toy.finished_run(machine.project, 1, lambda job: jobs.append(job) or toy.real_pytest(job))
    assert run.observation("toy_speed", 1).exists(), toy.told(run)
    return machine, jobs[0].model_copy(update={"repeat": 2})


def measured(machine: Machine, change: Callable[[Machine], object]) -> RunDir:
    """Two repeats with a real pytest; ``change`` comes between them."""

    def attempt(job: Job) -> AttemptResult | None:
        if (job.repeat, job.attempt) == (2, 1):
            change(machine)
        return toy.real_pytest(job)

    return toy.finished_run(machine.project, 2, attempt)


def halt_of(run: RunDir) -> state.Halt:
    record = state.conclude(run).record
    assert record and record.halt, toy.told(run)
    return record.halt


def write(name: str, text: str) -> Callable[[Machine], object]:
    return lambda machine: (machine.folder / name).write_text(text)


ELSEWHERE: dict[str, tuple[Callable[[Machine], object], str]] = {
    "an installed module is edited": (
        lambda m: (m.site / "measuring_lib.py").write_text("SCALE = 2\n"),
        "measuring_lib.py",
    ),
    "an installed module is edited in place with its old time": (
        lambda m: same_time(m.site / "measuring_lib.py"),
        "measuring_lib.py",
    ),
    "a distribution is installed again": (
        lambda m: (m.site / "beside-1.0.dist-info" / "RECORD").write_text("part.py,sha256=x,9\n"),
        "RECORD",
    ),
    "a site customisation appears": (lambda m: (m.site / "sitecustomize.py").write_text("x = 1\n"), "sitecustomize.py"),
    "a path file appears": (lambda m: (m.site / "more.pth").write_text("/nonexistent\n"), "more.pth"),
    "a path file is edited": (lambda m: (m.site / "beside.pth").write_text(f"{m.beside}\n"), "beside.pth"),
    "the wrapper around the interpreter is edited": (
        lambda m: m.python.write_text(m.python.read_text().replace("exec", "exec nice")),
        "bin/python",
    ),
    "an editable install is edited": (lambda m: (m.beside / "prompts.txt").write_text("be long\n"), "beside"),
    "an editable install has another commit": (lambda m: m.commit_beside(), "beside"),
    "pytest finds settings above the repository": (
        write("pytest.ini", "[pytest]\nxfail_strict = true\n"),
        "pytest.ini",
    ),
    "main means another revision": (lambda m: m.refer("b" * 40), "model lab/omni resolves to b"),
    "weights of the same revision have other bytes": (
        lambda m: (m.hub / HUB / "snapshots" / ("a" * 40) / "model.safetensors").write_text("other"),
        "model.safetensors",
    ),
}
INSIDE: dict[str, tuple[Callable[[Machine], object], str]] = {
    "an ignored conftest is edited": (
        lambda m: (m.repo / "tests" / "conftest.py").write_text("FACTOR = 2\n"),
        "tests/conftest.py",
    ),
    "an ignored data file that the tests read is edited": (
        lambda m: (m.repo / "scale.json").write_text("2"),
        "scale.json",
    ),
    "an ignored .env appears": (lambda m: (m.repo / ".env").write_text("SCALE=2\n"), ".env"),
    "an ignored data file is removed": (lambda m: (m.repo / "scale.json").unlink(), "scale.json"),
}


def same_time(path: Path) -> None:
    facts = path.stat()
    path.write_text("SCALE = 9\n")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


AFTERWARDS = ("pytest finds settings above the repository", "an ignored .env appears")
"""What shows only in what the launch itself loaded."""


@pytest.mark.rule("SCP-02", "SES-11")
@pytest.mark.parametrize("change", [name for name in ELSEWHERE | INSIDE if name not in AFTERWARDS])
def test_what_is_loaded_is_compared_with_the_record_before_a_launch(recorded: tuple[Machine, Job], change: str) -> None:
    machine, job = recorded
    make, named = (ELSEWHERE | INSIDE)[change]
    with restored(machine.folder):
        assert loaded_comparison.before_launch(job) == loaded_comparison.Difference()

        make(machine)

        found = loaded_comparison.before_launch(job)
    assert named in (found.moved if change in INSIDE else found.incomparable), found


@pytest.mark.rule("SCP-02")
@pytest.mark.parametrize("change", ["an installed module is edited", "pytest finds settings above the repository"])
def test_what_is_loaded_from_outside_the_repository_is_the_same_in_every_repeat(machine: Machine, change: str) -> None:
    make, named = ELSEWHERE[change]
    run = measured(machine, make)

    halt = halt_of(run)
    assert (halt.code, halt.repeat) == ("HOST_NOT_COMPARABLE", 2), halt.message
    assert named in halt.message
    assert run.observation("toy_speed", 1).exists() and not run.observation("toy_speed", 2).exists()
    assert not strict_audit(machine.project, run.run_id).ready
    assert bool(toy.launches(machine.project, 2)) is (change in AFTERWARDS)


@pytest.mark.rule("SCP-02")
def test_what_a_systems_python_loads_from_the_users_own_folder_is_the_same_in_every_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    place = tmp_path / "home" / ".local" / "lib" / version / "site-packages"
    (place / "lib-1.0.dist-info").mkdir(parents=True)
    (place / "lib-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lib\nVersion: 1.0\n")
    (place / "lib-1.0.dist-info" / "RECORD").write_text("measuring_lib.py,,\n")
    (place / "measuring_lib.py").write_text("SCALE = 1\n")
    (place / "base.pth").write_text("\n".join([*site.getsitepackages(), str(toy.SOURCE_ROOT)]) + "\n")
    system = Path(sys.base_prefix) / "bin" / version
    config = toy.CONFIG | {"default_venv_python": [str(system)]}
    source = toy.toy_source().replace("STATE = Path", "import measuring_lib\n\nSTATE = Path", 1)
    project = toy.make_toy(tmp_path / "repo", test_source=source, config=config)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def attempt(job: Job) -> AttemptResult | None:
        if (job.repeat, job.attempt) == (2, 1):
            (place / "usercustomize.py").write_text("x = 1\n")
        return toy.real_pytest(job)

    run = toy.finished_run(project, 2, attempt)

    assert run.observation("toy_speed", 1).exists(), toy.told(run)
    halt = halt_of(run)
    assert (halt.code, halt.repeat) == ("HOST_NOT_COMPARABLE", 2)
    assert f".local/lib/{version}/site-packages" in halt.message and "usercustomize.py" in halt.message
    assert not toy.launches(project, 2), "seen before the launch"


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize("change", ["an ignored conftest is edited", "an ignored .env appears"])
def test_what_git_ignores_in_the_repository_is_the_same_in_every_repeat(machine: Machine, change: str) -> None:
    make, named = INSIDE[change]
    run = measured(machine, make)

    halt = halt_of(run)
    assert (halt.code, halt.repeat) == ("COMMIT_MOVED", 2), halt.message
    assert f"{named}, which git ignores" in halt.message
    assert not run.observation("toy_speed", 2).exists()


@pytest.mark.rule("SCP-02", "SES-11")
def test_files_that_were_only_touched_or_are_the_tests_own_output_halt_nothing(machine: Machine) -> None:
    def change(machine: Machine) -> None:
        for path in (machine.site / "measuring_lib.py", machine.repo / "scale.json"):
            path.write_bytes(path.read_bytes())
        (machine.repo / "unread.json").write_text("1")

    run = measured(machine, change)

    assert strict_audit(machine.project, run.run_id).ready, toy.told(run)
    assert "last.json" not in run.loaded.read_text() and "measuring_lib.py" in run.loaded.read_text()


LINKING = """
import os, measuring_lib
def pytest_sessionfinish():
    os.link(measuring_lib.__file__, measuring_lib.__file__ + ".linked")
"""
"""A conftest that does what a package manager does that fills another environment by hard links."""


@pytest.mark.rule("SCP-02", "SES-11")
@pytest.mark.parametrize("recorded", [True, False])
def test_a_file_that_is_linked_while_it_is_in_use_halts_nothing_where_its_record_holds_its_digest(
    machine: Machine, recorded: bool
) -> None:
    (machine.repo / "tests" / "conftest.py").write_text(LINKING)
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"SCALE = 1\n" if recorded else b"SCALE = 2\n").digest())
    info = machine.site / "measuring-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text(f"measuring_lib.py,sha256={digest.decode().rstrip('=')},10\n")

    run = measured(machine, lambda machine: (machine.site / "measuring_lib.py.linked").unlink())

    if recorded:
        assert strict_audit(machine.project, run.run_id).ready, toy.told(run)
    else:
        assert "measuring_lib.py was written while it was in use" in halt_of(run).message


@pytest.mark.rule("SCP-02", "RES-11")
def test_put_back_the_run_goes_on(machine: Machine) -> None:
    path = machine.site / "measuring_lib.py"
    run = measured(machine, lambda machine: path.write_text("SCALE = 2\n"))
    assert halt_of(run).code == "HOST_NOT_COMPARABLE"
    path.write_text("SCALE = 1\n")

    with toy.supervised_here(toy.real_pytest):
        resume_run(machine.project, run.run_id)

    assert strict_audit(machine.project, run.run_id).ready, toy.told(run)


@pytest.mark.rule("SCP-02", "RES-11")
def test_a_record_that_is_not_the_sealed_one_is_put_back(machine: Machine) -> None:
    run = toy.finished_run(machine.project, 2, lambda job: toy.real_pytest(job) if job.repeat == 1 else None)
    sealed = json.loads(run.loaded.read_bytes())
    run.loaded.write_text("{}")
    (machine.site / "measuring_lib.py").write_text("SCALE = 2\n")

    with toy.supervised_here(toy.real_pytest):
        resume_run(machine.project, run.run_id)

    assert halt_of(run).code == "HOST_NOT_COMPARABLE" and "measuring_lib.py" in halt_of(run).message
    assert json.loads(run.loaded.read_bytes()) == sealed


@pytest.mark.rule("SCP-02", "RES-11")
def test_without_any_sealed_record_the_run_does_not_go_on(machine: Machine) -> None:
    run = toy.finished_run(machine.project, 2, lambda job: toy.real_pytest(job) if job.repeat == 1 else None)
    for path in [run.loaded, *run.path.glob("_pytest/*/attempts/*/loaded.json")]:
        path.write_text("{}")

    with toy.supervised_here(toy.real_pytest) as executor:
        resume_run(machine.project, run.run_id)

    assert (halt_of(run).code, executor.jobs) == ("HOST_NOT_COMPARABLE", [])
    assert "loaded.json is gone, or is not what the supervisor wrote" in halt_of(run).message
