"""An agent that is told "this test is new, calibrate it" and knows nothing but the texts of the server."""

from __future__ import annotations

import re
from typing import Any

import pytest
import toy
import yaml

from tune_mcp.verbs.project import Project

pytestmark = pytest.mark.anyio

NEW = """
class TestNew:
    STARTUP_S_MAX = 60.0

    def test_startup(self, tune_record):
        seconds = [1.5, 2.5][int(__import__("os").environ["TUNE_GUARD_RECORD"][-7]) - 1]
        tune_record("startup_s", seconds)
        assert seconds <= self.STARTUP_S_MAX
"""
TOOLS = ("catalog", "discover", "precheck", "start_run", "status", "strict_audit", "report", "apply_plan", "apply")


def named(text: str) -> tuple[str, dict[str, str]]:
    """The first tool that the text's next step names, and the arguments beside it."""
    step = text.rpartition("Next: ")[2]
    called = re.findall(r"call (\w+)", step)
    tool = next((word for word in [*called, *re.findall(r"\w+", step)] if word in TOOLS), "")
    pairs = re.findall(r"\b(model|run_id|plan_id)=[\"']?([\w.-]+[\w])", step)
    return tool, dict(pairs)


def merged(old: Any, new: Any) -> Any:
    return {**old, **{k: merged(old.get(k, {}), v) if isinstance(v, dict) else v for k, v in new.items()}}


def pasted(project: Project, text: str) -> None:
    """Do what the reply says: put its block into config.yaml."""
    block = text.partition("block for config.yaml about ")[2].partition("\n")[2].rpartition("\nNext: ")[0]
    path = project.repo_root / ".tune" / "models" / "toy" / "config.yaml"
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), yaml.safe_load(block))))


async def test_an_agent_that_follows_only_the_texts_applies_the_threshold_of_a_new_test(
    project: Project, connect: Any
) -> None:
    file = project.repo_root / "tests" / "test_new_ci.py"
    file.write_text(NEW)
    toy.commit(project, "a new test")
    told: list[str] = []
    known: dict[str, str] = {}
    async with connect(project.repo_root, "auto", "stdio") as agent:
        text, _ = await agent.call("catalog", model="toy")
        assert "STALE: tests/test_new_ci.py" in text
        for _ in range(40):
            if "put the blocks above into config.yaml" in text:
                pasted(project, text)
            tool, given = named(text)
            tool = tool or "status"  # a poll without news says to poll again
            known |= given
            told.append(tool)
            if tool == "start_run":
                text, facts = await agent.call(tool, **given, stages=["new"], repeats=2)
                known["run_id"] = facts["run_id"]
            elif tool == "apply":
                text, facts = await agent.call(
                    tool, run_id=known["run_id"], plan_id=known["plan_id"], mode="smart", otherwise="apply"
                )
                break
            elif tool == "status":
                text, _ = await agent.call(tool, run_id=known["run_id"], wait_s=5)
            else:
                text, facts = await agent.call(tool, **given)
                known |= {"plan_id": facts["plan_id"]} if "plan_id" in facts else {}
    assert "STARTUP_S_MAX = 2.5" in file.read_text(), (told, text)
    assert told[:3] == ["discover", "discover", "precheck"]
