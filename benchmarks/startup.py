"""What it costs to start: the server beside the smallest one of the same SDK, the command line beside argparse."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, child_cpu, children_cpu, show
from reading import large_run

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

READING_VERB_S = 0.2
"""A person at a terminal should not wait for an interpreter that imports a protocol."""


def figures(rounds: int = 5) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        subprocess.run(["git", "init", "-q", folder], check=True)
        (cwd / "hello.py").write_text(HELLO)
        ours, hello = [sys.executable, "-m", "tune_mcp", "serve"], [sys.executable, str(cwd / "hello.py")]
        pairs = [(served(ours, cwd), served(hello, cwd)) for _ in range(rounds)]
        cpu, least = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        yield Figure("server start, CPU", cpu, least, "s", "SDK hello world", 1.15)
        memory, least = peak(ours, cwd), peak(hello, cwd)
        yield Figure("server start, memory", memory, least, "MiB", "SDK hello world", 1.25, digits=0)
    verb, bare = [sys.executable, "-m", "tune_mcp", "--version"], [sys.executable, "-c", "import argparse"]
    pairs = [(child_cpu(verb), child_cpu(bare)) for _ in range(rounds)]
    cpu, least = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    yield Figure("tune-mcp --version, CPU", cpu, least, "s", "import argparse", 3.0, digits=3)
    with tempfile.TemporaryDirectory() as folder:
        run = large_run(Path(folder), stages=7, repeats=5)
        for verb in ("status", f"status {run.run_id}", f"audit {run.run_id}", f"tail {run.run_id} --once"):
            told = [sys.executable, "-m", "tune_mcp", *verb.split(), "--repo", folder]
            cpu = min(child_cpu(told) for _ in range(2 * rounds))
            name = verb.replace(run.run_id, "RUN")
            yield Figure(f"tune-mcp {name}, 7 × 5 cells, CPU", cpu, READING_VERB_S, "s", "the floor", 1.0, 3)


def served(argv: list[str], cwd: Path) -> float:
    """CPU seconds of a server that answers one initialize and ends with its input."""
    before = children_cpu()
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd)
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
        capture_output=True, text=True, check=True, cwd=cwd,
    )  # fmt: skip
    return float(done.stdout)


if __name__ == "__main__":
    sys.exit(show(figures()))
