"""``tune-mcp install CLIENT``: put the server into a client's own configuration, keep the rest, and take it out again.

The file is read, one entry is set, and the difference is shown before anything is written; a file that cannot be
read is refused, never replaced. Running it twice changes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_text, write_atomic

NAME = "tune"
Entry = dict[str, Any]


@dataclass(frozen=True)
class Client:
    """A client's configuration: the file (below the repository or the home folder), the table of servers, the entry."""

    name: str
    path: str
    table: str
    in_home: bool = False
    toml: bool = False
    shape: Callable[[Entry], Entry] = lambda entry: entry

    def file(self, repo: Path, home: Path) -> Path:
        """The file to change."""
        return (home if self.in_home else repo) / self.path


CLIENTS = (
    Client("claude-code", ".mcp.json", "mcpServers", shape=lambda entry: {"type": "stdio", **entry, "timeout": 120000}),
    Client("claude-desktop", ".config/Claude/claude_desktop_config.json", "mcpServers", in_home=True),
    Client("cursor", ".cursor/mcp.json", "mcpServers"),
    Client("vscode", ".vscode/mcp.json", "servers", shape=lambda entry: {"type": "stdio", **entry}),
    Client("codex", ".codex/config.toml", "mcp_servers", in_home=True, toml=True,
           shape=lambda entry: {**entry, "startup_timeout_sec": 30, "tool_timeout_sec": 120}),
    Client("gemini", ".gemini/settings.json", "mcpServers", shape=lambda entry: {**entry, "timeout": 600000}),
    Client("zed", ".config/zed/settings.json", "context_servers", in_home=True,
           shape=lambda entry: {"source": "custom", **entry}),
)  # fmt: skip


def install(name: str, repo: Path, *, undo: bool, dry_run: bool, home: Path | None = None) -> int:
    """Write (or with ``undo`` remove) the entry of one client; prints the difference. Raises INVALID_ARGUMENT."""
    client = next((one for one in CLIENTS if one.name == name), None)
    if client is None:
        known = ", ".join(one.name for one in CLIENTS)
        raise Refusal(Code.INVALID_ARGUMENT, "DOC-03", f"there is no client {name!r}", f"name one of: {known}")
    path = client.file(repo, home or Path.home())
    before = read_text(path) if path.exists() else ""
    after = _changed(client, before, path, _entry(repo), undo=undo)
    if after == before:
        print(f"{path}: nothing to change")
        return 0
    sys.stdout.writelines(_difference(path, before, after))
    if dry_run:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, after.encode())
    print(f"{path} written; restart {client.name}" + ("" if undo else f", undo: tune-mcp install {client.name} --undo"))
    return 0


def _entry(repo: Path) -> Entry:
    return {"command": sys.executable, "args": ["-m", "tune_mcp", "serve"], "env": {"TUNE_REPO_ROOT": str(repo)}}


def _changed(client: Client, before: str, path: Path, entry: Entry, *, undo: bool) -> str:
    document = _read(client, before, path)
    found = document.setdefault(client.table, tomlkit.table() if client.toml else {})
    if not isinstance(found, MutableMapping):
        raise _unreadable(path, f"{client.table} is not a table of servers")
    servers = cast("MutableMapping[str, Any]", found)
    wanted = client.shape(entry)
    if undo:
        if NAME not in servers:
            return before
        del servers[NAME]
        if not servers:
            del document[client.table]
    elif servers.get(NAME) == wanted:
        return before
    else:
        servers[NAME] = wanted
    if client.toml:
        return tomlkit.dumps(document)  # pyright: ignore[reportUnknownMemberType]
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _read(client: Client, text: str, path: Path) -> MutableMapping[str, Any]:
    if not text.strip():
        return tomlkit.document() if client.toml else {}
    try:
        found: object = tomlkit.parse(text) if client.toml else json.loads(text)
    except (TOMLKitError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, MutableMapping):
        raise _unreadable(path, "not an object")
    return cast("MutableMapping[str, Any]", found)


def _unreadable(path: Path, why: str) -> Refusal:
    return Refusal(
        Code.INVALID_ARGUMENT,
        "DOC-03",
        f"{path} cannot be changed safely: {why}",
        "fix the file, or add the entry by hand",
    )


def _difference(path: Path, before: str, after: str) -> Iterable[str]:
    return unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), str(path), str(path), n=2)
