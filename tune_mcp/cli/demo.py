"""``tune-mcp demo``: a real speech workload, calibrated on this CPU through the MCP server, from start to end.

It talks to ``tune-mcp serve`` as any client does, over stdio, and shows each call and what comes back. The example's
own dependencies go into an environment of their own: the server drives another project's Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import anyio
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent
from rich.console import Console
from rich.table import Table

from tune_mcp.config.loader import shipped_place
from tune_mcp.contract.status import span
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_bytes

MODEL = "speech-ci"
_POLL_S = 20
_PLAIN_WIDTH = 120
_NEWEST_PYTHON = (3, 13)


def demo(folder: Path | None, repeats: int) -> int:
    """Run the demo in ``folder`` (a new one by default); returns 0 when thresholds were written as planned."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    begin = time.monotonic()
    home = (folder or Path(tempfile.mkdtemp(prefix="tune-demo-"))).resolve()
    repo = home / f"speech-ci-{time.strftime('%H%M%S')}"
    _step(console, f"A fresh repository with real TTS and ASR tests: {repo}")
    source = _copy(repo)
    python = _venv(console, source)
    try:
        code = anyio.run(_calibrate, console, repo, python, repeats)
    except* Refused as refused:
        console.print(f"\n{next(iter(refused.exceptions))}", markup=False, soft_wrap=True)
        code = 2
    console.print(f"\n{time.monotonic() - begin:.0f} s in all. The repository stays at {repo}", style="dim")
    return code


def _step(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _copy(repo: Path) -> Path:
    """The example as a git repository with one commit; returns where it came from."""
    source = shipped_place() / "examples" / "speech-ci"
    repo.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, repo, ignore=shutil.ignore_patterns(".venv", "__pycache__", ".tune-runs", ".pytest_cache"))
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        ("-c", "user.name=tune-mcp demo", "-c", "user.email=demo@localhost", "commit", "-q", "-m", "speech-ci example"),
    ):
        subprocess.run(["git", "-C", str(repo), *words], check=True)
    return source


def _venv(console: Console, source: Path) -> Path:
    """The example's own environment, kept under the user's cache; a changed requirement makes a new one."""
    if sys.version_info[:2] > _NEWEST_PYTHON:
        raise Refusal(
            Code.PRECHECK_FAILED,
            "PRE-01",
            f"the demo's recogniser has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}",
            "run the demo with Python 3.11, 3.12 or 3.13",
        )
    files = (source / "requirements.txt", source / "requirements-nodeps.txt")
    stamp = sha256_bytes(b"".join(file.read_bytes() for file in files) + sys.version.encode())[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tune-mcp" / f"speech-ci-{stamp}"
    python = cache / "bin" / "python"
    ready = cache / ".complete"
    if ready.exists():
        _step(console, f"Its own Python: {python}")
        return python
    _step(console, f"Its own Python, made once (about 115 MB to download): {cache}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(cache)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(files[0])], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(files[1])], check=True)
    ready.touch()
    return python


class Refused(Exception):
    """A call was refused: its text is the refusal's."""


class ShownClient:
    """A client that shows what it calls and what comes back."""

    def __init__(self, client: Client, console: Console) -> None:
        self.client = client
        self.console = console

    async def call(self, tool: str, lines: int = 6, **arguments: object) -> tuple[str, dict[str, Any]]:
        """Call a tool and print the first ``lines`` of its text; a refusal ends the demo."""
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        self.console.print(f"\n[cyan]→ {tool}[/cyan]({shown})", soft_wrap=True)
        text, facts = self.read(await self.client.call_tool(tool, cast("dict[str, Any]", arguments)))
        rows = text.splitlines()
        for row in rows[:lines]:
            self.console.print(
                f"  {row}", markup=False, soft_wrap=True, style="dim" if row.startswith("Next") else None
            )
        if len(rows) > lines:
            self.console.print(f"  … {len(rows) - lines} more lines", style="dim")
        return text, facts

    def read(self, result: CallToolResult) -> tuple[str, dict[str, Any]]:
        """Text and structured content of a result."""
        block = result.content[0]
        text = block.text if isinstance(block, TextContent) else ""
        if result.is_error:
            raise Refused(text)
        return text, cast("dict[str, Any]", result.structured_content or {})


async def _calibrate(console: Console, repo: Path, python: Path, repeats: int) -> int:
    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        """Stands in for the person: the demo agrees to what it proposed itself."""
        console.print("\n[yellow]The server asks the person:[/yellow]")
        console.print(f"  {params.message}", markup=False, soft_wrap=True)
        console.print("  [yellow]answer:[/yellow] full")
        return ElicitResult(action="accept", content={"mode": "full"})

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tune_mcp", "serve", "--repo", str(repo), "--venv-python", str(python)],
        env=_passed(os.environ),
    )
    _step(console, "tune-mcp serve, over stdio")
    async with Client(stdio_client(server), elicitation_callback=answer) as client:
        client = ShownClient(client, console)
        await client.call("catalog", model=MODEL)
        await client.call("discover", model=MODEL)
        await client.call("precheck", 12, model=MODEL)
        _, run = await client.call("start_run", 7, model=MODEL, repeats=repeats, label="demo")
        run_id = str(run["run_id"])
        state = await _watch(client, run_id)
        text, audited = await client.call("strict_audit", 12, run_id=run_id)
        if not audited.get("ready"):
            console.print(f"[red]The run ended as {state} and is not strict-complete.[/red]\n{text}", markup=True)
            return 1
        _, written = await client.call("report", 8, run_id=run_id)
        _, plan = await client.call("apply_plan", 16, run_id=run_id)
        await client.call("apply", 20, run_id=run_id, plan_id=plan["plan_id"], mode="full")
    _ending(console, repo, plan, written, repeats)
    return 0


def _passed(env: Mapping[str, str]) -> dict[str, str]:
    """What the server may need of this process's environment."""
    names = ("PATH", "HOME", "LANG", "TMPDIR", "TUNE_LOCK_DIR", "PYTHONPATH", "OPENBLAS_CORETYPE")
    return {name: env[name] for name in names if name in env}


async def _watch(client: ShownClient, run_id: str) -> str:
    """Poll with a long wait until the run ends or needs somebody, one line for each change."""
    client.console.print(
        f"\n[cyan]→ status[/cyan](run_id={run_id!r}, wait_s={_POLL_S}), until it ends or needs somebody"
    )
    seen = ""
    while True:
        result = await client.client.call_tool("status", {"run_id": run_id, "wait_s": _POLL_S})
        _, facts = client.read(result)
        work: dict[str, Any] = facts.get("current") or {}
        done = facts["total"] - facts["missing_total"]
        left = f", about {span(facts['eta_s'])} left" if facts.get("eta_s") else ""
        now = f"{work['test']} run {work['repeat']}" if work else str(facts["state"])
        bar = "█" * round(20 * done / facts["total"])
        line = f"  [{bar:<20}] {done:>2}/{facts['total']} cells strict · {now}{left}"
        if now != seen:
            client.console.print(line, markup=False, soft_wrap=True)
            seen = now
        if facts["terminal"] or facts["state"] in ("halted", "exhausted"):
            return str(facts["state"])


def _ending(console: Console, repo: Path, plan: dict[str, Any], written: dict[str, Any], repeats: int) -> None:
    table = Table(title=f"Worst of {repeats}", title_justify="left", box=None, pad_edge=False)
    for name in ("stage", "threshold", "before", f"worst of {repeats}", "written", "effect"):
        table.add_column(name, justify="left" if name in ("stage", "threshold", "effect") else "right", no_wrap=True)
    for row in plan["rows"]:
        place = row["symbol"] + (f"[{row['concurrency']}]['{row['subkey']}']" if row["subkey"] else "")
        before = "?" if row["current_raw"] is None else f"{row['current_raw']:g}"
        colour = "red" if row["direction"] == "loosens" else "green"
        table.add_row(
            row["stage_key"], place.replace("[", "\\["), before, f"{row['worst_raw']:.5g}",
            f"{row['write_value']:.5g}", f"[{colour}]{row['direction']}[/{colour}]",
        )  # fmt: skip
    console.print()
    console.print(table)
    _step(console, "git diff of the thresholds")
    diff = subprocess.run(
        ["git", "-C", str(repo), "diff", "-U0", "--", "tests"], capture_output=True, text=True, check=True
    ).stdout
    for row in diff.splitlines():
        if row.startswith(("+", "-")) and not row.startswith(("+++", "---")):
            console.print(f"  {row}", markup=False, soft_wrap=True, style="green" if row[0] == "+" else "red")
    _step(console, "The report")
    for key in ("report_md", "report_html"):
        console.print(f"  {written[key]}", soft_wrap=True)
