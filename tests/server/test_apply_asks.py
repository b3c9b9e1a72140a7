"""``apply`` asks the person through the client where it can: one question each, in both eras, and loses no answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import toy
from mcp_types import ElicitResult

from tune_mcp.apply import transaction
from tune_mcp.server import forms
from tune_mcp.verbs.apply import undo
from tune_mcp.verbs.project import Project

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("warm")]
LIMIT_S = 20
METRICS = ("latency_mean_s", "rtf_mean", "throughput_qps")
KEEP, APPLY = {"choice": "keep", "value": ""}, {"choice": "apply", "value": ""}


class Person:
    """Answers the mode question with ``mode`` and each metric with its entry; None cancels, "decline" declines."""

    def __init__(self, mode: str | None = "smart", **metrics: dict[str, str] | str | None) -> None:
        self.mode = mode
        self.metrics = metrics
        self.asked: list[str] = []
        self.messages: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        self.messages.append(params.message)
        metric = next((name for name in METRICS if f"_TOY_P95[2]['{name}'] in" in params.message), None)
        self.asked.append(metric or "mode")
        answer = self.metrics[metric] if metric else self.mode
        if answer is None:
            return ElicitResult(action="cancel")
        if answer == "decline":
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content=answer if isinstance(answer, dict) else {"mode": answer})


def everything(choice: dict[str, str]) -> dict[str, Any]:
    return dict.fromkeys(METRICS, choice)


async def planned(session: Any, run_id: str) -> str:
    await session.call("report", run_id=run_id)
    return (await session.call("apply_plan", run_id=run_id))[1]["plan_id"]


def source(project: Project) -> str:
    return (project.repo_root / toy.TEST_FILE).read_text()


@pytest.mark.rule("APL-03", "APL-05", "APL-12", "ASK-12", "SCP-06")
async def test_smart_asks_for_the_mode_once_and_for_each_loosening_metric_once(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    person = Person("smart", throughput_qps=KEEP, latency_mean_s=APPLY, rtf_mean={"choice": "custom", "value": "0.75"})
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        text, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert person.asked[0] == "mode"
    assert sorted(person.asked[1:]) == sorted(METRICS)
    assert all(plan_id in message for message in person.messages)
    assert "tighten CI: 1, loosen it: 3, asked about one by one: 3" in person.messages[0]
    latency = person.messages[person.asked.index("latency_mean_s")]
    assert "observed per run: 0.125, 0.25" in latency and "present value: 0.001, worst of N: 0.25" in latency
    assert '"throughput_qps": 99.0, "latency_mean_s": 0.25, "rtf_mean": 0.75}' in source(project)
    assert "TOY_ACC_MIN = 0.625" in source(project)
    assert facts["kept"] == ["toy_speed/throughput_qps"]
    assert {one["metric_key"]: one["new"] for one in facts["applied"]} == {
        "accuracy": 0.625, "latency_mean_s": 0.25, "rtf_mean": 0.75,
    }  # fmt: skip
    assert "undo: tune-mcp apply" in text
    told = (project.run(run_id).apply_folder(plan_id) / "decision.json").read_text()
    assert "a person, through the client" in told


@pytest.mark.rule("APL-05", "APL-12")
@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_a_client_over_stdio_is_asked_the_same(
    connect: Any, loosened: tuple[Project, str], era: str, transport: str
) -> None:
    project, run_id = loosened
    person = Person("smart", **everything(KEEP))
    async with connect(project.repo_root, era, transport, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert person.asked[0] == "mode" and sorted(person.asked[1:]) == sorted(METRICS)
    assert [one["metric_key"] for one in facts["applied"]] == ["accuracy"]


@pytest.mark.rule("SCP-06", "APL-04")
@pytest.mark.parametrize("mode", ["smart", "full"])
@pytest.mark.parametrize("said", [None, "decline"])
async def test_a_person_who_declines_or_cancels_keeps_every_byte_and_hears_of_the_terminal(
    connect: Any, loosened: tuple[Project, str], era: str, said: str | None, mode: str
) -> None:
    project, run_id = loosened
    before = source(project)
    person = Person(said)
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode=mode)

    assert found["code"] == "DECLINED"
    assert f"tune-mcp apply {run_id} --repo {project.repo_root}" in found["next"]
    assert person.asked == ["mode"]
    assert source(project) == before
    assert "## Applied changes" not in project.run(run_id).report_md.read_text()


@pytest.mark.rule("APL-05", "SCP-06")
async def test_a_metric_that_the_person_does_not_answer_is_not_written_nor_is_anything_else(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    person = Person("smart", latency_mean_s=APPLY, throughput_qps="decline", rtf_mean=APPLY)
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert found["code"] == "DECISION_MISSING"
    assert {"stage_key": "toy_speed", "metric_key": "throughput_qps"} in found["details"]["missing"]
    assert "tune-mcp apply" in found["next"]
    assert source(project) == before


@pytest.mark.rule("SCP-06", "APL-04")
async def test_a_person_may_agree_to_less_than_was_proposed(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    async with connect(project.repo_root, era, answer=Person("report")) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="full")
        assert facts["mode"] == "report" and facts["applied"] == []
        assert source(project) == before
    person = Person("smart", **everything(KEEP))
    async with connect(project.repo_root, era, answer=person) as session:
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="full")

    assert facts["mode"] == "smart"
    assert len(person.asked) == 4
    assert [one["metric_key"] for one in facts["applied"]] == ["accuracy"]


@pytest.mark.rule("APL-04")
async def test_mode_report_asks_nobody_and_touches_nothing(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = toy.git(project.repo_root, "status", "--porcelain")
    person = Person()
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="report")

    assert person.asked == [] and facts["applied"] == []
    assert toy.git(project.repo_root, "status", "--porcelain") == before


async def test_full_asks_once_and_writes_all(connect: Any, loosened: tuple[Project, str], era: str) -> None:
    project, run_id = loosened
    person = Person("full")
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="full")

    assert person.asked == ["mode"]
    assert len(facts["applied"]) == 4


@pytest.mark.rule("APL-05", "APL-03")
async def test_answers_that_were_given_before_a_cancel_are_not_asked_for_again(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    first = Person("smart", **{**everything(None), "throughput_qps": APPLY})
    first.metrics = dict.fromkeys(METRICS)
    seen: list[str] = []

    async def one_then_cancel(context: Any, params: Any) -> ElicitResult:
        seen.append(params.message)
        if len(seen) == 1:
            return ElicitResult(action="accept", content={"mode": "smart"})
        if len(seen) == 2:
            return ElicitResult(action="accept", content=APPLY)
        return ElicitResult(action="cancel")

    async with connect(project.repo_root, era, answer=one_then_cancel) as session:
        plan_id = await planned(session, run_id)
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart")
    assert found["code"] == "DECISION_MISSING"
    assert len(found["details"]["missing"]) == 2
    assert len(seen) == 3, "who cancels one question is not asked the next one"
    assert source(project) == before
    rest = Person("smart", **everything(KEEP))
    async with connect(project.repo_root, era, answer=rest) as session:
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert "mode" not in rest.asked and len(rest.asked) == 2
    assert seen[1] not in rest.messages
    assert len(facts["applied"]) == 2 and len(facts["kept"]) == 2


@pytest.mark.rule("SUP-05")
@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_a_client_that_vanishes_between_two_questions_is_asked_only_the_rest(
    connect: Any, loosened: tuple[Project, str], era: str, transport: str
) -> None:
    project, run_id = loosened
    before = source(project)
    gone = anyio.Event()
    seen: list[str] = []

    async def one_then_gone(context: Any, params: Any) -> ElicitResult:
        seen.append(params.message)
        if len(seen) == 1:
            return ElicitResult(action="accept", content={"mode": "smart"})
        if len(seen) == 2:
            return ElicitResult(action="accept", content=KEEP)
        gone.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with connect(project.repo_root, era, transport, answer=one_then_gone) as session:
        plan_id = await planned(session, run_id)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: session.raw("apply", run_id=run_id, plan_id=plan_id, mode="smart"))
            await gone.wait()
            group.cancel_scope.cancel()
    assert source(project) == before
    rest = Person("smart", **everything(APPLY))
    async with connect(project.repo_root, era, transport, answer=rest) as session:
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert len(rest.asked) == 2 and "mode" not in rest.asked
    assert len(facts["applied"]) == 3 and len(facts["kept"]) == 1


@pytest.mark.rule("APL-05", "APL-12")
async def test_without_elicitation_decisions_come_as_arguments(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    async with connect(project.repo_root, era) as session:
        plan_id = await planned(session, run_id)
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart")
        assert found["code"] == "DECISION_MISSING"
        missing = found["details"]["missing"]
        assert sorted(one["metric_key"] for one in missing) == sorted(METRICS)
        assert "tune-mcp apply" in found["next"]
        some = [{**one, "choice": "keep"} for one in missing[:2]]
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart", decisions=some)
        assert found["details"]["missing"] == missing[2:]
        assert source(project) == before
        last = {**missing[2], "choice": "custom", "value": 0.3 if missing[2]["metric_key"] != "throughput_qps" else 9}
        last["value"] = {"latency_mean_s": 0.3, "rtf_mean": 0.6, "throughput_qps": 9}[last["metric_key"]]
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart", decisions=[*some, last])

    assert len(facts["applied"]) == 2 and len(facts["kept"]) == 2
    told = (project.run(run_id).apply_folder(plan_id) / "decision.json").read_text()
    assert '"decided_by": "arguments"' in told


@pytest.mark.rule("APL-05", "APL-12", "SCP-06")
async def test_the_persons_word_wins_over_a_decision_that_came_as_an_argument(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    claimed = [{"stage_key": "toy_speed", "metric_key": name, "choice": "apply"} for name in METRICS]
    person = Person("smart", **everything(KEEP))
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart", decisions=claimed)

    assert [one["metric_key"] for one in facts["applied"]] == ["accuracy"]
    assert '"throughput_qps": 99.0, "latency_mean_s": 0.001, "rtf_mean": 0.002}' in source(project)


@pytest.mark.rule("APL-05", "APL-13", "SCP-06")
async def test_the_question_for_the_mode_tells_every_value_that_the_agent_brought_along(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    claimed = [{"stage_key": "toy_speed", "metric_key": "latency_mean_s", "choice": "custom", "value": "1000.0"}]
    person = Person("decline")
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="full", decisions=claimed)

    assert "toy_speed/latency_mean_s = 1000.0" in person.messages[0]


@pytest.mark.rule("APL-05", "SCP-06")
async def test_after_an_undo_the_person_is_asked_anew(connect: Any, loosened: tuple[Project, str], era: str) -> None:
    project, run_id = loosened
    before = source(project)
    async with connect(project.repo_root, era, answer=Person("smart", **everything(APPLY))) as session:
        plan_id = await planned(session, run_id)
        await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")
    undo(project, run_id, plan_id)
    assert source(project) == before
    person = Person("smart", **everything(KEEP))
    async with connect(project.repo_root, era, answer=person) as session:
        assert await planned(session, run_id) == plan_id
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert len(person.asked) == 4
    assert [one["metric_key"] for one in facts["applied"]] == ["accuracy"]


@pytest.mark.rule("SCP-06", "APL-04")
async def test_answers_that_nobody_gave_count_for_nothing(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    """A file written by hand, and one that was once given and then taken back with an undo."""
    project, run_id = loosened
    before = source(project)
    async with connect(project.repo_root, era, answer=Person("full")) as session:
        plan_id = await planned(session, run_id)
        given = project.run(run_id).apply_folder(plan_id) / "answers.json"
        await session.call("apply", run_id=run_id, plan_id=plan_id, mode="full")
    once = given.read_bytes()
    undo(project, run_id, plan_id)
    assert source(project) == before

    for forged in (once, once.replace(b"full", b"smart")):
        given.write_bytes(forged)
        person = Person("decline")
        async with connect(project.repo_root, era, answer=person) as session:
            assert await planned(session, run_id) == plan_id
            found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="full")
        assert (found["code"], person.asked, source(project)) == ("DECLINED", ["mode"], before)


@pytest.mark.rule("APL-13")
async def test_a_custom_answer_that_cannot_stand_writes_nothing_and_is_asked_for_again(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    person = Person("smart", **everything(KEEP))
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        for value in ("fast", "", "nan", "-inf", "1e999", "0.0001", "0.25s", "0x1p3"):
            person.metrics["latency_mean_s"] = {"choice": "custom", "value": value}
            found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart")
            assert found["code"] == "DECISION_INVALID"
            assert found["details"] == {"stage_key": "toy_speed", "metric_key": "latency_mean_s"}
            assert source(project) == before
        person.metrics["latency_mean_s"] = {"choice": "custom", "value": "0.5"}
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert person.asked.count("latency_mean_s") == 9
    assert person.asked.count("rtf_mean") == person.asked.count("mode") == 1
    assert {one["metric_key"]: one["new"] for one in facts["applied"]}["latency_mean_s"] == 0.5


@pytest.mark.rule("APL-13")
async def test_an_answer_that_does_not_fit_the_form_is_refused_like_everything_else(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    for content in ({"mode": "everything"}, {"mode": 7}, None):

        async def answer(context: Any, params: Any, content: Any = content) -> ElicitResult:
            return ElicitResult(action="accept", content=content)

        async with connect(project.repo_root, era, answer=answer) as session:
            plan_id = await planned(session, run_id)
            found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="full")
            assert found["code"] == "DECISION_INVALID"
            assert "tune-mcp apply" in found["next"]
    assert source(project) == before


async def test_a_bug_behind_a_question_is_told_as_a_bug(
    connect: Any, loosened: tuple[Project, str], era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run_id = loosened

    def broken(*_: object) -> str:
        raise ZeroDivisionError("secret detail")

    async with connect(project.repo_root, era, answer=Person("full")) as session:
        plan_id = await planned(session, run_id)
        monkeypatch.setattr("tune_mcp.verbs.questions.summary", broken)
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="full")

    assert found["code"] == "INTERNAL"
    assert "secret detail" not in str(found)


@pytest.mark.rule("APL-14", "APL-26")
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda project: toy.commit(project), "COMMIT_MOVED"),
        (lambda project: (project.repo_root / toy.TEST_FILE).write_text(source(project) + "\n"), "THRESHOLD_CHANGED"),
    ],
)
async def test_a_tree_that_moves_while_the_person_thinks_is_never_written(
    connect: Any, loosened: tuple[Project, str], era: str, spoil: Callable[[Project], object], code: str
) -> None:
    project, run_id = loosened

    async def answer(context: Any, params: Any) -> ElicitResult:
        spoil(project)
        return ElicitResult(action="accept", content={"mode": "full"})

    async with connect(project.repo_root, era, answer=answer) as session:
        plan_id = await planned(session, run_id)
        found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="full")

    assert found["code"] == code
    assert "TOY_ACC_MIN = 0.5 " in source(project)


@pytest.mark.rule("APL-02", "APL-03", "ASK-11")
async def test_nobody_is_asked_about_a_plan_that_apply_would_refuse(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    person = Person()
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = (await session.call("apply_plan", run_id=run_id))[1]["plan_id"]
        assert (await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="full"))["code"] == "NOT_REPORTED"
        await session.call("report", run_id=run_id)
        assert (await session.refused("apply", run_id=run_id, plan_id="0" * 16, mode="full"))["code"] == "STALE_PLAN"
        run = project.run(run_id)
        finished = run.supervisor.read_text()
        with toy.at_work(run):
            found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart")
        assert found["code"] == "RUN_ACTIVE"
        run.supervisor.write_text(finished)
        toy.rewrite_observation(run, "toy_speed", 1, lambda content: content["metrics"].update(rtf_mean=None))
        assert (await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart"))["code"] == "NOT_STRICT"

    assert person.asked == []


@pytest.mark.rule("ASK-11", "APL-24")
async def test_nobody_is_asked_while_another_run_of_the_repository_works(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    before = source(project)
    person = Person("full")
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        other = toy.start_and_hold(project)
        for mode in ("smart", "full"):
            found = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode=mode)
            assert found["code"] == "RUN_ACTIVE" and other.run_id in found["message"]
        await session.call("stop_run", run_id=other.run_id, reason="the test is over")

    assert (person.asked, source(project)) == ([], before)


async def test_an_apply_that_is_cancelled_while_it_writes_is_finished(
    connect: Any, loosened: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run_id = loosened
    writing, go_on = threading.Event(), threading.Event()
    original = transaction.commit

    def slow(*arguments: Any, **named: Any) -> Any:
        writing.set()
        assert go_on.wait(LIMIT_S)
        return original(*arguments, **named)

    monkeypatch.setattr(transaction, "commit", slow)
    async with connect(project.repo_root) as session:
        plan_id = await planned(session, run_id)
        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: session.raw("apply", run_id=run_id, plan_id=plan_id, mode="full", otherwise="apply")
            )
            assert await anyio.to_thread.run_sync(writing.wait, LIMIT_S)
            group.cancel_scope.cancel()
            go_on.set()
        report = project.run(run_id).report_md
        with anyio.fail_after(LIMIT_S):
            while "## Applied changes" not in report.read_text():
                await anyio.lowlevel.checkpoint()
        _, facts = await session.call("apply_plan", run_id=run_id)

    assert {row["direction"] for row in facts["rows"]} == {"equal"}


@pytest.fixture
def many(tmp_path: Path) -> tuple[Project, str]:
    """The finished run of a toy with five test files, which loosens ten metrics."""
    source = toy.toy_source().replace(
        '2: {"throughput_qps": 1.0, "latency_mean_s": 9.0},', '2: {"throughput_qps": 99.0, "latency_mean_s": 0.001},'
    )
    names = [f"test_toy{number:02d}_ci.py" for number in range(5)]
    sources = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    config = {**toy.CONFIG, "test_globs": ["tests/test_toy??_ci.py"], "gpus_per_test": dict.fromkeys(names, 0)}
    config["metric_sources"] = dict.fromkeys(names, sources)
    project = toy.make_toy(tmp_path / "many", config=config, files={f"tests/{name}": source for name in names})
    return project, toy.finished_run(project).run_id


class Filled:
    """Agrees to smart, and fills in each form: keep, but for what ``own`` says of the form of that number."""

    def __init__(self, **own: dict[str, str]) -> None:
        self.own = own
        self.forms: list[dict[str, Any]] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        if "write thresholds into" in params.message:
            return ElicitResult(action="accept", content={"mode": "smart"})
        fields = params.requested_schema["properties"]
        self.forms.append(fields)
        kept = {name: one["default"] for name, one in fields.items()}
        return ElicitResult(action="accept", content=kept | self.own.get(f"form{len(self.forms)}", {}))


@pytest.mark.rule("APL-05", "APL-13")
async def test_questions_for_which_a_client_has_no_rounds_left_share_forms(
    connect: Any, many: tuple[Project, str], era: str
) -> None:
    """Clients stop after ten rounds; ten questions take five forms beside the one for the mode."""
    project, run_id = many
    person = Filled(form1={"choice_1": "custom", "choice_2": "apply", "value": "0.5 2=0.5"})
    async with connect(project.repo_root, era, answer=person) as session:
        plan_id = await planned(session, run_id)
        unclear = await session.refused("apply", run_id=run_id, plan_id=plan_id, mode="smart")
        assert (unclear["code"], len(person.forms)) == ("DECISION_INVALID", 5)
        person.own = {"form6": {"choice_1": "custom", "choice_2": "apply", "value": "1=0.5"}}
        _, facts = await session.call("apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert [len(fields) for fields in person.forms] == [3] * 6, "only the form that was not clear is asked again"
    one, two = (person.forms[0][f"choice_{number}"]["title"].partition(": ")[2] for number in (1, 2))
    written = {f"{found['stage_key']}/{found['metric_key']}": found["new"] for found in facts["applied"]}
    assert written[one] == 0.5 and two in written
    assert len(facts["applied"]) == 5 + 2 and len(facts["kept"]) == 8


@pytest.mark.rule("APL-13")
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"choice_1": "custom", "choice_3": "custom", "value": "3=1.5, 1 = 0.75"}, ["0.75", "keep", "1.5"]),
        ({"choice_2": "apply"}, ["keep", "apply", "keep"]),
        ({"choice_1": "custom", "value": "0.5"}, ["?", "keep", "keep"]),
        ({"choice_1": "custom", "value": "2=0.5"}, ["?", "?", "keep"]),
        ({"choice_2": "keep", "value": "2=0.5"}, ["keep", "?", "keep"]),
        ({"choice_1": "custom", "choice_2": "custom", "value": "1=0.5"}, ["?", "?", "keep"]),
        ({"choice_1": "custom", "value": "1=0.5 9=0.5"}, ["?", "keep", "keep"]),
        ({"choice_1": "custom", "value": "1=0.5 1=0.75"}, ["?", "keep", "keep"]),
        ({"value": "0.5"}, ["?", "keep", "keep"]),
    ],
)
def test_a_number_goes_to_the_metric_that_the_person_named_or_nowhere(
    answers: dict[str, str], expected: list[str]
) -> None:
    rows: Any = [SimpleNamespace(stage_key="s", metric_key=name, key=("s", name)) for name in "abc"]

    found = forms.decisions_of(forms.form_for(rows)(**answers))

    assert [one.metric_key for one in found] == ["a", "b", "c"]
    values = [str(one.value) if one.choice == "custom" else one.choice for one in found]
    assert ["?" if value.endswith("(of which question?)") else value for value in values] == expected
