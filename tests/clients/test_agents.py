"""Real agents against a stand-in model on loopback: each finishes catalog, start_run, status and report on the toy.

The model decides from what the agent shows it of our answers; so what is not shown is not there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from clients.conftest import npm
from clients.stand_in import DONE, Brain, Call, stand_in
from clients.test_official_tools import TOOLS

from tune_mcp.cli.install import install
from tune_mcp.verbs.project import Options, Project

LIMIT_S = 240
Command = Callable[[str, Path, dict[str, str]], list[str]]


def claude_code(address: str, home: Path, env: dict[str, str]) -> list[str]:
    env |= {
        "ANTHROPIC_BASE_URL": address, "ANTHROPIC_API_KEY": "none", "CLAUDE_CONFIG_DIR": str(home / "claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
        "MCP_CONNECTION_NONBLOCKING": "false", "ENABLE_TOOL_SEARCH": "false",
    }  # fmt: skip
    return [npm("claude"), "-p", "Calibrate toy", "--mcp-config", ".mcp.json", "--strict-mcp-config",
            "--allowedTools", "mcp__tune", "--output-format", "json"]  # fmt: skip


def codex(address: str, home: Path, _: dict[str, str]) -> list[str]:
    config = home / ".codex" / "config.toml"
    settings = 'model = "stand-in"\nmodel_provider = "here"\napproval_policy = "never"\n'
    provider = f'\n[model_providers.here]\nname = "here"\nbase_url = "{address}/v1"\nwire_api = "responses"\n'
    config.write_text(settings + 'sandbox_mode = "danger-full-access"\n' + config.read_text() + provider)
    return [npm("codex"), "exec", "--skip-git-repo-check", "Calibrate toy"]


def gemini(address: str, home: Path, env: dict[str, str]) -> list[str]:
    env |= {"GOOGLE_GEMINI_BASE_URL": address, "GEMINI_API_KEY": "none", "GEMINI_CLI_TRUST_WORKSPACE": "true"}
    settings = home / ".gemini" / "settings.json"
    settings.parent.mkdir()
    quiet = {"privacy": {"usageStatisticsEnabled": False}, "telemetry": {"enabled": False}}
    settings.write_text(json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}, **quiet}))
    return [npm("gemini"), "-p", "Calibrate toy", "--yolo", "-m", "gemini-2.5-pro"]


@pytest.fixture
def agent(
    request: pytest.FixtureRequest, tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Brain:
    """What the model of one agent was shown; the agent is configured by our own ``install``."""
    name, command = request.param
    monkeypatch.setenv("TUNE_LOCK_DIR", env["TUNE_LOCK_DIR"])
    project = toy.make_toy(tmp_path / "repo")
    home = tmp_path / "home"
    home.mkdir()
    own = {"PATH": env["PATH"], "HOME": str(home), "TUNE_LOCK_DIR": env["TUNE_LOCK_DIR"], "LANG": "C.UTF-8"}
    own |= {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    install(name, Project.resolve(Options(project.repo_root), own), undo=False, dry_run=False, home=home)
    with stand_in() as (address, brain):
        words = command(address, home, own)
        done = subprocess.run(
            words, cwd=project.repo_root, env=own, capture_output=True, text=True, timeout=LIMIT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert DONE in done.stdout
    assert toy.git(project.repo_root, "status", "--porcelain", "--", ".", ":!.mcp.json", ":!.gemini") == ""
    return brain


AGENTS: list[tuple[str, Command]] = [("claude-code", claude_code), ("codex", codex), ("gemini", gemini)]


@pytest.mark.parametrize("agent", AGENTS, indirect=True, ids=[name for name, _ in AGENTS])
def test_an_agent_sees_all_tools_and_finishes_a_calibration(agent: Brain) -> None:
    assert set(agent.tools) == set(TOOLS)
    names = [call.tool for call in agent.calls]
    assert names[:3] == ["catalog", "start_run", "status"] and names[-1] == "report"
    assert len(names) <= 14
    assert agent.calls[-1].result == "" or "report.md" in agent.calls[-1].result
    shown = {call.tool: call for call in agent.calls}
    assert "toy_speed" in shown["catalog"].result
    assert "STRICT 2/2" in shown["status"].result or '"strict_ready":"2/2"' in _packed(shown["status"])
    assert sum(len(call.result) for call in agent.calls if call.tool == "status") < 2000 * names.count("status")


def _packed(call: Call) -> str:
    return call.result.replace('": "', '":"').replace('\\"', '"')
