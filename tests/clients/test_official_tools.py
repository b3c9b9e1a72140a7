"""The Inspector and the conformance suite, as their makers publish them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from clients.conftest import Inspect, answer, npm

EXPECTED = Path(__file__).with_name("expected-failures.yml")
TOOLS = [
    "catalog", "discover", "precheck", "start_run", "resume_run", "stop_run",
    "status", "strict_audit", "tail_pytest", "report", "apply_plan", "apply",
]  # fmt: skip
PROMPTS = {
    "calibrate", "continue_run", "check_environment", "review_report", "write_thresholds", "publish", "add_model",
    "performance_review",
}  # fmt: skip


def test_the_inspector_finds_no_fault_in_any_schema(inspect: Inspect) -> None:
    listed = answer(inspect("tools/list", "--strict"))

    assert [tool["name"] for tool in listed["tools"]] == TOOLS


def test_the_inspector_calls_a_tool_and_tells_a_refusal_from_an_answer(
    inspect: Inspect, finished: tuple[Path, str]
) -> None:
    called = answer(inspect("tools/call", "--tool-name", "status", "--tool-arg", f"run_id={finished[1]}"))
    refused = inspect("tools/call", "--tool-name", "status", "--tool-arg", "run_id=nope")

    assert called["structuredContent"]["strict_ready"] == "2/2"
    assert refused.returncode == 5
    assert "UNKNOWN_RUN [SES-06]" in refused.stdout


def test_the_inspector_lists_and_reads_resources(inspect: Inspect, finished: tuple[Path, str]) -> None:
    uris = {one["uri"] for one in answer(inspect("resources/list"))["resources"]}
    templates = answer(inspect("resources/templates/list"))["resourceTemplates"]
    read = answer(inspect("resources/read", "--uri", f"tune://runs/{finished[1]}/audit"))

    assert {"tune://runs", "tune://rules", "ui://tune/dashboard.html"} <= uris
    assert len(templates) == 9
    assert "STRICT + GIT: READY" in read["contents"][0]["text"]


def test_the_inspector_lists_and_gets_prompts(inspect: Inspect) -> None:
    prompts = {one["name"] for one in answer(inspect("prompts/list"))["prompts"]}
    got = answer(inspect("prompts/get", "--prompt-name", "continue_run", "--prompt-args", "run_id=X1"))

    assert prompts == PROMPTS
    assert "X1" in got["messages"][0]["content"]["text"]


def test_the_inspector_sees_the_dashboard(inspect: Inspect) -> None:
    done = inspect("tools/list", "--app-info")

    assert done.returncode == 0
    assert '"hasApp":true,"toolName":"status","resourceUri":"ui://tune/dashboard.html"' in done.stdout


def test_the_conformance_suite_fails_only_where_it_is_expected_to(
    address: str, env: dict[str, str], tmp_path: Path
) -> None:
    command = [npm("conformance"), "server", "--url", address, "--suite", "all", "--expected-failures", str(EXPECTED)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stdout[-4000:]


def test_every_expected_failure_says_why() -> None:
    reason = ""
    for line in EXPECTED.read_text().split("server:\n")[1].splitlines():
        if line.startswith("  # "):
            reason = line
        assert len(reason) > 30, line

    assert len(yaml.safe_load(EXPECTED.read_text())["server"]) <= 45
