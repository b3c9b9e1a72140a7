"""Clients as they are: one that reads nothing but text, and one whose window is reloaded again and again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
import toy
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from tune_mcp.observe.observation import Stored, load
from tune_mcp.verbs.project import Project

pytestmark = pytest.mark.anyio
LIMIT_S = 240
Say = Callable[..., Awaitable[str]]


def server(repo: Path) -> StdioServerParameters:
    names = ("PATH", "PYTHONPATH", "TUNE_LOCK_DIR")
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "tune_mcp", "serve", "--repo", str(repo)],
        env={name: os.environ[name] for name in names if name in os.environ},
    )


@pytest.mark.rule("SCP-05", "SUP-02")
async def test_a_client_that_reads_text_alone_gets_from_the_first_call_to_written_thresholds(tmp_path: Path) -> None:
    """No structured content, no resources, no prompts, no progress, no elicitation: only text and its ``Next:``."""
    project = toy.make_toy(tmp_path / "repo")
    with anyio.fail_after(LIMIT_S):
        async with Client(stdio_client(server(project.repo_root)), mode="legacy") as client:

            async def say(tool: str, **arguments: object) -> str:
                result = await client.call_tool(tool, arguments)
                block = result.content[0]
                assert isinstance(block, TextContent) and not result.is_error, block
                return block.text

            await _calibrate(say)

    assert "TOY_ACC_MIN = 0.625" in (project.repo_root / toy.TEST_FILE).read_text()


async def _calibrate(say: Say) -> None:
    assert "toy" in await say("catalog")
    checked = await say("precheck", model="toy")
    assert "Next: call start_run with model=toy" in checked
    started = await say("start_run", model="toy", repeats=2)
    run_id = _named("run_id", started)
    now = "Next: slow is normal"
    while "Next: slow is normal" in now or "Next: as before: poll again" in now:
        now = await say("status", run_id=run_id, wait_s=5)
    assert f"Next: call report with run_id={run_id}" in now
    assert (await say("strict_audit", run_id=run_id)).endswith("STRICT + GIT: READY")
    assert "apply_plan" in (await say("report", run_id=run_id)).partition("Next: ")[2]
    plan = await say("apply_plan", run_id=run_id)
    await say("apply", run_id=run_id, plan_id=_named("plan_id", plan.partition("Next: ")[2]), mode="full")


def _named(name: str, text: str) -> str:
    found = re.search(rf"{name}=(\S+?)[,.\s]", text + " ")
    assert found, text
    return found[1]


@pytest.mark.rule("RES-10", "SUP-11")
async def test_a_window_that_is_reloaded_again_and_again_costs_the_run_nothing(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.start_and_hold(project, repeats=2)
    looked = 0
    for repeat in (1, 2):
        if repeat > 1:
            toy.wait_for(lambda k=repeat: toy.launches(project, k), what=f"the pytest of repeat {repeat}")
        looked += _look_and_be_killed(project, run.run_id)
        if repeat < 2:
            toy.hold(project, repeat + 1)
        toy.let_go(project, repeat)
    end = toy.wait_until_rest(project, run.run_id)

    assert (end.state, end.strict_ready, looked) == ("finished", "2/2", 2)
    for stage in toy.STAGES:
        for repeat in (1, 2):
            found = load(run, stage, repeat)
            assert isinstance(found, Stored) and found.content.attempts == 1
    assert [len(toy.launches(project, repeat)) for repeat in (1, 2)] == [1, 1]


def _look_and_be_killed(project: Project, run_id: str) -> bool:
    """One server of a window: it is asked for the status, waits for a change, and is killed with its group."""
    words = [sys.executable, "-m", "tune_mcp", "serve", "--repo", str(project.repo_root)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdin and child.stdout
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    messages: list[dict[str, object]] = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "status", "arguments": {"run_id": run_id}}},
        {"id": 3, "method": "tools/call", "params": {"name": "status", "arguments": {"run_id": run_id, "wait_s": 50}}},
    ]
    try:
        child.stdin.writelines(json.dumps({"jsonrpc": "2.0", **one}).encode() + b"\n" for one in messages)
        child.stdin.flush()
        lines = [child.stdout.readline(), child.stdout.readline()]
        return b'"id":2' in lines[1] and b"running" in lines[1]
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=LIMIT_S)
