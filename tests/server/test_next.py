"""An agent that knows the tool list alone and does what ``next`` says, from "calibrate" to applied thresholds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.verbs.project import Project

pytestmark = pytest.mark.anyio
MOST_CALLS = 14
FIRST = "catalog"
"""The one tool whose description says "Call this first"."""


@dataclass
class Agent:
    """Follows ``next``: the first tool that it says to call, with the arguments that it names and those known."""

    session: Any
    tools: dict[str, set[str]]
    known: dict[str, Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    async def go(self, asked: dict[str, Any]) -> None:
        """Until a step names no tool, or apply has written."""
        self.known |= asked
        step: str | None = FIRST
        while step is not None and "apply" not in self.calls:
            assert len(self.calls) < 40, self.calls
            given = {name: value for name, value in self.known.items() if name in self.tools[step]}
            self.calls.append(step)
            _, self.facts = await self.session.call(step, **given)
            for name in ("run_id", "plan_id", "decisions"):
                self.known |= {name: self.facts[name]} if self.facts.get(name) else {}
            said = self.facts["next"]
            self.known |= {
                name: json.loads(value) if value.isdigit() and name == "wait_s" else value
                for name, value in re.findall(r"(\w+)=([^\s;,()]+)", said)
                if any(name in taken for taken in self.tools.values())
            }
            named = [word for word in re.findall(r"(?:call|poll) (\w+)", said) if word in self.tools]
            step = named[0] if named else None


@pytest.mark.rule("SCP-05", "ASK-10")
@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_who_only_follows_next_calibrates_in_few_calls(
    connect: Any, tmp_path: Path, era: str, transport: str
) -> None:
    tight = toy.toy_source().replace('"throughput_qps": 1.0, "latency_mean_s": 9.0', toy.TIGHT)
    project = toy.make_toy(tmp_path / "repo", test_source=tight)
    async with connect(project.repo_root, era, transport) as session:
        listed = (await session.client.list_tools()).tools
        (first,) = [tool.name for tool in listed if "Call this first" in (tool.description or "")]
        assert first == FIRST
        agent = Agent(session, {tool.name: set(tool.input_schema["properties"]) for tool in listed})

        await agent.go({"model": "toy", "repeats": 3, "mode": "smart"})

        assert agent.calls[-1] == "apply"
        assert len(agent.calls) <= MOST_CALLS, agent.calls
        assert [name for name in agent.calls if name != "status"] == [
            "catalog", "precheck", "start_run", "report", "apply_plan", "apply",
        ]  # fmt: skip
        assert agent.facts["applied"] and agent.facts["kept"]
        assert "TOY_ACC_MIN = 0.625" in (project.repo_root / toy.TEST_FILE).read_text()
        _, after = await session.call("status", run_id=agent.known["run_id"])
    assert "are written" in after["next"] and "call report" not in after["next"]


async def test_a_refusal_and_the_plan_hold_the_decisions_ready_to_be_passed(
    connect: Any, loosened: tuple[Project, str], era: str
) -> None:
    project, run_id = loosened
    async with connect(project.repo_root, era) as session:
        await session.call("report", run_id=run_id)
        text, plan = await session.call("apply_plan", run_id=run_id)
        call = {"run_id": run_id, "plan_id": plan["plan_id"], "mode": "smart"}
        refused = await session.refused("apply", **call)
        open_ones = refused["details"]["decisions"]
        assert open_ones == plan["decisions"] and len(open_ones) == 3
        assert json.dumps(open_ones) in text and json.dumps(open_ones) in refused["next"]
        assert "otherwise=keep" in refused["next"]
        chosen = [{**open_ones[0], "choice": "apply"}, *open_ones[1:]]
        _, applied = await session.call("apply", **call, decisions=chosen)

    written = {(one["stage_key"], one["metric_key"]) for one in applied["applied"]}
    assert (chosen[0]["stage_key"], chosen[0]["metric_key"]) in written
    assert not {(one["stage_key"], one["metric_key"]) for one in chosen[1:]} & written
