"""What it costs to start: the server beside the smallest one of the same SDK, the command line beside argparse."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, children_cpu, cpu_of_command, environment, in_turn, show
from reading import COLD, large_run

HELLO = """
from mcp.server import MCPServer
mcp = MCPServer("hello")
@mcp.tool()
def hello() -> str:
    return "hello"
mcp.run()
"""
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}},
}

VERBS = {"status": 3.0, "status RUN": 3.1, "audit RUN": 3.1, "tail RUN --once": 2.9}
"""Verbs that read a run, each with its ceiling: a person at a terminal waits for them."""


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        subprocess.run(["git", "init", "-q", folder], check=True)
        (cwd / "hello.py").write_text(HELLO)
        ours, hello = [sys.executable, "-m", "tune_mcp", "serve"], [sys.executable, str(cwd / "hello.py")]
        cpu, least = in_turn(lambda: served(ours, cwd), lambda: served(hello, cwd))
        yield Figure("server start, CPU", cpu, least, "s", "SDK hello world", 1.15)
        memory, least = in_turn(lambda: peak(ours, cwd), lambda: peak(hello, cwd), rounds=1)
        yield Figure("server start, memory", memory, least, "MiB", "SDK hello world", 1.25, digits=0)
    verb, bare = [sys.executable, "-m", "tune_mcp", "--version"], [sys.executable, "-c", "import argparse"]
    cpu, least = in_turn(cpu_of_command(verb), cpu_of_command(bare), rounds=15)
    yield Figure("tune-mcp --version, CPU", cpu, least, "s", "import argparse", 3.0, digits=3)
    with tempfile.TemporaryDirectory() as folder:
        run = large_run(Path(folder), stages=7, repeats=5)
        verbs = [
            [sys.executable, "-m", "tune_mcp", *verb.replace("RUN", run.run_id).split(), "--repo", folder]
            for verb in VERBS
        ]
        bare = [sys.executable, "-c", COLD, str(run.path)]
        least, *cpus = in_turn(*map(cpu_of_command, [bare, *verbs]), rounds=11)
        for (verb, ceiling), cpu in zip(VERBS.items(), cpus, strict=True):
            yield Figure(f"tune-mcp {verb}, 7 × 5 cells, CPU", cpu, least, "s", "pydantic, json.loads", ceiling, 3)


def served(argv: list[str], cwd: Path) -> float:
    """CPU seconds of a server that answers one initialize and ends with its input."""
    before = children_cpu()
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd, env=environment()
    )
    answer, _ = child.communicate((json.dumps(INITIALIZE) + "\n").encode(), timeout=60)
    if b"serverInfo" not in answer:
        raise RuntimeError(f"{argv} gave no answer")
    return children_cpu() - before


def peak(argv: list[str], cwd: Path) -> float:
    """Peak memory of one server in MiB, measured by a child that has no other children."""
    program = (
        "import json,resource,subprocess,sys\n"
        "c=subprocess.Popen(sys.argv[2:],stdin=subprocess.PIPE,stdout=subprocess.PIPE,stderr=subprocess.DEVNULL)\n"
        "c.communicate((sys.argv[1]+'\\n').encode(),timeout=60)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(INITIALIZE), *argv],
        capture_output=True, text=True, check=True, cwd=cwd, env=environment(),
    )  # fmt: skip
    return float(done.stdout)


if __name__ == "__main__":
    sys.exit(show(figures()))
