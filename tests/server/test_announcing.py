"""What happens on disk reaches the clients that asked, whoever did it, in both protocol eras."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import toy
from mcp import Client
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import (
    EmptyResult,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from tune_mcp.server import announcing
from tune_mcp.server.build import build
from tune_mcp.server.context import server_context
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report

pytestmark = pytest.mark.anyio
LIST = "the list"
LIMIT_S = 180


@dataclass
class Heard:
    """What one client was notified of: URIs, and ``LIST`` for a change of the list of resources."""

    client: Client
    told: list[str] = field(default_factory=list)
    more: anyio.Event = field(default_factory=anyio.Event)

    async def note(self, message: object) -> None:
        match message:
            case ResourceUpdated(uri=uri):
                self.told.append(str(uri))
            case ResourceUpdatedNotification():
                self.told.append(str(message.params.uri))
            case ResourcesListChanged() | ResourceListChangedNotification():
                self.told.append(LIST)
            case _:
                return
        self.more.set()

    async def until(self, what: str) -> None:
        """Wait for one announcement; the test's own limit bounds it."""
        while what not in self.told:
            self.more = anyio.Event()
            await self.more.wait()


@asynccontextmanager
async def listening(project: Project, era: str, monkeypatch: pytest.MonkeyPatch, *uris: str) -> AsyncIterator[Heard]:
    """A client that subscribed as its era does."""
    monkeypatch.setattr(announcing, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(server_context, "options", Options(repo=project.repo_root))
    heard: list[Heard] = []

    async def note(message: Any) -> None:
        await heard[0].note(message)

    with anyio.fail_after(LIMIT_S):
        async with Client(build(), mode=era, message_handler=note) as client, anyio.create_task_group() as group:
            heard.append(Heard(client))
            if era == "legacy":
                for uri in uris:
                    asked = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
                    await client.session.send_request(asked, EmptyResult)
                yield heard[0]
            else:
                async with client.listen(resources_list_changed=True, resource_subscriptions=uris) as events:

                    async def listen() -> None:
                        async for event in events:
                            await heard[0].note(event)

                    group.start_soon(listen)
                    yield heard[0]
            group.cancel_scope.cancel()


async def test_a_report_written_elsewhere_is_announced_and_listed(
    tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)
    uri = f"tune://runs/{run.run_id}/report.md"

    async with listening(project, era, monkeypatch, uri) as heard:
        report(project, run.run_id)
        await heard.until(uri)
        await heard.until(LIST)
        listed = {str(one.uri) for one in (await heard.client.list_resources()).resources}

        assert uri in listed


async def test_every_step_of_a_run_that_a_terminal_started_is_announced(
    tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    toy.finished_run(project)

    async with listening(project, era, monkeypatch, "tune://runs") as heard:
        toy.finished_run(project)
        await heard.until("tune://runs")

        assert heard.told.count("tune://runs") >= 1


async def test_stages_that_discover_changed_are_announced_and_others_are_not(
    tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)
    stages, plan = "tune://models/toy/stages", f"tune://runs/{run.run_id}/plan"

    async with listening(project, era, monkeypatch, stages, plan) as heard:
        test = project.repo_root / toy.TEST_FILE
        test.write_text(test.read_text().replace("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = 0.25 "))
        discover(project, "toy")
        await heard.until(stages)

        assert plan not in heard.told


async def test_a_client_that_unsubscribed_hears_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)
    left, kept = f"tune://runs/{run.run_id}/report.md", f"tune://runs/{run.run_id}/report.html"

    async with listening(project, "legacy", monkeypatch, left, kept) as heard:
        asked = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=left))
        await heard.client.session.send_request(asked, EmptyResult)
        report(project, run.run_id)
        await heard.until(kept)
        await heard.until(LIST)

        assert left not in heard.told


async def test_the_server_says_that_its_resources_can_be_subscribed_to(tmp_path: Path, era: str) -> None:
    async with Client(build(), mode=era) as client:
        assert client.server_capabilities is not None
        assert client.server_capabilities.resources is not None
        assert client.server_capabilities.resources.subscribe is True
