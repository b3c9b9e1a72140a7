"""Facts and forms of the original document: where they live now, and that they are true of the product."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import toy
from register import marks

from tune_mcp import __version__
from tune_mcp.cli.main import parser
from tune_mcp.config.loader import ConfigPlaces, shipped_place
from tune_mcp.config.signatures import rules
from tune_mcp.contract.start_run import DEFAULT_REPEATS
from tune_mcp.discover.aliases import expand
from tune_mcp.errors import Refusal
from tune_mcp.rules import register
from tune_mcp.server.prompts import read_prompt
from tune_mcp.verbs import status
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run

ROOT = Path(__file__).parents[2]
FACTS = (ROOT / "docs" / "reference" / "sglang-omni-ci.md").read_text()
PLACES = ConfigPlaces.resolve(None, None)


@pytest.mark.rule("CIP-02", "DOC-05")
def test_each_rule_that_is_a_fact_alone_is_stated_in_the_reference_once() -> None:
    facts = [name for name, rule in register().items() if rule.where == "docs/reference/sglang-omni-ci.md"]
    stated = re.findall(r"^\| .{20,} \| ([A-Z]+-\d\d) \|$", FACTS, re.MULTILINE)

    assert facts and [name for name in facts if stated.count(name) != 1] == []


@pytest.mark.rule("CIP-04")
def test_the_stage_with_a_router_of_two_workers_says_that_it_needs_two_gpus() -> None:
    assert PLACES.model("qwen3-asr-v1").gpus_per_test == {"test_qwen3_asr_ci.py": 2}


@pytest.mark.rule("INV-03", "INV-04")
@pytest.mark.parametrize(
    ("model", "stages", "count"),
    [
        ("qwen3-omni-v1", "ALL", 26), ("qwen3-omni-v1", "videoamme_talker_tp2", 3),
        ("tts", "ALL", 14), ("tts", "tts", 12), ("tts", "tts_moss", 6), ("tts", "qwen3_asr", 2),
    ],
)  # fmt: skip
def test_the_usual_selections_mean_what_they_meant(model: str, stages: str, count: int) -> None:
    assert len(expand([stages], PLACES.stages(model))) == count
    assert f"`--stages {stages}`" in FACTS or f"`{stages}`" in FACTS


@pytest.mark.rule("INV-01")
def test_the_bare_prompt_asks_for_what_is_missing_and_takes_five_repeats() -> None:
    bare = read_prompt(ROOT / "prompts" / "calibrate.md").render({})
    full = read_prompt(ROOT / "prompts" / "calibrate.md").render({"model": "m", "stages": "s", "repeats": "3"})

    assert f"- repeats: {DEFAULT_REPEATS}, " in bare and bare.count("ask once") == 2
    assert "- model: m\n- stages: s\n- repeats: 3\n" in full


@pytest.mark.rule("POL-01", "POL-03")
def test_the_prompt_polls_with_waits_that_are_granted_and_as_often_as_status_asks_for() -> None:
    (step,) = re.findall(r"^4\. .*", (ROOT / "prompts" / "calibrate.md").read_text(), re.MULTILINE)
    waited = re.fullmatch(r"4\. `status` with `wait_s=(\d+)`, again and again, never more than (\d+) s apart\..*", step)

    assert waited is not None, step
    assert int(waited[1]) <= status.MAX_WAIT_S and int(waited[2]) == status.MAX_POLL_S == 120


@pytest.mark.rule("RES-09")
def test_the_resume_prompt_names_the_run_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    text = read_prompt(ROOT / "prompts" / "continue_run.md").render({"run_id": "20260423T050000Z_x"})

    assert "20260423T050000Z_x" in text and "`resume_run`" in text
    with pytest.raises(Refusal, match="UNKNOWN_RUN"):
        resume_run(toy.make_toy(tmp_path / "repo"), "20260423T050000Z_x")


@pytest.mark.rule("DOC-01")
def test_everything_the_skill_needs_is_shipped_with_the_package() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    place = shipped_place()

    assert {"models", "hosts", "prompts", "SKILL.md"} <= set(shipped["force-include"])
    assert (ROOT / "SKILL.md").is_file() and list((ROOT / "prompts").glob("*.md"))
    assert (place / "hosts" / "sglang-h20-ci.yaml").is_file()
    for model in ("qwen3-omni-v1", "qwen3-asr-v1", "tts"):
        assert (place / "models" / model / "config.yaml").is_file()
        assert (place / "models" / model / "stages.yaml").is_file()


SUCCESSORS = {
    "run": "run", "report": "report", "status": "status", "strict-audit": "audit", "apply-plan": "plan",
    "precheck": "precheck", "discover": "discover", "models-list": "catalog", "stages-list": "catalog",
    "hosts-list": "catalog",
}  # fmt: skip
"""Subcommands of the older script, and the verb that does the same now."""


@pytest.mark.rule("DOC-02")
@pytest.mark.parametrize("older", sorted(SUCCESSORS))
def test_every_subcommand_of_the_older_script_has_a_verb(older: str) -> None:
    words: dict[str, list[str]] = {"run": ["m"], "discover": ["m"], "precheck": ["m"]}
    named = words.get(SUCCESSORS[older], ["r"] if SUCCESSORS[older] != "catalog" else [])

    assert callable(parser().parse_args([SUCCESSORS[older], *named]).verb)


@pytest.mark.rule("DOC-03")
def test_the_readme_names_the_command_that_installs_it_into_a_client() -> None:
    (line,) = re.findall(r"`tune-mcp (install .+?)`", (ROOT / "README.md").read_text())

    assert parser().parse_args(line.split()).client == "CLIENT"


@pytest.fixture
def reported(tmp_path: Path) -> tuple[Project, Any]:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)
    report(project, run.run_id)
    return project, run


@pytest.mark.rule("DOC-04")
def test_the_version_that_measured_stands_in_the_reports_provenance(reported: tuple[Project, Any]) -> None:
    assert f"tune-mcp: {__version__} measured" in reported[1].report_md.read_text()


MISTAKES = {
    "the verbose stream follows run.log": "SUP-07",
    "a finished log is followed, the newest by its name": "SUP-10",
    "a warning of the extraction is passed over": "HLT-01",
    "ok/total is taken for progress": "STR-09",
    "a helper takes another process for its own": "SUP-13",
    "a kill leaves orphans on the GPUs": "GPU-16",
}
"""Of the nine mistakes that were seen, those that a rule made impossible; three more are reported by the watchdog."""


@pytest.mark.rule("FAIL-01")
def test_each_of_the_nine_mistakes_is_impossible_or_is_told() -> None:
    tried = {mark.rule for mark in marks()}
    causes = " ".join(one.cause + one.remedy for one in rules().suspicious)
    told = [
        cause
        for cause in ("OMNI_CI_HOME is wrong", "TORCHINDUCTOR_CACHE_DIR is cold", "HOME must be")
        if cause in causes
    ]

    assert [mistake for mistake, rule in MISTAKES.items() if rule not in tried] == []
    assert len(MISTAKES) + len(told) == 9


@pytest.mark.rule("STP-03")
def test_everything_that_must_never_be_done_names_the_rule_whose_test_tries_to_do_it() -> None:
    page = (ROOT / "docs/explanation/never.md").read_text()
    rows = re.findall(r"^\| (?!never|---)(.+) \|$", page, re.MULTILINE)
    tried = {mark.rule for mark in marks()}

    assert len(rows) == 14
    assert [row for row in rows if tried.isdisjoint(re.findall(r"\(([A-Z]+-\d\d)\)", row))] == []
