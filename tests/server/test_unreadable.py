"""Every line that a client sends is answered, also one that nobody can decode; the server goes on in both eras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

INITIALIZE = {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"},
}  # fmt: skip
MODERN = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}
LIMIT_S = 60


class Server:
    """A real server over pipes; ``ask`` sends bytes and gives the next answer, within a minute."""

    def __init__(self, repo: Path) -> None:
        words = [sys.executable, "-m", "tune_mcp", "serve", "--repo", str(repo)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ}
        )

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def ask(self, data: bytes | dict[str, Any]) -> dict[str, Any]:
        self.send(data if isinstance(data, bytes) else json.dumps(data).encode())
        assert self.process.stdout
        timer = threading.Timer(LIMIT_S, self.process.kill)
        timer.start()
        while True:
            line = self.process.stdout.readline()
            assert line, "no answer"
            answer = json.loads(line)
            if "id" in answer:
                timer.cancel()
                return answer


@pytest.fixture(params=["legacy", "modern"])
def server(request: pytest.FixtureRequest, repo: Path) -> Iterator[tuple[Server, dict[str, Any]]]:
    """And what every request of this era carries."""
    found = Server(repo)
    extra = {} if request.param == "legacy" else MODERN
    try:
        if request.param == "legacy":
            found.ask({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE})
            found.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        yield found, extra
    finally:
        assert found.process.stdin and found.process.stdout
        found.process.stdin.close()
        found.process.wait(LIMIT_S)
        found.process.stdout.close()


BROKEN: list[tuple[bytes, int, object]] = [
    (b"not json", -32700, None),
    (b'{"jsonrpc":"2.0","id":7,"method":"tools/list"', -32700, 7),
    (b'{"jsonrpc":"2.0","id":"a b","method":"tools/list","params":{"x":"\\ud800"}}', -32700, "a b"),
    (b'{"jsonrpc":"2.0","id":8,"method":"tools/list","params":{"x":' + b"[" * 5000 + b"]" * 5000 + b"}}", -32700, 8),
    (b'{"id":9,"method":"tools/list"}', -32600, 9),
    (b'{"jsonrpc":"2.0","id":10,"method":5}', -32600, 10),
    (b'[{"jsonrpc":"2.0","id":11,"method":"ping"}]', -32600, None),
    (b"42", -32600, None),
    (b'"id"', -32600, None),
]


def test_every_line_is_answered_and_the_server_goes_on(server: tuple[Server, dict[str, Any]]) -> None:
    one, extra = server
    for line, code, name in BROKEN:
        found = one.ask(line)
        assert found.get("error", {}).get("code") == code, (line[:60], found)
        assert found["id"] == name, (line[:60], found)
        assert "pydantic" not in json.dumps(found)
    bad = json.dumps({"jsonrpc": "2.0", "id": 20, "method": "tools/call",
                      "params": {"name": "catalog", "arguments": {"model": "@"}, **extra}}).encode()  # fmt: skip
    for model in (b"\xff\xfe\x00", b"x" * 3_000_000, "\u2028\u0000✓".encode()):
        found = one.ask(bad.replace(b"@", model.replace(b"\x00", b"\\u0000")))
        assert found["id"] == 20 and found["result"]["isError"], str(found)[:300]
        assert found["result"]["structuredContent"]["code"] == "UNKNOWN_MODEL"
        assert len(json.dumps(found)) < 60_000, "an answer does not send a huge argument back"
    many = {f"a{n}": "y" * 100 for n in range(3000)}
    found = one.ask({"jsonrpc": "2.0", "id": 21, "method": "tools/call",
                     "params": {"name": "status", "arguments": many, **extra}})  # fmt: skip
    assert found["result"]["structuredContent"]["code"] == "INVALID_ARGUMENT" and len(json.dumps(found)) < 60_000
    assert len(one.ask({"jsonrpc": "2.0", "id": 22, "method": "tools/list", "params": extra})["result"]["tools"]) == 12
