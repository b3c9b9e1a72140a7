"""``start_run`` without a model asks the person once, before anything runs, and never again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import toy
from mcp_types import ElicitResult

from tune_mcp import run_dir
from tune_mcp.config import loader
from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.discover.aliases import expand
from tune_mcp.errors import Refusal
from tune_mcp.supervise import host_lock
from tune_mcp.verbs import start_run
from tune_mcp.verbs.project import Options, Project

pytestmark = pytest.mark.anyio


class Person:
    """Fills the form, or declines with None; remembers what was asked."""

    def __init__(self, answer: dict[str, str] | None) -> None:
        self.answer = answer
        self.forms: list[dict[str, Any]] = []
        self.messages: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        self.messages.append(params.message)
        self.forms.append(params.requested_schema)
        if self.answer is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content=self.answer)


OMNI = ConfigPlaces.resolve(None, None).stages("qwen3-omni-v1")


@pytest.mark.rule("ASK-01", "ASK-05", "ASK-08")
async def test_one_form_asks_for_model_stages_and_repeats_and_the_answer_is_what_runs(
    connect: Any, project: Project, era: str
) -> None:
    person = Person({"model": "toy", "stages": " toy_speed , @accuracy", "repeats": "1"})
    async with connect(project.repo_root, era, answer=person) as session:
        with toy.supervised_here():
            _, facts = await session.call("start_run")
        _, audited = await session.call("strict_audit", run_id=facts["run_id"])

    assert (facts["model"], facts["stages"], facts["repeats"]) == ("toy", ["toy_accuracy", "toy_speed"], 1)
    assert audited["ready"]
    assert len(person.forms) == 1
    assert list(person.forms[0]["properties"]) == ["model", "stages", "repeats"]
    assert "toy" in person.forms[0]["properties"]["model"]["enum"]
    repeats = person.forms[0]["properties"]["repeats"]
    assert (repeats["enum"], repeats["default"]) == (["1", "2", "3", "5"], "5")
    assert "  toy: tests/test_toy_ci.py (accuracy, speed)" in person.messages[0].splitlines()


@pytest.mark.rule("ASK-06")
async def test_what_the_call_gave_is_not_asked_again(connect: Any, project: Project, era: str) -> None:
    person = Person(None)
    async with connect(project.repo_root, era, answer=person) as session:
        await session.refused("start_run", stages=["toy"], repeats=2)

    assert list(person.forms[0]["properties"]) == ["model"]


@pytest.mark.rule("ASK-09", "INV-02")
async def test_a_call_that_names_everything_asks_nothing(connect: Any, project: Project, era: str) -> None:
    person = Person(None)
    async with connect(project.repo_root, era, answer=person) as session:
        with toy.supervised_here():
            _, facts = await session.call("start_run", model="toy", stages="toy_speed", repeats=1)

    assert person.forms == []
    assert (facts["model"], facts["stages"], facts["repeats"]) == ("toy", ["toy_speed"], 1)


@pytest.mark.rule("ASK-11")
async def test_nobody_is_asked_while_a_run_is_active(connect: Any, project: Project, era: str) -> None:
    person = Person({"model": "toy"})
    run = toy.finished_run(project)
    lock = host_lock.take(host_lock.LockHolder(run.run_id, str(run.path), str(project.repo_root)))
    assert not isinstance(lock, host_lock.LockHolder)
    async with connect(project.repo_root, era, answer=person) as session:
        refusal = await session.refused("start_run")
    lock.release()

    assert (refusal["code"], person.forms) == ("INVALID_ARGUMENT", [])


@pytest.mark.rule("ASK-02")
async def test_a_client_that_cannot_ask_gets_the_question_as_a_refusal(
    connect: Any, project: Project, era: str
) -> None:
    async with connect(project.repo_root, era) as session:
        refusal = await session.refused("start_run")

    assert refusal["code"] == "INVALID_ARGUMENT"
    assert "toy" in refusal["details"]["models"]
    asked = [line.strip() for line in refusal["next"].splitlines()]
    assert [line for line in start_run.choices(OMNI) if line not in asked] == []
    assert run_dir.list_runs(project.repo_root) == []


async def test_a_person_who_declines_starts_nothing(connect: Any, project: Project, era: str) -> None:
    async with connect(project.repo_root, era, answer=Person(None)) as session:
        refusal = await session.refused("start_run")

    assert refusal["code"] == "INVALID_ARGUMENT"
    assert run_dir.list_runs(project.repo_root) == []


@pytest.mark.rule("ASK-07")
def test_the_only_model_needs_no_question(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    alone = Project(
        project.repo_root, Options(), ConfigPlaces((project.repo_root / ".tune",), None), None, "", project.env
    )

    assert start_run.only_model(alone) == "toy"
    assert start_run.only_model(project) is None


@pytest.mark.rule("ASK-07")
async def test_the_only_model_is_started_without_a_question(
    connect: Any, project: Project, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "shipped_place", lambda: project.repo_root / ".tune")
    person = Person({"model": "toy"})
    async with connect(project.repo_root, era, answer=person) as session:
        with toy.supervised_here():
            _, facts = await session.call("start_run", stages="toy_speed", repeats=1)

    assert (facts["model"], person.forms) == ("toy", [])


QUESTION = """\
ALL: every stage (26)
mmmu: tests/test_model/test_qwen3_omni_mmmu_ci.py (accuracy, speed)
mmmu_talker: tests/test_model/test_qwen3_omni_mmmu_talker_ci.py (accuracy, wer, speed)
mmsu: tests/test_model/test_qwen3_omni_mmsu_ci.py (accuracy, speed)
mmsu_talker: tests/test_model/test_qwen3_omni_mmsu_talker_ci.py (accuracy, wer, speed)
tts: tests/test_model/test_qwen3_omni_tts_ci.py (wer, utmos, speed)
videoamme: tests/test_model/test_qwen3_omni_videoamme_ci.py (accuracy, speed)
videoamme_talker: tests/test_model/test_qwen3_omni_videoamme_talker_ci.py (accuracy, wer, speed)
videoamme_talker_tp2: tests/test_model/test_qwen3_omni_videoamme_talker_tp2_ci.py (accuracy, wer, speed)
videomme: tests/test_model/test_qwen3_omni_videomme_ci.py (accuracy, speed)
videomme_talker: tests/test_model/test_qwen3_omni_videomme_talker_ci.py (accuracy, wer, speed)
of all tests: @accuracy, @speed, @wer, @utmos
with commas, for example: mmmu, @utmos
"""


@pytest.mark.rule("ASK-02", "ASK-03", "ASK-04")
def test_the_question_for_the_real_model_has_a_line_for_all_for_each_base_and_for_the_shortcuts() -> None:
    assert "".join(f"{line}\n" for line in start_run.choices(OMNI)) == QUESTION


@pytest.mark.rule("ASK-05")
@pytest.mark.parametrize(
    ("reply", "stages"), [(" mmmu , @utmos", ("mmmu_accuracy", "mmmu_speed", "tts_utmos")), ("ALL", tuple(OMNI))]
)
def test_a_reply_is_taken_as_it_was_typed(reply: str, stages: tuple[str, ...]) -> None:
    assert expand([reply], OMNI) == stages


@pytest.mark.rule("ASK-05")
@pytest.mark.parametrize(
    ("reply", "offered"), [("mmmu;foo", "mmmu"), ("mmmu,@were", "@wer"), ("nothing like it", "ALL")]
)
def test_a_word_of_a_reply_that_is_no_stage_is_refused_with_what_may_be_meant(reply: str, offered: str) -> None:
    with pytest.raises(Refusal, match="UNKNOWN_STAGE") as caught:
        expand([reply], OMNI)
    assert offered in re.findall(r"[@\w]+", caught.value.next)
