"""Real MCP clients: in memory and over stdio, in both protocol eras. Every wait is bounded."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
import toy
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from tune_mcp.server.build import build
from tune_mcp.server.context import server_context
from tune_mcp.verbs.project import Options, Project

LIMIT_S = 180
Answer = Callable[[ClientRequestContext, ElicitRequestParams], Awaitable[ElicitResult]]


@dataclass
class Session:
    """A connected client, and what a test asks of it."""

    client: Client

    async def raw(self, tool: str, **arguments: Any) -> CallToolResult:
        return await self.client.call_tool(tool, arguments)

    async def call(self, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
        """Text and typed facts of a call that must succeed."""
        result = await self.raw(tool, **arguments)
        text, facts = read(result)
        assert not result.is_error, text
        return text, facts

    async def refused(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The typed refusal of a call that must be refused, in its fixed form."""
        result = await self.raw(tool, **arguments)
        text, facts = read(result)
        assert result.is_error, text
        assert set(facts) == {"code", "rules", "message", "next", "details"}
        rule = f" [{facts['rules'][0]}]" if facts["rules"] else ""
        assert text == f"{facts['code']}{rule}: {facts['message']}. Next: {facts['next']}."
        return facts


def read(result: CallToolResult) -> tuple[str, dict[str, Any]]:
    block = result.content[0]
    assert isinstance(block, TextContent)
    assert len(result.content) == 1
    assert len(block.text) <= 8000
    return block.text, result.structured_content or {}


class Connect(Protocol):
    """``async with connect(repo, era, transport, answer) as session``."""

    def __call__(
        self, repo: Path, era: str = "auto", transport: str = "memory", answer: Answer | None = None
    ) -> AbstractAsyncContextManager[Session]: ...


@pytest.fixture(params=["auto", "legacy"])
def era(request: pytest.FixtureRequest) -> str:
    """Both protocol eras: a client that speaks the newest one, and one that shakes hands."""
    return request.param


@pytest.fixture(params=["memory", "stdio"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    @asynccontextmanager
    async def connected(
        repo: Path, era: str = "auto", transport: str = "memory", answer: Answer | None = None
    ) -> AsyncIterator[Session]:
        with anyio.fail_after(LIMIT_S):
            if transport == "stdio":
                server: Any = stdio_client(parameters(repo))
            else:
                monkeypatch.setattr(server_context, "options", Options(repo=repo))
                server = build()
            async with Client(server, mode=era, elicitation_callback=answer) as client:
                yield Session(client)

    return connected


def parameters(repo: Path) -> StdioServerParameters:
    names = ("PATH", "PYTHONPATH", "TUNE_LOCK_DIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "tune_mcp", "serve", "--repo", str(repo)],
        env={name: os.environ[name] for name in names if name in os.environ},
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh toy repository."""
    return toy.make_toy(tmp_path / "repo")


@pytest.fixture
def repo(project: Project) -> Path:
    return project.repo_root


@pytest.fixture
def loosening(tmp_path: Path) -> Project:
    """A toy whose run would loosen three speed metrics and tighten the accuracy."""
    source = toy.toy_source().replace(
        '2: {"throughput_qps": 1.0, "latency_mean_s": 9.0},',
        '2: {"throughput_qps": 99.0, "latency_mean_s": 0.001, "rtf_mean": 0.002},',
    )
    sources = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    config = {
        **toy.CONFIG,
        "metric_sources": {"test_toy_ci.py": {**sources, "paths": {**sources["paths"], "rtf_mean": "speed.rtf_mean"}}},
    }
    return toy.make_toy(tmp_path / "repo", test_source=source, config=config)


def with_rtf(job: Any) -> Any:
    return toy.measured(job, speed={"rtf_mean": 0.5})


@pytest.fixture
def loosened(loosening: Project) -> tuple[Project, str]:
    """The finished run of it."""
    return loosening, toy.finished_run(loosening, attempt=with_rtf).run_id
