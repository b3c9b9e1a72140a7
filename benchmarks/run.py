"""Figures of tune-mcp, each a ratio measured side by side in one run: ``make bench``.

Start-up and memory of the server against the smallest server that the same SDK can make; status and audit of a large
run against reading the same bytes once.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tune_mcp import run_dir
from tune_mcp.config.metrics import GroupPolicy
from tune_mcp.config.stages import Display, Location, SampleCounts, Stage, StageMetric
from tune_mcp.files import dump_json, sha256_bytes, write_atomic
from tune_mcp.observe.audit import audit
from tune_mcp.run_dir import RunDir
from tune_mcp.session import plan as plans

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


def served(argv: list[str], cwd: Path) -> tuple[float, float]:
    """CPU seconds and peak memory (MiB) of a server that answers one initialize and ends with its input."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd)
    answer, _ = child.communicate((json.dumps(INITIALIZE) + "\n").encode(), timeout=60)
    if b"serverInfo" not in answer:
        raise RuntimeError(f"{argv} gave no answer")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, after.ru_maxrss / 1024


def startup(rounds: int) -> tuple[float, float, float, float]:
    """Best CPU seconds of ours and of hello world, alternating; peak memory in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        subprocess.run(["git", "init", "-q", folder], check=True)
        script = cwd / "hello.py"
        script.write_text(HELLO)
        ours, hello = [sys.executable, "-m", "tune_mcp", "serve"], [sys.executable, str(script)]
        times: dict[str, list[float]] = {"ours": [], "hello": []}
        for _ in range(rounds):
            times["ours"].append(served(ours, cwd)[0])
            times["hello"].append(served(hello, cwd)[0])
        return min(times["ours"]), min(times["hello"]), peak(ours, cwd), peak(hello, cwd)


def peak(argv: list[str], cwd: Path) -> float:
    """Peak memory of one server, measured by a child that has no other children."""
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


def large_run(root: Path, stages: int, repeats: int) -> tuple[RunDir, plans.Plan]:
    """A finished run of many cells, written as a supervisor would have."""
    place = Location(json_file="a/results.json", json_path="summary.n")
    metric = StageMetric(
        source="X_ACC_MIN", json_file="a/r.json", json_path="x", worst="min", display=Display(label="x")
    )
    table = {
        f"stage{number}_accuracy": Stage(
            key=f"stage{number}_accuracy",
            test=f"tests/test_{number // 3}_ci.py",
            group="accuracy",
            test_file_sha256="0" * 64,
            expected_samples=4,
            sample_counts=SampleCounts(total=place, ok=place),
            metrics={f"m{index}": metric for index in range(4)},
        )
        for number in range(stages)
    }
    now = datetime.now(UTC)
    run = run_dir.create(root, "bench", now)
    plan = plans.Plan(
        tune_version="bench", run_id=run.run_id, model="bench", stages=tuple(table), repeats=repeats,
        calibration_git_sha="0" * 40, git_branch="main", calibration_started_at=run_dir.iso(now), repo_root=str(root),
        venv_python=sys.executable, venv_source="bench", stages_sha256="0" * 64, file_sha256={}, catalogue=table,
        groups={"accuracy": GroupPolicy()}, settings=plans.LaunchSettings(),
    )  # fmt: skip
    lines = [{"t": run_dir.iso(now), "kind": "planned", "sha256": plans.write(run, plan, write_atomic)}]
    for key in table:
        run.observation(key, 1).parent.mkdir()
        for repeat in range(1, repeats + 1):
            data = dump_json(
                {
                    "status": "ok", "reason": "", "metrics": {f"m{index}": 0.5 for index in range(4)},
                    "sample_counts": {"total": 4, "ok": 4}, "duration_s": 1.0, "attempts": 1, "git_sha": "0" * 40,
                    "recorded_at": run_dir.iso(now), "pytest_rc": 0, "pytest_log": "", "basetemp": "",
                    "run_id": run.run_id,
                }
            )  # fmt: skip
            run.observation(key, repeat).write_bytes(data)
            lines.append(
                {
                    "t": run_dir.iso(now),
                    "kind": "recorded",
                    "stage": key,
                    "repeat": repeat,
                    "sha256": sha256_bytes(data),
                }
            )
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run, plan


def best(work: Callable[[], object], rounds: int = 5) -> float:
    """Best CPU seconds of ``work`` in this process."""
    times: list[float] = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> int:
    """Measure and print; exit code 1 when a figure is over its ceiling."""
    console = Console()
    rows: list[tuple[str, str, str, float, float]] = []
    ours, hello, memory, least = startup(5)
    rows.append(("server start, CPU", f"{ours:.2f} s", f"{hello:.2f} s (SDK hello world)", ours / hello, 1.15))
    rows.append(
        ("server start, memory", f"{memory:.0f} MiB", f"{least:.0f} MiB (SDK hello world)", memory / least, 1.25)
    )
    for stages, repeats in ((70, 15), (200, 50)):
        with tempfile.TemporaryDirectory() as folder:
            run, plan = large_run(Path(folder), stages, repeats)
            files = sorted(run.path.glob("*/run*.json"))
            audited = best(lambda run=run, plan=plan: audit(run, plan))
            parsed = best(lambda files=files: [json.loads(file.read_bytes()) for file in files])
            rows.append(
                (f"audit of {stages}×{repeats} cells, CPU", f"{audited:.2f} s", f"{parsed:.2f} s (json.loads of each)",
                 audited / parsed, 6.0)
            )  # fmt: skip
    verb = [sys.executable, "-X", "importtime", "-m", "tune_mcp", "--version"]
    bare = best_child([sys.executable, "-c", "import argparse"])
    cli = best_child(verb[:1] + verb[3:])
    rows.append(("tune-mcp --version, CPU", f"{cli:.3f} s", f"{bare:.3f} s (import argparse)", cli / bare, 3.0))
    table = Table(title=f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}", box=None)
    for name in ("figure", "ours", "beside", "ratio", "ceiling"):
        table.add_column(name)
    for name, mine, other, ratio, ceiling in rows:
        table.add_row(name, mine, other, f"{ratio:.2f}", f"{ceiling:.2f}")
    console.print(table)
    return 0 if all(ratio <= ceiling for *_, ratio, ceiling in rows) else 1


def best_child(argv: list[str], rounds: int = 5) -> float:
    """Best CPU seconds of a child process."""
    times: list[float] = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.fmean(sorted(times)[:2])


if __name__ == "__main__":
    sys.exit(main())
