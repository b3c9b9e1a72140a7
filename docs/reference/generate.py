"""Write the pages of this folder that are made from code: ``python docs/reference/generate.py`` (a test compares)."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp import Client

from tune_mcp import rules
from tune_mcp.cli.main import parser
from tune_mcp.server.build import build

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """File name -> text."""
    return {"tools.md": "".join(tools()), "cli.md": "".join(command_line()), "rules.md": register()}


def tools() -> Iterator[str]:
    """The twelve tools, their arguments, prompts and resources, as a client lists them."""

    async def ask() -> tuple[Any, Any, Any, Any]:
        async with Client(build()) as client:
            return (
                (await client.list_tools()).tools,
                (await client.list_prompts()).prompts,
                (await client.list_resources()).resources,
                (await client.list_resource_templates()).resource_templates,
            )

    found, prompts, resources, templates = asyncio.run(ask())
    yield "# Tools, prompts and resources\n\nMade by `docs/reference/generate.py`.\n"
    for tool in found:
        hints = tool.annotations
        kind = (
            "read only" if hints.read_only_hint else "changes or ends something" if hints.destructive_hint else "adds"
        )
        yield f"\n## {tool.name}\n\n{tool.description}\n\n*{kind}*\n"
        properties = tool.input_schema.get("properties", {})
        if properties:
            yield "\n| argument | type | default | meaning |\n|---|---|---|---|\n"
        for name, schema in properties.items():
            required = name in tool.input_schema.get("required", [])
            default = "" if required else f"`{json(schema.get('default'))}`"
            yield f"| {name} | {typed(schema)} | {default} | {schema.get('description', '')} |\n"
    yield "\n## Prompts\n\n| prompt | arguments | what for |\n|---|---|---|\n"
    for prompt in prompts:
        names = ", ".join(argument.name for argument in prompt.arguments or [])
        yield f"| {prompt.name} | {names} | {prompt.description} |\n"
    yield "\n## Resources\n\n| URI | type | what |\n|---|---|---|\n"
    for one in [*resources, *templates]:
        uri = getattr(one, "uri", None) or one.uri_template
        yield f"| `{uri}` | {one.mime_type} | {one.description or one.title} |\n"


def register() -> str:
    """The rules that tune-mcp keeps."""
    return f"# Rules\n\nMade by `docs/reference/generate.py` from `tune_mcp/rules.yaml`.\n\n{rules.table()}"


def json(value: object) -> str:
    """A default as it is written in a call."""
    import json as library

    return library.dumps(value)


def typed(schema: dict[str, Any]) -> str:
    """The type of an argument, in a word or two."""
    options = schema.get("anyOf", [schema])
    words = ["object" if "$ref" in one else str(one.get("type", "any")) for one in options]
    bounds = [f"{schema[key]}" for key in ("minimum", "maximum") if key in schema]
    return " or ".join(words) + (f", {' to '.join(bounds)}" if bounds else "")


def command_line() -> Iterator[str]:
    """Every verb and its options."""
    top = parser()
    yield "# Command line\n\nMade by `docs/reference/generate.py`. Each verb is the same function as its tool.\n\n"
    yield "Every verb takes `--repo`, `--host`, `--config`, `--venv-python` and `--json`. "
    yield "Exit codes: 0 done or ready, 1 not ready, 2 refused or wrong usage, 3 a bug.\n"
    common = {"--repo", "--host", "--config", "--venv-python", "--json", "--help"}
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    for name, verb in verbs.choices.items():
        yield f"\n## tune-mcp {name}\n\n{sentence(verb.description or '')}\n"
        rows = [action for action in verb._actions if not common & set(action.option_strings)]
        if rows:
            yield "\n| argument | meaning |\n|---|---|\n"
        for action in rows:
            written = ", ".join(action.option_strings) or action.metavar or action.dest
            value = action.metavar or action.dest.upper()
            takes = "" if not action.option_strings or action.nargs == 0 else f" {value}"
            choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
            yield f"| `{written}{takes}` | {action.help or ''}{choices} |\n"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return re.sub(r"(?<![.?])$", ".", text[:1].upper() + text[1:])


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
