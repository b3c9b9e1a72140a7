"""The documentation: every command on every page runs, every link leads somewhere, what is generated is current."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy
import yaml

from tune_mcp.cli.main import main, parser
from tune_mcp.errors import Code
from tune_mcp.server.prompts import read_prompt
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.init import init
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SKILL.md"])
ELSEWHERE = {"make demo": "the demo is run by CI", "make test": "this is it", "make bench": "figures, never in a test"}
"""Commands that are not run here, and why."""


def blocks(page: Path, kind: str) -> Iterator[str]:
    yield from re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of a page that promise to work as they stand."""
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Project, str]:
    """A toy repository with a finished run."""
    project = toy.make_toy(tmp_path / "repo")
    run_id = toy.finished_run(project).run_id
    report(project, run_id)
    return project, run_id


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_of_the_page_runs(
    page: Path, finished: tuple[Project, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the repository, with a home of its own; ``tune-mcp`` in this process, everything else in a shell."""
    project, run_id = finished
    plan_id = apply_plan(project, run_id).plan_id
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(project.repo_root)
    (tmp_path / "home").mkdir()
    for command in commands(page):
        if command in ELSEWHERE:
            continue
        words = shlex.split(command.replace("MODEL", "toy").replace("RUN", run_id).replace("PLAN", plan_id))
        if words[0] == "tune-mcp":
            assert main(words[1:]) == 0, f"{page.name}: {command}"
        else:
            subprocess.run(words, stdin=subprocess.DEVNULL, timeout=120, check=True)


def test_what_is_not_run_here_stands_on_a_page() -> None:
    shown = {command for page in PAGES for command in commands(page)}

    assert set(ELSEWHERE) - shown <= {"make test", "make bench"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_line_of_the_page_is_understood(page: Path) -> None:
    lines = [line for block in blocks(page, "(?:console)?") for line in block.splitlines()]
    wrong: list[str] = []
    for line in lines:
        words = line.removeprefix("$ ").split("  ")[0]
        if not words.startswith("tune-mcp ") or "VERB" in words:
            continue
        try:
            parser().parse_args(shlex.split(words)[1:])
        except SystemExit:
            wrong.append(words)

    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_the_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    names = [page.relative_to(ROOT / "docs") for page in PAGES if page.is_relative_to(ROOT / "docs")]

    assert [str(name) for name in names if name.name not in index and name != Path("README.md")] == []


def test_the_generated_pages_are_those_that_the_code_makes() -> None:
    """``python docs/reference/generate.py`` writes them again."""
    place = ROOT / "docs" / "reference" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", place)
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    made = generate.pages()

    assert {name: (place.parent / name).read_text() for name in made} == made


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("docs/tutorial/first-calibration.md", {"LIMITS['accuracy']", "LIMITS['p95_s']"}),
        ("README.md", {"TestServing.THROUGHPUT_MIN"}),
    ],
)
def test_the_test_that_a_page_shows_is_understood_without_more_config(
    page: str, expected: set[str], tmp_path: Path
) -> None:
    shown = next(blocks(ROOT / page, "python"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_shown.py").write_text(shown)
    toy.git(tmp_path, "init", "-q")

    proposed = init(toy.open_project(tmp_path), [], "shown")

    assert not proposed.missing, proposed.text()
    assert {line.partition(": ")[2].partition(" is the ")[0] for line in proposed.thresholds} == expected


def test_every_code_is_explained() -> None:
    page = (ROOT / "docs" / "reference" / "refusals.md").read_text()

    assert re.findall(r"^\| ([A-Z_]+) \|", page, re.MULTILINE) == [str(code) for code in Code]


def test_the_skill_is_short_and_its_prompts_exist() -> None:
    skill = (ROOT / "SKILL.md").read_text()

    assert len(skill.splitlines()) <= 150
    assert yaml.safe_load(skill.split("---")[1])["name"]
    for name in re.findall(r"prompt `(\w+)`", skill):
        assert read_prompt(ROOT / "prompts" / f"{name}.md").title
