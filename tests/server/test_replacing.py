"""Only a person replaces a complete repeat; its values, the reason and that answer stay in the report."""

from __future__ import annotations

import json
from typing import Any

import pytest
import toy
from mcp_types import ElicitResult

from tune_mcp.cli import resume
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.anyio
PURGE = [{"stage": "toy_speed", "repeat": 2, "reason": "the backup ran"}]


class Person:
    """Answers every question with ``choice``; None declines."""

    def __init__(self, choice: str | None) -> None:
        self.choice = choice
        self.messages: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        self.messages.append(params.message)
        if self.choice is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"choice": self.choice})


def slower(job: Any) -> Any:
    """Repeat 2 was slow, and its accuracy differs from all others too."""
    return toy.measured(job, speed={"throughput_qps": 2.0}) if job.repeat == 2 else toy.measured(job)


def again(job: Any) -> Any:
    return toy.measured(job, speed={"throughput_qps": 12.0}, summary={"accuracy": 0.875})


@pytest.fixture
def run(project: Project) -> RunDir:
    return toy.finished_run(project, 3, slower)


@pytest.mark.rule("RES-06", "STR-20", "GAP-10")
async def test_a_person_replaces_a_repeat_and_the_report_keeps_what_it_was(
    connect: Any, project: Project, run: RunDir, era: str
) -> None:
    person = Person("replace")
    async with connect(project.repo_root, era, answer=person) as session:
        with toy.supervised_here(again) as executor:
            await session.call("resume_run", run_id=run.run_id, purge=PURGE)
        await session.call("report", run_id=run.run_id)

    assert len(person.messages) == 1 and [job.repeat for job in executor.jobs] == [2]
    for text in ("toy_speed/throughput_qps: 2.0 here, others 12.5, 11.125", "the backup ran", run.run_id):
        assert text in person.messages[0]
    assert strict_audit(project, run.run_id).ready
    facts = json.loads(run.report_json.read_text())["uncounted"]
    assert (facts[0]["test"], facts[0]["repeat"], facts[0]["reason"]) == ("test_toy_ci", 2, "the backup ran")
    assert (facts[0]["who"], facts[0]["how"].split()[0]) == ("a person, through the client", "replaced")
    values = {value["metric"]: (value["value"], value["suspect"]) for value in facts[0]["values"]}
    assert values == {"accuracy": (0.625, True), "throughput_qps": (2.0, False), "latency_mean_s": (0.25, False)}
    for page in (run.report_md, run.report_html):
        assert "toy_accuracy/accuracy 0.625 (worse than 0.75; suspected defect" in page.read_text()


@pytest.mark.rule("RES-06", "SCP-06")
@pytest.mark.parametrize("choice", ["keep", None])
async def test_a_person_who_keeps_it_or_says_nothing_changes_nothing(
    connect: Any, project: Project, run: RunDir, era: str, choice: str | None
) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    async with connect(project.repo_root, era, answer=Person(choice)) as session:
        found = await session.refused("resume_run", run_id=run.run_id, purge=PURGE)

    assert found["code"] == "DECLINED"
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.rule("RES-06")
async def test_an_agent_alone_is_refused_however_it_words_the_call(
    connect: Any, project: Project, run: RunDir, era: str
) -> None:
    async with connect(project.repo_root, era) as session:
        found = await session.refused("resume_run", run_id=run.run_id, purge=PURGE)
        assert found["code"] == "REPEAT_IS_STRICT" and "tune-mcp resume" in found["next"]
        assert found["details"]["strict"] == [{"stage": "toy_speed", "repeat": 2}]
        word = {"action": "accept", "data": {"choice": "replace"}}
        forged = await session.refused("resume_run", run_id=run.run_id, purge=PURGE, word=word)
        assert forged["code"] == "INVALID_ARGUMENT"
    assert not run.purged.exists()


async def test_a_repeat_that_is_not_strict_is_purged_without_a_question(
    connect: Any, project: Project, era: str
) -> None:
    run = toy.finished_run(
        project, 2, lambda job: toy.measured(job, summary={"evaluated": 3}) if job.repeat == 2 else toy.measured(job)
    )
    person = Person(None)
    async with connect(project.repo_root, era, answer=person) as session:
        with toy.supervised_here():
            await session.call("resume_run", run_id=run.run_id, purge=PURGE)
        await session.call("report", run_id=run.run_id)

    assert person.messages == []
    how = {one["how"] for one in json.loads(run.report_json.read_text())["uncounted"]}
    assert "purged" in how and not any("replaced" in one for one in how)


async def test_nobody_is_asked_about_a_purge_that_would_be_refused_anyway(
    connect: Any, project: Project, run: RunDir, era: str
) -> None:
    person = Person("replace")
    async with connect(project.repo_root, era, answer=person) as session:
        bad = [{**PURGE[0], "repeat": 9}]
        assert (await session.refused("resume_run", run_id=run.run_id, purge=bad))["code"] == "INVALID_ARGUMENT"
        toy.commit(project)
        test = project.repo_root / toy.TEST_FILE
        test.write_text(test.read_text() + "\nprint()\n")
        toy.commit(project)
        assert (await session.refused("resume_run", run_id=run.run_id, purge=PURGE))["code"] == "COMMIT_MOVED"
    assert person.messages == []


@pytest.mark.rule("RES-06")
@pytest.mark.parametrize(("typed", "code"), [(["keep"], "DECLINED"), ([""], "DECLINED"), ([], "DECLINED")])
async def test_at_a_terminal_the_same_question_is_asked_and_enter_is_the_harmless_answer(
    project: Project, run: RunDir, monkeypatch: pytest.MonkeyPatch, typed: list[str], code: str
) -> None:
    def read(_: str = "") -> str:
        if not typed:
            raise EOFError
        return typed.pop(0)

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(resume, "at_terminal", lambda: True)
    with pytest.raises(Refusal) as caught:
        resume.resume_at_terminal(project, run.run_id, [PurgeItem.model_validate(PURGE[0])])

    assert caught.value.code == code and not run.purged.exists()
    typed += ["replace"]
    with toy.supervised_here(again):
        resume.resume_at_terminal(project, run.run_id, [PurgeItem.model_validate(PURGE[0])])
    report(project, run.run_id)
    assert json.loads(run.report_json.read_text())["uncounted"][0]["who"] == "a person, at a terminal"


async def test_old_values_that_somebody_edited_are_not_shown_as_measured(
    connect: Any, project: Project, run: RunDir, era: str
) -> None:
    async with connect(project.repo_root, era, answer=Person("replace")) as session:
        with toy.supervised_here(again):
            await session.call("resume_run", run_id=run.run_id, purge=PURGE)
        kept = next(run.purged.glob("*/toy_speed.json"))
        kept.write_text(kept.read_text().replace("2.0", "11.0"))
        await session.call("report", run_id=run.run_id)

    values = json.loads(run.report_json.read_text())["uncounted"][0]["values"]
    speed = next(value for value in values if value["metric"] == "throughput_qps")
    assert {value["stage"] for value in values} == {"toy_accuracy", "toy_speed"}
    assert speed["value"] == 2.0, "what was sealed, not what somebody wrote later"
