"""What clients' libraries make of our tools: run in an environment that holds them, prints JSON.

``python convert.py PYTHON REPOSITORY``: the server of the one, on the other. Nothing here calls a model.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

from agents.mcp import MCPServerStdio
from agents.mcp.util import MCPUtil
from anthropic.lib.tools.mcp import async_mcp_tool
from google.genai import types
from google.genai._mcp_utils import mcp_to_gemini_tools
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from semantic_kernel.connectors.mcp import MCPStdioPlugin

SEVERAL = ("google-genai", "openai-agents", "anthropic", "semantic-kernel", "mcp")


def gemini(tools: list[Any]) -> dict[str, Any]:
    """Name -> the parameters that Gemini is sent; also through the plain declaration that other libraries use."""
    found: dict[str, Any] = {}
    for tool in mcp_to_gemini_tools(tools):
        for one in tool.function_declarations or []:
            found[one.name or ""] = sorted(
                (one.parameters.properties or {}) if one.parameters else one.parameters_json_schema["properties"]
            )
    for tool in tools:
        types.Schema.from_json_schema(json_schema=types.JSONSchema.model_validate(tool.inputSchema))
    return found


async def openai(server: MCPServerStdio) -> dict[str, Any]:
    """Name -> whether it became strict, which needs every property required and no other allowed."""
    found: dict[str, Any] = {}
    for tool in await server.list_tools():
        made = MCPUtil.to_function_tool(tool, server, convert_schemas_to_strict=True)
        schema = made.params_json_schema
        found[tool.name] = made.strict_json_schema and set(schema["required"]) == set(schema["properties"])
    return found


async def anthropic(session: ClientSession, tools: list[Any]) -> dict[str, Any]:
    """Name -> the input schema, and a call through the helper."""
    made = [async_mcp_tool(tool, session) for tool in tools]
    called = {one.name: one for one in made}
    result = await called["catalog"].call({"model": "toy"})
    text = json.dumps(result if isinstance(result, str) else [dict(one) for one in result])
    return {"names": [one.name for one in made], "catalog": "toy_speed" in text}


async def kernel(command: str, args: list[str]) -> dict[str, Any]:
    """Functions of the plugin: tools and prompts together, so that no name may be both."""
    async with MCPStdioPlugin(name="tune", command=command, args=args, load_prompts=True) as plugin:
        functions = [name for name in dir(plugin) if hasattr(getattr(plugin, name, None), "__kernel_function__")]
        listed = {name: getattr(plugin, name) for name in functions}
        schemas = {
            name: [one.get("schema_data") or one for one in getattr(function, "__kernel_function_parameters__", [])]
            for name, function in listed.items()
        }
    return {
        "functions": functions,
        "dangling": [name for name, schema in schemas.items() if "$ref" in json.dumps(schema, default=str)],
    }


async def main() -> None:
    command, args = sys.argv[1], ["-m", "tune_mcp", "serve", "--repo", sys.argv[2]]
    found: dict[str, Any] = {"versions": {name: version(name) for name in SEVERAL}}
    async with (
        stdio_client(StdioServerParameters(command=command, args=args)) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        tools = (await session.list_tools()).tools
        found["tools"] = [tool.name for tool in tools]
        found["google-genai"] = gemini(tools)
        found["anthropic"] = await anthropic(session, tools)
    async with MCPServerStdio(params={"command": command, "args": args}, client_session_timeout_seconds=60) as server:
        found["openai-agents"] = await openai(server)
    found["semantic-kernel"] = await kernel(command, args)
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
