"""Whatever does not fit gets one refusal, in its fixed form and in both eras; a bug looks different."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import toy

from tune_mcp.verbs.project import Project

pytestmark = pytest.mark.anyio
NOBODY = "20200101T000000Z_nobody"

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("catalog", {"model": "toys"}, "UNKNOWN_MODEL"),
    ("catalog", {"model": "../../etc"}, "UNKNOWN_MODEL"),
    ("catalog", {"model": 7}, "INVALID_ARGUMENT"),
    ("discover", {}, "INVALID_ARGUMENT"),
    ("discover", {"model": "nope"}, "UNKNOWN_MODEL"),
    ("discover", {"model": "toy", "write": "perhaps"}, "INVALID_ARGUMENT"),
    ("precheck", {"model": "toy", "stages": ["toy_speeed"]}, "UNKNOWN_STAGE"),
    ("precheck", {"model": "toy", "stages": ["@nothing"]}, "UNKNOWN_STAGE"),
    ("precheck", {"model": "toy", "stages": []}, "UNKNOWN_STAGE"),
    ("precheck", {"model": "toy", "stages": ""}, "UNKNOWN_STAGE"),
    ("precheck", {"model": "toy", "stages": {"all": True}}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "repeats": 0}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "repeats": -1}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "repeats": 101}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "repeats": 2.5}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "repeats": True}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "skip_precheck": True}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "label": "../../etc"}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "label": "x" * 61}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "label": "-x"}, "INVALID_ARGUMENT"),
    ("start_run", {"model": "toy", "stages": ["toy_speed", "nope"]}, "UNKNOWN_STAGE"),
    ("resume_run", {"run_id": NOBODY}, "UNKNOWN_RUN"),
    ("resume_run", {"run_id": NOBODY, "purge": [{"stage": "toy_speed"}]}, "INVALID_ARGUMENT"),
    (
        "resume_run",
        {"run_id": NOBODY, "purge": [{"stage": "toy_speed", "repeat": True, "reason": "x"}]},
        "INVALID_ARGUMENT",
    ),
    ("stop_run", {"run_id": NOBODY}, "INVALID_ARGUMENT"),
    ("stop_run", {"run_id": NOBODY, "reason": "over"}, "UNKNOWN_RUN"),
    ("stop_run", {"run_id": NOBODY, "reason": " "}, "INVALID_ARGUMENT"),
    ("status", {"run_id": "../../etc/passwd"}, "UNKNOWN_RUN"),
    ("status", {"wait_s": 121}, "WAIT_TOO_LONG"),
    ("strict_audit", {"run_id": ""}, "UNKNOWN_RUN"),
    ("strict_audit", {"run_id": None}, "INVALID_ARGUMENT"),
    ("status", {"run_id": NOBODY, "wait_s": 50.5}, "WAIT_TOO_LONG"),
    ("status", {"run_id": NOBODY, "wait_s": 86400}, "WAIT_TOO_LONG"),
    ("status", {"run_id": NOBODY, "wait_s": -1}, "INVALID_ARGUMENT"),
    ("status", {"run_id": NOBODY, "wait_s": "soon"}, "INVALID_ARGUMENT"),
    ("status", {"run_id": NOBODY, "wait_s": True}, "INVALID_ARGUMENT"),
    ("strict_audit", {"run_id": "/etc/passwd"}, "UNKNOWN_RUN"),
    ("tail_pytest", {"run_id": NOBODY, "lines": "all"}, "INVALID_ARGUMENT"),
    ("tail_pytest", {"run_id": NOBODY, "grep": "("}, "INVALID_ARGUMENT"),
    ("tail_pytest", {"run_id": NOBODY, "repeat": -1}, "INVALID_ARGUMENT"),
    ("report", {"run_id": NOBODY}, "UNKNOWN_RUN"),
    ("apply_plan", {"run_id": NOBODY}, "UNKNOWN_RUN"),
    ("apply", {"run_id": NOBODY, "plan_id": "x", "mode": "full"}, "UNKNOWN_RUN"),
    ("apply", {"run_id": NOBODY, "plan_id": "x", "mode": "yolo"}, "INVALID_ARGUMENT"),
    ("apply", {"run_id": NOBODY, "mode": "full"}, "INVALID_ARGUMENT"),
    (
        "apply",
        {"run_id": NOBODY, "plan_id": "x", "mode": "smart", "decisions": [{"choice": "keep"}]},
        "INVALID_ARGUMENT",
    ),
    (
        "apply",
        {
            "run_id": NOBODY,
            "plan_id": "x",
            "mode": "smart",
            "decisions": [{"stage_key": "a", "metric_key": "b", "choice": "loosen"}],
        },
        "INVALID_ARGUMENT",
    ),
]


@pytest.mark.rule("PRE-07", "SCP-04", "POL-02", "SES-06", "STG-01", "RTY-07", "SES-02")
async def test_bad_input_is_refused_with_its_code_and_leaves_nothing_behind(connect: Any, repo: Path, era: str) -> None:
    before = toy.git(repo, "status", "--porcelain", "--ignored")
    async with connect(repo, era) as session:
        schemas = {tool.name: tool.output_schema for tool in (await session.client.list_tools()).tools}
        for tool, arguments, code in BAD:
            found = await session.refused(tool, **arguments)
            assert found["code"] == code, (tool, arguments, found)
            assert found["message"] and found["next"]
            assert code != "INVALID_ARGUMENT" or "SCP-04" not in found["rules"], "that rule is about pytest runs"
            assert "pydantic" not in json.dumps(found)
            jsonschema.validate(found, schemas[tool])
    assert toy.git(repo, "status", "--porcelain", "--ignored") == before
    assert not (repo / ".tune-runs").exists()


async def test_an_unknown_argument_is_refused_with_the_near_name_instead_of_running_with_the_default(
    connect: Any, repo: Path, era: str
) -> None:
    async with connect(repo, era) as session:
        found = await session.refused("start_run", model="toy", repeat=1)
        other = await session.refused("status", colour="red")

    assert found["code"] == "INVALID_ARGUMENT"
    assert "repeat is not known (near: repeats)" in found["message"]
    assert found["details"]["known"] == ["model", "stages", "repeats", "label", "lanes"]
    assert "near" not in other["message"]
    assert not (repo / ".tune-runs").exists()


async def test_what_the_server_injects_cannot_be_passed_in(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        for name in ("how", "last", "ctx"):
            agreed = {"action": "accept", "data": {"mode": "full"}}
            found = await session.refused("apply", run_id=NOBODY, plan_id="x", mode="full", **{name: agreed})
            assert found["code"] == "INVALID_ARGUMENT"
            assert found["details"]["argument"] == name


async def test_a_wrong_type_names_the_argument_and_what_was_expected(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        found = await session.refused("start_run", model="toy", repeats="many")

    assert found["details"]["tool"] == "start_run" and found["details"]["argument"] == "repeats"
    assert "repeats input should be a valid integer" in found["message"]


async def test_every_fault_of_a_call_is_named_at_once_before_any_state_is_read(
    connect: Any, repo: Path, era: str
) -> None:
    (repo / toy.TEST_FILE).write_text("# another file than discover saw\n")
    async with connect(repo, era) as session:
        one = await session.refused("start_run", model="toy", label="../x")
        more = await session.refused("start_run", model="toy", label="../x", repeats=0, stages=7, lanez=1)
        decisions = await session.refused(
            "apply",
            run_id=NOBODY,
            mode="yolo",
            decisions=[{"choice": "loosen"}, {"stage_key": "a", "metric_key": "b", "choice": "keep", "why": "x"}],
        )

    assert (one["code"], set(one["details"]["errors"])) == ("INVALID_ARGUMENT", {"label"})
    assert set(more["details"]["errors"]) == {"label", "repeats", "stages", "lanez"}
    assert set(decisions["details"]["errors"]) == {
        "plan_id", "mode", "decisions.0.stage_key", "decisions.0.metric_key", "decisions.0.choice", "decisions.1.why",
    }  # fmt: skip
    for name in decisions["details"]["errors"]:
        assert name in decisions["message"]


async def test_null_for_an_optional_argument_is_its_default(connect: Any, project: Project, era: str) -> None:
    run_id = toy.finished_run(project).run_id
    async with connect(project.repo_root, era) as session:
        assert await session.call("catalog", model=None) == await session.call("catalog")
        _, checked = await session.call("precheck", model="toy", stages=None)
        assert checked["stages"] == list(toy.STAGES)
        _, runs = await session.call("status", run_id=None, wait_s=None)
        assert [run["run_id"] for run in runs["runs"]] == [run_id]
        nothing = dict.fromkeys(("lines", "test", "repeat", "grep", "cursor"))
        assert await session.call("tail_pytest", run_id=run_id, **nothing) == await session.call(
            "tail_pytest", run_id=run_id
        )
        await session.call("report", run_id=run_id)
        _, plan = await session.call("apply_plan", run_id=run_id)
        _, applied = await session.call(
            "apply", run_id=run_id, plan_id=plan["plan_id"], mode="report", decisions=None, otherwise=None
        )
        assert applied["applied"] == []
        with toy.supervised_here():
            _, run = await session.call("start_run", model="toy", stages=None, repeats=None, label=None)
            assert (run["repeats"], run["stages"]) == (5, list(toy.STAGES))
            _, more = await session.call("resume_run", run_id=run["run_id"], purge=None)
            assert more["run_id"] == run["run_id"]


async def test_stages_may_come_as_a_list_as_json_text_or_as_words_with_commas(connect: Any, repo: Path) -> None:
    async with connect(repo) as session:
        for stages in (["toy_speed", "toy_accuracy"], '["toy_speed","toy_accuracy"]', "toy_speed,toy_accuracy", "ALL"):
            _, facts = await session.call("precheck", model="toy", stages=stages)
            assert facts["stages"] == ["toy_accuracy", "toy_speed"]


async def test_an_unknown_tool_is_an_error_that_names_it(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        result = await session.raw("start_runs", model="toy")

    assert result.is_error
    assert "start_runs" in result.content[0].text


@pytest.mark.rule("SCP-04")
async def test_a_bug_gets_a_short_id_while_its_traceback_goes_to_the_log(
    connect: Any, repo: Path, era: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    for verb in (
        "strict_audit.strict_audit", "status.list_runs", "discover.discover", "report.report", "apply.apply",
    ):  # fmt: skip
        monkeypatch.setattr(f"tune_mcp.verbs.{verb}", broken)
    async with connect(repo, era) as session:
        schemas = {tool.name: tool.output_schema for tool in (await session.client.list_tools()).tools}
        for tool, arguments in (
            ("strict_audit", {"run_id": NOBODY}),
            ("status", {}),
            ("discover", {"model": "toy"}),
            ("report", {"run_id": NOBODY}),
            ("apply", {"run_id": NOBODY, "plan_id": "x", "mode": "report"}),
        ):
            caplog.clear()
            found = await session.refused(tool, **arguments)
            assert found["code"] == "INTERNAL"
            assert "secret detail" not in json.dumps(found)
            assert len(found["details"]["id"]) == 8
            assert f"internal error {found['details']['id']}" in caplog.text
            assert "Traceback" in caplog.text
            assert "ZeroDivisionError: secret detail" in caplog.text
            jsonschema.validate(found, schemas[tool])


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_refusals_over_stdio_read_the_same(connect: Any, repo: Path, era: str, transport: str) -> None:
    async with connect(repo, era, transport) as session:
        assert (await session.refused("strict_audit", run_id=NOBODY))["code"] == "UNKNOWN_RUN"
        assert (await session.refused("status", run_id=NOBODY, wait_s=51))["code"] == "WAIT_TOO_LONG"
        assert (await session.refused("catalog", modell="toy"))["details"]["argument"] == "modell"
        assert (await session.refused("start_run", model="toy", repeats=[]))["code"] == "INVALID_ARGUMENT"


@pytest.mark.rule("SCP-04")
async def test_every_answer_fits_its_published_schema_and_says_what_is_next(
    connect: Any, project: Project, era: str
) -> None:
    run_id = toy.finished_run(project).run_id
    async with connect(project.repo_root, era) as session:
        schemas = {tool.name: tool.output_schema for tool in (await session.client.list_tools()).tools}
        seen: set[str] = set()

        async def check(tool: str, **arguments: Any) -> dict[str, Any]:
            text, facts = await session.call(tool, **arguments)
            jsonschema.validate(facts, schemas[tool])
            unknown = set(facts) - set(schemas[tool]["properties"])
            assert not unknown, f"{tool} answers {unknown}, which its schema does not tell"
            assert facts["next"]
            assert tool == "strict_audit" or text.endswith(f"Next: {facts['next']}")
            seen.add(tool)
            return facts

        await check("catalog")
        await check("catalog", model="toy")
        await check("discover", model="toy", write=False)
        await check("precheck", model="toy")
        with toy.supervised_here():
            run = await check("start_run", model="toy", repeats=2)
            (project.run(run["run_id"]).observation("toy_speed", 2)).unlink()
            await check("resume_run", run_id=run["run_id"])
        await check("status")
        await check("status", run_id=run_id)
        await check("strict_audit", run_id=run_id)
        await check("tail_pytest", run_id=run_id)
        await check("stop_run", run_id=run_id, reason="over already")
        await check("report", run_id=run_id)
        plan = await check("apply_plan", run_id=run_id)
        await check("apply", run_id=run_id, plan_id=plan["plan_id"], mode="report")
    assert set(schemas) == seen


async def test_a_catalogue_of_another_repository_hears_that_its_test_does_not_exist_here(
    connect: Any, repo: Path, era: str
) -> None:
    (repo / toy.TEST_FILE).unlink()
    async with connect(repo, era) as session:
        found = await session.refused("start_run", model="toy")
        _, checked = await session.call("precheck", model="toy")

    assert found["code"] == "STAGES_STALE"
    (stale,) = [check["detail"] for check in checked["checks"] if check["id"] == "stages.fresh"]
    for said in (found["message"], stale):
        assert f"names {toy.TEST_FILE}, which does not exist here" in said and "older" not in said
