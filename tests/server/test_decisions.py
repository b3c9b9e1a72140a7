"""What a client must bring along or is asked for before a threshold is written, in both eras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy
from mcp_types import ElicitResult

from tune_mcp.cli import apply as terminal
from tune_mcp.errors import Refusal
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

pytestmark = pytest.mark.anyio
METRICS = ("latency_mean_s", "rtf_mean", "throughput_qps")


class Person:
    """Answers the first question with ``agreement`` and every other one with ``choice``."""

    def __init__(self, agreement: dict[str, str], choice: str = "keep") -> None:
        self.agreement = agreement
        self.choice = choice
        self.messages: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        self.messages.append(params.message)
        first = "write thresholds into" in params.message
        return ElicitResult(action="accept", content=self.agreement if first else {"choice": self.choice, "value": ""})


async def planned(session: Any, run_id: str) -> str:
    await session.call("report", run_id=run_id)
    return (await session.call("apply_plan", run_id=run_id))[1]["plan_id"]


def source(project: Project) -> str:
    return (project.repo_root / toy.TEST_FILE).read_text()


@pytest.mark.rule("APL-05")
@pytest.mark.parametrize("mode", ["smart", "full"])
async def test_what_loosens_must_be_named_in_either_mode_and_the_refusal_holds_the_list_to_paste_back(
    connect: Any, loosened: tuple[Project, str], era: str, mode: str
) -> None:
    project, run_id = loosened
    before = source(project)
    async with connect(project.repo_root, era) as session:
        plan_id = await planned(session, run_id)
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode=mode)
        assert found["code"] == "DECISION_MISSING"
        assert source(project) == before
        ready = found["details"]["decisions"]
        assert sorted(one["metric_key"] for one in ready) == sorted(METRICS)
        assert {one["choice"] for one in ready} == {"keep"}
        assert json.dumps(ready) in found["next"] and found["details"]["choices"] == ["keep", "apply", "custom"]
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode=mode, decisions=ready)

    assert [one["metric_key"] for one in facts["applied"]] == ["accuracy"]


@pytest.mark.parametrize("mode", ["smart", "full"])
@pytest.mark.parametrize(("word", "written"), [("keep", 1), ("apply", 4)])
async def test_a_standing_word_answers_what_the_decisions_do_not_name(
    connect: Any, loosened: tuple[Project, str], era: str, mode: str, word: str, written: int
) -> None:
    project, run_id = loosened
    one = {"stage_key": "toy_speed", "metric_key": "rtf_mean", "choice": "custom", "value": "0.75"}
    async with connect(project.repo_root, era) as session:
        plan_id = await planned(session, run_id)
        call = {"run_id": run_id, "plan_id": plan_id, "mode": mode}
        assert (await session.refused("apply", **call, otherwise="all"))["details"]["argument"] == "otherwise"
        _, facts = await session.call("apply", **call, otherwise=word, decisions=[one])

    assert '"rtf_mean": 0.75}' in source(project)
    assert len(facts["applied"]) == (written + 1 if word == "keep" else written)
    told = json.loads((project.run(run_id).apply_folder(plan_id) / "decision.json").read_text())
    assert told["otherwise"] == word and len(told["decisions"]) == 3


async def test_who_agrees_to_full_through_the_client_was_shown_every_value_that_loosens(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    person = Person({"mode": "full"})
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="full")

    assert len(person.messages) == 1 and len(facts["applied"]) == 4
    for key, change in (("throughput_qps", "99.0 -> 10.25"), ("latency_mean_s", "0.001 -> 0.25")):
        assert f"toy_speed/{key}: {change}, loosens" in person.messages[0]


async def test_a_persons_own_standing_word_counts_more_than_the_one_that_came_with_the_call(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    person = Person({"mode": "smart", "otherwise": "keep"})
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart", otherwise="apply")

    assert "Answer that came with the call, for every single question: apply" in person.messages[0]
    assert len(person.messages) == 1 and [one["metric_key"] for one in facts["applied"]] == ["accuracy"]


async def test_a_person_may_want_each_question_although_the_call_brought_a_standing_word(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    person = Person({"mode": "smart", "otherwise": "ask"})
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart", otherwise="apply")

    assert len(person.messages) == 4 and [one["metric_key"] for one in facts["applied"]] == ["accuracy"]


@pytest.mark.rule("APL-13", "APL-12")
async def test_everything_that_is_wrong_with_the_decisions_is_said_at_once(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    speed = {"stage_key": "toy_speed", "metric_key": "throughput_qps"}
    async with connect(project.repo_root, era) as session:
        plan_id = await planned(session, run_id)
        call = {"run_id": run_id, "plan_id": plan_id, "mode": "smart"}
        misformed = [{"choice": "loosen"}, {**speed, "choice": "keep", "why": "x"}]
        shape = await session.refused("apply", **call, decisions=misformed)
        invalid = [
            {**speed, "choice": "custom", "value": "fast"},
            {**speed, "metric_key": "latency_mean_s", "choice": "keep", "value": 3},
            {**speed, "metric_key": "nope", "choice": "keep"},
        ]
        several = await session.refused("apply", **call, decisions=invalid)

    assert set(shape["details"]["errors"]) == {
        "decisions.0.stage_key", "decisions.0.metric_key", "decisions.0.choice", "decisions.1.why",
    }  # fmt: skip
    assert "SCP-04" not in shape["rules"] and '"stage_key"' in shape["next"]
    assert several["code"] == "DECISION_INVALID" and len(several["details"]["errors"]) == 3
    for word in ("throughput_qps needs a finite number", "latency_mean_s has a value", "no metric toy_speed/nope"):
        assert word in several["message"]
    assert source(project) == before


@pytest.mark.parametrize("mode", ["smart", "full"])
async def test_a_smoke_run_writes_nothing_without_a_word_on_each_value(
    connect: Any, project: Project, era: str, mode: str
) -> None:
    """All three values tighten, so that neither mode would ask about a run of two repeats."""
    before = source(project)
    run_id = toy.finished_run(project, 1).run_id
    async with connect(project.repo_root, era) as session:
        plan_id = await planned(session, run_id)
        call = {"run_id": run_id, "plan_id": plan_id, "mode": mode}
        found = await session.refused("apply", **call)
        assert found["code"] == "DECISION_MISSING" and "smoke run" in found["message"]
        assert source(project) == before
        some = [{**one, "choice": "apply"} for one in found["details"]["decisions"][:1]]
        assert len((await session.refused("apply", **call, decisions=some))["details"]["missing"]) == 2
        rest = [{**one, "choice": "keep"} for one in found["details"]["decisions"][1:]]
        _, facts = await session.call("apply", **call, decisions=[*some, *rest])

    assert len(facts["applied"]) == 1


async def test_a_person_is_asked_about_each_value_of_a_smoke_run_in_full_too(
    connect: Any, project: Project, era: str
) -> None:
    run_id = toy.finished_run(project, 1).run_id
    person = Person({"mode": "full"}, "keep")
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="full")

    assert len(person.messages) == 4 and facts["applied"] == []
    assert all("smoke run" in message for message in person.messages[1:])


async def test_every_file_that_apply_touches_is_named_in_the_reply_and_the_pull_request(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    toy.git(project.repo_root, "add", "-A")
    async with connect(project.repo_root, era) as session:
        plan_id = await planned(session, run_id)
        plan = (await session.call("apply_plan", run_id=run_id))[1]
        text, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="full", otherwise="apply")

    touched = toy.git(project.repo_root, "diff", "--name-only").split()
    assert sorted(facts["files_changed"]) == sorted(plan["files_changed"]) == sorted(touched)
    assert touched == [".tune/models/toy/stages.yaml", toy.TEST_FILE]
    pull_request = (project.run(run_id).apply_folder(plan_id) / "pull_request.md").read_text()
    for name in (*touched, *facts["commit_files"]):
        assert name in text and f"`{name}`" in pull_request


BROKEN = '\n\ndef test_other(results):\n    raise ConnectionResetError("peer")\n'


class Witness(Person):
    """Says ``word`` to the question about failed tests."""

    def __init__(self, word: str) -> None:
        super().__init__({"mode": "smart"})
        self.word = word

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        if "no threshold is known to be the reason" in params.message:
            self.messages.append(params.message)
            return ElicitResult(action="accept", content={"choice": self.word})
        return await super().__call__(context, params)


@pytest.fixture
def broken(tmp_path: Path) -> tuple[Project, str]:
    """A toy with a test that fails for no threshold's sake."""
    project = toy.make_toy(tmp_path / "repo", test_source=toy.toy_source() + BROKEN)
    return project, toy.finished_run(project).run_id


@pytest.mark.rule("RTY-04", "SCP-06")
async def test_only_a_person_writes_thresholds_although_a_test_fails_for_another_reason(
    connect: Any, broken: tuple[Project, str], era: str
) -> None:
    project, run_id = broken
    before = source(project)
    async with connect(project.repo_root, era) as session:
        plan_id = await planned(session, run_id)
        call = {"run_id": run_id, "plan_id": plan_id, "mode": "smart"}
        found = await session.refused("apply", **call, otherwise="apply")
        assert found["code"] == "TEST_FAILED" and "test_other" in found["message"]
        assert found["details"]["failed_tests"][0]["repeats"] == [1, 2]
        assert "tune-mcp apply" in found["next"]
    async with connect(project.repo_root, era, answer=Witness("leave")) as session:
        assert (await session.refused("apply", **call))["code"] == "TEST_FAILED"
    assert source(project) == before
    person = Witness("write")
    async with connect(project.repo_root, era, answer=person) as session:
        _, facts = await session.call("apply", **call)

    assert len(facts["applied"]) == 3 and "ConnectionResetError: peer" in person.messages[-1]
    told = json.loads((project.run(run_id).apply_folder(plan_id) / "decision.json").read_text())
    assert "test_other" in told["failures_agreed"][0]


async def test_at_a_terminal_the_same_is_asked_and_enter_writes_nothing(
    broken: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run_id = broken
    report(project, run_id)
    typed: list[str] = [""]
    monkeypatch.setattr("builtins.input", lambda _="": typed.pop(0))
    monkeypatch.setattr(terminal, "at_terminal", lambda: True)
    with pytest.raises(Refusal, match=r"^TEST_FAILED"):
        terminal.apply_at_terminal(project, run_id, "smart", None, [])
    typed += ["write"]

    assert len(terminal.apply_at_terminal(project, run_id, "smart", None, []).applied) == 3
