"""Which host profile is in force, and what a caller's own word replaces of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.errors import Refusal
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.start_run import start_run


def profile(folder: Path, file: str, repo: Path, **more: Any) -> None:
    """``hosts/<file>.yaml`` in a config folder, for a machine of that name; JSON is YAML."""
    (folder / "hosts").mkdir(exist_ok=True)
    text = json.dumps({"hostname": file, "repo_root": str(repo), **more})
    (folder / "hosts" / f"{file}.yaml").write_text(text)


@pytest.fixture
def config(project: Project) -> Path:
    """A config folder with three profiles, one of them for a machine that is called ``here``."""
    folder = project.repo_root.parent / "config"
    folder.mkdir()
    for name in ("named", "exported", "here"):
        profile(folder, name, project.repo_root, venv_python=f"/{name}/python")
    return folder


@pytest.mark.rule("HST-02", "HST-03", "HST-04")
def test_a_profile_is_chosen_by_option_then_variable_then_hostname(
    project: Project, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_mcp.verbs.project.hostname", lambda: "here")

    def chosen(option: str | None, variable: str | None) -> Project:
        env = {"TUNE_HOST": variable} if variable else {}
        return Project.resolve(Options(host=option, config=config), env, Path("/"))

    found = [chosen("named", "exported"), chosen(None, "exported"), chosen(None, None)]

    assert [one.host.name if one.host else None for one in found] == ["named", "exported", "here"]
    assert found[2].host_source == "hostname here"
    assert {one.repo_root for one in found} == {project.repo_root}, "no word of the caller's: the profile's checkout"
    listed = [host for host in catalog(found[0]).hosts if not host.name.startswith("sglang-")]
    assert [(host.name, host.active) for host in listed] == [("exported", False), ("here", False), ("named", True)]
    with pytest.raises(Refusal, match=r"^HOST_UNRESOLVED"):
        chosen(None, "nobody")


@pytest.mark.rule("HST-04", "HST-05", "ENV-33")
def test_a_path_that_the_caller_names_replaces_the_profile_s_and_stands_in_the_plan(
    project: Project, config: Path, tmp_path: Path
) -> None:
    profile(config, "elsewhere", tmp_path / "gone", venv_python="/profile/python")
    model = project.places.model(toy.MODEL)

    def resolved(repo: Path | None, env: dict[str, str], python: str | None = None) -> Project:
        options = Options(repo=repo, host="elsewhere", config=config, venv_python=python)
        return Project.resolve(options, env, Path("/"))

    with pytest.raises(Refusal, match=r"^OUTSIDE_REPO .*gone does not exist"):
        resolved(None, {})
    for one in (resolved(project.repo_root, {}), resolved(None, {"TUNE_REPO_ROOT": str(project.repo_root)})):
        assert one.repo_root == project.repo_root
    shell = {"TUNE_VENV_PYTHON": "/shell/python"}
    named = resolved(project.repo_root, shell, "/bin/true")
    sources = [one.interpreter(model).source for one in (named, resolved(project.repo_root, shell), one)]
    assert sources == ["--venv-python", "TUNE_VENV_PYTHON", "the host profile"]

    discover(named, toy.MODEL)
    with toy.supervised_here():
        plan = named.plan(named.run(start_run(named, toy.MODEL, repeats=1).run_id))
    assert (plan.repo_root, plan.venv_python, plan.host) == (str(project.repo_root), "/bin/true", "elsewhere")


@pytest.mark.rule("HST-10")
def test_a_profile_that_was_copied_is_called_like_its_own_file(project: Project, config: Path) -> None:
    profile(config, "copied", project.repo_root, name="named")

    assert ConfigPlaces.resolve(project.repo_root, config).host("copied").name == "copied"
