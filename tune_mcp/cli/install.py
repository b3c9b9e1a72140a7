"""``tune-mcp install CLIENT``: put the server into a client's own configuration, keep the rest, and take it out again.

The file is read, one entry is set by position, and the difference is shown before anything is written; a file that
cannot be read is refused, never replaced. A link is followed: its target is what is edited. Running it twice changes
nothing.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from difflib import unified_diff
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from tune_mcp.cli import jsonc
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_plain, write_atomic

if TYPE_CHECKING:
    from tune_mcp.verbs.project import Project

NAME = "tune"
_BOM = "\ufeff"
_OF_A_LAUNCH = ("TUNE_GUARD_RECORD", "TUNE_RUN_MARK")
_CACHES = (("uv", "archive-v0"), ("uv", "environments-v2"), ("uv", "builds-v0"), ("pipx", ".cache"), (".cache", "pipx"))
"""Neighbouring folders in the path of an interpreter that ``uvx`` or ``pipx run`` made and may remove."""
Entry = dict[str, Any]


@dataclass(frozen=True)
class Client:
    """A client's configuration: the file (below the repository or a folder of its own), the table, the entry.

    ``homes`` are variables that name the folder instead of ``home``, with what follows it then; ``then`` is the
    client's own next step.
    """

    name: str
    path: str
    table: str
    then: str
    home: str = ""
    homes: tuple[tuple[str, str], ...] = ()
    shape: Callable[[Entry], Entry] = lambda entry: entry

    @property
    def toml(self) -> bool:
        """Whether the file is TOML; else it is JSON, with comments or without."""
        return self.path.endswith(".toml")

    def file(self, repo: Path, home: Path, env: Mapping[str, str]) -> Path:
        """The file to change."""
        if not self.home:
            return repo / self.path
        named = ((env.get(name), below) for name, below in self.homes)
        return next((Path(value) / below / self.path for value, below in named if value), home / self.home / self.path)


def _opencode(entry: Entry) -> Entry:
    command = [entry["command"], *entry["args"]]
    return {"type": "local", "command": command, "environment": entry["env"], "enabled": True, "timeout": 30000}


CLIENTS = (
    Client("claude-code", ".mcp.json", "mcpServers", "start claude here and approve the server; /mcp shows it",
           shape=lambda entry: {"type": "stdio", **entry, "timeout": 120000}),
    Client("claude-desktop", "claude_desktop_config.json", "mcpServers", "quit Claude Desktop whole and start it again",
           home=".config/Claude", homes=(("XDG_CONFIG_HOME", "Claude"),)),
    Client("cursor", ".cursor/mcp.json", "mcpServers", "switch tune on in Cursor's settings, under MCP"),
    Client("vscode", ".vscode/mcp.json", "servers", 'run "MCP: List Servers" in VS Code, start tune and trust it',
           shape=lambda entry: {"type": "stdio", **entry}),
    Client("codex", "config.toml", "mcp_servers", "start codex here; /mcp shows the server",
           home=".codex", homes=(("CODEX_HOME", ""),),
           shape=lambda entry: {**entry, "required": True, "startup_timeout_sec": 30, "tool_timeout_sec": 120}),
    Client("gemini", ".gemini/settings.json", "mcpServers", "start gemini here and trust the folder; /mcp shows it",
           shape=lambda entry: {**entry, "timeout": 600000}),
    Client("zed", "settings.json", "context_servers", "look for the green dot beside tune in Zed's agent settings",
           home=".config/zed", homes=(("FLATPAK_XDG_CONFIG_HOME", "zed"), ("XDG_CONFIG_HOME", "zed")),
           shape=lambda entry: {"source": "custom", **entry}),
    Client("opencode", "opencode.json", "mcp", "start opencode here; opencode mcp list shows the server",
           shape=_opencode),
    Client("copilot", "mcp-config.json", "mcpServers", "start copilot here and trust the folder; /mcp show lists it",
           home=".copilot", homes=(("COPILOT_HOME", ""),),
           shape=lambda entry: {"type": "local", **entry, "tools": ["*"]}),
)  # fmt: skip
"""Every client that is known. ``CLAUDE_CONFIG_DIR`` and the like move a user's configuration, not the repository's."""


def install(
    name: str,
    project: Project,
    *,
    undo: bool,
    dry_run: bool,
    home: Path | None = None,
    python: str = sys.executable,
) -> int:
    """Write (or with ``undo`` remove) the entry of one client; prints the difference. Raises INVALID_ARGUMENT."""
    client = next((one for one in CLIENTS if one.name == name), None)
    if client is None:
        known = ", ".join(one.name for one in CLIENTS)
        raise _refused(f"there is no client {name!r}", f"name one of: {known}")
    named = client.file(project.repo_root, home or Path.home(), project.env)
    twin = named.with_suffix(".jsonc")
    path = (twin if twin.is_file() and not named.exists() else named).resolve()
    entry = client.shape(_entry(project, python, check=not undo))
    try:
        raw = read_plain(path).decode() if path.exists() else ""
        before = raw.removeprefix(_BOM).replace("\r\n", "\n")
        after = _changed(client, before, entry, undo=undo)
    except (TOMLKitError, ValueError) as error:
        if undo:
            raise _refused(f"{path} cannot be changed safely: {error}", f"take {NAME} out by hand") from error
        raise _refused(
            f"{path} cannot be changed safely: {error}",
            f"fix the file, or put this into it by hand:\n{_changed(client, '', entry, undo=False)}",
        ) from error
    if after == before:
        print(f"{path}: nothing to change")
        return 0
    sys.stdout.writelines(_difference(path, before, after))
    if dry_run:
        return 0
    if after.strip():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = after.replace("\n", "\r\n") if "\r\n" in raw else after
        write_atomic(path, ((_BOM if raw.startswith(_BOM) else "") + text).encode())
    elif path == named:
        path.unlink()
        _drop_empty(path.parent, project.repo_root)
    else:
        write_atomic(path, b"{}\n")  # the target of somebody's link stays
    said = f"{path} written" if after.strip() else f"{path} is as before"
    here = f" --repo {shlex.quote(str(project.repo_root))}" if project.options.repo else ""
    print(said + ("" if undo else f"; then: {client.then}. Undo: tune-mcp install {client.name} --undo{here}"))
    return 0


def _drop_empty(folder: Path, repo: Path) -> None:
    """A folder that held our file alone was made for it."""
    if folder.parent == repo and not any(folder.iterdir()):
        folder.rmdir()


def _entry(project: Project, python: str, *, check: bool) -> Entry:
    """How a client starts the server: this interpreter, the options of this call, and every TUNE_ variable that is set.

    Clients pass on little of their environment. Raises INVALID_ARGUMENT for an interpreter that may vanish.
    """
    parts = Path(python).parts
    cache = project.env.get("UV_CACHE_DIR")
    cached = any(pair in pairwise(parts) for pair in _CACHES)
    if check and (cached or (cache and Path(python).is_relative_to(cache))):
        raise _refused(
            f"{python} lies in a cache of uvx or pipx, which may be emptied at any time",
            "install tune-mcp to stay (uv tool install tune-mcp, or pipx install tune-mcp), then call it again",
        )
    given = project.options
    options = [
        *(["--host", given.host] if given.host else []),
        *(["--config", str(given.config.absolute())] if given.config else []),
        *(["--venv-python", given.venv_python] if given.venv_python else []),
    ]
    env = {
        name: value
        for name, value in sorted(project.env.items())
        if name.startswith("TUNE_") and name not in _OF_A_LAUNCH and value
    }
    env["TUNE_REPO_ROOT"] = str(project.repo_root)
    return {"command": python, "args": ["-m", "tune_mcp", "serve", *options], "env": env}


def _changed(client: Client, before: str, entry: Entry, *, undo: bool) -> str:
    if client.toml:
        return _toml_without(client, before) if undo else _toml_with(client, before, entry)
    if undo:
        return jsonc.without_entry(before, client.table, NAME)
    return jsonc.with_entry(before, client.table, NAME, entry)


def _toml_with(client: Client, before: str, entry: Entry) -> str:
    document = tomlkit.parse(before)
    servers = _table(document.setdefault(client.table, tomlkit.table(is_super_table=True)), client.table)
    if servers.get(NAME) == entry:
        return before
    servers[NAME] = entry
    return tomlkit.dumps(document)  # pyright: ignore[reportUnknownMemberType]


def _toml_without(client: Client, before: str) -> str:
    document = cast("MutableMapping[str, Any]", tomlkit.parse(before))
    servers = _table(document.get(client.table, {}), client.table)
    if NAME not in servers:
        return before
    del servers[NAME]
    if not servers:
        del document[client.table]
    after = tomlkit.dumps(document).rstrip()  # pyright: ignore[reportUnknownMemberType]
    return after + "\n" if after else ""


def _table(found: object, name: str) -> MutableMapping[str, Any]:
    if not isinstance(found, MutableMapping):
        raise ValueError(f"{name} is not a table of servers")
    return cast("MutableMapping[str, Any]", found)


def _refused(what: str, next_step: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, (), what, next_step)


def _difference(path: Path, before: str, after: str) -> Iterable[str]:
    return unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), str(path), str(path), n=2)
