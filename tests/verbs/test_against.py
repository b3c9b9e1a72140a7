"""Whether a calibration is still one of the branch that it goes into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy

from tune_mcp.cli.main import main
from tune_mcp.contract.against import AgainstReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.against import against
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

FILES = {
    "conftest.py": "",
    "kit/__init__.py": "",
    "kit/server.py": "PORT = 1\n",
    "tests/test_other.py": "def test_nothing(): pass\n",
    "docs/page.md": "A page.\n",
    "prompts.json": "[]\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo", files=FILES)


def changed(project: Project, name: str, old: str, new: str) -> None:
    """Commit a change on a branch ``ref``; the calibrated commit stays checked out."""
    toy.git(project.repo_root, "checkout", "-q", "-B", "ref")
    path = project.repo_root / name
    path.write_text(path.read_text().replace(old, new) if old else path.read_text() + new)
    toy.commit(project)
    toy.git(project.repo_root, "checkout", "-q", "main")


def asked(project: Project, run: RunDir) -> AgainstReply:
    return against(project, run.run_id, "ref")


def test_the_same_commit_and_prose_measure_the_same(project: Project) -> None:
    run = toy.finished_run(project, 2, toy.real_pytest)
    same = against(project, run.run_id, "HEAD")
    assert (same.current, same.same, same.others, same.thresholds) == (True, True, 0, ())
    for name in ("docs/page.md", "tests/test_other.py", ".tune/models/toy/config.yaml"):
        changed(project, name, "", "\n")
    found = asked(project, run)
    assert (found.current, found.others) == (True, 1)


def test_a_threshold_that_changed_there_is_listed_with_three_values(project: Project) -> None:
    run = toy.finished_run(project)
    changed(project, toy.TEST_FILE, "TOY_ACC_MIN = 0.5", "TOY_ACC_MIN = 0.55")
    found = asked(project, run)
    (one,) = found.thresholds
    assert (one.metric_key, one.then, one.there, one.planned) == ("accuracy", 0.5, 0.55, 0.625)
    assert found.same and not found.current
    assert "0.5 then, 0.55 there, 0.625 planned" in found.text()


def test_what_our_own_apply_wrote_there_is_no_reason_to_measure_again(project: Project) -> None:
    run = toy.finished_run(project)
    report(project, run.run_id)
    apply(project, run.run_id, apply_plan(project, run.run_id).plan_id, "full", otherwise="apply")
    toy.git(project.repo_root, "checkout", "-q", "-b", "ref")
    toy.commit(project)
    found = asked(project, run)
    assert found.current and len(found.thresholds) == 3 and all(one.done for one in found.thresholds)


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        (toy.TEST_FILE, "NUM_SAMPLES = 4", "NUM_SAMPLES = 5", "measured"),
        (toy.TEST_FILE, ">= TOY_ACC_MIN", ">= TOY_ACC_MIN - 0.1", "measured"),
        ("conftest.py", "", "import os\n", "measured"),
        ("kit/server.py", "PORT = 1", "PORT = 2", "perhaps"),
        ("prompts.json", "[]", "[1]", "perhaps"),
        ("pyproject.toml", "", "", "measured"),
    ],
)
def test_a_change_that_may_move_a_number_makes_the_run_stale(
    project: Project, name: str, old: str, new: str, where: str
) -> None:
    (project.repo_root / "pyproject.toml").touch()
    run = toy.finished_run(project, 2, toy.real_pytest)
    if name == "pyproject.toml":
        toy.git(project.repo_root, "checkout", "-q", "-b", "ref")
        (project.repo_root / name).write_text("[tool.pytest.ini_options]\n")
        toy.commit(project)
        toy.git(project.repo_root, "checkout", "-q", "main")
    else:
        changed(project, name, old, new)
    found = asked(project, run)
    assert not found.current and not found.same
    assert any(name in one for one in getattr(found, where))


def test_a_module_that_pytest_loaded_is_measured(tmp_path: Path) -> None:
    source = toy.toy_source().replace("import pytest\n", "import pytest\nimport kit.server\n", 1)
    files = {**FILES, "conftest.py": "import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))\n"}
    project = toy.make_toy(tmp_path / "repo", test_source=source, files=files)
    run = toy.finished_run(project, 2, toy.real_pytest)
    changed(project, "kit/server.py", "PORT = 1", "PORT = 2")
    assert any("kit/server.py" in one for one in asked(project, run).measured)


def test_a_measured_file_that_is_gone_there_is_named(project: Project) -> None:
    run = toy.finished_run(project)
    toy.git(project.repo_root, "checkout", "-q", "-b", "ref")
    (project.repo_root / toy.TEST_FILE).unlink()
    toy.commit(project)
    found = asked(project, run)
    assert any("gone" in one for one in found.measured) and all(one.there is None for one in found.thresholds)


def test_a_dirty_tree_is_in_no_commit(project: Project) -> None:
    (project.repo_root / "kit/server.py").write_text("PORT = 3\n")
    found = against(project, toy.finished_run(project).run_id, "HEAD")
    assert not found.same and any("kit/server.py" in one for one in found.measured)


@pytest.mark.parametrize("ref", ["nothing", "--help", "", "HEAD:conftest.py"])
def test_a_ref_that_is_no_commit_is_refused(project: Project, ref: str) -> None:
    with pytest.raises(Refusal) as refused:
        against(project, toy.finished_run(project).run_id, ref)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_script_reads_the_exit_code(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy.finished_run(project)
    words = ["plan", run.run_id, "--repo", str(project.repo_root), "--against"]
    assert main([*words, "HEAD"]) == 0
    assert capsys.readouterr().out.startswith("CURRENT")
    changed(project, "kit/server.py", "PORT = 1", "PORT = 2")
    assert main([*words, "ref"]) == 1
    assert capsys.readouterr().out.startswith("STALE")
    assert main([*words, "nothing"]) == 2
    capsys.readouterr()
    assert main([*words, "ref", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["same"] is False
