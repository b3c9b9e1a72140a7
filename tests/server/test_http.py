"""The server over HTTP: nothing answers without the token, a web page cannot reach it, and no network by accident."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import toy
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tune_mcp.errors import Refusal
from tune_mcp.server.http import HttpOptions, token

LIMIT_S = 180
TOKEN = "a-token-that-is-long-enough-to-be-one"
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}


@dataclass(frozen=True)
class Served:
    """A server that listens."""

    port: int

    def post(self, body: bytes = json.dumps(HELLO).encode(), **headers: str) -> int:
        """The status of one request; a header given as "" is left out."""
        sent = {
            "Authorization": f"Bearer {TOKEN}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request("POST", "/mcp", body, {name: value for name, value in sent.items() if value})
            return connection.getresponse().status
        finally:
            connection.close()


def serve(repo: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tune_mcp", "serve", "--repo", str(repo), "--http", *words]


def written(path: Path) -> Path:
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return written(tmp_path / "token")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests of this file: no request of theirs changes anything."""
    folder = tmp_path_factory.mktemp("http")
    secret = written(folder / "token")
    project = toy.make_toy(folder / "repo")
    with socket.socket() as kept:  # bound all along, so that nobody else is given the port before the server has it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        words = serve(project.repo_root, "--port", str(port), "--token-file", str(secret))
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        try:
            toy.wait_for(lambda: _listens(port), LIMIT_S, "the server listens")
            yield Served(port)
        finally:
            process.terminate()
            _, said = process.communicate(timeout=LIMIT_S)
    assert TOKEN not in said
    assert f"http://127.0.0.1:{port}/mcp" in said


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_request_without_the_token_reaches_anything(served: Served) -> None:
    assert served.post() == 200
    assert served.post(Authorization="") == 401
    assert served.post(Authorization="Bearer " + "x" * 40) == 401
    assert served.post(Authorization=TOKEN) == 401
    assert served.post(Authorization="Bearer \xff" + "x" * 40) == 401
    assert served.post(Authorization=f"Bearer {TOKEN} ") == 200, "HTTP drops the blank at a value's end"


def test_nothing_sends_a_client_to_a_login_that_does_not_exist(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/.well-known/oauth-protected-resource/mcp")
        assert connection.getresponse().status == 404
    finally:
        connection.close()


def test_a_web_page_of_somebody_else_cannot_talk_to_it_even_with_the_token(served: Served) -> None:
    assert served.post(Host="evil.example:80") == 421
    assert served.post(Origin="http://evil.example") == 403
    assert served.post(Origin=f"http://127.0.0.1:{served.port}") == 200


def test_a_body_of_two_megabytes_is_not_read(served: Served) -> None:
    assert served.post(b'{"x": "' + b"y" * (2 << 20) + b'"}') == 413


@pytest.mark.anyio
async def test_a_real_client_calls_tools_over_it(served: Served, era: str) -> None:
    with anyio.fail_after(LIMIT_S):
        async with create_mcp_http_client(headers={"Authorization": f"Bearer {TOKEN}"}) as http_client:
            transport: Any = streamable_http_client(f"http://127.0.0.1:{served.port}/mcp", http_client=http_client)
            async with Client(transport, mode=era) as client:
                result = await client.call_tool("catalog", {"model": "toy"})

    assert not result.is_error
    assert "toy_speed" in json.dumps(result.structured_content)


def test_another_address_than_loopback_is_refused_unless_a_token_file_is_named(tmp_path: Path, secret: Path) -> None:
    done = subprocess.run(
        serve(tmp_path, "--bind", "0.0.0.0"), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )

    assert done.returncode == 2
    assert done.stderr.startswith("INVALID_ARGUMENT [")
    assert "--token-file" in done.stderr
    assert token(HttpOptions(bind="0.0.0.0", token_file=secret)) == (TOKEN, secret)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_can_read_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)

    with pytest.raises(Refusal, match="chmod 600"):
        token(HttpOptions(token_file=secret))


@pytest.mark.parametrize("text", ["", "short", "x" * 31, "two words " * 5, "ü" * 40])
def test_what_is_no_token_is_refused(secret: Path, text: str) -> None:
    secret.write_text(text)

    with pytest.raises(Refusal, match="no token"):
        token(HttpOptions(token_file=secret))


def test_a_token_of_ones_own_is_made_once_and_for_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    first, path = token(HttpOptions())

    assert (len(first) >= 32, stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (True, 0o600, os.getuid())
    assert token(HttpOptions()) == (first, path)
