"""A repeat is what was planned, whatever drives pytest: every test once, its function called, no other file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise import pytest_session
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

PLUGINS = Path(__file__).parents[1] / "plugins"
CALLED = "    (STATE / 'called').open('a').write('x')\n"
SECOND_TRY = toy.toy_source().replace(
    "def test_speed(results):\n",
    f"def test_speed(results):\n{CALLED}    assert (STATE / 'called').stat().st_size > 1\n",
)
"""The speed test fails at its first call and passes at every later one."""


def unpacked(folder: Path, wheel: str) -> None:
    """Put a plugin's wheel where the project's pytest finds it as an installed one: on its import path."""
    with zipfile.ZipFile(next(PLUGINS.glob(f"{wheel}-*.whl"))) as archive:
        archive.extractall(folder)


def conftest(text: str) -> dict[str, str]:
    return {"tests/conftest.py": f"import pytest\nfrom _pytest.runner import runtestprotocol\n\n\n{text}\n"}


def why_halted(
    folder: Path, *, source: str = toy.SOURCE, files: dict[str, str], wheel: str = "", **config: Any
) -> tuple[str, AttemptResult]:
    """One repeat with a real pytest that must halt: its reason, and what the runner sealed."""
    if wheel:
        folder.mkdir()
        unpacked(folder, wheel)
    source = toy.toy_source() if source is toy.SOURCE else source
    project = toy.make_toy(folder, test_source=source, files=files, config=toy.CONFIG | config)
    run, result = attempted(project)
    now = status(project, run.run_id)
    assert now.state == "halted", toy.told(run)
    assert "✓" not in strict_audit(project, run.run_id).text()
    return now.reason, result


def attempted(project: Project) -> tuple[RunDir, AttemptResult]:
    """One repeat with a real pytest, and what the runner sealed."""
    results: list[AttemptResult | None] = []

    def attempt(job: Job) -> AttemptResult | None:
        results.append(toy.real_pytest(job))
        return results[-1]

    run = toy.finished_run(project, 1, attempt)
    assert results[-1] is not None, toy.told(run)
    return run, results[-1]


AGAIN = "def pytest_runtest_protocol(item, nextitem):\n"
PYFUNC = "def pytest_pyfunc_call(pyfuncitem):\n"


@pytest.mark.rule("XPY-06", "RTY-04")
@pytest.mark.parametrize(
    ("wheel", "files"),
    [
        ("pytest_retry", {"pytest.ini": "[pytest]\naddopts = --retries 1 --retry-outcome passed\n"}),
        ("flaky", {"pytest.ini": "[pytest]\naddopts = --force-flaky --min-passes=2 --no-flaky-report\n"}),
        ("", conftest(f"{AGAIN}    runtestprotocol(item, log=False, nextitem=item)\n")),
        ("", conftest(f"{AGAIN}    runtestprotocol(item, nextitem=item)\n")),
        ("", conftest("@pytest.hookimpl(hookwrapper=True)\ndef pytest_runtest_call(item):\n    yield\n"
                      "    item.runtest()")),
        ("", conftest("@pytest.hookimpl(wrapper=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    yield\n"
                      "    pyfuncitem.obj(pyfuncitem.funcargs['results'])\n    return True")),
        ("", conftest("def pytest_runtestloop(session):\n    for item in session.items * 2:\n"
                      "        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)\n    return True")),
        ("", conftest("def pytest_collection_modifyitems(items):\n    items.extend(items[:1])")),
    ],
    ids=[
        "pytest-retry hidden", "flaky min-passes", "quiet protocol", "loud protocol",
        "runtest twice", "function twice", "loop twice", "item twice",
    ],
)  # fmt: skip
def test_a_test_that_ran_more_than_once_is_no_observation(tmp_path: Path, wheel: str, files: dict[str, str]) -> None:
    why, result = why_halted(tmp_path / "repo", source=SECOND_TRY, files=files, wheel=wheel)

    assert "ran more than once" in why and result.guard.repeated, why


@pytest.mark.rule("XPY-06", "STG-09")
@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"pytest.ini": "[pytest]\naddopts = --setup-plan\n"}, "--setup-only or --setup-plan"),
        ({"pytest.ini": "[pytest]\naddopts = --collect-only -q\n"}, "--collect-only"),
        (conftest("def pytest_configure(config):\n    config.option.setuponly = True"), "never called"),
        (conftest(f"{PYFUNC}    return True"), "never called: tests/test_toy_ci.py::test_accuracy and 1 more"),
        (conftest(f"{PYFUNC}    return pyfuncitem.name == 'test_speed' or None"), "never called: tests/test_toy_ci.py"),
        (conftest("@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_setup(item):\n    item.runtest = lambda: None"),
         "never called"),
        (conftest("def pytest_itemcollected(item):\n    item.runtest = lambda: None"), "never called"),
    ],
    ids=[
        "--setup-plan", "--collect-only", "setuponly option", "swallowed", "one swallowed",
        "runtest replaced", "runtest replaced at collection",
    ],
)  # fmt: skip
def test_a_test_whose_function_was_never_called_is_no_observation(
    tmp_path: Path, files: dict[str, str], why: str
) -> None:
    reason, _ = why_halted(tmp_path / "repo", files=files)

    assert why in reason, reason


OTHER = "tests/other/test_toy_ci.py"
PACKAGES = {"tests/__init__.py": "", "tests/other/__init__.py": ""}
"""So that two files of one name can be imported side by side."""


@pytest.mark.rule("SCP-04", "XPY-06")
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pytest.ini": f"[pytest]\naddopts = {OTHER}\n"}, []),
        ({"tests/pytest.ini": "[pytest]\naddopts = tests/other/test_toy_ci.py\n"}, []),
        ({"pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--rootdir=tests/other tests/other/"\n'}, []),
        ({}, ["--rootdir=tests/other", "tests"]),
    ],
    ids=["ini", "ini below", "rootdir", "config"],
)
def test_a_file_of_the_same_name_in_another_folder_is_another_file(
    tmp_path: Path, files: dict[str, str], words: list[str]
) -> None:
    extra = {"pytest_extra_args": {"test_toy_ci.py": words}} if words else {}
    second = toy.toy_source().replace("TOY_ACC_MIN = 0.5", "TOY_ACC_MIN = 0.1")

    why, _ = why_halted(tmp_path / "repo", files=files | PACKAGES | {OTHER: second}, **extra)

    assert f"tests of another file ran, {OTHER}" in why


INI = "[pytest]\nmarkers = from_ini\naddopts = --strict-markers\n"
SEEN = (
    "import os\n\n\ndef pytest_configure(config):\n"
    "    open(os.environ['TUNE_GUARD_RECORD'] + '.seen', 'a').write(f'{__file__} {config.inipath}\\n')\n"
)


@pytest.mark.rule("SCP-04", "XPY-06")
@pytest.mark.parametrize("place", ["", "tests/"], ids=["at the top", "in the folder"])
def test_a_repositorys_own_ini_and_conftests_are_used_and_none_from_above_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "conftest.py").write_text("raise RuntimeError('above the repository')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    marked = toy.toy_source().replace("def test_speed", "@pytest.mark.from_ini\ndef test_speed")
    files = {f"{place}pytest.ini": INI, "conftest.py": SEEN, "tests/conftest.py": SEEN}
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    run, result = attempted(toy.make_toy(tmp_path / "link/repo", test_source=marked, files=files))

    assert result.guard.shortfall() == "", toy.told(run)
    assert result.guard.collected == ("tests/test_toy_ci.py::test_accuracy", "tests/test_toy_ci.py::test_speed")
    seen = Path(f"{run.guard_record('test_toy_ci', 1).resolve()}.seen").read_text()
    assert seen.count("conftest.py") == 2 and seen.count(f"{place}pytest.ini") == 2


@pytest.mark.rule("SCP-04")
def test_a_path_with_spaces_dollars_and_letters_beyond_ascii_is_a_path(tmp_path: Path) -> None:
    run, result = attempted(toy.make_toy(tmp_path / "Träger $HOME 音/it's a repo"))

    assert result.guard.shortfall() == "" and status(toy.open_project(run.repo_root), run.run_id).complete


@pytest.mark.rule("SCP-04")
def test_a_project_in_a_folder_of_a_repository_keeps_the_conftest_of_the_whole(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "whole/part")
    (tmp_path / "whole/part/.git").rename(tmp_path / "whole/.git")
    (tmp_path / "whole/conftest.py").write_text(SEEN)
    (tmp_path / "conftest.py").write_text("raise RuntimeError('above the repository')\n")

    assert pytest_argv_conftests(project) == ".."


def pytest_argv_conftests(project: Project) -> str:
    job = Job.model_construct(
        repo_root=str(project.repo_root), venv_python="python", test="t.py", plugins=(), pytest_extra_args=(),
        run_dir="r", test_key="t", repeat=1, attempt=1,
    )  # fmt: skip
    argv = pytest_session.pytest_argv(job, RunDir(Path("b")))
    assert "--rootdir=." in argv
    return next(word for word in argv if word.startswith("--confcutdir=")).partition("=")[2]


FROM_A_SET = """
@pytest.mark.parametrize("word", {"a", "b"})
def test_each(word):
    pass


@pytest.mark.parametrize("path", [*STATE.glob("sample*")], ids=lambda path: path.name)
def test_samples(path):
    pass
"""


@pytest.mark.rule("SCP-04", "XPY-06")
def test_every_repeat_runs_the_same_tests_by_their_whole_node_ids(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=toy.toy_source() + FROM_A_SET)
    samples = toy.state_folder(project)
    (samples / "sample1").touch()

    def attempt(job: Job) -> AttemptResult | None:
        if job.repeat == 2:
            (samples / "sample1").rename(samples / "sample2")
        return toy.real_pytest(job)

    run = toy.finished_run(project, 2, attempt)

    now = status(project, run.run_id)
    assert now.state == "halted", toy.told(run)
    assert (
        "it ran other tests than another repeat: tests/test_toy_ci.py::test_samples[sample2] ran only now; "
        "tests/test_toy_ci.py::test_samples[sample1] ran only then"
    ) in now.reason
    assert run.observation("toy_speed", 1).exists()
    assert "toy_speed: ✓✗" in strict_audit(project, run.run_id).text()

    (samples / "sample2").rename(samples / "sample1")
    again = PurgeItem(stage="toy_speed", repeat=2, reason="the sample is back")
    with toy.supervised_here(toy.real_pytest):
        resume_run(project, run.run_id, [again])
    assert strict_audit(project, run.run_id).ready, toy.told(run)
