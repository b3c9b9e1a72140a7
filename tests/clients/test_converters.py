"""Libraries that agents are built with take every tool as it is published; TypeScript clients check every answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clients.conftest import BIN, LIMIT_S, ROOT, npm
from clients.test_official_tools import PROMPTS, TOOLS

CONVERTERS = ROOT / ".converters" / "bin" / "python"
HERE = Path(__file__).parent


def printed(words: list[str], env: dict[str, str]) -> Any:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def converted(env: dict[str, str], finished: tuple[Path, str]) -> dict[str, Any]:
    assert CONVERTERS.exists(), "the libraries are not installed: run make test-clients"
    return printed([str(CONVERTERS), str(HERE / "convert.py"), sys.executable, str(finished[0])], env)


def test_the_first_python_sdk_lists_every_tool(converted: dict[str, Any]) -> None:
    assert converted["versions"]["mcp"].startswith("1.")
    assert converted["tools"] == TOOLS


def test_google_genai_declares_every_tool_with_all_its_arguments(converted: dict[str, Any]) -> None:
    assert list(converted["google-genai"]) == TOOLS
    assert converted["google-genai"]["apply"] == ["decisions", "mode", "otherwise", "plan_id", "run_id"]


def test_openai_agents_make_every_tool_strict(converted: dict[str, Any]) -> None:
    assert converted["openai-agents"] == dict.fromkeys(TOOLS, True)


def test_the_anthropic_sdk_makes_and_calls_every_tool(converted: dict[str, Any]) -> None:
    assert converted["anthropic"] == {"names": TOOLS, "catalog": True}


def test_semantic_kernel_keeps_every_tool_beside_every_prompt(converted: dict[str, Any]) -> None:
    assert set(converted["semantic-kernel"]["functions"]) == {*TOOLS, *PROMPTS}
    assert converted["semantic-kernel"]["dangling"] == []


@pytest.fixture(scope="module")
def typescript(env: dict[str, str], finished: tuple[Path, str]) -> dict[str, Any]:
    words = [npm("node"), str(HERE / "typescript.mjs"), str(BIN.parent), sys.executable, str(finished[0]), finished[1]]
    return printed(words, env)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_typescript_client_takes_every_tool_and_answer(typescript: dict[str, Any], version: str) -> None:
    found = typescript[version]

    assert found["tools"] == TOOLS and found["prompts"] == len(PROMPTS)
    assert len(found["said"]) == 7 and all(found["said"].values())
    assert found["refused"] == "WAIT_TOO_LONG"
