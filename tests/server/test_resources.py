"""Resources mirror the tools; nothing else on the disk can be read through them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from tune_mcp.verbs.project import Project

pytestmark = pytest.mark.anyio
FIXED = {"tune://runs", "tune://rules", "ui://tune/dashboard.html"}
TEMPLATES = {
    "tune://runs/{run_id}/report.md",
    "tune://runs/{run_id}/report.html",
    "tune://runs/{run_id}/audit",
    "tune://runs/{run_id}/plan",
    "tune://runs/{run_id}/apply_plan",
    "tune://runs/{run_id}/events",
    "tune://runs/{run_id}/logs/{test}/{repeat}",
    "tune://models/{model}/stages",
    "tune://hosts/{host}",
}
HOST = "name: box\nhostname: no-such-machine\nrepo_root: /nowhere\n"


@pytest.fixture
def calibrated(tmp_path: Path) -> tuple[Project, str]:
    project = toy.make_toy(tmp_path / "repo", files={".tune/hosts/box.yaml": HOST})
    return project, toy.finished_run(project).run_id


async def content(session: Any, uri: str) -> tuple[str, str]:
    """Text and mime type."""
    (one,) = (await session.client.read_resource(uri)).contents
    return one.text, one.mime_type


async def test_what_the_contract_lists_is_listed(connect: Any, calibrated: tuple[Project, str], era: str) -> None:
    project, run_id = calibrated
    async with connect(project.repo_root, era) as session:
        listed = {str(one.uri) for one in (await session.client.list_resources()).resources}
        templates = {one.uri_template for one in (await session.client.list_resource_templates()).resource_templates}
        assert listed == FIXED
        assert templates == TEMPLATES
        await session.call("report", run_id=run_id)
        listed = {str(one.uri) for one in (await session.client.list_resources()).resources}
        assert listed == {*FIXED, f"tune://runs/{run_id}/report.md"}


async def test_every_resource_says_what_its_tool_says(connect: Any, calibrated: tuple[Project, str], era: str) -> None:
    project, run_id = calibrated
    run = project.run(run_id)
    async with connect(project.repo_root, era) as session:
        await session.call("report", run_id=run_id)
        audit, _ = await session.call("strict_audit", run_id=run_id)
        _, runs = await session.call("status")
        _, catalog = await session.call("catalog", model="toy")
        base = f"tune://runs/{run_id}"

        assert await content(session, f"{base}/audit") == (audit, "text/plain")
        assert await content(session, f"{base}/report.md") == (run.report_md.read_text(), "text/markdown")
        assert await content(session, f"{base}/report.html") == (run.report_html.read_text(), "text/html")
        assert await content(session, f"{base}/plan") == (run.plan.read_text(), "application/json")
        text, mime = await content(session, f"{base}/events")
        assert json.loads(text.splitlines()[0])["kind"] == "planned"
        assert mime == "application/jsonl"
        log, mime = await content(session, f"{base}/logs/{toy.TEST_KEY}/1")
        assert log == run.log(toy.TEST_KEY, 1).read_text() and mime == "text/plain"
        assert json.loads((await content(session, "tune://runs"))[0]) == runs
        whole = json.loads((await content(session, "tune://models/toy/stages"))[0])
        assert (whole["stages"], whole["aliases"]) == (catalog["stages"], catalog["aliases"])
        assert json.loads((await content(session, "tune://hosts/box"))[0])["hostname"] == "no-such-machine"
        register = (await content(session, "tune://rules"))[0]
        assert "`NOT_STRICT`" in register and "- Hooks run as they are. (VCS-05)" in register
        assert len(register) < 4000, "a reader of this is a model"
        whole = json.loads((await content(session, f"{base}/apply_plan"))[0])
        assert len(whole["rows"]) == 3 and whole["diff"]


@pytest.mark.rule("SES-06")
async def test_what_does_not_exist_is_not_found_and_no_path_leads_out(
    connect: Any, calibrated: tuple[Project, str], era: str
) -> None:
    project, run_id = calibrated
    (project.repo_root / ".tune-runs" / "secret.txt").write_text("secret")
    async with connect(project.repo_root, era) as session:
        for uri in (
            "tune://runs/nope/audit",
            "tune://runs/20200101T000000Z_nobody/plan",
            f"tune://runs/{run_id}/report.md",
            f"tune://runs/{run_id}/report.html",
            f"tune://runs/{run_id}/supervisor.json",
            f"tune://runs/{run_id}/logs/{toy.TEST_KEY}/9",
            f"tune://runs/{run_id}/logs/{toy.TEST_KEY}/-1",
            f"tune://runs/{run_id}/logs/{toy.TEST_KEY}/one",
            f"tune://runs/{run_id}/logs/other/1",
            f"tune://runs/{run_id}/logs/../../plan.json",
            f"tune://runs/{run_id}/logs/..%2F..%2Fplan/1",
            f"tune://runs/{run_id}/logs/%2Fetc%2Fpasswd/1",
            "tune://runs/../secret.txt/plan",
            "tune://runs/%2E%2E/plan",
            "tune://runs/secret.txt/plan",
            "tune://models/nope/stages",
            "tune://models/..%2Ftoy/stages",
            "tune://hosts/nope",
            "tune://hosts/..%2F..%2Fmodels%2Ftoy%2Fconfig",
            "tune://nothing",
            "file:///etc/passwd",
        ):
            with pytest.raises(MCPError) as caught:
                await session.client.read_resource(uri)
            assert caught.value.error.code == -32602, (uri, caught.value)


async def test_a_resource_of_a_run_that_cannot_be_trusted_refuses_like_its_tool(
    connect: Any, calibrated: tuple[Project, str], era: str
) -> None:
    project, run_id = calibrated
    plan = project.run(run_id).plan
    plan.write_bytes(plan.read_bytes().replace(b'"repeats": 2', b'"repeats": 1'))
    async with connect(project.repo_root, era) as session:
        for name in ("audit", f"logs/{toy.TEST_KEY}/1"):
            with pytest.raises(MCPError, match="PLAN_TAMPERED"):
                await session.client.read_resource(f"tune://runs/{run_id}/{name}")
        assert "PLAN_TAMPERED" in (await content(session, "tune://runs"))[0]


async def test_a_long_log_is_cut_to_its_end(connect: Any, calibrated: tuple[Project, str]) -> None:
    project, run_id = calibrated
    project.run(run_id).log(toy.TEST_KEY, 1).write_text("x" * 99 + "\n" + "é" * 200_000 + "\nthe end\n")
    async with connect(project.repo_root) as session:
        text, _ = await content(session, f"tune://runs/{run_id}/logs/{toy.TEST_KEY}/1")

    assert len(text.encode()) <= 256 * 1024 + 3
    assert text.endswith("\nthe end\n")


# ---- prompts and completions ------------------------------------------------------------------------------------

PROMPTS = [
    "add_model", "calibrate", "check_environment", "continue_run", "performance_review", "publish", "review_report",
    "write_thresholds",
]  # fmt: skip


async def test_the_eight_prompts_render_without_any_argument(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        listed = (await session.client.list_prompts()).prompts
        assert [prompt.name for prompt in listed] == PROMPTS
        for prompt in listed:
            assert prompt.title and prompt.description
            assert not any(one.required for one in prompt.arguments or [])
            (message,) = (await session.client.get_prompt(prompt.name)).messages
            assert message.role == "user"
            assert len(message.content.text) > 200 and "{{" not in message.content.text


async def test_the_eight_prompts_render_with_every_argument(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        for prompt in (await session.client.list_prompts()).prompts:
            given = {one.name: f"<{one.name}: 50% of {{x}} \\1>" for one in prompt.arguments or []}
            (message,) = (await session.client.get_prompt(prompt.name, given)).messages
            for value in given.values():
                assert value in message.content.text, prompt.name


async def test_an_unknown_prompt_is_an_error(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        with pytest.raises(MCPError):
            await session.client.get_prompt("nope")


async def test_prompts_name_only_tools_that_exist(connect: Any, repo: Path) -> None:
    import re

    async with connect(repo) as session:
        tools = {tool.name for tool in (await session.client.list_tools()).tools}
        assert not tools & set(PROMPTS), "semantic-kernel skips a prompt that bears a tool's name"
        for name in PROMPTS:
            text = (await session.client.get_prompt(name)).messages[0].content.text
            called = set(re.findall(r"`?([a-z]+_[a-z_]+)\(", text))
            assert called - {"tune_record"} <= tools, name


async def test_models_stages_and_runs_complete(connect: Any, calibrated: tuple[Project, str], era: str) -> None:
    project, run_id = calibrated
    calibrate, resume = (PromptReference(type="ref/prompt", name=name) for name in ("calibrate", "continue_run"))
    log = ResourceTemplateReference(type="ref/resource", uri="tune://runs/{run_id}/audit")
    async with connect(project.repo_root, era) as session:

        async def complete(ref: Any, name: str, value: str, **chosen: str) -> list[str]:
            argument = {"name": name, "value": value}
            done = (await session.client.complete(ref, argument, context_arguments=chosen or None)).completion
            assert done.total == len(done.values) and not done.has_more
            return done.values

        assert await complete(calibrate, "model", "to") == ["toy"]
        assert await complete(calibrate, "model", "x") == []
        assert await complete(calibrate, "stages", "toy_", model="toy") == list(toy.STAGES)
        assert "ALL" in await complete(calibrate, "stages", "", model="toy")
        assert await complete(calibrate, "stages", "toy") == []
        assert await complete(calibrate, "stages", "toy", model="nope") == []
        assert await complete(calibrate, "nonsense", "") == []
        assert await complete(resume, "run_id", run_id[:6]) == [run_id]
        assert await complete(log, "run_id", "") == [run_id]
