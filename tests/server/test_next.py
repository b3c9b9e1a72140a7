"""An agent that knows the tool list alone and does what ``next`` says, from "calibrate" to applied thresholds."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import toy
from mcp_types import ElicitResult

from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.project import Project

pytestmark = pytest.mark.anyio
MOST_CALLS = 14
FIRST = "catalog"
"""The one tool whose description says "Call this first"."""
TIGHT = toy.toy_source().replace('"throughput_qps": 1.0, "latency_mean_s": 9.0', toy.TIGHT)
BROKEN = toy.toy_source() + '\n\ndef test_other(results):\n    raise ConnectionResetError("peer")\n'


def lacking(part: str, value: str | None) -> dict[str, Any]:
    """The toy's config with another path of the accuracy, or without one."""
    config = json.loads(json.dumps(toy.CONFIG))
    paths = config["metric_sources"]["test_toy_ci.py"]["paths"]
    if value is None:
        del paths[part]
    else:
        paths[part] = value
    return config


def correct(project: Project) -> None:
    """What a step asks for that is no call: the right place goes into config.yaml."""
    (project.repo_root / ".tune/models/toy/config.yaml").write_text(json.dumps(toy.CONFIG))


@dataclass
class Agent:
    """Follows ``next``: the first tool that it says to call, with the arguments that it names and those known.

    ``by_hand`` is done once, when a step wants config.yaml changed.
    """

    session: Any
    tools: Mapping[str, set[str]]
    by_hand: Callable[[], object] | None = None
    known: dict[str, Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    async def at(cls, session: Any, by_hand: Callable[[], object] | None = None) -> Agent:
        listed = (await session.client.list_tools()).tools
        (first,) = [tool.name for tool in listed if "Call this first" in (tool.description or "")]
        assert first == FIRST
        return cls(session, {tool.name: set(tool.input_schema["properties"]) for tool in listed}, by_hand)

    async def go(self, asked: Mapping[str, Any], first: str = FIRST) -> None:
        """Until a step names no tool, or apply has written."""
        self.known |= asked
        step: str | None = first
        while step is not None and self.calls[-1:] != ["apply"]:
            assert len(self.calls) < 40, self.calls
            given = {name: value for name, value in self.known.items() if name in self.tools[step]}
            self.calls.append(step)
            self.facts = (await self.session.raw(step, **given)).structured_content
            for name in ("run_id", "plan_id", "decisions"):
                self.known |= {name: self.facts[name]} if self.facts.get(name) else {}
            said = self.facts["next"]
            if self.by_hand and "config.yaml" in said and step != "catalog":
                self.by_hand()
                self.by_hand = None
            self.known |= {
                name: json.loads(value) if value.isdigit() and name == "wait_s" else value
                for name, value in re.findall(r"(\w+)=([\w.-]+)", said)
                if any(name in taken for taken in self.tools.values())
            }
            named = [word for word in re.findall(r"(?:call|poll) (\w+)", said) if word in self.tools]
            step = step if said.startswith("as before: poll again") else named[0] if named else None


@pytest.mark.rule("SCP-05", "ASK-10")
async def test_who_only_follows_next_calibrates_in_few_calls(connect: Any, tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=TIGHT)
    async with connect(project.repo_root, "legacy", "stdio") as session:
        agent = await Agent.at(session)

        await agent.go({"model": "toy", "repeats": 3, "mode": "smart"})

        assert len(agent.calls) <= MOST_CALLS, agent.calls
        assert [name for name in agent.calls if name != "status"] == [
            "catalog", "precheck", "start_run", "report", "apply_plan", "apply",
        ]  # fmt: skip
        assert agent.facts["applied"] and agent.facts["kept"]
        assert "TOY_ACC_MIN = 0.625" in (project.repo_root / toy.TEST_FILE).read_text()
        _, after = await session.call("status", run_id=agent.known["run_id"])
    assert "are written" in after["next"] and "call report" not in after["next"]


def crashing(job: Job) -> AttemptResult:
    """The supervisor dies in the second repeat, as kill -9 does it."""
    if job.repeat == 2:
        raise RuntimeError("killed")
    return toy.measured(job)


@contextmanager
def restarted(first: Callable[[Job], AttemptResult | None]) -> Iterator[None]:
    """Every supervisor works in this process; the first attempt of a repeat is ``first``, the later are healthy."""
    seen: set[int] = set()

    def attempt(job: Job) -> AttemptResult | None:
        again = job.repeat in seen
        seen.add(job.repeat)
        return toy.measured(job) if again else first(job)

    with toy.supervised_here(attempt):
        yield


async def agrees(context: Any, params: Any) -> ElicitResult:
    """A person who agrees to everything that is asked."""
    fields = params.requested_schema["properties"]
    words = {name: "smart" if name == "mode" else "" for name in fields if name in ("mode", "value")}
    words |= {name: one["enum"][1] for name, one in fields.items() if name.startswith("choice")}
    return ElicitResult(action="accept", content=words)


@pytest.mark.rule("SCP-05", "ASK-10", "RES-01")
async def test_half_of_all_calibrations_take_fourteen_calls_or_fewer_whatever_comes_between(
    connect: Any, tmp_path: Path
) -> None:
    """In this process a run has ended when start_run returns; polls of a real one come on top, two in a minute."""
    needs, wrong = lacking("accuracy", None), lacking("accuracy", "summary.acc")
    scenarios: dict[str, tuple[Project, dict[str, Any]]] = {
        "nothing discovered": (toy.make_toy(tmp_path / "fresh"), {}),
        "NEEDS_CONFIG": (toy.make_toy(tmp_path / "needs", config=needs), {}),
        "a halt": (toy.make_toy(tmp_path / "halt", config=wrong), {}),
        "a failing test": (toy.make_toy(tmp_path / "broken", test_source=BROKEN), {"answer": agrees}),
        "questions": (toy.make_toy(tmp_path / "tight", test_source=TIGHT), {"answer": agrees}),
        "a crash": (toy.make_toy(tmp_path / "crash"), {"attempt": crashing}),
        "an existing run": (toy.make_toy(tmp_path / "old"), {"first": "status"}),
    }
    (scenarios["nothing discovered"][0].repo_root / ".tune/models/toy/stages.yaml").unlink()
    run = toy.finished_run(scenarios["an existing run"][0])
    calls: dict[str, list[str]] = {}
    for name, (project, how) in scenarios.items():
        known = {"model": "toy", "repeats": 3, "mode": "smart"} | ({"run_id": run.run_id} if "first" in how else {})
        async with connect(project.repo_root, answer=how.get("answer")) as session:
            agent = await Agent.at(session, lambda project=project: correct(project))
            with restarted(how.get("attempt", toy.measured)):
                await agent.go(known, how.get("first", FIRST))
        assert agent.facts.get("applied"), (name, agent.calls, agent.facts)
        calls[name] = agent.calls
    counts = {name: len(made) for name, made in calls.items()}
    print(counts)
    assert statistics.median(counts.values()) <= MOST_CALLS - 4, calls
    assert max(counts.values()) <= MOST_CALLS, calls


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
