"""The dashboard: offered to clients that show pages, and a file for everybody else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.server import dashboard
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status

MIME = "text/html;profile=mcp-app"


@pytest.mark.anyio
async def test_status_carries_the_page_in_both_eras(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        tools = {tool.name: tool.meta for tool in (await session.client.list_tools()).tools}
        (page,) = (await session.client.read_resource(dashboard.URI)).contents

    assert tools["status"] == {"ui": {"resourceUri": dashboard.URI}}
    assert [name for name, meta in tools.items() if meta] == ["status"]
    assert page.mime_type == MIME
    assert page.text == dashboard.page()
    assert page.meta is not None and page.meta["ui"]["csp"] == {"connectDomains": []}


def test_the_page_asks_nobody_but_its_host() -> None:
    assert re.findall(r"https?://|<link|<img|src=|@import|fetch\(|XMLHttp|WebSocket", dashboard.page()) == []


def test_a_page_on_disk_holds_the_facts_and_no_log_line_can_break_out_of_it(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    now = status(project, toy.finished_run(project).run_id)

    made = dashboard.page_of(now, ("</script><script>alert(1)</script>",))

    assert made.count("</script>") == 1
    facts = json.loads(made.partition("const START = ")[2].partition(";\n")[0])
    assert facts["status"]["strict_ready"] == "2/2"
    assert facts["log"] == ["</script><script>alert(1)</script>"]


def test_watch_keeps_the_page_in_the_run_directory(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)

    done = watch(project, run.run_id)

    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == f"page: {project.run(run.run_id).dashboard.as_uri()}"
    assert "2/2" in project.run(run.run_id).dashboard.read_text()


def watch(project: Project, run_id: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tune_mcp", "watch", run_id, "--page", "--repo", str(project.repo_root)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
