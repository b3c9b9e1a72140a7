"""The whole flow as clients see it: over stdio and in memory, in both protocol eras, with and without a person."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
import sample_project as toy
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from tune_mcp.server.context import server_context
from tune_mcp.verbs import resume_run
from tune_mcp.verbs.project import Options

pytestmark = pytest.mark.anyio
Answer = Callable[[ClientRequestContext, ElicitRequestParams], Awaitable[ElicitResult]]
ERAS = ("auto", "legacy")
ORDER = [
    "catalog", "discover", "precheck", "start_run", "resume_run", "stop_run",
    "status", "strict_audit", "tail_pytest", "report", "apply_plan", "apply",
]  # fmt: skip


@asynccontextmanager
async def stdio(repo: Path, era: str, answer: Answer | None = None) -> AsyncIterator[Client]:
    import os

    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tune_mcp", "serve", "--repo", str(repo)],
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH", "TUNE_LOCK_DIR") if name in os.environ},
    )
    with anyio.fail_after(120):
        async with Client(stdio_client(parameters), mode=era, elicitation_callback=answer) as client:
            yield client


@asynccontextmanager
async def memory(
    repo: Path, era: str, monkeypatch: pytest.MonkeyPatch, answer: Answer | None = None
) -> AsyncIterator[Client]:
    from tune_mcp.server.build import build

    monkeypatch.setattr(server_context, "options", Options(repo=repo))
    with anyio.fail_after(120):
        async with Client(build(), mode=era, elicitation_callback=answer) as client:
            yield client


async def call(client: Client, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return text_of(result), result.structured_content or {}


def text_of(result: CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, TextContent)
    return block.text


async def refusal(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    found = result.structured_content or {}
    text = text_of(result)
    assert text == f"{found['code']} [{found['rules'][0]}]: {found['message']}. Next: {found['next']}."
    return found


async def to_rest(client: Client, run_id: str) -> dict[str, Any]:
    for _ in range(60):
        _, facts = await call(client, "status", run_id=run_id, wait_s=5)
        if facts["terminal"]:
            return facts
    raise AssertionError(facts)


@pytest.mark.rule("SCP-05", "STP-01", "ASK-10", "STR-13", "STR-28")
@pytest.mark.parametrize("era", ERAS)
async def test_the_whole_flow_over_stdio_changes_only_the_thresholds(tmp_path: Path, era: str) -> None:
    repo = toy.make(tmp_path / "repo").repo_root
    async with stdio(repo, era) as client:
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == ORDER
        await call(client, "catalog", model="toy")
        _, found = await call(client, "discover", model="toy")
        assert found["written"] is False
        _, checked = await call(client, "precheck", model="toy")
        assert checked["ok"], checked
        head = toy.git(repo, "rev-parse", "HEAD")
        text, run = await call(client, "start_run", model="toy", repeats=2, stages=["toy"])
        run_id = run["run_id"]
        plan_line = f"Running toy: {','.join(run['stages'])}, 2 repeats on commit {head}, run-dir {run['run_dir']}"
        assert text.startswith(plan_line)
        facts = await to_rest(client, run_id)
        assert facts["state"] == "finished", facts
        audit, _ = await call(client, "strict_audit", run_id=run_id)
        assert audit.splitlines() == [
            f"calibration_git_sha: {head}",
            "GIT PROVENANCE: ok",
            "toy_accuracy: ✓✓ (2/2 strict, expected=4)",
            "toy_wer: ✓✓ (2/2 strict, expected=4)",
            "toy_speed: ✓✓ (2/2 strict, expected=4)",
            "STRICT READY: 3/3 stages (2 repeats each)",
            "STRICT + GIT: READY",
        ]
        page, tail = await call(client, "tail_pytest", run_id=run_id, lines=3)
        assert "passed" in page and tail["cursor"]
        await call(client, "report", run_id=run_id)
        _, plan = await call(client, "apply_plan", run_id=run_id)
        await call(client, "apply", run_id=run_id, plan_id=plan["plan_id"], mode="full", otherwise="apply")
        _, again = await call(client, "apply_plan", run_id=run_id)
        assert {row["direction"] for row in again["rows"]} == {"equal"}
        stages = (await call(client, "catalog", model="toy"))[1]["stages"]
        assert [stage["stale"] for stage in stages] == [False, False, False]
    changed = toy.git(repo, "diff", "--name-only").splitlines()
    assert changed == [".tune/models/toy/stages.yaml", "tests/test_toy_ci.py"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> toy.Calibrated:
    return toy.Calibrated.once(tmp_path_factory)


@pytest.fixture
def finished(measured: toy.Calibrated, tmp_path: Path) -> tuple[Path, str]:
    project, run = measured.copy(tmp_path / "repo")
    return project.repo_root, run.run_id


async def planned(client: Client, run_id: str) -> str:
    await call(client, "report", run_id=run_id)
    return (await call(client, "apply_plan", run_id=run_id))[1]["plan_id"]


@pytest.mark.rule("APL-05", "APL-12", "SCP-06", "ASK-12")
@pytest.mark.parametrize("era", ERAS)
async def test_a_person_who_accepts_is_asked_once_for_the_mode_and_once_for_each_loosening_metric(
    finished: tuple[Path, str], era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, run_id = finished
    asked: list[str] = []

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        if len(asked) == 1:
            return ElicitResult(action="accept", content={"mode": "smart"})
        return ElicitResult(action="accept", content={"choice": "custom", "value": "0.3"})

    async with memory(repo, era, monkeypatch, answer) as client:
        plan_id = await planned(client, run_id)
        text, facts = await call(client, "apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert len(asked) == 2, asked
    assert plan_id in asked[0] and "_TOY_P95[2]['latency_mean_s']" in asked[1]
    assert "0.251, 0.252" in asked[1]
    assert len(facts["applied"]) == 4
    assert '"latency_mean_s": 0.3,' in (repo / "tests/test_toy_ci.py").read_text()
    assert "undo: tune-mcp apply" in text


@pytest.mark.rule("SCP-06", "APL-04")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_person_who_declines_keeps_every_file_and_is_told_the_terminal_way(
    finished: tuple[Path, str], era: str, action: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, run_id = finished
    before = (repo / "tests/test_toy_ci.py").read_bytes()

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action=action)

    async with memory(repo, era, monkeypatch, answer) as client:
        plan_id = await planned(client, run_id)
        found = await refusal(client, "apply", run_id=run_id, plan_id=plan_id, mode="full")

    assert found["code"] == "DECLINED"
    assert f"tune-mcp apply {run_id}" in found["next"]
    assert (repo / "tests/test_toy_ci.py").read_bytes() == before


@pytest.mark.rule("APL-05", "APL-12")
@pytest.mark.parametrize("era", ERAS)
async def test_without_elicitation_the_users_decisions_come_as_arguments(
    finished: tuple[Path, str], era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, run_id = finished
    async with memory(repo, era, monkeypatch) as client:
        plan_id = await planned(client, run_id)
        found = await refusal(client, "apply", run_id=run_id, plan_id=plan_id, mode="smart")
        assert found["code"] == "DECISION_MISSING"
        assert found["details"]["missing"] == [{"stage_key": "toy_speed", "metric_key": "latency_mean_s"}]
        keep = {**found["details"]["missing"][0], "choice": "keep"}
        _, facts = await call(client, "apply", run_id=run_id, plan_id=plan_id, mode="smart", decisions=[keep])

    assert [one["metric_key"] for one in facts["applied"]] == ["accuracy", "corpus_wer", "throughput_qps"]
    assert facts["kept"] == ["toy_speed/latency_mean_s"]


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_once_given_is_not_asked_for_again(
    finished: tuple[Path, str], era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, run_id = finished
    path = repo / "tests/test_toy_ci.py"
    before = path.read_bytes()
    asked: list[str] = []

    async def only_mode(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        if len(asked) == 1:
            return ElicitResult(action="accept", content={"mode": "smart"})
        return ElicitResult(action="cancel")

    async def only_metric(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"choice": "apply", "value": ""})

    async with memory(repo, era, monkeypatch, only_mode) as client:
        plan_id = await planned(client, run_id)
        await refusal(client, "apply", run_id=run_id, plan_id=plan_id, mode="smart")
    assert path.read_bytes() == before
    async with memory(repo, era, monkeypatch, only_metric) as client:
        _, facts = await call(client, "apply", run_id=run_id, plan_id=plan_id, mode="smart")

    assert len(asked) == 3
    assert len(facts["applied"]) == 4


@pytest.mark.rule("SCP-04", "POL-02", "SES-06", "STG-01", "RTY-07")
@pytest.mark.parametrize("era", ERAS)
async def test_bad_input_of_any_kind_gets_one_clear_refusal(
    tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = toy.make(tmp_path / "repo").repo_root
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("catalog", {"model": "toys"}, "UNKNOWN_MODEL"),
        ("catalog", {"modell": "toy"}, "INVALID_ARGUMENT"),
        ("precheck", {"model": "toy", "stages": ["toy_speeed"]}, "UNKNOWN_STAGE"),
        ("precheck", {"model": "toy", "stages": []}, "UNKNOWN_STAGE"),
        ("start_run", {"model": "toy", "repeats": 0}, "INVALID_ARGUMENT"),
        ("start_run", {"model": "toy", "repeats": "many"}, "INVALID_ARGUMENT"),
        ("start_run", {"model": "toy", "label": "../../etc"}, "INVALID_ARGUMENT"),
        ("start_run", {}, "INVALID_ARGUMENT"),
        ("status", {"run_id": "../../etc/passwd"}, "UNKNOWN_RUN"),
        ("status", {"run_id": "20200101T000000Z_none", "wait_s": 51}, "WAIT_TOO_LONG"),
        ("strict_audit", {"run_id": "nope"}, "UNKNOWN_RUN"),
        ("apply", {"run_id": "nope", "plan_id": "x", "mode": "full"}, "UNKNOWN_RUN"),
    ]
    async with memory(repo, era, monkeypatch) as client:
        for tool, arguments, code in cases:
            found = await refusal(client, tool, **arguments)
            assert found["code"] == code, (tool, arguments, found)
    assert not (repo / ".tune-runs").exists()


@pytest.mark.parametrize("era", ERAS)
async def test_answers_and_refusals_fit_the_published_schema(
    finished: tuple[Path, str], era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, run_id = finished
    async with memory(repo, era, monkeypatch) as client:
        schemas = {tool.name: tool.output_schema or {} for tool in (await client.list_tools()).tools}
        plan_id = await planned(client, run_id)
        for tool, arguments in (
            ("catalog", {"model": "toy"}),
            ("discover", {"model": "toy", "write": False}),
            ("precheck", {"model": "toy"}),
            ("status", {}),
            ("status", {"run_id": run_id}),
            ("strict_audit", {"run_id": run_id}),
            ("tail_pytest", {"run_id": run_id}),
            ("report", {"run_id": run_id}),
            ("apply_plan", {"run_id": run_id}),
            ("stop_run", {"run_id": run_id, "reason": "over"}),
            ("apply", {"run_id": run_id, "plan_id": plan_id, "mode": "report"}),
            ("apply", {"run_id": run_id, "plan_id": "0" * 16, "mode": "full"}),
            ("strict_audit", {"run_id": "nope"}),
        ):
            result = await client.call_tool(tool, arguments)
            jsonschema.validate(result.structured_content, schemas[tool])
            assert len(text_of(result)) <= 8000
            assert (result.structured_content or {}).get("next")


async def test_every_tool_sets_every_hint_and_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = toy.make(tmp_path / "repo").repo_root
    async with memory(repo, "auto", monkeypatch) as client:
        tools = (await client.list_tools()).tools
        for tool in tools:
            hints = tool.annotations
            assert hints is not None
            given = (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint)
            assert None not in given, tool.name
            assert len(tool.description or "") < 2000
            assert len(f"mcp__plugin_tune-mcp_tune__{tool.name}") <= 60
        assert len(client.instructions or "") < 2000
    read_only = [tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint]
    assert read_only == ["catalog", "precheck", "status", "strict_audit", "tail_pytest", "apply_plan"]


@pytest.mark.parametrize("era", ERAS)
async def test_resources_mirror_what_the_tools_say_and_nothing_else_is_read(
    finished: tuple[Path, str], era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcp.shared.exceptions import MCPError

    repo, run_id = finished
    async with memory(repo, era, monkeypatch) as client:
        await call(client, "report", run_id=run_id)
        audit, _ = await call(client, "strict_audit", run_id=run_id)

        async def read(uri: str) -> str:
            return getattr((await client.read_resource(uri)).contents[0], "text", "")

        assert await read(f"tune://runs/{run_id}/audit") == audit
        assert (await read(f"tune://runs/{run_id}/report.md")).startswith("# Calibration report — toy")
        assert json.loads(await read("tune://runs"))["runs"][0]["run_id"] == run_id
        assert "passed" in await read(f"tune://runs/{run_id}/logs/test_toy_ci/1")
        listed = [str(one.uri) for one in (await client.list_resources()).resources]
        assert f"tune://runs/{run_id}/report.md" in listed
        for uri in (
            "tune://runs/nope/audit",
            f"tune://runs/{run_id}/logs/test_toy_ci/../../plan.json",
            f"tune://runs/{run_id}/logs/..%2F..%2Fx/1",
            "tune://models/nope/stages",
        ):
            with pytest.raises(MCPError):
                await client.read_resource(uri)


@pytest.mark.parametrize("era", ERAS)
async def test_prompts_render_with_and_without_arguments_and_complete(
    tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcp_types import PromptReference

    repo = toy.make(tmp_path / "repo").repo_root
    names = ["add_model", "apply", "calibrate", "performance_review", "precheck", "publish", "resume", "review_report"]
    async with memory(repo, era, monkeypatch) as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == names
        for name in names:
            text = getattr((await client.get_prompt(name)).messages[0].content, "text", "")
            assert "{{" not in text and len(text) > 200
        filled = (await client.get_prompt("calibrate", {"model": "toy"})).messages[0].content
        assert "- model: toy" in getattr(filled, "text", "")
        reference = PromptReference(type="ref/prompt", name="calibrate")
        done = await client.complete(reference, {"name": "model", "value": "to"})
        assert done.completion.values == ["toy"]


@pytest.mark.rule("SUP-05")
def test_every_byte_on_stdout_is_protocol_and_starting_changes_nothing(tmp_path: Path) -> None:
    import subprocess

    repo = toy.make(tmp_path / "repo").repo_root
    before = sorted(str(path) for path in repo.rglob("*") if ".git/" not in str(path))
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
    }
    done = subprocess.run(
        [sys.executable, "-m", "tune_mcp", "serve", "--repo", str(repo)],
        input=json.dumps(hello) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    lines = done.stdout.splitlines()
    assert [json.loads(line)["jsonrpc"] for line in lines] == ["2.0"]
    assert json.loads(lines[0])["result"]["serverInfo"]["name"] == "tune"
    assert sorted(str(path) for path in repo.rglob("*") if ".git/" not in str(path)) == before


async def test_a_bug_is_answered_with_internal_and_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repo = toy.make(tmp_path / "repo").repo_root

    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("tune_mcp.verbs.strict_audit.strict_audit", broken)
    async with memory(repo, "auto", monkeypatch) as client:
        found = await refusal(client, "strict_audit", run_id="x")

    assert found["code"] == "INTERNAL"
    assert "secret detail" not in json.dumps(found)
    assert found["details"]["id"] in caplog.text and "ZeroDivisionError: secret detail" in caplog.text


@pytest.mark.rule("RES-10")
async def test_a_new_server_reads_the_run_that_a_killed_one_started(tmp_path: Path) -> None:
    repo = toy.make(tmp_path / "repo").repo_root
    async with stdio(repo, "legacy") as client:
        _, run = await call(client, "start_run", model="toy", repeats=3)
    async with stdio(repo, "auto") as client:
        facts = await to_rest(client, run["run_id"])

    assert facts["state"] == "finished"
    assert resume_run.DEFAULT_REPEATS == 5
