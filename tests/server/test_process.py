"""The server as a process: what it writes, when it ends, what it leaves alone, and that a run outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import toy

from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status

LIMIT_S = 180
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Pipes(Protocol):
    """A process with both pipes."""

    stdin: Any
    stdout: Any
    pid: int

    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Server:
    """``tune-mcp serve`` with bare pipes; every wait is bounded by a timer that kills it."""

    def __init__(self, process: Pipes) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.number = 1

    def send(self, message: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        assert line, "the server ended"
        self.lines.append(json.loads(line))
        assert self.lines[-1]["jsonrpc"] == "2.0"
        return self.lines[-1]

    def hello(self) -> dict[str, Any]:
        self.send(HELLO)
        answer = self.read()
        self.send(READY)
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        self.number += 1
        params = {"name": tool, "arguments": arguments}
        self.send({"jsonrpc": "2.0", "id": self.number, "method": "tools/call", "params": params})
        while (answer := self.read()).get("id") != self.number:
            pass
        return answer["result"]


@contextmanager
def serving(repo: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tune_mcp", "serve", "--repo", str(repo)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    timer = threading.Timer(LIMIT_S, process.kill)
    timer.start()
    try:
        yield Server(process)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream.close()


def files(repo: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in repo.rglob("*") if ".git" not in path.relative_to(repo).parts
    }


def test_a_server_that_starts_imports_no_verb() -> None:
    """A client waits for the start; what a verb needs is imported when it is called."""
    rooms = ("calibration", "supervise", "report", "apply", "precheck", "observe", "discover")
    code = (
        "import sys, tune_mcp.server.build; "
        f"print([name for name in sys.modules for room in {rooms!r} if name.startswith('tune_mcp.' + room)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.rule("SUP-05")
def test_start_up_has_no_side_effects_and_the_end_of_stdin_is_the_end(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    before = files(project.repo_root)
    with serving(project.repo_root) as server:
        assert server.hello()["result"]["serverInfo"]["name"] == "tune"
        server.process.stdin.close()
        assert server.process.wait(LIMIT_S) == 0
        assert server.process.stdout.read() == b""
    assert files(project.repo_root) == before
    assert not (project.repo_root / ".tune-runs").exists()


def test_it_ends_at_once_when_stdin_is_empty_from_the_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tune_mcp", "serve", "--repo", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, b"")


def test_it_ends_with_its_client_although_a_long_poll_is_open(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)
    with toy.at_work(run), serving(project.repo_root) as server:
        server.hello()
        params = {"name": "status", "arguments": {"run_id": run.run_id, "wait_s": 50}}
        server.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
        server.process.stdin.close()
        assert server.process.wait(40) == 0, "before the poll would have ended"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_promptly_although_stdin_stays_open(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as server:
        server.hello()
        os.kill(server.process.pid, number)
        server.process.wait(LIMIT_S)
        assert server.process.stdout.read() == b""


@pytest.mark.rule("RES-10", "SUP-02", "SUP-05", "STP-02")
def test_a_run_outlives_the_kill_of_server_and_group_and_a_new_server_reads_it(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    toy.hold(project, 1)
    with serving(project.repo_root) as server:
        server.hello()
        run = server.call("start_run", model="toy", repeats=2)["structuredContent"]
        run_id = run["run_id"]
        toy.wait_for(lambda: toy.launches(project, 1), what="the first pytest")
        descendants = psutil.Process(server.process.pid).children(recursive=True)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(LIMIT_S)
        for process in descendants:
            process.kill()
    with serving(project.repo_root) as server:
        server.hello()
        now = server.call("status", run_id=run_id)["structuredContent"]
        assert (now["state"], now["pytest_active"], now["strict_ready"]) == ("running", True, "0/2")
        assert now["current"]["test"] == toy.TEST_KEY
        assert server.call("report", run_id=run_id)["structuredContent"]["code"] == "RUN_ACTIVE"
        second = server.call("start_run", model="toy")
        assert second["isError"] and second["structuredContent"]["code"] == "RUN_ACTIVE"
        assert run_id in second["structuredContent"]["message"]
        toy.let_go(project, 1)
        for _ in range(20):
            now = server.call("status", run_id=run_id, wait_s=5)["structuredContent"]
            if now["terminal"]:
                break
        assert now["state"] == "finished", now
        audited = server.call("strict_audit", run_id=run_id)
        assert audited["content"][0]["text"].endswith("STRICT + GIT: READY")
        server.call("report", run_id=run_id)
        plan = server.call("apply_plan", run_id=run_id)["structuredContent"]
        applied = server.call("apply", run_id=run_id, plan_id=plan["plan_id"], mode="full", otherwise="apply")
        assert len(applied["structuredContent"]["applied"]) == 3
    assert len(toy.launches(project, 1)) == 1


@pytest.mark.rule("GPU-20")
def test_stop_run_ends_a_run_that_another_server_started(tmp_path: Path) -> None:
    project: Project = toy.make_toy(tmp_path / "repo")
    run = toy.start_and_hold(project)
    with serving(project.repo_root) as server:
        server.hello()
        stopped = server.call("stop_run", run_id=run.run_id, reason="the user changed his mind")["structuredContent"]
    assert (stopped["state"], stopped["kept_cells"]) == ("stopped", 0)
    assert not any(psutil.pid_exists(pid) for pid in toy.launches(project, 1))
    assert status(project, run.run_id).terminal


def test_every_byte_on_stdout_is_protocol_whatever_is_called(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    with serving(project.repo_root) as server:
        server.hello()
        server.call("precheck", model="toy")
        server.call("discover", model="toy", write=False)
        server.call("catalog", modell="toy")
        server.call("nothing_like_it")
        server.process.stdin.close()
        for line in server.process.stdout.read().splitlines():
            assert json.loads(line)["jsonrpc"] == "2.0"
