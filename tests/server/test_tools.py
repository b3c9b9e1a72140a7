"""The twelve tools as a client lists them: names, order, hints, size, schemas."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytestmark = pytest.mark.anyio
SNAPSHOTS = Path(__file__).with_name("tools")
ORDER = [
    "catalog", "discover", "precheck", "start_run", "resume_run", "stop_run",
    "status", "strict_audit", "tail_pytest", "report", "apply_plan", "apply",
]  # fmt: skip
READ_ONLY = {"catalog", "precheck", "status", "strict_audit", "tail_pytest", "apply_plan"}
DESTRUCTIVE = {"stop_run", "apply"}
SHORT = 2000
"""Clients cut descriptions and instructions at two kilobytes."""


async def tools_of(connect: Any, repo: Path, era: str = "auto", transport: str = "memory") -> list[dict[str, Any]]:
    async with connect(repo, era, transport) as session:
        listed = await session.client.list_tools()
    assert listed.next_cursor is None
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed.tools]


async def test_the_twelve_tools_come_in_the_contracts_order_over_every_transport_in_both_eras(
    connect: Any, repo: Path, era: str, transport: str
) -> None:
    assert [tool["name"] for tool in await tools_of(connect, repo, era, transport)] == ORDER


@pytest.mark.rule("HST-08", "ENV-01", "ENV-17")
async def test_no_tool_starts_a_container_or_mends_an_environment(connect: Any, repo: Path) -> None:
    words = {word for tool in await tools_of(connect, repo) for word in tool["name"].split("_")}

    assert words & {"docker", "container", "host", "env", "fix", "install", "download", "rebuild", "venv"} == set()


async def test_both_eras_see_the_same_tools(connect: Any, repo: Path) -> None:
    assert await tools_of(connect, repo, "auto") == await tools_of(connect, repo, "legacy")


async def test_every_tool_says_explicitly_what_it_does_to_the_world(connect: Any, repo: Path) -> None:
    tools = await tools_of(connect, repo)
    for tool in tools:
        assert {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} <= set(tool["annotations"])
        assert tool["annotations"]["openWorldHint"] is False
    assert {tool["name"] for tool in tools if tool["annotations"]["readOnlyHint"]} == READ_ONLY
    assert {tool["name"] for tool in tools if tool["annotations"]["destructiveHint"]} == DESTRUCTIVE


async def test_names_descriptions_and_instructions_are_short_enough_for_every_client(
    connect: Any, repo: Path, era: str
) -> None:
    async with connect(repo, era) as session:
        assert len((session.client.instructions or "").encode()) < SHORT
        assert "strict_audit" in (session.client.instructions or "")
        listed = (await session.client.list_tools()).tools
    for tool in listed:
        assert 20 < len((tool.description or "").encode()) < SHORT, tool.name
        assert tool.title
        assert len(f"mcp__plugin_tune-mcp_tune__{tool.name}") <= 60


async def test_every_argument_is_typed_and_every_schema_is_valid(connect: Any, repo: Path) -> None:
    for tool in await tools_of(connect, repo):
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            jsonschema.Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"
        for name, argument in tool["inputSchema"]["properties"].items():
            assert isinstance(argument["type"], str), (tool["name"], name)
            assert argument["description"], (tool["name"], name)
            assert name not in ("ctx", "how", "last"), "what the SDK injects is not an argument"


def parts(schema: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every key of a schema, however deep, with its place; names of arguments are no keys."""
    for key, value in schema.items():
        yield path, key, value
        below = value if key == "properties" else {key: value} if key == "items" else {}
        for name, one in below.items():
            yield from parts(one, f"{path}.{name}")


async def test_schemas_are_plain_enough_for_every_clients_converter(connect: Any, repo: Path, era: str) -> None:
    """Clients drop a tool, or all of them, over these; some leave limits out, so a description says them."""
    bad = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "additionalProperties", "prefixItems", "not", "const"}
    for tool in await tools_of(connect, repo, era):
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            for path, key, value in parts(schema):
                assert key not in bad, (tool["name"], path)
                assert key != "type" or isinstance(value, str)
                assert (key, value) != ("default", None), (tool["name"], path)
        assert len(json.dumps(tool["outputSchema"])) < 2200
        required = set(tool["inputSchema"].get("required", ()))
        for name, argument in tool["inputSchema"]["properties"].items():
            assert (name in required) != ("default" in argument), (tool["name"], name)
            for limit in ("minimum", "maximum"):
                if argument.get(limit):
                    assert str(argument[limit]) in argument["description"], (tool["name"], name)
            for choice in argument.get("enum", ()):
                assert choice and choice in argument["description"]


async def test_the_output_schemas_require_nothing_so_that_a_refusal_fits_them_too(connect: Any, repo: Path) -> None:
    for tool in await tools_of(connect, repo):
        schema = tool["outputSchema"]
        assert "required" not in schema, tool["name"]
        assert {"code", "rules", "message", "next", "details"} <= set(schema["properties"])


def names_in(value: Any) -> set[str]:
    """Every property name of a schema, however deep."""
    if isinstance(value, list):
        return {name for item in value for name in names_in(item)}
    if not isinstance(value, dict):
        return set()
    own = set(value["properties"]) if isinstance(value.get("properties"), dict) else set()
    return own | {name for item in value.values() for name in names_in(item)}


@pytest.mark.rule("STR-23")
async def test_no_tool_takes_a_word_that_would_pass_a_gate(connect: Any, repo: Path) -> None:
    forbidden = ("force", "override", "skip", "strict", "ready", "ignore", "bypass", "trust")
    names = {name for tool in await tools_of(connect, repo) for name in names_in(tool["inputSchema"])}

    assert {"run_id", "repeats", "decisions"} <= names
    assert [name for name in sorted(names) if any(word in name for word in forbidden)] == []


async def test_each_tool_is_that_of_its_committed_snapshot(connect: Any, repo: Path) -> None:
    """A drift of names, texts or schemas fails; ``TUNE_UPDATE_SNAPSHOTS=1`` writes the files again."""
    tools = {tool["name"]: tool for tool in await tools_of(connect, repo)}
    if os.environ.get("TUNE_UPDATE_SNAPSHOTS"):
        for name, tool in tools.items():
            text = json.dumps(tool, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            (SNAPSHOTS / f"{name}.json").write_text(text)

    assert tools == {path.stem: json.loads(path.read_text()) for path in SNAPSHOTS.iterdir()}


async def test_the_server_is_called_tune_and_declares_what_it_has(connect: Any, repo: Path, era: str) -> None:
    async with connect(repo, era) as session:
        assert session.client.server_info is not None
        assert session.client.server_info.name == "tune"
        capabilities = session.client.server_capabilities
    assert capabilities is not None
    assert capabilities.tools and capabilities.resources and capabilities.prompts and capabilities.completions
